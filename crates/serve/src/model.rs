//! One version of one model, as it is served.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use engine::{Error, ErrorKind, Result, Signature};
use pipeline::Pipeline;
use store::manifest::ProgramKind;
use store::padding::Padding;
use store::repository::{Declared, Settings};
use store::{LatencyClass, Manifest, Serving};

use crate::costs::Costs;
use crate::hold::Arrivals;
use crate::lengths::Lengths;
use crate::reshape::Reshapes;
use crate::residency::{AtHand, Files, Heat, Program, Ready, Slot, Traffic, Trunk};
use crate::stats::{Recorder, Statistics};

/// After a failure to make a model ready it is tried again, but not sooner than this.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// One version of one model, as it is served.
pub struct Model {
    /// Unique within the process; the scheduler's key.
    id: u64,
    manifest: Arc<Manifest>,
    signature: Signature,
    /// Of its repository's making; nothing in most models.
    reshapes: Reshapes,
    /// What its repository says about it.
    settings: Arc<Settings>,
    /// Where what it is made of is.
    files: Files,
    /// Where its program is, when it is in memory, and what its runs cost; shared with all models of that program.
    slot: Arc<Slot>,
    /// Its weights, when they are bound: put there by whichever lane comes first, and taken away when something else needs
    /// the room.
    ready: ArcSwapOption<Ready>,
    /// A session of its own, when it is hot.
    heat: Heat,
    /// Why they could not be bound, and when that was. Locked while they are bound.
    failure: Mutex<Option<(Error, Instant)>>,
    /// Whether its program could not be built when that was tried last; the loader's.
    unloadable: AtomicBool,
    /// Whether somebody makes it ready while a request is still arriving, so that no second one is sent to do so.
    expected: AtomicBool,
    /// Whether its weights were looked through, or wait for that.
    inspected: AtomicBool,
    /// Counted by the scheduler, weighed by residency.
    traffic: Traffic,
    /// The two ends of its task, made by whoever asks first; every thread of the desk reads them.
    pipeline: OnceLock<Arc<dyn Pipeline>>,
    /// Added to by lanes, read by APIs.
    statistics: Recorder,
    /// How its requests come; the scheduler's.
    arrivals: Arrivals,
}

impl Model {
    /// The model of `manifest`, cold.
    pub(crate) fn unloaded(id: u64, manifest: Manifest, settings: Arc<Settings>) -> Result<Self> {
        let signature = manifest.signature()?;
        let reshapes = settings.declared.as_ref().map(|declared| Reshapes::of(declared, &signature));
        Ok(Self {
            id,
            reshapes: reshapes.unwrap_or_default(),
            manifest: Arc::new(manifest),
            signature,
            settings,
            files: Files::default(),
            slot: Arc::default(),
            ready: ArcSwapOption::empty(),
            heat: Heat::default(),
            failure: Mutex::default(),
            unloadable: AtomicBool::new(false),
            expected: AtomicBool::new(false),
            inspected: AtomicBool::new(false),
            traffic: Traffic::default(),
            pipeline: OnceLock::new(),
            statistics: Recorder::default(),
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

    /// Which of its tensors clients know in another shape.
    pub(crate) fn reshapes(&self) -> &Reshapes {
        &self.reshapes
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
            ProgramKind::TorchScript => "pytorch_libtorch",
        }
    }

    /// The name of the runtime among Triton's backends.
    pub fn backend(&self) -> &'static str {
        match self.manifest.program.kind {
            ProgramKind::Lifted | ProgramKind::Whole => "onnxruntime",
            ProgramKind::SavedModel => "tensorflow",
            ProgramKind::TorchScript => "pytorch",
        }
    }

    /// The most items that one run takes, the first dimension of every tensor being the batch; 0 when the model is not
    /// known to treat the items of a batch apart from each other.
    pub fn max_batch_size(&self) -> u64 {
        let seen = self.manifest.max_batch_size;
        self.settings.serving.max_batch_size.map_or(seen, |wanted| wanted.min(seen))
    }

    /// The most items that one request may bring, where its configuration says so. What was only found out, and what only
    /// bounds the batches that are made here, is no limit.
    pub(crate) fn request_items_max(&self) -> Option<u64> {
        self.declared()?.max_batch_size.filter(|&items| items > 0)
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

    /// What lanes have learnt of the runs of its program; read by the scheduler.
    pub(crate) fn costs(&self) -> &Costs {
        self.slot.costs()
    }

    /// The same by length, of a model that is padded.
    pub(crate) fn lengths(&self) -> &Lengths {
        self.slot.lengths()
    }

    /// How its items are filled up to run together, where they are.
    pub(crate) fn padding(&self) -> Option<&Padding> {
        self.manifest.padding.as_ref().filter(|_| self.max_batch_size() > 1)
    }

    pub(crate) fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    /// The same model, whose program is in `slot` when it is in memory.
    pub(crate) fn in_slot(self, slot: Arc<Slot>) -> Self {
        Self { slot, ..self }
    }

    /// The same model, whose files are at `files`.
    pub(crate) fn with_files(self, files: Files) -> Self {
        Self { files, ..self }
    }

    pub(crate) fn files(&self) -> &Files {
        &self.files
    }

    /// What its requests run on, when nothing has to be fetched or built for that.
    pub(crate) fn runnable(&self) -> Option<(Arc<Program>, AtHand)> {
        let program = self.program()?;
        match self.files.held() {
            Some(files) => Some((program, files)),
            // All of it is in the program.
            None => self.is_whole().then(|| (program, AtHand::default())),
        }
    }

    pub(crate) fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    /// The program's sessions, when they are built.
    pub(crate) fn program(&self) -> Option<Arc<Program>> {
        self.slot.program()
    }

    #[cfg(test)]
    pub(crate) fn set_program(&self, program: Arc<Program>) {
        self.slot.put(program);
    }

    /// The trunk that it shares with others, when it is ready and there is one.
    pub(crate) fn trunk(&self) -> Option<Arc<Trunk>> {
        self.slot.trunk().filter(|trunk| self.shares(trunk))
    }

    /// Whether it is ready and has `trunk`.
    pub(crate) fn shares(&self, trunk: &Trunk) -> bool {
        self.ready.load().as_ref().is_some_and(|ready| ready.head(trunk).is_some())
    }

    /// Whether its weights are inside its program, which is then its own.
    pub(crate) fn is_whole(&self) -> bool {
        self.manifest.program.kind != ProgramKind::Lifted
    }

    /// Whether its operator wants it in memory at all times.
    pub(crate) fn pinned(&self) -> bool {
        self.settings.serving.pin.unwrap_or(false)
    }

    pub(crate) fn heat(&self) -> &Heat {
        &self.heat
    }

    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// The weights, when they are bound.
    pub(crate) fn bound(&self) -> Option<Arc<Ready>> {
        self.ready.load_full()
    }

    /// Whether the weights are bound.
    pub(crate) fn is_bound(&self) -> bool {
        self.ready.load().is_some()
    }

    /// Takes the weights away; whoever has them keeps them.
    pub(crate) fn take_ready(&self) -> Option<Arc<Ready>> {
        self.ready.swap(None)
    }

    /// The weights, bound by `bind` unless they are. What is wrong with them is not looked at again for a while; what only
    /// lacked room is tried every time.
    pub(crate) fn ready_or(&self, bind: impl FnOnce() -> Result<Ready>) -> Result<Arc<Ready>> {
        if let Some(ready) = self.bound() {
            return Ok(ready);
        }
        // What is in it was true whatever panicked later.
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ready) = self.bound() {
            return Ok(ready);
        }
        if let Some((error, _)) = failure.as_ref().filter(|(_, at)| at.elapsed() < RETRY_AFTER) {
            return Err(error.clone());
        }
        match bind() {
            Ok(ready) => {
                let ready = Arc::new(ready);
                self.ready.store(Some(Arc::clone(&ready)));
                *failure = None;
                Ok(ready)
            }
            Err(error) => {
                *failure = (error.kind != ErrorKind::Exhausted).then(|| (error.clone(), Instant::now()));
                Err(error)
            }
        }
    }

    /// Takes its weights away, for they are not what its program takes or was packed with.
    pub(crate) fn fail(&self, error: &Error) {
        // Whoever binds them at this moment has done so before they go.
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.take_ready());
        *failure = Some((error.clone(), Instant::now()));
    }

    /// As if it was long ago that it failed.
    #[cfg(test)]
    pub(crate) fn forget_failure(&self) {
        *self.failure.lock().unwrap() = None;
    }

    /// Whether its weights have yet to be looked through; from now on they wait for that.
    pub(crate) fn begin_inspection(&self) -> bool {
        !self.inspected.swap(true, Ordering::AcqRel)
    }

    /// Its weights are no longer those that were looked through.
    pub(crate) fn end_inspection(&self) {
        self.inspected.store(false, Ordering::Release);
    }

    /// Building its program has ended like that. What only lacked room has not failed.
    pub(crate) fn loaded(&self, outcome: Option<&Error>) {
        self.unloadable.store(outcome.is_some_and(|error| error.kind != ErrorKind::Exhausted), Ordering::Release);
    }

    /// Whether its program could not be built; a program that is there, another model of it may have had built.
    fn is_unloadable(&self) -> bool {
        self.unloadable.load(Ordering::Acquire) && self.program().is_none()
    }

    /// Whether nobody makes it ready ahead of a request yet; from now on the caller does, until
    /// [`end_expecting`](Self::end_expecting).
    pub(crate) fn begin_to_expect(&self) -> bool {
        !self.expected.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn end_expecting(&self) {
        self.expected.store(false, Ordering::Release);
    }

    /// The two ends of its task, when they were made.
    pub(crate) fn pipeline(&self) -> Option<&Arc<dyn Pipeline>> {
        self.pipeline.get()
    }

    /// Keeps the two ends of its task; two may make them at once, and one of them is kept.
    pub(crate) fn keep_pipeline(&self, made: Arc<dyn Pipeline>) -> &Arc<dyn Pipeline> {
        self.pipeline.get_or_init(|| made)
    }

    /// Whether its files could not be fetched, its program not be built or its weights not be bound when that was tried last.
    pub(crate) fn failed(&self) -> bool {
        // While somebody binds them they have not failed.
        self.files.failed() || self.is_unloadable() || self.failure.try_lock().is_ok_and(|failure| failure.is_some())
    }
}
