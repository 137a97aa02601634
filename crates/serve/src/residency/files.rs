//! The files that models are made of. Those of a store in a folder are there and stay. Those of a store elsewhere are fetched
//! into this node's cache when their model is first asked for, and stay there while somebody holds them: a queue with
//! requests, a batch on a lane, weights that are mapped.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use engine::{Error, Result};
use store::{Fetched, Remote};

use super::Residency;
use super::room::Measure;
use crate::model::{Model, RETRY_AFTER};

/// As long as this lives, a model's files stay where they are.
#[derive(Clone, Default)]
pub(crate) struct AtHand {
    _fetched: Option<Arc<Fetched>>,
}

/// Where one model's files are.
#[derive(Default)]
pub(crate) enum Files {
    /// In the store itself, where they stay.
    #[default]
    Here,
    /// In a store elsewhere, and in the cache if somebody holds them.
    Elsewhere(Elsewhere),
}

/// What is known of files elsewhere.
#[derive(Default)]
pub(crate) struct Elsewhere {
    /// Locked for a moment.
    held: Mutex<Weak<Fetched>>,
    /// Why they could not be fetched, and when that was. Locked while they are looked for or fetched.
    failure: Mutex<Option<(Error, Instant)>>,
}

impl Elsewhere {
    fn held(&self) -> Option<AtHand> {
        lock(&self.held).upgrade().map(|held| AtHand { _fetched: Some(held) })
    }

    fn hold(&self, fetched: Fetched) -> AtHand {
        let fetched = Arc::new(fetched);
        *lock(&self.held) = Arc::downgrade(&fetched);
        AtHand { _fetched: Some(fetched) }
    }
}

impl Files {
    /// Of a model that lies elsewhere.
    pub(crate) fn elsewhere() -> Self {
        Self::Elsewhere(Elsewhere::default())
    }

    /// The files, when somebody holds them or they are the store's own. Looks at no disk, and waits for nobody.
    pub(crate) fn held(&self) -> Option<AtHand> {
        match self {
            Self::Here => Some(AtHand::default()),
            Self::Elsewhere(files) => files.held(),
        }
    }

    /// Whether they could not be fetched when that was tried last.
    pub(crate) fn failed(&self) -> bool {
        // While somebody fetches them they have not failed.
        matches!(self, Self::Elsewhere(files) if files.failure.try_lock().is_ok_and(|failure| failure.is_some()))
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is in it was true whatever panicked later.
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Residency {
    /// Whether models lie elsewhere.
    pub(crate) fn fetches(&self) -> bool {
        self.repository.remote().is_some()
    }

    /// The files of a model of this repository.
    pub(super) fn files(&self) -> Files {
        if self.fetches() { Files::elsewhere() } else { Files::Here }
    }

    /// `model`'s files, when they are on this node: a look at the disk, and at nothing else. `None` while they are fetched.
    pub(crate) fn at_hand(&self, model: &Model) -> Option<AtHand> {
        let (Files::Elsewhere(files), Some(remote)) = (model.files(), self.repository.remote()) else {
            return Some(AtHand::default());
        };
        if let Some(held) = files.held() {
            return Some(held);
        }
        let mut failure = files.failure.try_lock().ok()?;
        // What cannot be looked at is found out by whoever fetches.
        let found = remote.at_hand(model.manifest()).ok().flatten()?;
        *failure = None;
        Some(files.hold(found))
    }

    /// `model`'s files, fetched unless they are there. Takes as long as the network does.
    ///
    /// # Errors
    /// As [`Remote::fetch`]; what failed a moment ago is not tried again.
    pub(crate) fn fetch(&self, model: &Model) -> Result<AtHand> {
        let (Files::Elsewhere(files), Some(remote)) = (model.files(), self.repository.remote()) else {
            return Ok(AtHand::default());
        };
        let mut failure = lock(&files.failure);
        if let Some(held) = files.held() {
            return Ok(held);
        }
        if let Some((error, _)) = failure.as_ref().filter(|(_, at)| at.elapsed() < RETRY_AFTER) {
            return Err(error.clone());
        }
        // What has its files in the cache and is asked for least goes when there is no room for others.
        let let_go = |bytes| self.relieve(bytes, Measure::Everything);
        match remote.fetch(model.manifest(), &let_go) {
            Ok(fetched) => {
                *failure = None;
                Ok(files.hold(fetched))
            }
            Err(error) => {
                *failure = Some((error.clone(), Instant::now()));
                Err(error)
            }
        }
    }

    /// Makes `model` ready, whatever that takes, and has all of it in memory.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch), [`load`](Self::load) and [`ready`](Self::ready).
    pub(super) fn prepare(&self, model: &Model) -> Result<()> {
        let _files = self.fetch(model)?;
        self.load(model)?;
        self.ready(model)?;
        self.read_in(model);
        Ok(())
    }

    /// Whoever fetches, reads or looks through what was read gives up.
    pub(crate) fn stop_fetching(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        self.unseen.wake();
        if let Some(remote) = self.repository.remote() {
            Remote::stop(remote);
        }
    }
}
