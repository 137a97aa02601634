//! What becomes of a task that failed: a pure function of the failure and of how often the task failed before.

use std::time::Duration;

use engine::{Error, ErrorKind};

/// Why a task has no result.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// The video, the model, the decoder or the inference.
    Task(Error),
    /// The place where results go; no task is to blame for it.
    Place(Error),
    /// The worker was asked to stop.
    Stopped,
    /// Another attempt has the task now; it is not ours to end or to give back.
    Lost,
}

/// The failure that an error of the place is: its own, or another attempt's success.
pub(crate) fn placed(error: Error) -> Failure {
    match error.kind {
        ErrorKind::Cancelled => Failure::Lost,
        _ => Failure::Place(error),
    }
}

/// What to do with the task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It failed for good.
    DeadLetter {
        /// For a person.
        reason: String,
    },
    /// It goes back and is tried again.
    Retry {
        /// How long it stays hidden.
        delay: Duration,
        /// Whether this counts as a failure of the task.
        counts: bool,
        /// For a person.
        reason: String,
    },
    /// It goes back unharmed, and the worker cannot go on until the place is mended.
    Place(Error),
    /// It is left alone.
    Leave,
}

/// How patient a worker is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// So many counted failures end a task.
    pub failures_max: u32,
    /// How long a task stays hidden after its first, second, ... failure; the last one holds for all later ones.
    pub delays: Vec<Duration>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { failures_max: 3, delays: [5, 20, 60].map(Duration::from_secs).to_vec() }
    }
}

/// Decides on a task that failed now and `failures` times before.
pub fn verdict(failure: &Failure, failures: u32, patience: &Patience) -> Verdict {
    let error = match failure {
        Failure::Task(error) => error,
        Failure::Place(error) => return Verdict::Place(error.clone()),
        Failure::Stopped => {
            let reason = "the worker was asked to stop".to_owned();
            return Verdict::Retry { delay: Duration::ZERO, counts: false, reason };
        }
        Failure::Lost => return Verdict::Leave,
    };
    let retry = |counts| Verdict::Retry { delay: delay(failures, patience), counts, reason: error.message.clone() };
    match error.kind {
        // Wrong now, wrong for ever: trying again only delays the answer.
        ErrorKind::InvalidInput
        | ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::FailedPrecondition
        | ErrorKind::Forbidden
        | ErrorKind::Unsupported
        | ErrorKind::Corrupt => Verdict::DeadLetter { reason: error.message.clone() },
        ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::Internal => {
            match failures.saturating_add(1) {
                count if count >= patience.failures_max => {
                    Verdict::DeadLetter { reason: format!("failed {count} times, lastly: {}", error.message) }
                }
                _ => retry(true),
            }
        }
        // Others want the same resource, or the scheduler let go of the request: not the task's doing.
        ErrorKind::Exhausted | ErrorKind::Cancelled => retry(false),
    }
}

fn delay(failures: u32, patience: &Patience) -> Duration {
    let place = usize::try_from(failures).unwrap_or(usize::MAX);
    patience.delays.get(place).or(patience.delays.last()).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let check = |kind: ErrorKind, failures: u32, want: Option<(u64, bool)>| {
            let failure = Failure::Task(Error::new(kind, "why"));
            match (verdict(&failure, failures, &Patience::default()), want) {
                (Verdict::DeadLetter { reason }, None) => assert!(reason.ends_with("why"), "{reason}"),
                (Verdict::Retry { delay, counts, reason }, Some(want)) => {
                    assert_eq!(((delay.as_secs(), counts), &*reason), (want, "why"), "{kind:?} {failures}");
                }
                (got, want) => panic!("{kind:?} after {failures} failures: {got:?}, not {want:?}"),
            }
        };
        use ErrorKind::*;
        for kind in [InvalidInput, NotFound, AlreadyExists, Unsupported, Corrupt] {
            check(kind, 0, None);
        }
        for kind in [Unavailable, DeadlineExceeded, Internal] {
            check(kind, 0, Some((5, true)));
            check(kind, 1, Some((20, true)));
            check(kind, 2, None);
            check(kind, u32::MAX, None);
        }
        for kind in [Exhausted, Cancelled] {
            check(kind, 0, Some((5, false)));
            check(kind, 7, Some((60, false)));
        }
    }

    #[test]
    fn nobody_blames_the_task_for_the_place_the_stop_or_the_other_worker() {
        let patience = Patience { failures_max: 1, delays: Vec::new() };
        let full = Error::new(ErrorKind::Exhausted, "output place /out is full");
        assert_eq!(verdict(&Failure::Place(full.clone()), 9, &patience), Verdict::Place(full));
        assert_eq!(verdict(&Failure::Lost, 9, &patience), Verdict::Leave);
        let stopped = verdict(&Failure::Stopped, 9, &patience);
        assert!(matches!(stopped, Verdict::Retry { delay: Duration::ZERO, counts: false, .. }), "{stopped:?}");
    }
}
