//! How a delivery ends: acknowledged, given back, or among the dead letters, and what is left of it then.

use std::time::Duration;

use engine::{ErrorKind, Result};

use super::{Halt, Report, Run, Worker};
use crate::cost::Cost;
use crate::object::Put;
use crate::policy::{Failure, Verdict, verdict};
use crate::queue::Lease;
use crate::refusal::{Refusal, failed_key};
use crate::result::{Summary, parts_folder};
use crate::task::Task;

impl Worker {
    pub(super) fn acknowledge(
        &self,
        lease: &Lease,
        summary: &Summary,
        cost: Option<&Cost>,
        run: &Run<'_>,
    ) -> std::result::Result<(), Halt> {
        let tidied = self.tidy(&lease.task.id, true);
        match self.queue.complete(lease) {
            Ok(()) => {
                if let Err(error) = tidied {
                    tracing::warn!(task = %lease.task.id, %error, "parts are left over");
                }
                run.count(|report| report.completed += 1);
                run.observer.finished(&lease.task, summary, cost);
                Ok(())
            }
            Err(error) if error.kind == ErrorKind::Cancelled => {
                // The result is durable, so whoever has the task now will find it and acknowledge.
                run.count(|report| report.lost += 1);
                run.observer.failed(&lease.task, &Verdict::Leave);
                Ok(())
            }
            Err(error) => Err(Halt::Queue(error)),
        }
    }

    /// Does with a failed task what the verdict says.
    pub(super) fn settle(&self, lease: &Lease, failure: &Failure, run: &Run<'_>) -> std::result::Result<(), Halt> {
        let verdict = verdict(failure, lease.failures, &self.config.patience);
        let task = &lease.task.id;
        // Parts stay where the task will be tried again: that is what they are for.
        let tidied = match &verdict {
            Verdict::DeadLetter { reason } => self.tidy(task, true).and_then(|()| self.refuse(&lease.task, reason)),
            Verdict::Retry { .. } | Verdict::Place(_) => self.tidy(task, false),
            // Whoever took over may have ended it and tidied before our last part was put away.
            Verdict::Leave => match self.durable(&lease.task) {
                Ok(Some(_)) => self.tidy(task, true),
                left => left.map(drop),
            },
        };
        if let Err(error) = tidied {
            tracing::warn!(%task, %error, "what attempts left behind could not be removed");
        }
        let verdict = match verdict {
            Verdict::DeadLetter { reason } => match self.replies.tell_failed(&lease.task, &reason) {
                Ok(()) => Verdict::DeadLetter { reason },
                Err(error) => Verdict::Place(error),
            },
            verdict => verdict,
        };
        let released = |report: &mut Report| report.released += 1;
        let (count, ended): (fn(&mut Report), _) = match &verdict {
            Verdict::DeadLetter { reason } => (|report| report.dead += 1, self.queue.dead_letter(lease, reason)),
            Verdict::Retry { delay, counts, reason } => (released, self.queue.release(lease, *delay, reason, *counts)),
            Verdict::Place(error) => (released, self.queue.release(lease, Duration::ZERO, &error.message, false)),
            Verdict::Leave => (|report| report.lost += 1, Ok(())),
        };
        match (ended, &verdict) {
            (Err(error), _) if error.kind == ErrorKind::Cancelled => run.count(|report| report.lost += 1),
            // The place may be why the queue fails too, a full disk for one, and it is what the user has to mend.
            (Err(error), Verdict::Place(_)) => tracing::warn!(%task, %error, "the task could not be given back"),
            (Err(error), _) => return Err(Halt::Queue(error)),
            (Ok(()), _) => run.count(count),
        }
        run.observer.failed(&lease.task, &verdict);
        match verdict {
            Verdict::Place(error) => Err(Halt::Place(error)),
            Verdict::DeadLetter { .. } | Verdict::Retry { .. } | Verdict::Leave => Ok(()),
        }
    }

    /// What is left to do of a task that the queue itself gave up.
    pub(super) fn discarded(&self, id: &str, task: Option<&Task>, reason: &str, run: &Run<'_>) {
        run.count(|report| report.dead += 1);
        // An id that is no path segment has no folder either, so its refusal is nothing to tell.
        drop(self.tidy(id, true));
        if let Some(task) = task {
            let told = self.refuse(task, reason).and_then(|()| self.replies.tell_failed(task, reason));
            if let Err(error) = told {
                tracing::warn!(task = %id, %error, "nobody could be told of a dead letter");
            }
        }
        run.observer.discarded(id, reason);
    }

    /// Leaves word for whoever waits for the results, where the queue could not tell. Before the task is ended: whoever dies in
    /// between ends it again.
    fn refuse(&self, task: &Task, reason: &str) -> Result<()> {
        if self.queue.keeps_tasks() {
            return Ok(());
        }
        let refusal = Refusal::new(task, reason).to_json()?;
        self.objects.put(&failed_key(&task.id), &refusal, Put::Replace).map(drop)
    }

    /// Removes what attempts left unfinished of a task that is about to be ended or given back, and its parts when they
    /// have served.
    pub(super) fn tidy(&self, task_id: &str, with_parts: bool) -> Result<()> {
        if with_parts {
            for key in self.objects.list(&parts_folder(task_id))? {
                self.objects.delete(&key)?;
            }
        }
        self.objects.sweep(task_id)
    }
}
