//! The loop: receive, work the video, make the result durable, acknowledge.
//!
//! A task is acknowledged only once `summary.json` is durable, which is written last; a delivery that finds it there
//! acknowledges and does nothing else. So a worker may die at any point, and the task is neither lost nor done twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use engine::{Error, ErrorKind, Result};

use crate::inference::Inference;
use crate::job::{self, Job};
use crate::media::Tools;
use crate::object::ObjectStore;
use crate::policy::{Failure, Patience, Verdict, verdict};
use crate::queue::{Lease, Received, TaskQueue};
use crate::result::{Summary, lines_key, summary_key};
use crate::stop::Stop;
use crate::task::Task;

/// The first and the longest pause while other workers hold the last tasks of a queue that is being drained.
const DRAIN_PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Takes tasks off a queue and works them, one at a time; the lanes below it are what is parallel.
pub struct Worker {
    /// Where tasks come from.
    pub queue: Arc<dyn TaskQueue>,
    /// Where results go.
    pub objects: Arc<dyn ObjectStore>,
    /// What runs the models.
    pub inference: Arc<dyn Inference>,
    /// What decodes the videos.
    pub tools: Tools,
    /// How patient it is.
    pub config: Config,
}

/// A worker's times and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a task stays hidden after its worker's last sign of life; extended at a third of it.
    pub visibility: Duration,
    /// Between two looks into an empty queue.
    pub poll: Duration,
    /// The longest wait for a sign of life of the decoder, or for room in the model's queue.
    pub stall_limit: Duration,
    /// Before a serving worker tries a failed place or queue again.
    pub mend_wait: Duration,
    /// When a failing task is given up.
    pub patience: Patience,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            visibility: Duration::from_secs(30),
            poll: Duration::from_millis(500),
            stall_limit: Duration::from_secs(30),
            mend_wait: Duration::from_secs(30),
            patience: Patience::default(),
        }
    }
}

/// When a worker is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// When it is asked to stop.
    Serve,
    /// When every task in the queue has ended, those of other workers included.
    DrainOnce,
    /// After one delivery, or at once when no task is visible.
    OneJob,
}

/// What a worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tasks with a durable result.
    pub completed: u64,
    /// Tasks that went to the dead letters.
    pub dead: u64,
    /// Deliveries that were given back.
    pub released: u64,
    /// Deliveries that another worker took over.
    pub lost: u64,
}

/// Is told what happens, for progress bars and logs; every method does nothing unless it is written.
pub trait Observer: Sync {
    /// A task was received; `delivery` counts from 1.
    fn started(&self, _task: &Task, _delivery: u32) {}

    /// `frames` of `declared` are written. Called from another thread than the rest.
    fn progress(&self, _task: &Task, _frames: u64, _declared: Option<u64>) {}

    /// The result is durable and the task acknowledged.
    fn finished(&self, _task: &Task, _summary: &Summary) {}

    /// The task has no result.
    fn failed(&self, _task: &Task, _verdict: &Verdict) {}

    /// The queue itself gave up what it calls `id`, which may be anything.
    fn discarded(&self, _id: &str, _reason: &str) {}
}

/// Why the loop cannot go on as it is.
enum Halt {
    Queue(Error),
    Place(Error),
}

impl Worker {
    /// Works until `mode` or `stop` ends it. Asked to stop, it cancels the running job and gives its task back at once.
    ///
    /// # Errors
    /// The queue's own error, or the place's, naming it and the fix; the task that met it went back unharmed. A serving
    /// worker waits and tries again instead, as long as that can help.
    /// [`Unavailable`](ErrorKind::Unavailable) when the decoder is not installed.
    pub fn run(&self, mode: Mode, stop: &Stop, observer: &dyn Observer) -> Result<Report> {
        // Asked before any task is touched: no task is to blame for it.
        self.tools.check()?;
        let mut report = Report::default();
        let mut pause = DRAIN_PAUSES.0;
        while !stop.requested() {
            match (self.step(stop, observer, &mut report), mode) {
                (Ok(_), Mode::OneJob) => break,
                (Ok(true), Mode::Serve | Mode::DrainOnce) => pause = DRAIN_PAUSES.0,
                (Ok(false), Mode::Serve) => drop(stop.wait(self.config.poll)),
                (Ok(false), Mode::DrainOnce) => {
                    if self.queue.depth()?.is_drained() {
                        break;
                    }
                    stop.wait(pause);
                    pause = (pause * 2).min(DRAIN_PAUSES.1);
                }
                (Err(halt), Mode::Serve) if halt.may_mend() => {
                    let (Halt::Queue(error) | Halt::Place(error)) = halt;
                    tracing::error!(%error, wait_s = self.config.mend_wait.as_secs(), "cannot work at present");
                    stop.wait(self.config.mend_wait);
                }
                (Err(Halt::Queue(error) | Halt::Place(error)), _) => return Err(error),
            }
        }
        Ok(report)
    }

    /// Sees to one delivery; `false` when there was none.
    fn step(&self, stop: &Stop, observer: &dyn Observer, report: &mut Report) -> std::result::Result<bool, Halt> {
        let lease = match self.queue.receive(self.config.visibility).map_err(Halt::Queue)? {
            Received::Nothing => return Ok(false),
            Received::Task(lease) => lease,
            Received::DeadLetter { id, reason } => {
                tracing::warn!(task = %id, %reason, "dead letter");
                report.dead += 1;
                // An id that is no path segment has no folder either, so its refusal is nothing to tell.
                drop(self.objects.sweep(&id, None));
                observer.discarded(&id, &reason);
                return Ok(true);
            }
        };
        observer.started(&lease.task, lease.receive_count);
        let attempted = match self.attempt(&lease, stop, observer) {
            // Whatever broke while everything was being taken down, the task is not to blame for it.
            Err(Failure::Task(_)) if stop.requested() => Err(Failure::Stopped),
            other => other,
        };
        match attempted {
            Ok(summary) => self.acknowledge(&lease, &summary, observer, report)?,
            Err(failure) => self.settle(&lease, &failure, observer, report)?,
        }
        Ok(true)
    }

    /// Works the task and makes its result durable, with the lease kept alive meanwhile.
    fn attempt(&self, lease: &Lease, stop: &Stop, observer: &dyn Observer) -> std::result::Result<Summary, Failure> {
        self.objects.sweep(&lease.task.id, Some(&lease.receipt)).map_err(placed)?;
        if let Some(summary) = self.durable(&lease.task).map_err(placed)? {
            return Ok(summary);
        }
        // Written by the heartbeat alone, read at every frame; it guards no other data.
        let lost = AtomicBool::new(false);
        let done = Stop::new();
        std::thread::scope(|scope| {
            // Dropped before the scope joins the heartbeat, on a panic too.
            let _done = RequestOnDrop(&done);
            scope.spawn(|| self.heartbeat(lease, &done, &lost));
            let cancelled = || stop.requested() || lost.load(Ordering::Relaxed);
            let worked = self.work(lease, &cancelled, observer);
            match worked {
                Err(_) if lost.load(Ordering::Relaxed) => Err(Failure::Lost),
                other => other,
            }
        })
    }

    /// The summary that an earlier delivery of the same task left, if its result is whole.
    fn durable(&self, task: &Task) -> Result<Option<Summary>> {
        let bytes = match self.objects.read(&summary_key(&task.id)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let same = |summary: &Summary| {
            let of_task = (&summary.task, &summary.input.path, &summary.model.name, summary.threshold);
            of_task == (&task.id, &task.input, &task.model, task.threshold)
        };
        match Summary::from_json(&bytes) {
            Ok(summary) if same(&summary) && self.objects.exists(&lines_key(&task.id))? => Ok(Some(summary)),
            _ => {
                tracing::warn!(task = %task.id, "the summary in place is not of this task: the result is replaced");
                Ok(None)
            }
        }
    }

    fn heartbeat(&self, lease: &Lease, done: &Stop, lost: &AtomicBool) {
        while !done.wait(self.config.visibility / 3) {
            match self.queue.extend(lease, self.config.visibility) {
                Ok(()) => {}
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
        observer: &dyn Observer,
    ) -> std::result::Result<Summary, Failure> {
        let (task, attempt) = (&lease.task, &lease.receipt);
        let mut lines = self.objects.create(&lines_key(&task.id), attempt).map_err(placed)?;
        let job = Job {
            task,
            inference: self.inference.as_ref(),
            tools: &self.tools,
            stall_limit: self.config.stall_limit,
            cancelled,
            progress: &|frames, declared| observer.progress(task, frames, declared),
        };
        let summary = job::run(&job, lines.as_mut())?;
        let mut marker = self.objects.create(&summary_key(&task.id), attempt).map_err(placed)?;
        marker.append(&summary.to_json().map_err(Failure::Task)?).map_err(placed)?;
        // The fence: from here on nobody else may begin for a whole visibility. A queue that does not answer is no
        // reason to throw the work away, since a result that is committed twice is the same result.
        match self.queue.extend(lease, self.config.visibility) {
            Err(error) if error.kind == ErrorKind::Cancelled => return Err(Failure::Lost),
            Err(error) => tracing::warn!(task = %task.id, %error, "the lease could not be extended"),
            Ok(()) => {}
        }
        lines.commit().map_err(placed)?;
        marker.commit().map_err(placed)?;
        Ok(summary)
    }

    fn acknowledge(
        &self,
        lease: &Lease,
        summary: &Summary,
        observer: &dyn Observer,
        report: &mut Report,
    ) -> std::result::Result<(), Halt> {
        self.tidy(lease);
        match self.queue.complete(lease) {
            Ok(()) => {
                report.completed += 1;
                observer.finished(&lease.task, summary);
                Ok(())
            }
            Err(error) if error.kind == ErrorKind::Cancelled => {
                // The result is durable, so whoever has the task now will find it and acknowledge.
                report.lost += 1;
                observer.failed(&lease.task, &Verdict::Leave);
                Ok(())
            }
            Err(error) => Err(Halt::Queue(error)),
        }
    }

    /// Does with a failed task what the verdict says.
    fn settle(
        &self,
        lease: &Lease,
        failure: &Failure,
        observer: &dyn Observer,
        report: &mut Report,
    ) -> std::result::Result<(), Halt> {
        let verdict = verdict(failure, lease.failures, &self.config.patience);
        let task = &lease.task.id;
        if verdict != Verdict::Leave {
            self.tidy(lease);
        }
        let (count, ended) = match &verdict {
            Verdict::DeadLetter { reason } => {
                tracing::warn!(%task, %reason, "dead letter");
                (&mut report.dead, self.queue.dead_letter(lease, reason))
            }
            Verdict::Retry { delay, counts, reason } => {
                tracing::warn!(%task, %reason, delay_s = delay.as_secs(), "given back");
                (&mut report.released, self.queue.release(lease, *delay, reason, *counts))
            }
            Verdict::Place(error) => {
                let release = self.queue.release(lease, Duration::ZERO, &error.message, false);
                (&mut report.released, release)
            }
            Verdict::Leave => {
                tracing::warn!(%task, "another worker took over");
                (&mut report.lost, Ok(()))
            }
        };
        match (ended, &verdict) {
            (Err(error), _) if error.kind == ErrorKind::Cancelled => report.lost += 1,
            // The place may be why the queue fails too, a full disk for one, and it is what the user has to mend.
            (Err(error), Verdict::Place(_)) => tracing::warn!(%task, %error, "the task could not be given back"),
            (Err(error), _) => return Err(Halt::Queue(error)),
            (Ok(()), _) => *count += 1,
        }
        observer.failed(&lease.task, &verdict);
        match verdict {
            Verdict::Place(error) => Err(Halt::Place(error)),
            Verdict::DeadLetter { .. } | Verdict::Retry { .. } | Verdict::Leave => Ok(()),
        }
    }

    /// Removes what attempts left of a task that is about to be ended or given back.
    fn tidy(&self, lease: &Lease) {
        if let Err(error) = self.objects.sweep(&lease.task.id, None) {
            tracing::warn!(task = %lease.task.id, %error, "parts of dead attempts are left over");
        }
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

/// Asks a [`Stop`] when it goes out of scope.
struct RequestOnDrop<'a>(&'a Stop);

impl Drop for RequestOnDrop<'_> {
    fn drop(&mut self) {
        self.0.request();
    }
}

fn placed(error: Error) -> Failure {
    match error.kind {
        ErrorKind::Cancelled => Failure::Lost,
        _ => Failure::Place(error),
    }
}

#[cfg(test)]
mod tests;
