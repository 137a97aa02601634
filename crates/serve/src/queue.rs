//! Who waits for what: the scheduler's decisions as a plain value. It starts no thread, takes no lock and asks no clock;
//! [`Scheduler`](crate::Scheduler) keeps it under a lock and carries out what it says.

mod fetches;
pub(crate) use fetches::Waiter;
mod kin;
mod loads;
pub(crate) use loads::Loaded;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Error, Result};

use crate::fair::Fair;
use crate::job::Job;
use crate::model::Model;
use crate::waiting::{Batch, Queue, State};
use crate::wake::Lanes;
use fetches::Fetches;

/// A queue's three bounds, which never travel apart: how many wait, for how long, and what is said when that is over.
#[derive(Clone, Copy, Debug)]
pub struct QueueLimits {
    /// Requests of one model that wait at the most; one more is refused as [`Exhausted`](engine::ErrorKind::Exhausted).
    pub capacity: usize,
    /// The longest wait; after it a request is answered with
    /// [`DeadlineExceeded`](engine::ErrorKind::DeadlineExceeded).
    pub time_limit: Duration,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { capacity: 256, time_limit: Duration::from_secs(30) }
    }
}

impl QueueLimits {
    /// What holds for `model`: its own bounds where it has any.
    pub(crate) fn of(&self, model: &Model) -> Self {
        let serving = model.serving();
        Self {
            capacity: serving.queue_capacity.unwrap_or(self.capacity),
            time_limit: serving.queue_time_limit_ms.map_or(self.time_limit, Duration::from_millis),
        }
    }
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
    /// The loader or a reader has been asked already, or every lane is at work and comes by, or a lane sleeps until the job's turn.
    Nobody,
}

/// What there is to do.
pub(crate) enum Next<T> {
    Do(T),
    Wait,
    /// Nothing before then, unless something new comes.
    WaitUntil(Instant),
    Leave,
}

/// A queue per model, and who is next.
pub(crate) struct Queues {
    /// By model id; a queue that is empty and idle is dropped, so that ten thousand models cost nothing here.
    queues: HashMap<u64, Queue>,
    fair: Fair,
    /// Queues that are held back for company, by when that ends.
    holds: BTreeSet<(Instant, u64)>,
    /// Something may wait for a lane that no lane was woken for.
    unannounced: bool,
    /// Jobs that were swept out of full queues, to be answered with the reason.
    swept: Vec<(Job, Error)>,
    /// Models whose program somebody waits for, in order.
    loads: VecDeque<u64>,
    /// Models whose files somebody waits for.
    fetches: Fetches,
    /// Models whose weights somebody waits for, which are on disk alone.
    reads: Fetches,
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
            holds: BTreeSet::new(),
            unannounced: false,
            swept: Vec::new(),
            loads: VecDeque::new(),
            fetches: Fetches::default(),
            reads: Fetches::default(),
            running: 0,
            lanes,
            sleepers: Lanes::new(lanes),
            taken: 0,
            phase: Phase::Running,
            limits,
        }
    }

    /// Takes `job` in. What had to make room for it is [`swept`](Self::swept) afterwards.
    ///
    /// # Errors
    /// [`Unavailable`](engine::ErrorKind::Unavailable) while draining, [`Exhausted`](engine::ErrorKind::Exhausted) when
    /// full, [`DeadlineExceeded`](engine::ErrorKind::DeadlineExceeded) for what can only be too late.
    pub(crate) fn push(&mut self, mut job: Job) -> Result<Wake> {
        if self.phase != Phase::Running {
            return Err(Error::unavailable("the server is draining; send the request to another one"));
        }
        let (model, now) = (Arc::clone(&job.model), job.submitted);
        if let Some(late) = job.hopeless(now) {
            return Err(late);
        }
        let key = model.id();
        let queue = self.queues.entry(key).or_insert_with(|| Queue::new(Arc::clone(&model)));
        if queue.refusal(&self.limits, self.lanes).is_some() {
            self.swept.extend(queue.sweep(&self.limits, now));
            if let Some(refusal) = queue.refusal(&self.limits, self.lanes) {
                self.retire(key);
                return Err(refusal);
            }
        }
        self.taken += 1;
        job.age = self.taken;
        queue.push(job);
        Ok(match queue.state {
            State::Loading => Wake::Nobody,
            State::Held(until) => self.joined(key, until, now),
            State::Ready if queue.program.is_some() => self.announced(key),
            State::Ready => {
                queue.state = State::Loading;
                self.loads.push_back(key);
                Wake::Loader
            }
        })
    }

    /// How long whoever brought a job of `model` that was refused may leave the network alone; not at all while a lane has
    /// nothing to do.
    pub(crate) fn breath(&self, model: &Model) -> Option<Duration> {
        let queue = self.queues.get(&model.id()).filter(|_| self.idle() == 0)?;
        queue.breath(self.lanes)
    }

    /// Jobs that left a full queue because nobody waits for them any more, each with the reason; once.
    pub(crate) fn swept(&mut self) -> Vec<(Job, Error)> {
        std::mem::take(&mut self.swept)
    }

    /// Somebody joined the queue `key`, which is held back until `until`: does that still hold?
    fn joined(&mut self, key: u64, until: Instant, now: Instant) -> Wake {
        let idle = self.idle();
        let Some(queue) = self.queues.get_mut(&key) else { return Wake::Nobody };
        match queue.hold(now, idle) {
            // The lane that sleeps until then looks again, and finds out when it is later now.
            Some(again) if again >= until => Wake::Nobody,
            Some(sooner) => {
                queue.state = State::Held(sooner);
                self.holds.remove(&(until, key));
                self.holds.insert((sooner, key));
                if idle > 0 { Wake::Lane } else { Wake::Nobody }
            }
            None => {
                queue.state = State::Ready;
                self.holds.remove(&(until, key));
                self.unannounced = true;
                self.announced(key)
            }
        }
    }

    /// The queue `key` takes part in the sharing of lanes. A lane that is busy looks here before it sleeps, so only an
    /// idle one has to be woken, which costs a call into the kernel.
    fn announced(&mut self, key: u64) -> Wake {
        self.take_part(key);
        if self.idle() > 0 { Wake::Lane } else { Wake::Nobody }
    }

    fn take_part(&mut self, key: u64) {
        if let Some(queue) = self.queues.get(&key) {
            self.fair.add(key, queue.model.class());
        }
    }

    /// The next batch for a lane at `now`: one request, or several of one model that fit together.
    pub(crate) fn next_batch(&mut self, now: Instant) -> Next<Batch> {
        self.next(now, |_| Some(u64::MAX), true)
    }

    /// The same for a guest, if it is over sooner than a lane could be there. What is not is left to the lanes.
    pub(crate) fn next_brief(&mut self, now: Instant) -> Option<Batch> {
        match self.next(now, Queue::brief, false) {
            Next::Do(batch) => Some(batch),
            Next::Wait | Next::WaitUntil(_) | Next::Leave => None,
        }
    }

    /// The next batch for somebody who takes at most so many items, or nothing, from the queue whose turn it is, and with
    /// them what can go along of other models if he is `open` to that.
    fn next(&mut self, now: Instant, at_most: impl Fn(&Queue) -> Option<u64>, open: bool) -> Next<Batch> {
        if self.phase == Phase::Stopped {
            return Next::Leave;
        }
        while let Some(&(until, key)) = self.holds.first().filter(|(until, _)| *until <= now) {
            self.holds.remove(&(until, key));
            self.release(key);
        }
        while let Some(key) = self.fair.next() {
            let idle = self.idle();
            let waits = |queue: &&mut Queue| queue.state != State::Loading;
            let Some(queue) = self.queues.get_mut(&key).filter(waits) else { continue };
            if self.phase == Phase::Running
                && let Some(until) = queue.hold(now, idle)
            {
                queue.state = State::Held(until);
                self.holds.insert((until, key));
                continue;
            }
            let Some(most) = at_most(queue) else {
                self.take_part(key);
                return Next::Wait;
            };
            if let Some(batch) = open.then(|| self.together(key, now, most)).flatten() {
                self.running += 1;
                return Next::Do(batch);
            }
            let Some(queue) = self.queues.get_mut(&key) else { continue };
            let jobs = queue.take(now, idle, most);
            let (program, files) = (queue.program.clone(), queue.files.clone());
            if !queue.is_empty() {
                self.take_part(key);
            }
            // A queue takes no part before it has a program.
            let (false, Some(program)) = (jobs.is_empty(), program) else {
                self.retire(key);
                continue;
            };
            self.running += 1;
            return Next::Do(Batch { jobs, program, files, shared: None });
        }
        self.unannounced = false;
        self.holds.first().map_or(Next::Wait, |&(until, _)| Next::WaitUntil(until))
    }

    /// Whether one of the lanes that sleep should look here: the one that was to wake at the end of a hold may have been
    /// given something else to do.
    pub(crate) fn wants_a_look(&self) -> bool {
        self.idle() > 0 && (!self.holds.is_empty() || self.unannounced && !self.fair.is_empty())
    }

    /// Whether something waits for a lane and for nothing else.
    pub(crate) fn has_work(&self) -> bool {
        !self.fair.is_empty()
    }

    /// When the next hold ends.
    #[cfg(test)]
    pub(crate) fn next_hold(&self) -> Option<Instant> {
        self.holds.first().map(|&(until, _)| until)
    }

    /// The queue `key` is not held back any more.
    fn release(&mut self, key: u64) {
        if let Some(queue) = self.queues.get_mut(&key) {
            queue.state = State::Ready;
            self.unannounced = true;
            self.take_part(key);
        }
    }

    /// Lanes that do nothing.
    fn idle(&self) -> usize {
        self.lanes.saturating_sub(self.running)
    }

    /// A lane is done with a batch of `model` that took `cost`. Whether everything is done with that.
    pub(crate) fn finished(&mut self, model: &Model, cost: Duration) -> bool {
        self.running -= 1;
        self.shared(model, cost);
        let idle = self.is_idle();
        if idle {
            // Models come and go; the times of those that ran once must not outlive them.
            self.fair.rest();
        }
        idle
    }

    /// `model` had part in a batch, which took `cost` for it.
    pub(crate) fn shared(&mut self, model: &Model, cost: Duration) {
        self.fair.charge(model.id(), model.class(), cost);
        self.retire(model.id());
        self.fair.forget_if_idle(model.id(), model.class());
    }

    /// From now on nothing new is taken, and nothing is held back.
    pub(crate) fn drain(&mut self) {
        if self.phase == Phase::Running {
            self.phase = Phase::Draining;
        }
        for (_, key) in std::mem::take(&mut self.holds) {
            self.release(key);
        }
    }

    /// Sends lanes and loader home. Gives back the jobs that never had their turn.
    pub(crate) fn stop(&mut self) -> Vec<Job> {
        self.phase = Phase::Stopped;
        self.holds.clear();
        self.fetches.forget_waiters();
        self.queues.drain().flat_map(|(_, mut queue)| queue.drain()).collect()
    }

    /// Whether somebody waits for everything to be done.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase != Phase::Running
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
        let Some(queue) = self.queues.get(&key) else { return };
        if !queue.is_empty() || queue.state == State::Loading {
            return;
        }
        if let State::Held(until) = queue.state {
            self.holds.remove(&(until, key));
        }
        self.fair.forget_if_idle(key, queue.model.class());
        self.queues.remove(&key);
    }
}

#[cfg(test)]
pub(crate) mod tests;
