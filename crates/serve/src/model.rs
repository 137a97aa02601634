//! One version of one model, as it is served.

use std::sync::{Arc, OnceLock};

use engine::{Result, Signature, Weights};
use store::manifest::ProgramKind;
use store::repository::{Declared, Settings};
use store::{LatencyClass, Manifest, Serving};

use crate::costs::Costs;
use crate::hold::Arrivals;
use crate::residency::Program;
use crate::stats::{Recorder, Statistics};

/// One version of one model, as it is served.
pub struct Model {
    /// Unique within the process; the scheduler's key.
    id: u64,
    manifest: Arc<Manifest>,
    signature: Signature,
    /// What its repository says about it.
    settings: Arc<Settings>,
    /// Set once by the loader; read by every request.
    program: OnceLock<Arc<Program>>,
    /// Bound once, by whichever lane comes first; every lane reads them.
    weights: OnceLock<Result<Arc<dyn Weights>>>,
    /// Added to by lanes, read by APIs.
    statistics: Recorder,
    /// What lanes have learnt of its runs; read by the scheduler.
    costs: Costs,
    /// How its requests come; the scheduler's.
    arrivals: Arrivals,
}

impl Model {
    /// The model of `manifest`, cold.
    pub(crate) fn unloaded(id: u64, manifest: Manifest, settings: Arc<Settings>) -> Result<Self> {
        let signature = manifest.signature()?;
        Ok(Self {
            id,
            manifest: Arc::new(manifest),
            signature,
            settings,
            program: OnceLock::new(),
            weights: OnceLock::new(),
            statistics: Recorder::default(),
            costs: Costs::default(),
            arrivals: Arrivals::default(),
        })
    }

    /// The manifest it was made from.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    /// Which models it goes before.
    pub(crate) fn class(&self) -> LatencyClass {
        self.settings.serving.latency_class.unwrap_or_default()
    }

    /// What it takes and gives, under the names that clients use.
    pub fn signature(&self) -> &Signature {
        &self.signature
    }

    /// How its requests are queued and put together, where its repository says so.
    pub fn serving(&self) -> &Serving {
        &self.settings.serving
    }

    /// Its configuration in its repository, where it has one.
    pub fn declared(&self) -> Option<&Declared> {
        self.settings.declared.as_ref()
    }

    /// What clients are told it runs on, in the word that Triton has for it.
    pub fn platform(&self) -> &'static str {
        match self.manifest.program.kind {
            ProgramKind::Lifted | ProgramKind::Whole => "onnxruntime_onnx",
            ProgramKind::SavedModel => "tensorflow_savedmodel",
        }
    }

    /// The name of the runtime among Triton's backends.
    pub fn backend(&self) -> &'static str {
        match self.manifest.program.kind {
            ProgramKind::Lifted | ProgramKind::Whole => "onnxruntime",
            ProgramKind::SavedModel => "tensorflow",
        }
    }

    /// The most items that one run takes, the first dimension of every tensor being the batch; 0 when the model is not
    /// known to treat the items of a batch apart from each other.
    pub fn max_batch_size(&self) -> u64 {
        let seen = self.manifest.max_batch_size;
        self.settings.serving.max_batch_size.map_or(seen, |wanted| wanted.min(seen))
    }

    /// What it has done since it was loaded.
    pub fn statistics(&self) -> Statistics {
        self.statistics.snapshot()
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.statistics
    }

    pub(crate) fn costs(&self) -> &Costs {
        &self.costs
    }

    pub(crate) fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// The program's sessions, when they are built.
    pub(crate) fn program(&self) -> Option<&Arc<Program>> {
        self.program.get()
    }

    pub(crate) fn set_program(&self, program: Arc<Program>) {
        // Two loaders may have come to the same program; either will do.
        let _ = self.program.set(program);
    }

    /// The weights, bound by `bind` at the first call.
    pub(crate) fn weights_or(&self, bind: impl FnOnce() -> Result<Arc<dyn Weights>>) -> Result<Arc<dyn Weights>> {
        self.weights.get_or_init(bind).clone()
    }

    /// Whether its weights could not be bound.
    pub(crate) fn failed(&self) -> bool {
        matches!(self.weights.get(), Some(Err(_)))
    }
}
