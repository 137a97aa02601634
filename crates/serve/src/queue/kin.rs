//! Requests for several models in one batch, through the trunk that these share.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::Queues;
use crate::job::Job;
use crate::residency::Trunk;
use crate::waiting::{Batch, Place, Queue, Shared};

/// So many queues are looked at for what may go along, so that many that wait cost no more.
const LOOKED_AT_MAX: usize = 512;

impl Queues {
    /// What runs next of the queue `key`, at most so many items, and what goes along of models that share its trunk; `None`,
    /// and nothing has changed, when nothing waits for any.
    pub(super) fn together(&mut self, key: u64, now: Instant, most: u64) -> Option<Batch> {
        let idle = self.idle();
        let queue = self.queues.get(&key)?;
        let trunk = queue.trunk().filter(|_| !queue.fills_batches())?;
        let kin = self.kin(key, queue, &trunk);
        let elsewhere = kin.iter().map(|other| other.items()).sum::<usize>();
        if elsewhere == 0 {
            return None;
        }
        let size = usize::try_from(queue.size(now, idle, elsewhere).min(most)).unwrap_or(usize::MAX);
        let (_, first) = queue.jobs().next()?;
        let program = Arc::clone(queue.program.as_ref()?);
        let files = queue.files.clone();
        let chosen = queue.beside(first, size, queue.jobs().skip(1).chain(by_turns(&kin)));
        let several = chosen.iter().any(|&(of, _)| of != key);
        let first = self.queues.get_mut(&key).and_then(Queue::pop_first)?;
        let mut jobs: Vec<Job> = vec![first];
        for (key, place) in chosen {
            jobs.extend(self.queues.get_mut(&key).and_then(|queue| queue.remove(place)));
        }
        jobs.sort_by_key(|job| job.model.id());
        let mut others = Vec::new();
        for of in jobs.chunk_by(|one, other| one.model.id() == other.model.id()) {
            let model = &of[0].model;
            let Some(queue) = self.queues.get(&model.id()) else { continue };
            others.push(queue.files.clone());
            if queue.is_empty() {
                self.fair.withdraw(model.id(), model.class());
            }
        }
        if self.queues.get(&key).is_some_and(|queue| !queue.is_empty()) {
            self.take_part(key);
        }
        let shared = several.then_some(Shared { trunk, files: others });
        Some(Batch { jobs, program, files, shared })
    }

    /// The queues whose requests may go along with those of the queue `key`, those whose turn comes first in front, and
    /// those behind them that are held back.
    fn kin(&self, key: u64, queue: &Queue, trunk: &Arc<Trunk>) -> Vec<&Queue> {
        let held = self.holds.iter().map(|&(_, key)| key);
        let others = self.fair.waiting(queue.class()).chain(held).filter(|&other| other != key).take(LOOKED_AT_MAX);
        others.filter_map(|other| self.queues.get(&other)).filter(|other| other.goes_with(queue, trunk)).collect()
    }
}

/// What waits in `queues`, one of each in turn.
fn by_turns<'a>(queues: &[&'a Queue]) -> impl Iterator<Item = (Place, &'a Job)> {
    let mut turns: VecDeque<_> = queues.iter().map(|queue| queue.jobs()).collect();
    std::iter::from_fn(move || {
        loop {
            let mut jobs = turns.pop_front()?;
            if let Some(next) = jobs.next() {
                turns.push_back(jobs);
                return Some(next);
            }
        }
    })
}
