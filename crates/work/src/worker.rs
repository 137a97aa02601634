//! The loop: receive, work the video, make the result durable, acknowledge.
//!
//! A task is acknowledged only once `summary.json` is durable, which is written last; a delivery that finds it there
//! acknowledges and does nothing else. So a worker may die at any point, and the task is neither lost nor done twice. What
//! was worked of it until then is in parts, and the next delivery goes on behind them.

mod config;
mod end;

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use engine::{Error, ErrorKind, Result};

use crate::cost::Cost;
use crate::inference::Inference;
use crate::job::{self, Job, Shared};
use crate::media::Tools;
use crate::object::{ObjectStore, Put};
use crate::output::Form;
use crate::policy::{Failure, placed};
use crate::protection::{Busy, Protection};
use crate::queue::{Lease, Received, TaskQueue};
use crate::ranges::Fetching;
use crate::refusal::failed_key;
use crate::reply::Replies;
use crate::result::{Summary, cost_key, summary_key};
use crate::source::Source;
use crate::spool::{Fetched, LazySpool};
use crate::stop::Stop;
use crate::task::Task;

pub use self::config::{Config, Mode, Observer, Report};

/// The first and the longest pause while other workers hold the last tasks of a queue that is being drained.
const DRAIN_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Takes tasks off a queue and works them, a few at a time; the lanes below are what computes.
pub struct Worker {
    /// Where tasks come from.
    pub queue: Arc<dyn TaskQueue>,
    /// Where results go.
    pub objects: Arc<dyn ObjectStore>,
    /// What runs the models.
    pub inference: Arc<dyn Inference>,
    /// What decodes the videos.
    pub tools: Tools,
    /// What videos that are elsewhere are read by; without it, they are refused.
    pub spool: Option<LazySpool>,
    /// Who is told when a task has ended.
    pub replies: Replies,
    /// What keeps others from taking this worker away while it holds a task.
    pub protection: Protection,
    /// How patient it is.
    pub config: Config,
}

/// Why the loop cannot go on as it is.
enum Halt {
    Queue(Error),
    Place(Error),
}

/// What the loops of one run share.
struct Run<'a> {
    stop: &'a Stop,
    observer: &'a dyn Observer,
    shared: Shared,
    /// Which decoder decodes.
    decoder: String,
    /// Whether it reads videos where they are; found out at the first that is elsewhere.
    in_ranges: OnceLock<bool>,
    report: Mutex<Report>,
    /// Set when one loop cannot go on, so that the others end too; it guards no other data.
    broken: AtomicBool,
}

impl Run<'_> {
    fn is_over(&self) -> bool {
        self.stop.requested() || self.broken.load(Ordering::Relaxed)
    }

    fn count(&self, add: impl FnOnce(&mut Report)) {
        // Plain numbers: no panic leaves them half written.
        add(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Worker {
    /// Works until `mode` or `stop` ends it. Asked to stop, it makes durable what is done of the running jobs and gives
    /// their tasks back at once.
    ///
    /// # Errors
    /// The queue's own error, or the place's, naming it and the fix; the task that met it went back unharmed. A serving
    /// worker waits and tries again instead, as long as that can help.
    /// [`Unavailable`](ErrorKind::Unavailable) when the decoder is not installed.
    pub fn run(&self, mode: Mode, stop: &Stop, observer: &dyn Observer) -> Result<Report> {
        let loops = if mode == Mode::OneJob { 1 } else { self.config.videos_max.max(1) };
        let run = Run {
            stop,
            observer,
            shared: Shared::new(self.inference.lanes(), loops),
            // Asked before any task is touched: no task is to blame for it.
            decoder: self.tools.check()?,
            in_ranges: OnceLock::new(),
            report: Mutex::default(),
            broken: AtomicBool::new(false),
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..loops).map(|_| scope.spawn(|| self.work_tasks(mode, &run))).collect();
            let first = self.work_tasks(mode, &run);
            // A panic is passed on by the scope; whatever its loop had in hand comes back when its lease runs out.
            let others = others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
            others.fold(first, |so_far, other| so_far.and(other))
        })?;
        Ok(*run.report.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One task after the other.
    fn work_tasks(&self, mode: Mode, run: &Run<'_>) -> Result<()> {
        let unless_done = BreakUnless { broken: &run.broken, ended_well: false };
        let mut pause = DRAIN_PAUSES.0;
        while !run.is_over() {
            match (self.step(run), mode) {
                (Ok(_), Mode::OneJob) => break,
                (Ok(true), Mode::Serve | Mode::DrainOnce) => pause = DRAIN_PAUSES.0,
                (Ok(false), Mode::Serve) => drop(run.stop.wait(self.config.poll)),
                (Ok(false), Mode::DrainOnce) => {
                    if self.queue.depth()?.is_drained() {
                        break;
                    }
                    run.stop.wait(pause);
                    pause = (pause * 2).min(DRAIN_PAUSES.1);
                }
                (Err(halt), Mode::Serve) if halt.may_mend() => {
                    let (Halt::Queue(error) | Halt::Place(error)) = halt;
                    tracing::error!(%error, wait_s = self.config.mend_wait.as_secs(), "cannot work at present");
                    run.stop.wait(self.config.mend_wait);
                }
                (Err(Halt::Queue(error) | Halt::Place(error)), _) => return Err(error),
            }
        }
        unless_done.ended_well();
        Ok(())
    }

    /// Sees to one delivery; `false` when there was none.
    fn step(&self, run: &Run<'_>) -> std::result::Result<bool, Halt> {
        let lease = match self.queue.receive(self.config.visibility).map_err(Halt::Queue)? {
            Received::Nothing => return Ok(false),
            Received::Task(lease) => lease,
            Received::DeadLetter { id, task, reason } => {
                self.discarded(&id, task.as_deref(), &reason, run);
                return Ok(true);
            }
        };
        // Until the task is ended or given back, or its lease is over.
        let busy = self.protection.busy(self.config.visibility);
        run.observer.started(&lease.task, lease.receive_count);
        let attempted = match self.attempt(&lease, &busy, run) {
            // Whatever broke while everything was being taken down, the task is not to blame for it.
            Err(Failure::Task(_)) if run.is_over() => Err(Failure::Stopped),
            other => other,
        };
        // Between the two: whoever dies here has it told again by the next delivery.
        let told = attempted.and_then(|done| {
            let told = self.replies.tell_done(&lease.task, &done.0, self.objects.as_ref());
            told.map(|()| done).map_err(Failure::Place)
        });
        match told {
            Ok((summary, cost)) => self.acknowledge(&lease, &summary, cost.as_ref(), run)?,
            Err(failure) => self.settle(&lease, &failure, run)?,
        }
        Ok(true)
    }

    /// Works the task and makes its result durable, with the lease kept alive meanwhile.
    fn attempt(
        &self,
        lease: &Lease,
        busy: &Busy,
        run: &Run<'_>,
    ) -> std::result::Result<(Summary, Option<Cost>), Failure> {
        // Whoever may not be told is asked for before anything is spent on it.
        self.replies.of(&lease.task).map_err(Failure::Task)?;
        if let Some(summary) = self.durable(&lease.task).map_err(placed)? {
            return Ok((summary, None));
        }
        self.objects.sweep(&lease.task.id).map_err(placed)?;
        // Written by the heartbeat alone, read at every frame; it guards no other data.
        let lost = AtomicBool::new(false);
        let done = Stop::new();
        std::thread::scope(|scope| {
            // Dropped before the scope joins the heartbeat, on a panic too.
            let _done = RequestOnDrop(&done);
            scope.spawn(|| self.heartbeat(lease, busy, &done, &lost));
            let cancelled = || run.is_over() || lost.load(Ordering::Relaxed);
            let worked = self.work(lease, &cancelled, run);
            match worked {
                Err(_) if lost.load(Ordering::Relaxed) => Err(Failure::Lost),
                worked => worked.map(|(summary, cost)| (summary, Some(cost))),
            }
        })
    }

    /// The summary that an earlier delivery of the same task left. It is written last, so where it is the result is whole.
    fn durable(&self, task: &Task) -> Result<Option<Summary>> {
        let bytes = match self.objects.read(&summary_key(&task.id)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let same = |summary: &Summary| {
            let of_task = (&summary.task, &*summary.input.path, &summary.model.name, summary.threshold);
            let has = |form: &Form| summary.outputs.iter().any(|written| written.file == form.file());
            // A share that was written down and read again may be off by its last bit.
            let as_tolerant = (summary.damage.tolerance - task.damage_tolerance).abs() < 1e-9;
            of_task == (&task.id, &*task.shown_input(), &task.model, task.threshold)
                && (summary.sampling, summary.tracks.is_some()) == (task.sampling, task.is_tracking())
                && summary.places == task.places_hash()
                && as_tolerant
                && task.outputs.iter().all(has)
        };
        match Summary::from_json(&bytes) {
            Ok(summary) if same(&summary) => Ok(Some(summary)),
            _ => {
                tracing::warn!(task = %task.id, "the summary in place is not of this task: the result is replaced");
                Ok(None)
            }
        }
    }

    fn heartbeat(&self, lease: &Lease, busy: &Busy, done: &Stop, lost: &AtomicBool) {
        while !done.wait(self.config.visibility / 3) {
            match self.queue.extend(lease, self.config.visibility) {
                Ok(()) => busy.renew(self.config.visibility),
                Err(error) if error.kind == ErrorKind::Cancelled => {
                    lost.store(true, Ordering::Relaxed);
                    return;
                }
                // Tried again at the next beat; if the lease lapses meanwhile, the fence before the commit sees it.
                Err(error) => tracing::warn!(task = %lease.task.id, %error, "the lease could not be extended"),
            }
        }
    }

    fn work(
        &self,
        lease: &Lease,
        cancelled: &(dyn Fn() -> bool + Sync),
        run: &Run<'_>,
    ) -> std::result::Result<(Summary, Cost), Failure> {
        let (task, objects) = (&lease.task, self.objects.as_ref());
        let fetched = self.fetch(task, cancelled, run)?;
        let here = if fetched.is_none() { Some(Source::of(task).map_err(Failure::Task)?) } else { None };
        let source = fetched.as_ref().map(|fetched| &fetched.source).or(here.as_ref());
        let job = Job {
            task,
            source: source.ok_or_else(|| Failure::Task(Error::internal("a video that is nowhere")))?,
            objects,
            inference: self.inference.as_ref(),
            tools: &self.tools,
            decoder: &run.decoder,
            shared: &run.shared,
            lengths: self.config.lengths,
            checkpoint: self.config.checkpoint,
            stall_limit: self.config.stall_limit,
            cancelled,
            progress: &|frames, declared| run.observer.progress(task, frames, declared),
        };
        let finished = std::thread::scope(|scope| {
            let ranges = fetched.as_ref().and_then(Fetched::ranges);
            // They end before the scope does, which waits for them.
            let _fetching = ranges.map(|ranges| Fetching::start(ranges, scope, cancelled));
            job::run(&job)
        })?;
        // The fence: from here on nobody else may begin for a whole visibility. A queue that does not answer is no
        // reason to throw the work away, since a result that is committed twice is the same result.
        match self.queue.extend(lease, self.config.visibility) {
            Err(error) if error.kind == ErrorKind::Cancelled => return Err(Failure::Lost),
            Err(error) => tracing::warn!(task = %task.id, %error, "the lease could not be extended"),
            Ok(()) => {}
        }
        let (summary, cost) = finished.commit().map_err(placed)?;
        let cost_json = cost.to_json().map_err(Failure::Task)?;
        objects.put(&cost_key(&task.id), &cost_json, Put::Replace).map_err(placed)?;
        if !self.queue.keeps_tasks() {
            // Of an end that was not the last one.
            objects.delete(&failed_key(&task.id)).map_err(placed)?;
        }
        let summary_json = summary.to_json().map_err(Failure::Task)?;
        objects.put(&summary_key(&task.id), &summary_json, Put::Replace).map_err(placed)?;
        Ok((summary, cost))
    }

    /// The video, when it is elsewhere, to be read for as long as what is returned.
    fn fetch(
        &self,
        task: &Task,
        cancelled: &dyn Fn() -> bool,
        run: &Run<'_>,
    ) -> std::result::Result<Option<Fetched<'_>>, Failure> {
        if !task.is_remote() {
            return Ok(None);
        }
        // The cheaper question, and nothing is fetched for a model that is not there.
        self.inference.model(&task.model).map_err(Failure::Task)?;
        let spool = self.spool.as_deref().ok_or_else(|| {
            Failure::Task(Error::unsupported(format!("{}: this worker reads files only", task.shown_input())))
        })?;
        // No task is to blame for a spool that cannot be made.
        let spool = spool.as_ref().map_err(|error| Failure::Place(error.clone()))?;
        let in_ranges = *run.in_ranges.get_or_init(|| self.reads_in_ranges());
        spool.fetch(task, in_ranges, cancelled).map(Some).map_err(|error| match error.kind {
            ErrorKind::Cancelled => Failure::Stopped,
            _ => Failure::Task(error),
        })
    }

    fn reads_in_ranges(&self) -> bool {
        let checked = self.tools.check_ranges();
        if let Err(error) = &checked {
            tracing::warn!(%error, "videos that are elsewhere are fetched whole before they are decoded");
        }
        checked.is_ok()
    }
}

impl Halt {
    /// Whether waiting can help. A place is mended by people while the worker waits; a queue that is no queue is not.
    fn may_mend(&self) -> bool {
        match self {
            Halt::Place(_) => true,
            Halt::Queue(error) => matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Exhausted),
        }
    }
}

/// Breaks the run when it goes out of scope before all was well, on a panic too.
struct BreakUnless<'a> {
    broken: &'a AtomicBool,
    ended_well: bool,
}

impl BreakUnless<'_> {
    fn ended_well(mut self) {
        self.ended_well = true;
    }
}

impl Drop for BreakUnless<'_> {
    fn drop(&mut self) {
        self.broken.fetch_or(!self.ended_well, Ordering::Relaxed);
    }
}

/// Asks a [`Stop`] when it goes out of scope.
struct RequestOnDrop<'a>(&'a Stop);

impl Drop for RequestOnDrop<'_> {
    fn drop(&mut self) {
        self.0.request();
    }
}

#[cfg(test)]
mod tests;
