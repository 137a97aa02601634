//! Metrics that are not counted as things happen, but looked up in what somebody else knows.

use std::fmt;
use std::sync::{Arc, OnceLock};

/// Who is asked whenever somebody scrapes; nobody until it is set.
pub(super) struct Watched<S: ?Sized>(OnceLock<Arc<S>>);

impl<S: ?Sized> Watched<S> {
    /// From now on `source` is asked. The first one stays: a second might count the same things again.
    pub(super) fn watch(&self, source: Arc<S>) {
        let _ = self.0.set(source);
    }

    pub(super) fn source(&self) -> Option<&Arc<S>> {
        self.0.get()
    }
}

impl<S: ?Sized> Default for Watched<S> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<S: ?Sized> fmt::Debug for Watched<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched").finish_non_exhaustive()
    }
}
