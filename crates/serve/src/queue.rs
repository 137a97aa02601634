//! Who waits for what: the scheduler's decisions as a plain value. It starts no thread, takes no lock and asks no clock;
//! [`Scheduler`](crate::Scheduler) keeps it under a lock and carries out what it says.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Error, ErrorKind, Result, Tensor};

use crate::fair::Fair;
use crate::residency::Model;
use crate::scheduler::Reply;

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
    pub(crate) deadline: Option<Instant>,
    pub(crate) submitted: Instant,
    pub(crate) reply: Box<dyn Reply>,
}

struct Queue {
    model: Arc<Model>,
    jobs: VecDeque<Job>,
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

/// A queue per model, and who is next.
pub(crate) struct Queues {
    /// By model id; a queue that is empty and idle is dropped, so that ten thousand models cost nothing here.
    queues: HashMap<u64, Queue>,
    fair: Fair,
    /// Models whose program somebody waits for, in order.
    loads: VecDeque<u64>,
    /// Jobs on a lane right now.
    running: usize,
    phase: Phase,
    limits: QueueLimits,
}

impl Queues {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            queues: HashMap::new(),
            fair: Fair::default(),
            loads: VecDeque::new(),
            running: 0,
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
            jobs: VecDeque::new(),
            loading: false,
        });
        if queue.jobs.len() >= self.limits.capacity {
            let (name, waiting) = (&model.manifest().name, queue.jobs.len());
            let full = format!("the queue of model '{name}' is full ({waiting} waiting); try again soon");
            return Err(Error::new(ErrorKind::Exhausted, full));
        }
        queue.jobs.push_back(job);
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

    /// The next job for a lane.
    pub(crate) fn next_job(&mut self) -> Next<Job> {
        if self.phase == Phase::Stopped {
            return Next::Leave;
        }
        while let Some(key) = self.fair.next() {
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            let Some(job) = queue.jobs.pop_front() else { continue };
            if !queue.jobs.is_empty() {
                self.fair.add(key);
            }
            self.running += 1;
            return Next::Do(job);
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

    /// A lane is done with a job of model `key` that took `cost`. Whether everything is done with that.
    pub(crate) fn finished(&mut self, key: u64, cost: Duration) -> bool {
        self.running -= 1;
        self.fair.charge(key, cost);
        self.retire(key);
        self.is_idle()
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

    /// The loader is done with model `key`. Gives back the jobs that now have to be answered with its failure.
    pub(crate) fn loaded(&mut self, key: u64, succeeded: bool) -> VecDeque<Job> {
        let Some(queue) = self.queues.get_mut(&key) else { return VecDeque::new() };
        queue.loading = false;
        let refused = if succeeded { VecDeque::new() } else { std::mem::take(&mut queue.jobs) };
        if !queue.jobs.is_empty() {
            self.fair.add(key);
        }
        self.retire(key);
        refused
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
        self.queues.drain().flat_map(|(_, queue)| queue.jobs).collect()
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

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
