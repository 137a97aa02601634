//! Waiting for the end of what was submitted.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use work::queue::Phase;
use work::refusal::failed_key;
use work::result::summary_key;
use work::{ObjectStore, Refusal, Task, TaskQueue};

use super::Line;
use crate::Outcome;
use crate::commands::{counted, print_json, say};
use crate::exit::Exit;

/// Who tells that a task has ended.
pub(super) enum Teller<'a> {
    /// The queue, which keeps tasks.
    Queue(&'a dyn TaskQueue),
    /// The place of results, where the queue forgets what it gave out.
    Results(&'a dyn ObjectStore),
}

impl Teller<'_> {
    /// Between two looks: a service wants money for each.
    fn pause(&self) -> Duration {
        match self {
            Self::Queue(_) => Duration::from_millis(200),
            Self::Results(_) => Duration::from_secs(2),
        }
    }

    /// How the task ended; `None` as long as it has not. An error within is why it has no result.
    fn end(&self, task: &Task) -> engine::Result<Option<Result<(), String>>> {
        match self {
            Self::Queue(queue) => {
                let state = queue.state(&task.id)?;
                let reason = || state.reason.clone().unwrap_or_else(|| "no reason was kept".to_owned());
                Ok(match state.phase {
                    Phase::Done => Some(Ok(())),
                    Phase::Dead => Some(Err(reason())),
                    Phase::Visible | Phase::Delayed | Phase::InFlight => None,
                })
            }
            Self::Results(objects) => {
                if objects.head(&summary_key(&task.id))?.is_some() {
                    return Ok(Some(Ok(())));
                }
                match objects.read(&failed_key(&task.id)) {
                    Ok(bytes) => Refusal::from_json(&bytes).map(|refusal| Some(Err(refusal.reason))),
                    Err(error) if error.kind == engine::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

/// Prints a line for each of `tasks` as it ends, in their order.
pub(super) fn wait(teller: &Teller<'_>, tasks: &[Task]) -> Outcome {
    let bar = ProgressBar::new(tasks.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} videos ended  {elapsed}") {
        bar.set_style(style);
    }
    let mut dead = 0;
    for task in tasks {
        let end = loop {
            match teller.end(task)? {
                Some(end) => break end,
                None => std::thread::sleep(teller.pause()),
            }
        };
        let (state, reason) = match end {
            Ok(()) => ("done", None),
            Err(reason) => ("dead", Some(reason)),
        };
        if let Some(reason) = &reason {
            dead += 1;
            bar.suspend(|| say(format_args!("{}: {reason}", task.shown_input())));
        }
        print_json(&Line { id: &task.id, input: &task.input, state, reason })?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    if dead == 0 {
        return Ok(());
    }
    Err(Exit::Failed(format!("{} of {} went to the dead letters", dead, counted(tasks.len(), "video"))))
}
