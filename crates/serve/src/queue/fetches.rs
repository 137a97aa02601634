//! Models whose files have to be fetched before their program is built: who is next, and who is being fetched. Pure.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use engine::Error;

use super::{Next, Phase, Queues};
use crate::job::Job;
use crate::model::Model;
use crate::residency::AtHand;

/// Who waits for files.
#[derive(Default)]
pub(super) struct Fetches {
    /// Those that nobody fetches yet, in order.
    wanted: VecDeque<Arc<Model>>,
    /// Those, and those that somebody fetches: a model is fetched once however many ask.
    all: HashSet<u64>,
}

impl Fetches {
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

    /// The files of model `key` are there, or cannot be had.
    pub(super) fn done(&mut self, key: u64) {
        self.all.remove(&key);
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

    /// The next model whose files somebody waits for.
    pub(crate) fn next_fetch(&mut self) -> Next<Arc<Model>> {
        if self.phase == Phase::Stopped {
            return Next::Leave;
        }
        self.fetches.next().map_or(Next::Wait, Next::Do)
    }

    /// The files of model `key` are there, so its program may be built; or they cannot be had, which is then to be
    /// [said](Self::loaded).
    pub(crate) fn fetched(&mut self, key: u64, files: Option<AtHand>) {
        self.fetches.done(key);
        if let (Some(queue), Some(files)) = (self.queues.get_mut(&key), files) {
            queue.files = files;
            self.loads.push_back(key);
        }
    }

    /// Whether somebody's files are fetched.
    pub(crate) fn is_fetching(&self) -> bool {
        !self.fetches.is_empty()
    }

    /// Jobs that wait for files and should not wait any longer at `now`, with the reason: no lane comes by to see that.
    pub(crate) fn tired(&mut self, now: Instant) -> Vec<(Job, Error)> {
        let mut tired = Vec::new();
        for key in self.fetches.models() {
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
