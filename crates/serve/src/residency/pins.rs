//! Models that stay in memory because their operator says so.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use engine::{Error, ErrorKind, Result};

use super::Residency;
use super::room::{least_private_bytes, models};
use crate::catalog::Catalog;
use crate::model::Model;

impl Residency {
    /// Makes ready what is pinned and packed; what has yet to be packed is made ready then.
    ///
    /// # Errors
    /// [`FailedPrecondition`](ErrorKind::FailedPrecondition) when not all of it fits, with the sum, and whatever keeps one
    /// of them from being made ready, naming it.
    pub fn ready_pinned(&self) -> Result<()> {
        let catalog = self.catalog();
        let pinned: Vec<&Arc<Model>> = models(&catalog).filter(|model| model.pinned()).collect();
        if pinned.is_empty() {
            return Ok(());
        }
        self.pins_fit(&catalog, &pinned)?;
        for model in &pinned {
            let manifest = model.manifest();
            let (name, version) = (&manifest.name, manifest.version);
            let made = self.prepare(model);
            made.map_err(|error| match error.kind {
                // Whatever could go has gone, so the rest is pinned as well.
                ErrorKind::Exhausted => self.pins_too_much(&catalog, &pinned, least_private_bytes(manifest)),
                _ => error.context(format!("model '{name}' version {version} is pinned, and cannot be made ready")),
            })?;
        }
        self.count_pins(&catalog);
        self.pins_fit(&catalog, &pinned)?;
        tracing::info!(models = pinned.len(), bytes = self.pinned_bytes.load(Ordering::Relaxed), "pinned");
        Ok(())
    }

    fn pins_fit(&self, catalog: &Catalog, pinned: &[&Arc<Model>]) -> Result<()> {
        if self.pins_bytes(catalog) <= self.budget.for_models_bytes() {
            return Ok(());
        }
        Err(self.pins_too_much(catalog, pinned, 0))
    }

    fn pins_too_much(&self, catalog: &Catalog, pinned: &[&Arc<Model>], more_bytes: u64) -> Error {
        const NAMED_MAX: usize = 5;
        let names = pinned.iter().take(NAMED_MAX).map(|model| format!("'{}'", model.manifest().name));
        let names = names.collect::<Vec<_>>().join(", ");
        let rest = pinned.len().saturating_sub(NAMED_MAX);
        let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
        let sum = self.pins_bytes(catalog) + more_bytes;
        let (there, limit) = (self.budget.for_models_bytes(), self.budget.limit_bytes());
        Error::new(
            ErrorKind::FailedPrecondition,
            format!(
                "the models that are pinned ({names}{rest}) take {sum} bytes or more together, and there are {there} for \
                 models, of {limit} (memory-budget-bytes); pin fewer, or raise the budget"
            ),
        )
    }

    /// Notes what the pinned models of `catalog` take.
    pub(super) fn count_pins(&self, catalog: &Catalog) {
        if self.pins.load(Ordering::Relaxed) {
            self.pinned_bytes.store(self.pins_bytes(catalog), Ordering::Relaxed);
        }
    }

    /// What the pinned models of `catalog` take: what they have in memory, and what else they are known to need.
    fn pins_bytes(&self, catalog: &Catalog) -> u64 {
        let (mut segments, mut slots) = (HashSet::new(), HashSet::new());
        let mut sum = 0;
        for model in models(catalog).filter(|model| model.pinned()) {
            let manifest = model.manifest();
            let new = manifest.weights.segments.iter().filter(|segment| segments.insert(&segment.hash));
            sum += new.map(|segment| segment.used_bytes).sum::<u64>();
            sum += model.bound().map_or(0, |ready| ready.private_bytes());
            if slots.insert(Arc::as_ptr(model.slot())) {
                let least = least_private_bytes(manifest);
                sum += model.program().map_or(least, |program| program.bytes().max(least));
            }
        }
        sum
    }
}
