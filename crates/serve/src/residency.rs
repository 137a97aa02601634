//! Residency: which models there are, and what of them is in memory.
//!
//! A *cold* model is a manifest. It is made *ready* by mapping its segments and pointing at its weights, which a lane
//! does itself in well under a millisecond; what takes long, a session per program and lane, is built once per
//! program by the loader, a thread of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use engine::{Engine, Error, Load, Result, Session, Weights};
use store::manifest::ProgramKind;
use store::variant::PORTABLE;
use store::{Manifest, Store};

use crate::catalog::{Catalog, Control, Entry, IndexEntry, ModelState, newest, unloaded};
use crate::metrics::{Metrics, ModelCounts, ModelSource};
use crate::model::Model;

/// A program's sessions, one per lane.
pub(crate) struct Program {
    /// Indexed by lane. Only that lane locks its slot, so the lock is never waited for.
    sessions: Vec<Mutex<Box<dyn Session>>>,
}

impl Program {
    pub(crate) fn session(&self, lane: usize) -> MutexGuard<'_, Box<dyn Session>> {
        // A run that panicked leaves the runtime's session as it was: it is only ever called through a shared handle.
        self.sessions[lane].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The models of one store and what of them is in memory.
pub struct Residency {
    store: Store,
    engine: Arc<dyn Engine>,
    lanes: usize,
    control: Control,
    /// Replaced as a whole, so that a reader holds the lock only to clone the handle.
    catalog: RwLock<Arc<Catalog>>,
    /// Held by whoever changes the catalogue, so that changes follow one another.
    changing: Mutex<()>,
    /// The last model's id.
    ids: AtomicU64,
    /// By program hash, so that models of one architecture share its sessions; gone with the last of them.
    programs: Mutex<HashMap<String, Weak<Program>>>,
    /// Where loads and unloads are counted; set once, by the scheduler.
    metrics: OnceLock<Arc<Metrics>>,
}

impl ModelSource for Residency {
    fn visit(&self, each: &mut dyn FnMut(u64, &str, ModelCounts)) {
        for model in self.models() {
            each(model.id(), &model.manifest().name, (&model.statistics()).into());
        }
    }
}

impl Residency {
    /// Reads every manifest of `store`. A manifest that cannot be read is logged and not served; the others are. Under
    /// [`Control::Explicit`] nothing is served until it is loaded.
    ///
    /// # Errors
    /// When the store itself cannot be read.
    pub fn open(store: Store, engine: Arc<dyn Engine>, lanes: usize, control: Control) -> Result<Self> {
        let residency = Self {
            store,
            engine,
            lanes,
            control,
            catalog: RwLock::default(),
            changing: Mutex::default(),
            ids: AtomicU64::new(0),
            programs: Mutex::default(),
            metrics: OnceLock::new(),
        };
        let mut catalog = Catalog::new();
        for name in residency.store.names()? {
            let mut versions = BTreeMap::new();
            for version in residency.store.versions(&name)? {
                let entry = match control {
                    Control::Explicit => Entry::Unserved(unloaded(&name)),
                    Control::None | Control::Poll => residency.entry(&name, version),
                };
                versions.insert(version, entry);
            }
            catalog.insert(name, versions);
        }
        residency.publish(catalog);
        Ok(residency)
    }

    /// Has loads and unloads counted in `metrics` from now on.
    pub(crate) fn count_in(&self, metrics: &Arc<Metrics>) {
        // A second scheduler over the same models would count into the first one's.
        let _ = self.metrics.set(Arc::clone(metrics));
    }

    /// What runs the models, for people.
    pub fn engine_description(&self) -> String {
        self.engine.description()
    }

    /// Who decides which models are served.
    pub fn control(&self) -> Control {
        self.control
    }

    /// Every version of every model that is served, by name and then version.
    pub fn models(&self) -> Vec<Arc<Model>> {
        let served = |entry: &Entry| match entry {
            Entry::Served(model) => Some(Arc::clone(model)),
            Entry::Unserved(_) => None,
        };
        self.catalog().values().flat_map(BTreeMap::values).filter_map(served).collect()
    }

    /// Every version of every model that is known, served or not.
    pub fn index(&self) -> Vec<IndexEntry> {
        let line = |name: &String, (&version, entry): (&u64, &Entry)| {
            let (state, reason) = match entry {
                Entry::Served(_) => (ModelState::Ready, String::new()),
                Entry::Unserved(error) => (ModelState::Unavailable, error.message.clone()),
            };
            IndexEntry { name: name.clone(), version: Some(version), state, reason }
        };
        let catalog = self.catalog();
        catalog.iter().flat_map(|(name, versions)| versions.iter().map(move |entry| line(name, entry))).collect()
    }

    /// `version` of the model called `name`, or the newest that is served.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound), naming what is there, or why a version that is known is not served.
    pub fn model(&self, name: &str, version: Option<u64>) -> Result<Arc<Model>> {
        let catalog = self.catalog();
        let versions = catalog.get(name).ok_or_else(|| {
            Error::not_found(format!("model '{name}' is not in the store; 'packhorse models' lists those that are"))
        })?;
        let entry = match version {
            Some(version) => versions.get(&version),
            None => newest(versions),
        };
        match entry {
            Some(Entry::Served(model)) => Ok(Arc::clone(model)),
            Some(Entry::Unserved(error)) => Err(error.clone()),
            None => {
                let known: Vec<_> = versions.keys().map(u64::to_string).collect();
                Err(Error::not_found(format!(
                    "model '{name}' has no version {}; it has {}",
                    version.unwrap_or_default(),
                    known.join(", ")
                )))
            }
        }
    }

    /// The versions of the model called `name` that are served, ascending; empty when there is none.
    pub fn versions(&self, name: &str) -> Vec<u64> {
        let catalog = self.catalog();
        let served = |(&version, entry): (&u64, &Entry)| matches!(entry, Entry::Served(_)).then_some(version);
        catalog.get(name).map_or_else(Vec::new, |versions| versions.iter().filter_map(served).collect())
    }

    /// Whether a request for this model would be taken. A cold model is ready in this sense: its first request makes
    /// it so.
    pub fn is_ready(&self, name: &str, version: Option<u64>) -> bool {
        self.model(name, version).is_ok_and(|model| !model.failed())
    }

    /// Loads every version of the model called `name`, as a client asks under [`Control::Explicit`]; one that is
    /// served already is read again. Blocks until the newest is warm.
    ///
    /// # Errors
    /// [`Unsupported`](engine::ErrorKind::Unsupported) under another control, [`NotFound`](engine::ErrorKind::NotFound)
    /// for a name that the store does not have, and whatever keeps the newest version from being loaded.
    pub fn load_named(&self, name: &str) -> Result<()> {
        self.explicit()?;
        let _changing = self.changing();
        let versions = self.store.versions(name)?;
        let newest = *versions
            .last()
            .ok_or_else(|| Error::not_found(format!("model '{name}' is not in the store; pack it there first")))?;
        let loaded: BTreeMap<u64, Entry> =
            versions.iter().map(|&version| (version, self.warm(self.entry(name, version)))).collect();
        let outcome = match &loaded[&newest] {
            Entry::Served(_) => Ok(()),
            Entry::Unserved(error) => Err(error.clone()),
        };
        self.change(|catalog| drop(catalog.insert(name.to_owned(), loaded)));
        outcome
    }

    /// Stops serving the model called `name`; requests that it holds are finished.
    ///
    /// # Errors
    /// [`Unsupported`](engine::ErrorKind::Unsupported) under another control, [`NotFound`](engine::ErrorKind::NotFound)
    /// for a name that is not known.
    pub fn unload_named(&self, name: &str) -> Result<()> {
        self.explicit()?;
        let _changing = self.changing();
        if !self.catalog().contains_key(name) {
            return Err(Error::not_found(format!("model '{name}' is not in the store")));
        }
        self.change(|catalog| {
            for entry in catalog.get_mut(name).into_iter().flat_map(BTreeMap::values_mut) {
                if let Entry::Served(_) = std::mem::replace(entry, Entry::Unserved(unloaded(name))) {
                    self.count(Metrics::model_unloaded);
                }
            }
        });
        Ok(())
    }

    /// Looks at the store again: new versions are made warm and then take over, versions that went are dropped when
    /// their requests are done. Returns how many entries changed.
    ///
    /// # Errors
    /// When the store cannot be read; then everything stays as it is.
    pub fn poll(&self) -> Result<usize> {
        let _changing = self.changing();
        let before = self.catalog();
        let mut after = Catalog::new();
        let mut changed = 0;
        for name in self.store.names()? {
            let known = before.get(&name);
            let mut versions = BTreeMap::new();
            for version in self.store.versions(&name)? {
                // A manifest never changes, so only what is new or was not served is looked at again.
                let entry = match known.and_then(|known| known.get(&version)) {
                    Some(served @ Entry::Served(_)) => served.clone(),
                    other => {
                        let entry = self.warm(self.entry(&name, version));
                        changed += usize::from(other.is_none() || matches!(entry, Entry::Served(_)));
                        entry
                    }
                };
                versions.insert(version, entry);
            }
            after.insert(name, versions);
        }
        for (name, versions) in before.iter() {
            let left = after.get(name);
            for (_, entry) in
                versions.iter().filter(|(version, _)| !left.is_some_and(|left| left.contains_key(version)))
            {
                changed += 1;
                if let Entry::Served(_) = entry {
                    self.count(Metrics::model_unloaded);
                }
            }
        }
        if changed > 0 {
            self.publish(after);
        }
        Ok(changed)
    }

    /// The weights of `model`, mapped and bound; done at the first call.
    pub(crate) fn weights(&self, model: &Model) -> Result<Arc<dyn Weights>> {
        model.weights_or(|| self.engine.bind(self.store.weights(model.manifest())?))
    }

    /// Builds the sessions of `model`'s program, unless they are there. Takes milliseconds to seconds: the loader's.
    pub(crate) fn load(&self, model: &Model) -> Result<()> {
        if model.program().is_some() {
            return Ok(());
        }
        let hash = &model.manifest().program.hash;
        let known = self.programs().get(hash).and_then(Weak::upgrade);
        let program = match known {
            Some(program) => program,
            None => {
                let program = Arc::new(self.build(model.manifest())?);
                let mut programs = self.programs();
                programs.retain(|_, program| program.strong_count() > 0);
                programs.insert(hash.clone(), Arc::downgrade(&program));
                program
            }
        };
        model.set_program(program);
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

    /// The entry of `version` of `name`, cold.
    fn entry(&self, name: &str, version: u64) -> Entry {
        let model = || {
            let manifest = self.store.manifest(name, version)?;
            let first = manifest.program.target.clone();
            let manifest = manifest.on(&engine::cpu::target())?;
            if manifest.program.target != first && manifest.program.target == PORTABLE {
                let here = engine::cpu::target();
                tracing::warn!(model = %name, version, %here, packed = %first, "runs the form for any CPU, which is slower");
            }
            Model::unloaded(self.ids.fetch_add(1, Ordering::Relaxed) + 1, manifest)
        };
        model().map_or_else(
            |error| {
                tracing::warn!(model = %name, version, %error, "not served");
                Entry::Unserved(error)
            },
            |model| Entry::Served(Arc::new(model)),
        )
    }

    /// `entry` with its program and weights in place, so that its first request waits for nothing.
    fn warm(&self, entry: Entry) -> Entry {
        let Entry::Served(model) = &entry else {
            self.count(|metrics| metrics.model_loaded(false));
            return entry;
        };
        let warmed = self.load(model).and_then(|()| self.weights(model));
        self.count(|metrics| metrics.model_loaded(warmed.is_ok()));
        match warmed {
            Ok(_) => entry,
            Err(error) => {
                tracing::warn!(model = %model.manifest().name, %error, "not served");
                Entry::Unserved(error)
            }
        }
    }

    fn count(&self, what: impl FnOnce(&Metrics)) {
        if let Some(metrics) = self.metrics.get() {
            what(metrics);
        }
    }

    fn explicit(&self) -> Result<()> {
        if self.control == Control::Explicit {
            return Ok(());
        }
        Err(Error::unsupported("models are loaded by request only when the server is started with --control explicit"))
    }

    fn change(&self, change: impl FnOnce(&mut Catalog)) {
        let mut catalog = (*self.catalog()).clone();
        change(&mut catalog);
        self.publish(catalog);
    }

    fn publish(&self, catalog: Catalog) {
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
    }

    fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn programs(&self) -> MutexGuard<'_, HashMap<String, Weak<Program>>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
