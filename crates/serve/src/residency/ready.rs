//! Making a model ready: its weights mapped and pointed at. A lane does that itself, in well under a millisecond.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use engine::map::{self, Advice};
use engine::{Error, ErrorKind, Result, Session, Tensor, Weights};
use store::Manifest;

use super::Residency;
use super::budget::{Charge, MemoryKind};
use super::files::AtHand;
use super::trunk::{Beside, Head, Trunk};
use crate::model::Model;

/// So much is read as a run comes to it.
const LITTLE_BYTES: usize = 1 << 20;
/// Files that are mapped at the most while maps are split in three for the sake of their tables. A process may have 65,530 maps
/// (`vm.max_map_count`) where nobody says otherwise.
const SPLIT_MAX: usize = 12_000;

/// A model's weights, bound to the runtime. Whoever holds them can run on them, and they count until nobody does.
pub(crate) struct Ready {
    weights: Arc<dyn Weights>,
    charge: Charge,
    /// Whether they were seen to be what the program takes; set by the first lane that runs on them.
    fits: AtomicBool,
    /// Set when they are in memory as far as anybody looked, or were read.
    here: OnceLock<()>,
    /// What is known of them and its program's trunk: put there by the lane that binds them or by the promoter.
    beside: ArcSwapOption<Beside>,
    /// What is mapped stays in the cache that it was mapped from.
    _files: AtHand,
}

impl Ready {
    /// These, and no file.
    #[cfg(test)]
    pub(super) fn of(weights: Arc<dyn Weights>, charge: Charge) -> Self {
        Self {
            weights,
            charge,
            fits: AtomicBool::default(),
            here: OnceLock::from(()),
            beside: ArcSwapOption::empty(),
            _files: AtHand::default(),
        }
    }

    pub(crate) fn weights(&self) -> &dyn Weights {
        self.weights.as_ref()
    }

    /// What pointing at the weights takes of this process's own memory.
    pub(super) fn private_bytes(&self) -> u64 {
        let head = self.beside.load().as_ref().and_then(|beside| beside.any_head().map(|head| head.bytes()));
        self.charge.bytes() + head.unwrap_or(0)
    }

    /// What the model has of its own beside `trunk`, when that is its own.
    pub(crate) fn head(&self, trunk: &Trunk) -> Option<Arc<Head>> {
        self.beside.load().as_ref()?.head(trunk).cloned()
    }

    pub(super) fn beside(&self) -> Option<Arc<Beside>> {
        self.beside.load_full()
    }

    pub(super) fn set_beside(&self, beside: Beside) {
        self.beside.store(Some(Arc::new(beside)));
    }
}

impl Residency {
    /// The weights of `model`, mapped and bound unless they are.
    ///
    /// # Errors
    /// [`Exhausted`](ErrorKind::Exhausted) when there is no room, and whatever is wrong with the files.
    pub(crate) fn ready(&self, model: &Model) -> Result<Arc<Ready>> {
        model.ready_or(|| {
            let bound = self.bind(model).or_else(|error| {
                // The kernel allows only so many maps; models that are asked for less than this one hold others.
                let full = error.kind == ErrorKind::Exhausted && self.unmap_some();
                if full { self.bind(model) } else { Err(error) }
            });
            self.bound(model, bound.as_ref().err());
            bound
        })
    }

    /// That `ready`, the weights of `model`, is what `session` takes; looked at once. A manifest may say anything.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt), and the model has failed for a while.
    pub(crate) fn fits(&self, model: &Model, ready: &Ready, session: &dyn Session) -> Result<()> {
        if ready.fits.load(Ordering::Acquire) {
            return Ok(());
        }
        session.takes(ready.weights()).map_err(|error| {
            let Manifest { name, version, .. } = &**model.manifest();
            let message = format!(
                "model '{name}' version {version}: its manifest is not of its program, for {}; remove it and pack it again",
                error.message
            );
            let error = Error::new(error.kind, message);
            model.fail(&error);
            error
        })?;
        ready.fits.store(true, Ordering::Release);
        Ok(())
    }

    /// Whether the weights of `model`, which are bound unless they are, are on disk alone. What else is wrong with them whoever
    /// [asks](Self::ready) for them is told.
    pub(crate) fn is_away(&self, model: &Model) -> bool {
        self.ready(model).is_ok_and(|ready| ready.here.get().is_none())
    }

    /// Reads the weights of `model` into memory, if they are bound and on disk alone; one reads, however many ask, and all
    /// wait for that.
    pub(crate) fn read_in(&self, model: &Model) {
        let Some(ready) = model.bound() else { return };
        ready.here.get_or_init(|| {
            let (started, manifest) = (Instant::now(), model.manifest());
            let goes_on = || !self.leaving.load(Ordering::Relaxed);
            let read = || self.repository.store()?.read_in(manifest, wanted(model), goes_on);
            // Whoever waits for it goes on whatever becomes of it.
            let read =
                catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| Err(Error::internal("reading panicked")));
            let (model, version, ms) = (&manifest.name, manifest.version, started.elapsed().as_millis());
            match read {
                Ok(bytes) => {
                    tracing::info!(model, version, bytes, ms, "read from disk");
                    if let Some(metrics) = self.metrics.get() {
                        metrics.weights_read(bytes);
                    }
                }
                // They come in as a run comes to them, and what is wrong with them that is told.
                Err(error) => tracing::warn!(model, version, %error, "not read from disk"),
            }
        });
    }

    /// What to do, on a thread that may wait for a disk, when a request for `model` begins to arrive: make it ready while the
    /// rest of the request is on its way. `None` when that is of no use, or done already.
    pub(crate) fn expected(self: &Arc<Self>, model: &Arc<Model>) -> Option<impl FnOnce() + Send + use<>> {
        let model = Some(model).filter(|model| !model.is_bound() && model.begin_to_expect())?;
        let (residency, model) = (Arc::clone(self), Arc::clone(model));
        Some(move || {
            // What has to be fetched first takes its own way; what is wrong is told to the request when a lane comes to it.
            if let Some(_files) = residency.at_hand(&model)
                && residency.ready(&model).is_ok()
            {
                residency.read_in(&model);
            }
            model.end_expecting();
        })
    }

    /// The weights of `manifest`'s model, mapped, in the order of its program.
    ///
    /// # Errors
    /// As [`Store::weights`](store::Store::weights).
    pub(super) fn weights(&self, manifest: &Manifest) -> Result<Vec<Tensor>> {
        let store = self.repository.store()?;
        store.weights(manifest).or_else(|error| {
            // Compacting the store moves the weights of a model that stays what it is, and gc takes the old place.
            let moved = store.manifest(&manifest.name, manifest.version);
            let moved = moved.and_then(|moved| moved.on(&engine::cpu::target())).ok();
            let moved = moved.filter(|moved| moved.source == manifest.source && moved.weights != manifest.weights);
            moved.map_or(Err(error), |moved| store.weights(&moved))
        })
    }

    fn bind(&self, model: &Model) -> Result<Ready> {
        let manifest = model.manifest();
        let tensors = self.weights(manifest)?;
        let wants = wanted(model);
        let (wanted, tables): (Vec<_>, Vec<_>) = (0..).zip(&tensors).partition(|(at, _)| wants(*at));
        self.read_by_row(tables.into_iter().map(|(_, table)| &table.data()[..]));
        let wanted: Vec<&[u8]> = wanted.into_iter().map(|(_, weight)| &weight.data()[..]).collect();
        let here = if is_away(&wanted) { OnceLock::new() } else { OnceLock::from(()) };
        let trunk = model.slot().trunk().map(|trunk| (trunk, tensors.clone()));
        let of = |error: Error| error.context(format!("model '{}' version {}", manifest.name, manifest.version));
        let weights = self.engine.bind(tensors).map_err(of)?;
        let charge = self.admit(MemoryKind::Weights, weights.private_bytes(), model, Duration::ZERO)?;
        if self.budget.mapping(weights.mapped_bytes()) {
            self.bell.ring();
        }
        // A model without weights holds no file; those of one that is kept whole are its program.
        let files = if manifest.weights.is_empty() { None } else { model.files().held() };
        let (fits, beside) = (AtomicBool::default(), ArcSwapOption::empty());
        let ready = Ready { weights, charge, fits, here, beside, _files: files.unwrap_or_default() };
        if let Some((trunk, tensors)) = trunk {
            self.put_beside(&ready, &tensors, &trunk);
        }
        Ok(ready)
    }

    /// Has the kernel bring in of `tables` what a run comes to, and not what lies beside it, which may be megabytes.
    fn read_by_row<'a>(&self, tables: impl Iterator<Item = &'a [u8]>) {
        // That splits a map, of which a process may have so many; the models come first.
        if self.repository.store().is_ok_and(|store| store.mapped_files_at_most() < SPLIT_MAX) {
            tables
                .filter(|table| table.len() > LITTLE_BYTES)
                .for_each(|table| _ = map::advise(table, Advice::Scattered));
        }
    }
}

/// Which of the weights of `model`, by their place in its program, all of which a run reads. Of a table it reads a few rows, and
/// what it does not read takes no room in the page cache from what others do; but what is pinned is to be there, all of it.
fn wanted(model: &Model) -> impl Fn(usize) -> bool + use<> {
    let program = model.program().filter(|_| !model.pinned());
    move |at| program.as_ref().is_none_or(|program| !program.reads_rows_of(at))
}

/// Whether `weights` are to be read from disk before anybody runs on them: when much of them is not in the page cache, as far
/// as a few looks tell. A disk reads them in one go in less time than page by page as a run comes to them. What is little the
/// kernel is asked for at once.
fn is_away(weights: &[&[u8]]) -> bool {
    const LOOKS: usize = 8;
    let middle_is_here = |weight: &&[u8]| {
        let middle = weight.len() / 2;
        map::is_resident(&weight[middle..weight.len().min(middle + 1)])
    };
    // What a fine-tune has of its own mostly comes last.
    let step = weights.len().div_ceil(LOOKS).max(1);
    if weights.iter().rev().step_by(step).all(middle_is_here) {
        return false;
    }
    let away: Vec<&[u8]> = weights.iter().copied().filter(|weight| !map::is_resident(weight)).collect();
    let much = away.iter().map(|weight| weight.len()).sum::<usize>() > LITTLE_BYTES;
    if !much {
        for weight in away {
            // The kernel may do otherwise; then it comes in as a run comes to it.
            map::advise(weight, Advice::Soon);
        }
    }
    much
}
