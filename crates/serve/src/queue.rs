//! Who waits for what: the scheduler's decisions as a plain value. It starts no thread, takes no lock and asks no clock;
//! [`Scheduler`](crate::Scheduler) keeps it under a lock and carries out what it says.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Error, ErrorKind, Result, Tensor};

use crate::batch;
use crate::fair::Fair;
use crate::model::Model;
use crate::scheduler::Reply;
use crate::wake::Lanes;

/// A queue's three bounds, which never travel apart: how many wait, for how long, and what is said when that is over.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Requests of one model that wait at the most; one more is refused as [`ErrorKind::Exhausted`].
    pub capacity: usize,
    /// The longest wait; after it a request is answered with [`ErrorKind::DeadlineExceeded`].
    pub time_limit: Duration,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { capacity: 256, time_limit: Duration::from_secs(30) }
    }
}

/// A request on its way to a lane, checked and in signature order.
pub(crate) struct Job {
    pub(crate) model: Arc<Model>,
    pub(crate) inputs: Vec<Tensor>,
    /// Indices into the signature's outputs.
    pub(crate) outputs: Vec<usize>,
    /// As [`InferRequest::priority`](crate::InferRequest::priority).
    pub(crate) priority: u32,
    pub(crate) deadline: Option<Instant>,
    pub(crate) submitted: Instant,
    pub(crate) reply: Box<dyn Reply>,
}

impl Job {
    /// Items of the batch that this request brings: the first dimension of its inputs, where the model has batches.
    pub(crate) fn items(&self) -> usize {
        let first = self.inputs.first().and_then(|input| input.shape().first());
        if self.model.max_batch_size() > 0 { first.copied().unwrap_or(1) } else { 1 }
    }

    /// Whether `other` can run together with this one: all but the first dimension agree, and so do the outputs.
    fn fits(&self, other: &Job) -> bool {
        let batched = |job: &Job| {
            let first = job.inputs.first().and_then(|input| input.shape().first().copied());
            first.is_some_and(|items| items > 0 && job.inputs.iter().all(|input| input.shape().first() == Some(&items)))
        };
        let alike = |(a, b): (&Tensor, &Tensor)| a.shape()[1..] == b.shape()[1..];
        batched(self)
            && batched(other)
            && self.outputs == other.outputs
            && self.inputs.iter().zip(&other.inputs).all(alike)
    }
}

struct Queue {
    model: Arc<Model>,
    /// By priority and then by age.
    jobs: BTreeMap<(u32, u64), Job>,
    /// Asked of the loader and not yet answered; until then the queue takes no part in the sharing of lanes.
    loading: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    /// Takes nothing new, finishes what it holds.
    Draining,
    /// Lanes and loader leave.
    Stopped,
}

/// Whom a new job concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Lane,
    Loader,
    /// The loader has been asked already.
    Nobody,
}

/// What there is to do.
pub(crate) enum Next<T> {
    Do(T),
    Wait,
    Leave,
}

/// What follows from a load.
#[derive(Default)]
pub(crate) struct Loaded {
    /// Jobs that now have to be answered with its failure.
    pub(crate) refused: Vec<Job>,
    /// When the request came that has waited longest for it.
    pub(crate) asked: Option<Instant>,
}

/// A queue per model, and who is next.
pub(crate) struct Queues {
    /// By model id; a queue that is empty and idle is dropped, so that ten thousand models cost nothing here.
    queues: HashMap<u64, Queue>,
    fair: Fair,
    /// Models whose program somebody waits for, in order.
    loads: VecDeque<u64>,
    /// Batches on a lane right now.
    running: usize,
    lanes: usize,
    /// Which lanes sleep; the scheduler's, and here because it is under the same lock.
    pub(crate) sleepers: Lanes,
    /// Jobs taken so far; the age of the next.
    taken: u64,
    phase: Phase,
    limits: QueueLimits,
}

impl Queues {
    pub(crate) fn new(limits: QueueLimits, lanes: usize) -> Self {
        Self {
            queues: HashMap::new(),
            fair: Fair::default(),
            loads: VecDeque::new(),
            running: 0,
            lanes,
            sleepers: Lanes::new(lanes),
            taken: 0,
            phase: Phase::Running,
            limits,
        }
    }

    /// Takes `job` in.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) while draining, [`Exhausted`](ErrorKind::Exhausted) when full.
    pub(crate) fn push(&mut self, job: Job) -> Result<Wake> {
        if self.phase != Phase::Running {
            return Err(Error::unavailable("the server is draining; send the request to another one"));
        }
        let model = &job.model;
        let (key, loaded) = (model.id(), model.program().is_some());
        let queue = self.queues.entry(key).or_insert_with(|| Queue {
            model: Arc::clone(model),
            jobs: BTreeMap::new(),
            loading: false,
        });
        if queue.jobs.len() >= self.limits.capacity {
            let (name, waiting) = (&model.manifest().name, queue.jobs.len());
            let full = format!("the queue of model '{name}' is full ({waiting} waiting); try again soon");
            return Err(Error::new(ErrorKind::Exhausted, full));
        }
        self.taken += 1;
        queue.jobs.insert((rank(job.priority), self.taken), job);
        if queue.loading {
            return Ok(Wake::Nobody);
        }
        if loaded {
            self.fair.add(key);
            return Ok(Wake::Lane);
        }
        queue.loading = true;
        self.loads.push_back(key);
        Ok(Wake::Loader)
    }

    /// The next batch for a lane: one request, or several of one model that fit together.
    pub(crate) fn next_batch(&mut self) -> Next<Vec<Job>> {
        if self.phase == Phase::Stopped {
            return Next::Leave;
        }
        while let Some(key) = self.fair.next() {
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            let idle = self.lanes.saturating_sub(self.running);
            let batch = queue.take(idle);
            if batch.is_empty() {
                continue;
            }
            if !queue.jobs.is_empty() {
                self.fair.add(key);
            }
            self.running += 1;
            return Next::Do(batch);
        }
        Next::Wait
    }

    /// Why `job` should not run any more at `now`, if so.
    pub(crate) fn overdue(limits: &QueueLimits, job: &Job, now: Instant) -> Option<Error> {
        if job.reply.gone() {
            return Some(Error::new(ErrorKind::Cancelled, "the client has gone"));
        }
        if job.deadline.is_some_and(|deadline| deadline <= now) {
            return Some(Error::new(ErrorKind::DeadlineExceeded, "the request's deadline passed in the queue"));
        }
        let waited = now.saturating_duration_since(job.submitted);
        (waited > limits.time_limit).then(|| {
            let limit_s = limits.time_limit.as_secs_f64();
            Error::new(ErrorKind::DeadlineExceeded, format!("the request waited longer than {limit_s} s for a lane"))
        })
    }

    /// A lane is done with a batch of model `key` that took `cost`. Whether everything is done with that.
    pub(crate) fn finished(&mut self, key: u64, cost: Duration) -> bool {
        self.running -= 1;
        self.fair.charge(key, cost);
        self.retire(key);
        let idle = self.is_idle();
        if idle {
            // Models come and go; the times of those that ran once must not outlive them.
            self.fair.rest();
        }
        idle
    }

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

    /// The loader is done with model `key`.
    pub(crate) fn loaded(&mut self, key: u64, succeeded: bool) -> Loaded {
        let Some(queue) = self.queues.get_mut(&key) else { return Loaded::default() };
        queue.loading = false;
        let asked = queue.jobs.values().map(|job| job.submitted).min();
        let refused = if succeeded { Vec::new() } else { std::mem::take(&mut queue.jobs).into_values().collect() };
        if !queue.jobs.is_empty() {
            self.fair.add(key);
        }
        self.retire(key);
        Loaded { refused, asked }
    }

    /// From now on nothing new is taken.
    pub(crate) fn drain(&mut self) {
        if self.phase == Phase::Running {
            self.phase = Phase::Draining;
        }
    }

    /// Sends lanes and loader home. Gives back the jobs that never had their turn.
    pub(crate) fn stop(&mut self) -> Vec<Job> {
        self.phase = Phase::Stopped;
        self.queues.drain().flat_map(|(_, queue)| queue.jobs.into_values()).collect()
    }

    /// Whether everybody was sent home.
    pub(crate) fn is_stopped(&self) -> bool {
        self.phase == Phase::Stopped
    }

    /// Whether nothing waits and nothing runs.
    pub(crate) fn is_idle(&self) -> bool {
        self.running == 0 && self.queues.is_empty()
    }

    /// Drops the queue of `key` when nothing is in it.
    fn retire(&mut self, key: u64) {
        if self.queues.get(&key).is_none_or(|queue| queue.jobs.is_empty() && !queue.loading) {
            self.queues.remove(&key);
            self.fair.forget_if_idle(key);
        }
    }
}

impl Queue {
    /// The requests that run next, together: the first, and those behind it that fit it, as many as pay.
    fn take(&mut self, idle: usize) -> Vec<Job> {
        let Some((_, first)) = self.jobs.pop_first() else { return Vec::new() };
        let (max, costs) = (self.model.max_batch_size(), self.model.costs());
        let waiting: usize = if max > 1 { self.jobs.values().map(Job::items).sum() } else { 0 };
        let size = batch::take((waiting + first.items()) as u64, idle as u64, costs, max);
        let mut room = usize::try_from(size).unwrap_or(usize::MAX).saturating_sub(first.items());
        let mut fitting = Vec::new();
        for (&place, job) in &self.jobs {
            if room == 0 {
                break;
            }
            if job.items() <= room && first.fits(job) {
                room -= job.items();
                fitting.push(place);
            }
        }
        let others = fitting.iter().filter_map(|place| self.jobs.remove(place)).collect::<Vec<_>>();
        std::iter::once(first).chain(others).collect()
    }
}

/// Where a priority stands in line: 1 is first, and 0, which is no wish, is in the middle.
fn rank(priority: u32) -> u32 {
    if priority == 0 { u32::MAX / 2 } else { priority }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
