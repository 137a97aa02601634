//! Room in memory: who gets in, and who goes for that. What goes is decided by [`value`](super::value); here it is found
//! out what there is, and done what was decided.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use engine::map::Advice;
use engine::{Error, ErrorKind, Result};
use store::Manifest;
use store::manifest::{ProgramKind, SegmentRef};

use super::Residency;
use super::budget::{Charge, MemoryKind};
use super::program::Slot;
use super::value::{Holding, that_go};
use crate::catalog::{Catalog, Known};
use crate::metrics::Evicted;
use crate::model::Model;

/// Mapping a model and pointing at its weights, in milliseconds.
const BIND_MS: f64 = 0.1;
/// Bytes of weights that a disk reads in a millisecond.
const READ_BYTES_PER_MS: f64 = 500_000.0;
/// What gave way to something else is not made again at once.
const TRUNK_AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Freeing weights may leave their program without a model, which then may go as well.
const ROUNDS: usize = 3;
/// What the kernel is told of pages that go: see docs/decisions/016-what-stays-in-memory.md.
const GOING: Advice = Advice::Later;

/// Which bytes something frees by going.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// This process's own.
    Private,
    /// Pages of mapped files too.
    Everything,
    /// Maps, of which the kernel allows only so many: each counts as one.
    Maps,
}

/// What may go.
#[derive(Clone, Copy)]
enum What<'a> {
    Weights(&'a Arc<Model>),
    Program(&'a Arc<Slot>),
    /// A model's own session, beside the one that it runs on when that goes.
    Hot(&'a Arc<Model>),
    /// What models run through together, who run one by one when it goes.
    Trunk(&'a Arc<Slot>),
}

/// How many models that are ready have weights in each segment, by its hash.
struct Users<'a>(HashMap<&'a str, usize>);

impl<'a> Users<'a> {
    fn of(catalog: &'a Catalog) -> Self {
        let mut users = HashMap::new();
        let ready = models(catalog).filter(|model| model.is_bound());
        for segment in ready.flat_map(|model| &model.manifest().weights.segments) {
            *users.entry(segment.hash.as_str()).or_insert(0) += 1;
        }
        Self(users)
    }

    /// The segments that nobody else needs who is ready.
    fn own<'m>(&self, manifest: &'m Manifest) -> impl Iterator<Item = &'m SegmentRef> {
        manifest
            .weights
            .segments
            .iter()
            .filter(|segment| self.0.get(segment.hash.as_str()).is_none_or(|&users| users <= 1))
    }

    /// A model of `manifest` is ready no more.
    fn leaves(&mut self, manifest: &'a Manifest) {
        for segment in &manifest.weights.segments {
            if let Some(users) = self.0.get_mut(segment.hash.as_str()) {
                *users = users.saturating_sub(1);
            }
        }
    }
}

impl Residency {
    /// Takes `bytes` for `model`; what is worth least goes when there are not as many.
    ///
    /// # Errors
    /// [`FailedPrecondition`](ErrorKind::FailedPrecondition) when there never are, whatever goes;
    /// [`Exhausted`](ErrorKind::Exhausted) when there are none within `patience`.
    pub(super) fn admit(&self, kind: MemoryKind, bytes: u64, model: &Model, patience: Duration) -> Result<Charge> {
        self.fits_alone(model.manifest(), bytes, model.pinned())?;
        let begun = Instant::now();
        loop {
            let missing = match self.budget.charge(kind, bytes) {
                Ok(charge) => return Ok(charge),
                Err(missing) => missing,
            };
            if self.relieve(missing, Measure::Private) {
                continue;
            }
            // What the last look found may have gone since.
            self.look();
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return self
                    .budget
                    .charge(kind, bytes)
                    .map_err(|missing| self.no_room(model.manifest(), bytes, missing));
            }
            self.budget.wait(left.min(Duration::from_millis(50)));
        }
    }

    pub(super) fn no_room(&self, manifest: &Manifest, bytes: u64, missing: u64) -> Error {
        let (name, limit) = (&manifest.name, self.budget.limit_bytes());
        Error::new(
            ErrorKind::Exhausted,
            format!(
                "there is no room for model '{name}' at present: it needs {bytes} bytes, and {missing} of them are missing, \
                 because requests in progress, pinned models and the server itself take what there is of {limit} \
                 (memory-budget-bytes); try again soon"
            ),
        )
    }

    /// Whether the model of `manifest` would fit if it had all memory that can be made free for it, with `private_bytes`
    /// besides its mapped weights.
    ///
    /// # Errors
    /// [`FailedPrecondition`](ErrorKind::FailedPrecondition), with both numbers.
    pub(super) fn fits_alone(&self, manifest: &Manifest, private_bytes: u64, pinned: bool) -> Result<()> {
        let needed = private_bytes.max(least_private_bytes(manifest)) + mapped_bytes(manifest);
        // What is pinned never goes for another; whether all that is pinned fits is another question.
        let kept = if pinned { 0 } else { self.pinned_bytes.load(Ordering::Relaxed) };
        let there = self.budget.for_models_bytes().saturating_sub(kept);
        if needed <= there {
            return Ok(());
        }
        let (name, limit) = (&manifest.name, self.budget.limit_bytes());
        Err(Error::new(
            ErrorKind::FailedPrecondition,
            format!(
                "model '{name}' needs {needed} bytes of memory, and {there} can be made free for it at the most, of \
                 {limit} (memory-budget-bytes); raise that, or serve the model where there is more"
            ),
        ))
    }

    /// Has go what is worth least, until `missing` more bytes are free. Whether anything went.
    pub(super) fn relieve(&self, mut missing: u64, measure: Measure) -> bool {
        // Two who need room each take their own part of it, one after the other.
        let _relieving = self.relieving.lock().unwrap_or_else(PoisonError::into_inner);
        let (catalog, slots) = (self.catalog(), self.every_slot());
        let mut gone = false;
        for _ in 0..ROUNDS {
            let mut users = Users::of(&catalog);
            let holdings = holdings(&catalog, &slots, &users, measure);
            let going = that_go(&holdings, missing);
            if going.is_empty() {
                break;
            }
            for holding in going {
                missing = missing.saturating_sub(holding.bytes);
                gone = true;
                self.drop_it(holding.key, &mut users);
            }
        }
        gone
    }

    /// Has some of the models go that hold maps for the least use. Whether any did.
    pub(super) fn unmap_some(&self) -> bool {
        const SHARE: usize = 16;
        let mapped = self.repository.store().map_or(0, store::Store::mapped_files);
        self.relieve((mapped / SHARE).max(1) as u64, Measure::Maps)
    }

    fn drop_it<'a>(&self, what: What<'a>, users: &mut Users<'a>) {
        match what {
            What::Weights(model) => {
                let Some(ready) = model.take_ready() else { return };
                let manifest = model.manifest();
                if let Ok(store) = self.repository.store() {
                    users.own(manifest).for_each(|segment| store.advise(segment, GOING));
                }
                users.leaves(manifest);
                drop(ready);
                self.count(|metrics| metrics.evicted(Evicted::Weights));
            }
            What::Program(slot) => {
                drop(slot.take());
                self.count(|metrics| metrics.evicted(Evicted::Program));
            }
            What::Hot(model) => {
                drop(model.heat().take());
                self.count(|metrics| metrics.evicted(Evicted::Hot));
            }
            What::Trunk(slot) => {
                drop(slot.take_trunk());
                slot.leave_in_one(Instant::now() + TRUNK_AGAIN_AFTER);
                self.count(|metrics| metrics.evicted(Evicted::Trunk));
            }
        }
    }
}

/// Everything that is in memory and could go, as of now.
fn holdings<'a>(
    catalog: &'a Catalog,
    slots: &'a [Arc<Slot>],
    users: &Users<'a>,
    measure: Measure,
) -> Vec<Holding<What<'a>>> {
    let now = Instant::now();
    let mut holdings = Vec::new();
    let (mut rates, mut needed, mut pinned) = (HashMap::<_, f64>::new(), HashSet::new(), HashSet::new());
    for model in models(catalog) {
        let (slot, rate_hz) = (Arc::as_ptr(model.slot()), model.traffic().rate_hz(now));
        *rates.entry(slot).or_default() += rate_hz;
        if model.pinned() {
            pinned.insert(slot);
        }
        if let Some(hot) = model.heat().hot() {
            let bytes = match measure {
                Measure::Private => hot.private_bytes(),
                Measure::Everything => hot.private_bytes() + hot.mapped_bytes(),
                Measure::Maps => hot.maps(),
            };
            // A run in progress keeps it no longer than the run takes.
            let (key, cost_ms) = (What::Hot(model), hot.saves_ms());
            holdings.push(Holding { key, rate_hz, cost_ms, bytes, pinned: false, in_use: false, spare: true });
        }
        let Some(ready) = model.bound().filter(|_| !model.manifest().weights.is_empty()) else { continue };
        needed.insert(slot);
        let own_bytes: u64 = users.own(model.manifest()).map(|segment| segment.used_bytes).sum();
        let bytes = match measure {
            Measure::Private => ready.private_bytes(),
            Measure::Everything => ready.private_bytes() + own_bytes,
            Measure::Maps => users.own(model.manifest()).count() as u64,
        };
        let cost_ms = BIND_MS + own_bytes as f64 / READ_BYTES_PER_MS;
        let (key, pinned, in_use) = (What::Weights(model), model.pinned(), is_used(&ready));
        holdings.push(Holding { key, rate_hz, cost_ms, bytes, pinned, in_use, spare: false });
    }
    for slot in slots.iter().filter(|_| measure != Measure::Maps) {
        let place = Arc::as_ptr(slot);
        if let Some(trunk) = slot.trunk() {
            let rate_hz = rates.get(&place).copied().unwrap_or(0.0);
            let (key, cost_ms, bytes) = (What::Trunk(slot), BIND_MS, trunk.bytes());
            holdings.push(Holding { key, rate_hz, cost_ms, bytes, pinned: false, in_use: false, spare: true });
        }
        let Some(program) = slot.program().filter(|_| !needed.contains(&place)) else { continue };
        let rate_hz = rates.get(&place).copied().unwrap_or(0.0);
        let (cost_ms, bytes) = (program.took().as_secs_f64() * 1e3, program.bytes());
        let (key, pinned, in_use) = (What::Program(slot), pinned.contains(&place), is_used(&program));
        holdings.push(Holding { key, rate_hz, cost_ms, bytes, pinned, in_use, spare: false });
    }
    holdings
}

/// Whether anybody holds it but its place and whoever asks.
fn is_used<T>(what: &Arc<T>) -> bool {
    Arc::strong_count(what) > 2
}

pub(super) fn models(catalog: &Catalog) -> impl Iterator<Item = &Arc<Model>> {
    catalog.values().flat_map(Known::served).map(|(_, model)| model)
}

/// The pages that the weights of `manifest`'s model take when all of them were read, in bytes.
pub(super) fn mapped_bytes(manifest: &Manifest) -> u64 {
    manifest.weights.segments.iter().map(|segment| segment.used_bytes).sum()
}

/// What a model takes of this process's own memory at the least, as far as its manifest tells.
pub(super) fn least_private_bytes(manifest: &Manifest) -> u64 {
    match manifest.program.kind {
        ProgramKind::Lifted => 0,
        ProgramKind::Whole | ProgramKind::SavedModel | ProgramKind::TorchScript => manifest.source.bytes,
    }
}
