//! The scheduler: a queue per model, fair sharing of the lanes, refusals with a name. It decides; lanes run.

mod loads;
use loads::Loads;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

use crate::changes::Changes;
use crate::desk::Desk;
use crate::infer::{check_items, inputs_in_order, output_indices};
use crate::job::Job;
use crate::model::Model;
use crate::padding;
use crate::queue::{Next, Queues, Wake};
use crate::reply::Reply;
use crate::residency::Residency;
use crate::waiting::Batch;
use crate::{
    CacheSource, InferRequest, InferResponse, MemorySource, Metrics, ModelSource, QueueLimits, guest, lane, residency,
};

/// Queues, fairness and the lanes they feed. Shared by every API.
pub struct Scheduler {
    residency: Arc<Residency>,
    metrics: Arc<Metrics>,
    limits: QueueLimits,
    /// By lane: the core that it computes on.
    cores: Vec<usize>,
    /// Told to balancers; turns true first of all when the server is asked to stop.
    leaving: AtomicBool,
    queues: Mutex<Queues>,
    /// By lane: it may find work, or should leave.
    work: Vec<Condvar>,
    /// Those who have ready what requests wait for may find work, or should leave.
    loads: Loads,
    /// Something finished; the drain looks whether that was the last.
    idle: Condvar,
    /// The end has come; whoever only sleeps leaves.
    stopped: Condvar,
    /// Changes of the repository, which a thread of its own carries out.
    changes: Changes,
    /// Where people's questions become tensors and outputs answers, on threads of its own.
    desk: Arc<Desk>,
    /// Joined when the scheduler stops.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Scheduler {
    /// Starts a lane on each of `cores`, as many threads at the desk, the loader, the fetchers, the readers, the keeper of the
    /// memory, and the thread that changes the repository.
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal) when the system gives no more threads.
    pub fn start(
        residency: Arc<Residency>,
        cores: &[usize],
        limits: QueueLimits,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>> {
        residency.count_in(&metrics);
        metrics.watch_models(Arc::clone(&residency) as Arc<dyn ModelSource>);
        metrics.watch_memory(Arc::clone(&residency) as Arc<dyn MemorySource>);
        metrics.watch_cache(Arc::clone(&residency) as Arc<dyn CacheSource>);
        metrics.lanes.set(i64::try_from(cores.len()).unwrap_or(i64::MAX));
        let (changes, waiting) = Changes::new();
        let scheduler = Arc::new(Self {
            residency,
            metrics,
            limits,
            cores: cores.to_vec(),
            leaving: AtomicBool::new(false),
            queues: Mutex::new(Queues::new(limits, cores.len())),
            work: cores.iter().map(|_| Condvar::new()).collect(),
            loads: Loads::default(),
            idle: Condvar::new(),
            stopped: Condvar::new(),
            changes,
            desk: Arc::default(),
            threads: Mutex::new(Vec::new()),
        });
        let mut threads = Vec::new();
        for (index, &core) in cores.iter().enumerate() {
            let scheduler = Arc::clone(&scheduler);
            threads.push(lane::spawn(&format!("lane-{index}"), move || lane::run(&scheduler, index, core))?);
        }
        for index in 0..cores.len() {
            let desk = Arc::clone(&scheduler.desk);
            threads.push(lane::spawn(&format!("desk-{index}"), move || desk.run())?);
        }
        threads.extend(loads::start(&scheduler)?);
        let keeper = Arc::clone(&scheduler);
        threads.push(lane::spawn("keeper", move || residency::keep(&keeper))?);
        let changer = Arc::clone(&scheduler);
        threads.push(lane::spawn("changes", move || changer.changes.run(&waiting))?);
        *scheduler.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
        Ok(scheduler)
    }

    /// Looks at the store every `interval`, on a thread of its own with a low priority, until the scheduler stops.
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal) when the system gives no more threads.
    pub fn poll_every(self: &Arc<Self>, interval: Duration) -> Result<()> {
        let scheduler = Arc::clone(self);
        let thread = lane::spawn("poller", move || lane::poll(&scheduler, interval))?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Packs what waits for it, on a thread of its own with a low priority, serves each model as it is packed, and looks after
    /// the cache of packs.
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal) when the system gives no more threads.
    pub fn settle(self: &Arc<Self>) -> Result<()> {
        if self.residency.is_settled() && self.residency.upkeep_every().is_none() {
            return Ok(());
        }
        let scheduler = Arc::clone(self);
        // It ends between two models when the scheduler stops, and nobody waits for it then: packing one takes as long as
        // it takes, and what was not finished leaves nothing behind that is found again.
        lane::spawn("packer", move || lane::settle(&scheduler)).map(drop)
    }

    /// The models behind it.
    pub fn residency(&self) -> &Arc<Residency> {
        &self.residency
    }

    /// The same, for whoever outlives a call.
    pub(crate) fn shared_residency(&self) -> &Arc<Residency> {
        &self.residency
    }

    /// Where people's questions are answered.
    pub(crate) fn desk(&self) -> &Arc<Desk> {
        &self.desk
    }

    /// The bounds of queues, where a model has none of its own.
    pub(crate) fn limits(&self) -> &QueueLimits {
        &self.limits
    }

    /// What it counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// How many lanes compute.
    pub fn lanes(&self) -> usize {
        self.cores.len()
    }

    /// Whether new clients should come here: from the moment at which every model that was there at the start is served or
    /// refused, until [`leave`](Self::leave).
    pub fn is_ready(&self) -> bool {
        !self.is_leaving() && self.residency.is_settled()
    }

    /// Whether the server was asked to stop.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Says that no new clients should come. Requests that come all the same are still answered: until balancers
    /// have noticed, that is better than refusing them.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// Queues `request`; the answer goes to `reply` later, unless this returns an error.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for the model, [`InvalidInput`](ErrorKind::InvalidInput) for its tensors,
    /// [`Exhausted`](ErrorKind::Exhausted) for a full queue, [`Unavailable`](ErrorKind::Unavailable) while draining.
    pub fn submit(&self, request: InferRequest, reply: Box<dyn Reply>) -> Result<()> {
        let refused = self.try_submit(request, reply);
        if let Err(error) = &refused {
            self.metrics.refused(error.kind);
        }
        refused
    }

    /// As [`submit`](Self::submit), for whoever counts refusals itself.
    pub(crate) fn try_submit(&self, request: InferRequest, reply: Box<dyn Reply>) -> Result<()> {
        let model = self.residency.model(&request.model, request.version)?;
        let inputs = inputs_in_order(model.signature(), request.inputs)?;
        check_items(&request.model, &inputs, model.request_items_max())?;
        let inputs = model.reshapes().taken(inputs)?;
        let outputs = output_indices(model.signature(), &request.outputs)?;
        let (priority, deadline) = (request.priority, request.deadline);
        model.traffic().asked();
        let length = model.padding().and_then(|padding| padding::length(padding, &inputs));
        let job = Job {
            model,
            inputs,
            outputs,
            length,
            priority,
            deadline,
            submitted: Instant::now(),
            age: 0,
            was_put_back: false,
            reply,
            held: request.origin.held,
        };
        let (now, cost) = (job.submitted, job.model.costs().curve().reckoned(job.items() as u64));
        let (model, here) = (Arc::clone(&job.model), self.lane_here());
        let (wake, lane, swept) = {
            let mut queues = self.lock();
            let wake = queues.push(job);
            let wanted = wake == Ok(Wake::Lane);
            let lane = wanted.then(|| queues.sleepers.arrived(now, cost, guest::brings(), here)).flatten();
            if wake.is_err()
                && let Some(breath) = queues.breath(&model)
            {
                guest::will_breathe(breath);
            }
            (wake, lane, queues.swept())
        };
        for (job, why) in swept {
            self.metrics.queued.dec();
            self.refuse(job, why, Instant::now());
        }
        let wake = wake?;
        self.metrics.queued.inc();
        self.wake(lane);
        if wake == Wake::Loader {
            self.loads.load.notify_one();
        }
        Ok(())
    }

    /// Queues `request` and waits for its answer. Dropping the future drops the request, if it still waits.
    ///
    /// # Errors
    /// As [`submit`](Self::submit), [`DeadlineExceeded`](ErrorKind::DeadlineExceeded), and the run's own.
    pub async fn infer(&self, request: InferRequest) -> Result<InferResponse> {
        let (sender, receiver) = oneshot::channel();
        let deadline = request.deadline;
        self.submit(request, Box::new(sender))?;
        let answer = match deadline {
            None => receiver.await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), receiver)
                .await
                .map_err(|_| Error::new(ErrorKind::DeadlineExceeded, "the request's deadline passed"))?,
        };
        answer.unwrap_or_else(|_| Err(Error::internal("the lane gave no answer")))
    }

    /// Has `change` made to the models, in its turn and where it takes no time from the lanes.
    ///
    /// # Errors
    /// [`Exhausted`](ErrorKind::Exhausted) when too many changes wait, [`Unavailable`](ErrorKind::Unavailable) when the
    /// scheduler stops first, and the change's own.
    pub(crate) async fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&Residency) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let residency = Arc::clone(&self.residency);
        self.changes.make(move || change(&residency)).await
    }

    /// Takes nothing new, finishes what is held, and stops; false when `limit` passed first, and then what still
    /// waited was answered as [`Unavailable`](ErrorKind::Unavailable).
    pub fn drain(&self, limit: Duration) -> bool {
        self.leave();
        let mut queues = self.lock();
        queues.drain();
        self.wake(0..self.lanes());
        let (mut queues, _) = self
            .idle
            .wait_timeout_while(queues, limit, |queues| !queues.is_idle())
            .unwrap_or_else(PoisonError::into_inner);
        let finished = queues.is_idle();
        let left = queues.stop();
        drop(queues);
        self.wake(0..self.lanes());
        self.loads.notify_all();
        self.residency.stop_fetching();
        self.residency.stop_heating();
        self.stopped.notify_all();
        self.residency.wake_keeper();
        self.changes.stop();
        self.desk.stop();
        self.send_home(left);
        if finished {
            let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
            for thread in threads {
                // A lane catches what its jobs throw; a panic past that has been printed already.
                let _ = thread.join();
            }
        }
        finished
    }

    /// The next batch for `lane`; waits for one. `None` when the lane should leave.
    pub(crate) fn next_batch(&self, lane: usize) -> Option<Batch> {
        let mut queues = self.lock();
        let (now, batch) = loop {
            let now = Instant::now();
            match queues.next_batch(now) {
                Next::Do(batch) => break (now, batch),
                Next::Leave => return None,
                Next::Wait => {
                    queues.sleepers.slept(lane);
                    queues = self.work[lane].wait(queues).unwrap_or_else(PoisonError::into_inner);
                }
                Next::WaitUntil(until) => {
                    queues.sleepers.slept(lane);
                    let left = until.saturating_duration_since(now);
                    queues = self.work[lane].wait_timeout(queues, left).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
            while queues.sleepers.is_lent(lane) && !queues.is_stopped() {
                queues = self.work[lane].wait(queues).unwrap_or_else(PoisonError::into_inner);
            }
        };
        self.taken(queues, now, lane, &batch);
        Some(batch)
    }

    /// The lane or guest at `place` took `batch` at `now`: another lane is woken if what is left wants one.
    pub(crate) fn taken(&self, mut queues: MutexGuard<'_, Queues>, now: Instant, place: usize, batch: &[Job]) {
        let items: usize = batch.iter().map(Job::items).sum();
        let cost = batch.first().map_or(Duration::ZERO, |job| job.model.costs().curve().reckoned(items as u64));
        let more = queues.has_work();
        let mut another = queues.sleepers.took(now, place, (batch.len(), cost), more);
        if another.is_none() && queues.wants_a_look() {
            another = queues.sleepers.called(now);
        }
        drop(queues);
        self.wake(another);
        self.metrics.queued.dec_by(i64::try_from(batch.len()).unwrap_or(i64::MAX));
    }

    /// Why `job` should not run any more, if so.
    pub(crate) fn overdue(&self, job: &Job, now: Instant) -> Option<Error> {
        job.overdue(&self.limits, now)
    }

    /// Answers `job`, which waited until `now` and is not run, with `why`.
    pub(crate) fn refuse(&self, job: Job, why: Error, now: Instant) {
        self.metrics.refused(why.kind);
        let waited = now.saturating_duration_since(job.submitted);
        job.model.recorder().answered(false, waited, waited);
        job.into_reply().send(Err(why));
    }

    /// A lane is done with a batch of `model` that took `cost`, and of the `others` that took so much for each.
    pub(crate) fn finished(&self, model: &Model, cost: Duration, others: &[(Arc<Model>, Duration)]) {
        let mut queues = self.lock();
        others.iter().for_each(|(model, cost)| queues.shared(model, *cost));
        // Telling is a call into the kernel even where nobody listens.
        let tell = queues.finished(model, cost) && queues.is_draining();
        drop(queues);
        if tell {
            self.idle.notify_all();
        }
    }

    /// Whether lanes and all other threads are to leave.
    pub(crate) fn is_stopped(&self) -> bool {
        self.lock().is_stopped()
    }

    /// Sleeps for `time`; false when the scheduler stopped before it was over.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        let stopped = self.stopped.wait_timeout_while(self.lock(), time, |queues| !queues.is_stopped());
        !stopped.unwrap_or_else(PoisonError::into_inner).0.is_stopped()
    }

    /// The lane on whose core the calling thread is at the moment.
    pub(crate) fn lane_here(&self) -> Option<usize> {
        let core = engine::cpu::core_here();
        self.cores.iter().position(|&of| of == core)
    }

    pub(crate) fn wake(&self, lanes: impl IntoIterator<Item = usize>) {
        // Only the lane itself waits there.
        lanes.into_iter().for_each(|lane| self.work[lane].notify_one());
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Queues> {
        // Nothing that runs under the lock panics half-way, so a poisoned lock holds good state.
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
