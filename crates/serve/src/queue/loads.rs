//! Models whose program has to be built, or whose weights are on disk alone, before their requests take part. Those that wait
//! for weights are in line again until a reader has had these in memory, so that no lane waits for a disk. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Next, Phase, Queues};
use crate::job::Job;
use crate::model::Model;
use crate::residency::Program;
use crate::waiting::{Batch, Queue, State};

/// What follows from a load.
#[derive(Default)]
pub(crate) struct Loaded {
    /// Jobs that now have to be answered with its failure.
    pub(crate) refused: Vec<Job>,
    /// When the request came that has waited longest for it.
    pub(crate) asked: Option<Instant>,
}

impl Queues {
    /// The next model whose program somebody waits for.
    pub(crate) fn next_load(&mut self) -> Next<Arc<Model>> {
        if self.phase == Phase::Stopped {
            return Next::Leave;
        }
        while let Some(key) = self.loads.pop_front() {
            if let Some(queue) = self.queues.get(&key) {
                return Next::Do(Arc::clone(&queue.model));
            }
        }
        Next::Wait
    }

    /// The loader is done with model `key`: this is its program, or it has none.
    pub(crate) fn loaded(&mut self, key: u64, program: Option<Arc<Program>>) -> Loaded {
        let waits = self.queues.get_mut(&key).filter(|queue| queue.state == State::Loading);
        let Some(queue) = waits else { return Loaded::default() };
        // One that was put back in line has what its lane brought, whatever the loader came to meanwhile.
        (queue.state, queue.program) = (State::Ready, program.or_else(|| queue.program.take()));
        if let Some(files) = queue.model.files().held() {
            queue.files = files;
        }
        let asked = queue.oldest();
        let refused = if queue.program.is_some() { Vec::new() } else { queue.drain() };
        if !queue.is_empty() {
            self.take_part(key);
        }
        self.retire(key);
        Loaded { refused, asked }
    }

    /// `batch`, all of it for one model, which a lane took for so long, waits in line again, where it was, until the model's
    /// weights are [read](Self::read). Gives its requests back when everybody was sent home.
    #[must_use]
    pub(crate) fn put_back(&mut self, batch: Batch, model: &Arc<Model>, cost: Duration) -> Vec<Job> {
        self.running -= 1;
        if self.phase == Phase::Stopped {
            return batch.jobs;
        }
        let key = model.id();
        let queue = self.queues.entry(key).or_insert_with(|| Queue::new(Arc::clone(model)));
        if let State::Held(until) = queue.state {
            self.holds.remove(&(until, key));
        }
        queue.state = State::Loading;
        (queue.program, queue.files) = (Some(batch.program), batch.files);
        batch.jobs.into_iter().for_each(|job| queue.put_back(Job { was_put_back: true, ..job }));
        self.fair.withdraw(key, model.class());
        self.fair.charge(key, model.class(), cost);
        self.reads.want(Arc::clone(model));
        Vec::new()
    }

    /// The next model whose weights somebody waits for.
    pub(crate) fn next_read(&mut self) -> Next<Arc<Model>> {
        if self.phase == Phase::Stopped {
            return Next::Leave;
        }
        self.reads.next().map_or(Next::Wait, Next::Do)
    }

    /// The weights of model `key` are in memory, or will be when a run comes to them: its requests take part.
    pub(crate) fn read(&mut self, key: u64) -> Loaded {
        self.reads.done(key);
        // One that has come anew, and has no program, is the loader's.
        let queue = self.queues.get(&key).filter(|queue| queue.state == State::Loading);
        let program = queue.and_then(|queue| queue.program.clone());
        program.map_or_else(Loaded::default, |program| self.loaded(key, Some(program)))
    }
}
