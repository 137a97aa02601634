//! Models whose files have to be fetched before their program is built, or before what people give is made into tensors: who
//! is next, and who is being fetched. Pure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use engine::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

use super::{Next, Phase, Queues};
use crate::job::Job;
use crate::model::Model;
use crate::residency::AtHand;

/// Somebody who waits for a model's files and has no queue to do so in; gone when the other end is.
pub(crate) type Waiter = oneshot::Sender<Result<AtHand>>;

/// Who waits for files, or for weights that are on disk alone.
#[derive(Default)]
pub(super) struct Fetches {
    /// Those that nobody fetches yet, in order.
    wanted: VecDeque<Arc<Model>>,
    /// Those, and those that somebody fetches: a model is fetched once however many ask.
    all: HashSet<u64>,
    /// By model, who is told; of a model that is among `all`.
    waiters: HashMap<u64, Vec<Waiter>>,
}

impl Fetches {
    /// `waiter` is told when the files of model `key` are there, unless `capacity` are to be told already.
    ///
    /// # Errors
    /// How many they are.
    fn wait(&mut self, key: u64, capacity: usize, waiter: Waiter) -> std::result::Result<(), usize> {
        let waiters = self.waiters.entry(key).or_default();
        if waiters.len() >= capacity {
            waiters.retain(|waiter| !waiter.is_closed());
        }
        if waiters.len() >= capacity {
            return Err(waiters.len());
        }
        waiters.push(waiter);
        Ok(())
    }

    /// Whoever is to be told of files, whichever they are, leaves.
    pub(super) fn forget_waiters(&mut self) {
        self.waiters.clear();
    }

    /// `model`'s files are wanted; false when they were before.
    pub(super) fn want(&mut self, model: Arc<Model>) -> bool {
        let new = self.all.insert(model.id());
        if new {
            self.wanted.push_back(model);
        }
        new
    }

    /// The next whose files are fetched.
    pub(super) fn next(&mut self) -> Option<Arc<Model>> {
        self.wanted.pop_front()
    }

    /// The files of model `key` are there, or cannot be had, which these are to be told.
    pub(super) fn done(&mut self, key: u64) -> Vec<Waiter> {
        self.all.remove(&key);
        self.waiters.remove(&key).unwrap_or_default()
    }

    /// The models whose files are wanted or fetched.
    pub(super) fn models(&self) -> impl Iterator<Item = u64> {
        self.all.iter().copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl Queues {
    /// `model`'s files have to be fetched before its program is built. Whether that is new.
    pub(crate) fn fetch(&mut self, model: Arc<Model>) -> bool {
        self.fetches.want(model)
    }

    /// The same before there are jobs, which `waiter` makes when he is told that the files are there.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) while draining, [`Exhausted`](ErrorKind::Exhausted) when as many wait as may.
    pub(crate) fn fetch_for(&mut self, model: Arc<Model>, waiter: Waiter) -> Result<bool> {
        if self.phase != Phase::Running {
            return Err(Error::unavailable("the server is draining; send the request to another one"));
        }
        let capacity = self.limits.of(&model).capacity;
        self.fetches.wait(model.id(), capacity, waiter).map_err(|waiting| {
            let name = &model.manifest().name;
            let full = format!("{waiting} requests for model '{name}' wait for its files; try again soon");
            Error::new(ErrorKind::Exhausted, full)
        })?;
        Ok(self.fetches.want(model))
    }

    /// The next model whose files somebody waits for.
    pub(crate) fn next_fetch(&mut self) -> Next<Arc<Model>> {
        if self.phase == Phase::Stopped {
            return Next::Leave;
        }
        self.fetches.next().map_or(Next::Wait, Next::Do)
    }

    /// The files of model `key` are there, so its program may be built; or they cannot be had, which is then to be
    /// [said](Self::loaded). Either is to be told to those that come back.
    #[must_use]
    pub(crate) fn fetched(&mut self, key: u64, files: Option<AtHand>) -> Vec<Waiter> {
        let waiters = self.fetches.done(key);
        if let (Some(queue), Some(files)) = (self.queues.get_mut(&key), files) {
            queue.files = files;
            self.loads.push_back(key);
        }
        waiters
    }

    /// Whether somebody's files are fetched, or weights read.
    pub(crate) fn is_fetching(&self) -> bool {
        !self.fetches.is_empty() || !self.reads.is_empty()
    }

    /// Jobs that wait for files or weights and should not wait any longer at `now`, with the reason: no lane comes by to see
    /// that.
    pub(crate) fn tired(&mut self, now: Instant) -> Vec<(Job, Error)> {
        let mut tired = Vec::new();
        for key in self.fetches.models().chain(self.reads.models()) {
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            tired.extend(queue.overdue(&self.limits, now));
            if queue.is_empty() {
                // Who comes now waits anew, for the same fetch.
                self.queues.remove(&key);
            }
        }
        tired
    }
}
