//! Residency: which models there are, and what of them is in memory.
//!
//! A *cold* model is a manifest. It is made *ready* by mapping its segments and pointing at its weights, which a lane
//! does itself in well under a millisecond; what takes long, a session per program and lane, is built once per
//! program by the loader, a thread of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use engine::{Engine, Error, Load, Result, Session, Signature, Weights};
use store::manifest::{ProgramKind, ProgramRef};
use store::{Manifest, Store};

/// One version of one model, as it is served.
pub struct Model {
    /// Unique within the process; the scheduler's key.
    id: u64,
    manifest: Arc<Manifest>,
    signature: Signature,
    /// Set once by the loader; read by every request.
    program: OnceLock<Arc<Program>>,
    /// Bound once, by whichever lane comes first; every lane reads them.
    weights: OnceLock<Result<Arc<dyn Weights>>>,
}

impl Model {
    /// The manifest it was made from.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// What it takes and gives, under the names that clients use.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// The model of `manifest`, cold.
    pub(crate) fn unloaded(id: u64, manifest: Manifest) -> Result<Self> {
        let signature = manifest.signature()?;
        let manifest = Arc::new(manifest);
        Ok(Self { id, manifest, signature, program: OnceLock::new(), weights: OnceLock::new() })
    }

    /// What clients are told it runs on, in the word that Triton has for it.
    pub fn platform(&self) -> &'static str {
        "onnxruntime_onnx"
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The program's sessions, when they are built.
    pub(crate) fn program(&self) -> Option<&Arc<Program>> {
        self.program.get()
    }
}

/// A program's sessions, one per lane.
pub(crate) struct Program {
    /// Indexed by lane. Only that lane locks its slot, so the lock is never waited for.
    sessions: Vec<Mutex<Box<dyn Session>>>,
}

impl Program {
    pub(crate) fn session(&self, lane: usize) -> std::sync::MutexGuard<'_, Box<dyn Session>> {
        // A run that panicked leaves the runtime's session as it was: it is only ever called through a shared handle.
        self.sessions[lane].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The models of one store and what of them is in memory.
pub struct Residency {
    store: Store,
    engine: Arc<dyn Engine>,
    lanes: usize,
    /// Read by every request, never written after the start.
    models: BTreeMap<String, BTreeMap<u64, Arc<Model>>>,
    /// By program hash, so that models of one architecture share its sessions. Only the loader touches it.
    programs: Mutex<HashMap<String, Arc<Program>>>,
}

impl Residency {
    /// Reads every manifest of `store`. A manifest that cannot be read is logged and left out; the others serve.
    ///
    /// # Errors
    /// When the store itself cannot be read.
    pub fn open(store: Store, engine: Arc<dyn Engine>, lanes: usize) -> Result<Self> {
        let mut models: BTreeMap<String, BTreeMap<u64, Arc<Model>>> = BTreeMap::new();
        let mut id = 0;
        for name in store.names()? {
            for version in store.versions(&name)? {
                id += 1;
                match Self::model_of(&store, &name, version, id) {
                    Ok(model) => {
                        models.entry(name.clone()).or_default().insert(version, Arc::new(model));
                    }
                    Err(error) => tracing::warn!(model = %name, version, %error, "left out"),
                }
            }
        }
        Ok(Self { store, engine, lanes, models, programs: Mutex::new(HashMap::new()) })
    }

    fn model_of(store: &Store, name: &str, version: u64, id: u64) -> Result<Model> {
        let manifest = store.manifest(name, version)?;
        runnable_here(&manifest.program)?;
        Model::unloaded(id, manifest)
    }

    /// What runs the models, for people.
    pub fn engine_description(&self) -> String {
        self.engine.description()
    }

    /// Every version of every model, by name and then version.
    pub fn models(&self) -> impl Iterator<Item = &Arc<Model>> {
        self.models.values().flat_map(BTreeMap::values)
    }

    /// `version` of the model called `name`, or its newest.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound), naming what is there.
    pub fn model(&self, name: &str, version: Option<u64>) -> Result<&Arc<Model>> {
        let versions = self.models.get(name).ok_or_else(|| {
            Error::not_found(format!("model '{name}' is not in the store; 'packhorse models' lists it"))
        })?;
        match version {
            None => versions.values().next_back(),
            Some(version) => versions.get(&version),
        }
        .ok_or_else(|| {
            let known: Vec<_> = versions.keys().map(u64::to_string).collect();
            Error::not_found(format!(
                "model '{name}' has no version {}; it has {}",
                version.unwrap_or_default(),
                known.join(", ")
            ))
        })
    }

    /// The versions of the model called `name`, ascending; empty when there is none.
    pub fn versions(&self, name: &str) -> Vec<u64> {
        self.models.get(name).map_or_else(Vec::new, |versions| versions.keys().copied().collect())
    }

    /// Whether a request for this model would be taken. A cold model is ready in this sense: its first request makes
    /// it so.
    pub fn is_ready(&self, name: &str, version: Option<u64>) -> bool {
        self.model(name, version).is_ok_and(|model| !matches!(model.weights.get(), Some(Err(_))))
    }

    /// The weights of `model`, mapped and bound; done at the first call.
    pub(crate) fn weights(&self, model: &Model) -> Result<Arc<dyn Weights>> {
        model.weights.get_or_init(|| self.engine.bind(self.store.weights(&model.manifest)?)).clone()
    }

    /// Builds the sessions of `model`'s program, unless they are there. Takes milliseconds to seconds: the loader's.
    pub(crate) fn load(&self, model: &Model) -> Result<()> {
        if model.program().is_some() {
            return Ok(());
        }
        let hash = &model.manifest.program.hash;
        let known = self.programs().get(hash).cloned();
        let program = match known {
            Some(program) => program,
            None => {
                let program = Arc::new(self.build(&model.manifest)?);
                self.programs().insert(hash.clone(), Arc::clone(&program));
                program
            }
        };
        // Only the loader sets it, so it cannot be set already.
        let _ = model.program.set(program);
        Ok(())
    }

    fn build(&self, manifest: &Manifest) -> Result<Program> {
        let of = |error: Error| error.context(format!("model '{}' version {}", manifest.name, manifest.version));
        let bytes = self.store.program(&manifest.program).map_err(of)?;
        let load = match manifest.program.kind {
            ProgramKind::Lifted => Load::AsIs,
            ProgramKind::Whole => Load::Optimise,
        };
        let sessions = (0..self.lanes)
            .map(|_| self.engine.session(&bytes, manifest.weights.len(), load).map(Mutex::new))
            .collect::<Result<_>>()
            .map_err(of)?;
        Ok(Program { sessions })
    }

    fn programs(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Program>>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A program laid out for another CPU computes nonsense here, so it is refused before it runs.
fn runnable_here(program: &ProgramRef) -> Result<()> {
    let here = engine::cpu::target();
    if program.target == "portable" || program.target == here {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "it was packed for {}, and this node is {here}; pack it again on such a node",
        program.target
    )))
}
