//! Making a model ready: its weights mapped and pointed at. A lane does that itself, in well under a millisecond.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use engine::map::{self, Advice};
use engine::{Error, ErrorKind, Result, Session, Tensor, Weights};
use store::Manifest;

use super::Residency;
use super::budget::{Charge, MemoryKind};
use super::files::AtHand;
use super::trunk::{Beside, Head, Trunk};
use crate::model::Model;

/// A model's weights, bound to the runtime. Whoever holds them can run on them, and they count until nobody does.
pub(crate) struct Ready {
    weights: Arc<dyn Weights>,
    charge: Charge,
    /// Whether they were seen to be what the program takes; set by the first lane that runs on them.
    fits: AtomicBool,
    /// What is known of them and its program's trunk: put there by the lane that binds them or by the promoter.
    beside: ArcSwapOption<Beside>,
    /// What is mapped stays in the cache that it was mapped from.
    _files: AtHand,
}

impl Ready {
    /// These, and no file.
    #[cfg(test)]
    pub(super) fn of(weights: Arc<dyn Weights>, charge: Charge) -> Self {
        Self { weights, charge, fits: AtomicBool::default(), beside: ArcSwapOption::empty(), _files: AtHand::default() }
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
            self.bind(model).or_else(|error| {
                // The kernel allows only so many maps; models that are asked for less than this one hold others.
                let full = error.kind == ErrorKind::Exhausted && self.unmap_some();
                if full { self.bind(model) } else { Err(error) }
            })
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

    /// What to do, on a thread that may wait for a disk, when a request for `model` begins to arrive: make it ready while the
    /// rest of the request is on its way. `None` when that is of no use, or done already.
    pub(crate) fn expected(self: &Arc<Self>, model: &Arc<Model>) -> Option<impl FnOnce() + Send + use<>> {
        let model = Some(model).filter(|model| !model.is_bound() && model.begin_to_expect())?;
        let (residency, model) = (Arc::clone(self), Arc::clone(model));
        Some(move || {
            // What has to be fetched first takes its own way; what is wrong is told to the request when a lane comes to it.
            if let Some(_files) = residency.at_hand(&model) {
                let _ = residency.ready(&model);
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
        bring_in(&tensors);
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
        let ready = Ready { weights, charge, fits, beside, _files: files.unwrap_or_default() };
        if let Some((trunk, tensors)) = trunk {
            self.put_beside(&ready, &tensors, &trunk);
        }
        Ok(ready)
    }
}

/// Has the kernel begin to read `weights`, all of them, unless they are in the page cache as far as a few looks tell: a
/// disk reads them in one go in less time than page by page as a run comes to them.
fn bring_in(weights: &[Tensor]) {
    const LOOKS: usize = 8;
    let is_here = |weight: &Tensor| {
        let data = weight.data();
        let middle = data.len() / 2;
        let (here, all) = map::resident_pages(&data[middle..data.len().min(middle + 1)]);
        here == all
    };
    // What a fine-tune has of its own mostly comes last.
    let step = weights.len().div_ceil(LOOKS).max(1);
    if !weights.iter().rev().step_by(step).all(is_here) {
        for weight in weights {
            // The kernel may do otherwise; then they come in as they are read.
            map::advise(weight.data(), Advice::Soon);
        }
    }
}
