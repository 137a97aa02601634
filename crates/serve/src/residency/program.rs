//! Programs: sessions that every model of one architecture runs on, and with them the weights of a model that is kept
//! whole.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use engine::{Error, Extra, Load, Result, Session};
use pipeline::{Pipeline, Tokenizers};
use store::Manifest;
use store::manifest::ProgramKind;

use super::Residency;
use super::budget::{Charge, MemoryKind};
use super::files::AtHand;
use super::room::least_private_bytes;
use super::trunk::Trunk;
use crate::costs::Costs;
use crate::lengths::Lengths;
use crate::model::Model;

/// How long the loader waits for room that requests in progress will free.
const PATIENCE: Duration = Duration::from_secs(2);

/// A program's sessions. Whoever holds it can run it, whatever becomes of its place in memory.
pub(crate) struct Program {
    /// One per lane, or one that all lanes share.
    sessions: Vec<Box<dyn Session>>,
    /// Of its weights, which are [tables](store::tables).
    tables: Vec<bool>,
    /// `None` in tests that do not count.
    charge: Option<Charge>,
    /// What building it took.
    took: Duration,
}

impl Program {
    /// A program of these sessions, of which nobody counts the memory.
    #[cfg(test)]
    pub(crate) fn new(sessions: Vec<Box<dyn Session>>) -> Self {
        Self { sessions, tables: Vec::new(), charge: None, took: Duration::ZERO }
    }

    /// The session that `lane` runs.
    pub(crate) fn session(&self, lane: usize) -> &dyn Session {
        self.sessions[lane % self.sessions.len().max(1)].as_ref()
    }

    /// Whether of weight number `at` runs read a row here and a row there.
    pub(super) fn reads_rows_of(&self, at: usize) -> bool {
        self.tables.get(at).copied().unwrap_or(false)
    }

    pub(super) fn took(&self) -> Duration {
        self.took
    }

    pub(super) fn bytes(&self) -> u64 {
        self.charge.as_ref().map_or(0, Charge::bytes)
    }
}

/// The place of a program in memory, which its models share, and which may be empty. What runs cost is a matter of the
/// program and not of the weights, so what was learnt of one model is known of the next before it is asked for first.
#[derive(Default)]
pub(crate) struct Slot {
    /// The program's hash.
    hash: String,
    /// Put there by the loader, taken away when something else needs the room.
    program: ArcSwapOption<Program>,
    /// What its sessions took when they were built last, in bytes; 0 when they never were. Locked while they are built.
    building: Mutex<u64>,
    /// Written by lanes, read by the scheduler.
    costs: Costs,
    /// The same by length, of models that are padded.
    lengths: Lengths,
    /// Until when none of its models is made hot, because that was of no use. The promoter's.
    left_alone: Rest,
    /// What its models share, in a part of its own. Put there by the promoter, taken away when memory is short.
    trunk: ArcSwapOption<Trunk>,
    /// Until when it is not cut in two, because that was of no use. The promoter's.
    left_in_one: Rest,
}

/// Until when something is not tried again.
#[derive(Default)]
struct Rest(Mutex<Option<Instant>>);

impl Rest {
    fn begin(&self, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    fn lasts(&self, now: Instant) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| now < until)
    }
}

impl Slot {
    pub(crate) fn costs(&self) -> &Costs {
        &self.costs
    }

    pub(crate) fn lengths(&self) -> &Lengths {
        &self.lengths
    }

    /// Makes none of its models hot until then.
    pub(super) fn leave_alone(&self, until: Instant) {
        self.left_alone.begin(until);
    }

    pub(super) fn is_left_alone(&self, now: Instant) -> bool {
        self.left_alone.lasts(now)
    }

    /// The part that its models share, when there is one.
    pub(crate) fn trunk(&self) -> Option<Arc<Trunk>> {
        self.trunk.load_full()
    }

    pub(crate) fn put_trunk(&self, trunk: Arc<Trunk>) {
        self.trunk.store(Some(trunk));
    }

    /// Puts `trunk` away, if it is still the one.
    pub(crate) fn give_up_trunk(&self, trunk: &Trunk) {
        self.trunk.rcu(|now| now.clone().filter(|now| !std::ptr::eq(Arc::as_ptr(now), trunk)));
    }

    pub(super) fn take_trunk(&self) -> Option<Arc<Trunk>> {
        self.trunk.swap(None)
    }

    /// Does not cut it in two until then.
    pub(super) fn leave_in_one(&self, until: Instant) {
        self.left_in_one.begin(until);
    }

    pub(super) fn is_left_in_one(&self, now: Instant) -> bool {
        self.left_in_one.lasts(now)
    }

    pub(super) fn hash(&self) -> &str {
        &self.hash
    }

    /// The program, when it is built.
    pub(crate) fn program(&self) -> Option<Arc<Program>> {
        self.program.load_full()
    }

    pub(crate) fn put(&self, program: Arc<Program>) {
        self.program.store(Some(program));
    }

    pub(super) fn take(&self) -> Option<Arc<Program>> {
        self.program.swap(None)
    }
}

/// That `session` can be of `manifest`'s program. A manifest may say anything, and a program is for all models that name it:
/// one that lies must not have it built as it says.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) when it cannot.
fn is_of(manifest: &Manifest, session: &dyn Session) -> Result<()> {
    if session.has(manifest.inputs.len(), manifest.outputs.len()) {
        return Ok(());
    }
    Err(Error::corrupt(format!(
        "its manifest is not of its program: it says {} inputs, {} weights and {} outputs; remove it and pack it again",
        manifest.inputs.len(),
        manifest.weights.len(),
        manifest.outputs.len(),
    )))
}

impl Residency {
    /// The place of the program that `manifest` names, the same for all models of that program.
    pub(super) fn slot(&self, manifest: &Manifest) -> Arc<Slot> {
        let hash = &manifest.program.hash;
        let mut slots = self.slots();
        if let Some(slot) = slots.get(hash).and_then(Weak::upgrade) {
            return slot;
        }
        slots.retain(|_, slot| slot.strong_count() > 0);
        let slot = Arc::new(Slot { hash: hash.clone(), ..Slot::default() });
        slots.insert(hash.clone(), Arc::downgrade(&slot));
        slot
    }

    /// The two ends of the task of `model`, made at the first call; its tokenizer is one of `tokenizers`. Fetches nothing:
    /// `None` when that has to be done first.
    ///
    /// # Errors
    /// As [`pipeline::open`].
    pub(crate) fn pipeline(&self, model: &Model, tokenizers: &Tokenizers) -> Result<Option<Arc<dyn Pipeline>>> {
        if let Some(made) = model.pipeline() {
            return Ok(Some(Arc::clone(made)));
        }
        let manifest = model.manifest();
        // A tokenizer is among the files. What becomes of a picture is in the manifest.
        let of_files = manifest.task.as_ref().is_some_and(|task| !task.takes_pictures());
        let files = if of_files { self.at_hand(model) } else { Some(AtHand::default()) };
        let Some(_files) = files else { return Ok(None) };
        let made = pipeline::open(self.repository.store()?, manifest, tokenizers)?;
        Ok(Some(Arc::clone(model.keep_pipeline(made))))
    }

    /// Every program that some model has.
    pub(super) fn every_slot(&self) -> Vec<Arc<Slot>> {
        self.slots().values().filter_map(Weak::upgrade).collect()
    }

    /// The sessions of `model`'s program, built unless they are there. Takes milliseconds to seconds: the loader's.
    ///
    /// # Errors
    /// [`Exhausted`](engine::ErrorKind::Exhausted) when there is no room for them at present,
    /// [`FailedPrecondition`](engine::ErrorKind::FailedPrecondition) when there never is, and whatever is wrong with the
    /// program.
    pub(crate) fn load(&self, model: &Model) -> Result<Arc<Program>> {
        let slot = model.slot();
        if let Some(program) = slot.program() {
            return Ok(program);
        }
        // A size, which is right whatever panicked.
        let mut bytes = slot.building.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = slot.program() {
            return Ok(program);
        }
        let program = Arc::new(self.build(model, *bytes)?);
        *bytes = program.bytes();
        slot.put(Arc::clone(&program));
        Ok(program)
    }

    /// Builds the program of `model`, which took `known_bytes` when it was built last, or 0.
    fn build(&self, model: &Model, known_bytes: u64) -> Result<Program> {
        let manifest = model.manifest();
        let of = |error: Error| error.context(format!("model '{}' version {}", manifest.name, manifest.version));
        let kind = if model.is_whole() { MemoryKind::Whole } else { MemoryKind::Programs };
        let store = self.repository.store().map_err(of)?;
        let graph = store.program(&manifest.program).map_err(of)?;
        // No session takes less than its graph does, with whatever numbers are in it.
        let least_bytes = (graph.len() as u64).max(least_private_bytes(manifest));
        let mut charge = self.admit(kind, known_bytes.max(least_bytes), model, PATIENCE)?;
        let (started, weights) = (Instant::now(), manifest.weights.len());
        let (bytes, sessions) = match manifest.program.kind {
            ProgramKind::Lifted => {
                let one = || self.engine.session(&graph, weights, Load::AsIs);
                let measured: Vec<_> = (0..self.lanes).map(|_| self.weighed(one)).collect::<Result<_>>().map_err(of)?;
                // What others allocate meanwhile is in it too, so the least of them speaks for all.
                let each_bytes = measured.iter().map(|(bytes, _)| *bytes).min().unwrap_or(0).max(least_bytes);
                let sessions = measured.into_iter().map(|(_, session)| session).collect();
                (each_bytes.saturating_mul(self.lanes as u64), sessions)
            }
            // The weights are in it, so one serves all lanes.
            ProgramKind::Whole => {
                let built = self.weighed(|| self.engine.session(&graph, weights, Load::Optimise)).map_err(of)?;
                (built.0.max(least_bytes), vec![built.1])
            }
            ProgramKind::SavedModel => {
                self.engine.bring(Extra::TensorFlow).map_err(of)?;
                let build = || store.with_saved_model(manifest, |model| self.engine.saved_model(model, self.lanes));
                let (bytes, sessions) = self.weighed(build).map_err(of)?;
                (bytes.max(least_bytes), sessions)
            }
            ProgramKind::TorchScript => {
                self.engine.bring(Extra::Torch).map_err(of)?;
                let build = || store.with_torch_script(manifest, |model| self.engine.torch_script(model, self.lanes));
                let (bytes, sessions) = self.weighed(build).map_err(of)?;
                (bytes.max(least_bytes), sessions)
            }
        };
        sessions.iter().try_for_each(|session| is_of(manifest, session.as_ref())).map_err(of)?;
        charge.set(bytes);
        let tables = if kind == MemoryKind::Programs { store::tables(&graph, weights) } else { Vec::new() };
        Ok(Program { sessions, tables, charge: Some(charge), took: (self.scales.since)(started) })
    }

    /// What `build` builds, and by how much the heap grew meanwhile, in bytes.
    pub(super) fn weighed<T>(&self, build: impl FnOnce() -> Result<T>) -> Result<(u64, T)> {
        let before = (self.scales.heap_bytes)();
        let built = build()?;
        Ok(((self.scales.heap_bytes)().saturating_sub(before), built))
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<String, Weak<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
