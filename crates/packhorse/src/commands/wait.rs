//! Waiting for the end of what was submitted.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use work::queue::Phase;
use work::refusal::failed_key;
use work::result::summary_key;
use work::{ObjectStore, Refusal, TaskQueue};

use super::{counted, print_json, say};
use crate::Outcome;
use crate::exit::Exit;
use crate::places::Outside;

/// What a program reads about a task, when it is submitted and when it has ended.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    pub(super) id: &'a str,
    /// Where whoever waits knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) input: Option<&'a str>,
    pub(super) state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

/// A task whose end is waited for.
pub(super) struct Awaited<'a> {
    pub(super) id: &'a str,
    pub(super) input: Option<&'a str>,
    /// What people call it.
    pub(super) shown: String,
}

/// Who tells that a task has ended.
pub(super) enum Teller<'a> {
    /// The queue, which keeps tasks.
    Queue(&'a dyn TaskQueue),
    /// The place of results, where the queue forgets what it gave out.
    Results(Arc<dyn ObjectStore>),
}

impl<'a> Teller<'a> {
    /// Who tells it of tasks in `queue`, the one at `place`, whose results go to `output`.
    ///
    /// # Errors
    /// Where nobody could.
    pub(super) fn of(
        queue: &'a dyn TaskQueue,
        place: &str,
        output: Option<&str>,
        outside: &Outside,
    ) -> Result<Self, Exit> {
        match (queue.keeps_tasks(), output) {
            (true, _) => Ok(Self::Queue(queue)),
            (false, Some(output)) => Ok(Self::Results(outside.output(output)?)),
            (false, None) => {
                let why = "this queue cannot tell when a task has ended: say where its results go with --output, or do not wait";
                Err(Exit::Configuration(format!("{place}: {why}")))
            }
        }
    }

    /// Between two looks: a service wants money for each.
    fn pause(&self) -> Duration {
        match self {
            Self::Queue(_) => Duration::from_millis(200),
            Self::Results(_) => Duration::from_secs(2),
        }
    }

    /// How the task ended; `None` as long as it has not. An error within is why it has no result.
    fn end(&self, id: &str) -> engine::Result<Option<Result<(), String>>> {
        match self {
            Self::Queue(queue) => {
                let state = queue.state(id)?;
                let reason = || state.reason.clone().unwrap_or_else(|| "no reason was kept".to_owned());
                Ok(match state.phase {
                    Phase::Done => Some(Ok(())),
                    Phase::Dead => Some(Err(reason())),
                    Phase::Visible | Phase::Delayed | Phase::InFlight => None,
                })
            }
            Self::Results(objects) => {
                if objects.head(&summary_key(id))?.is_some() {
                    return Ok(Some(Ok(())));
                }
                match objects.read(&failed_key(id)) {
                    Ok(bytes) => Refusal::from_json(&bytes).map(|refusal| Some(Err(refusal.reason))),
                    Err(error) if error.kind == engine::ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

/// How many of the tasks that have not ended are looked at each time: they end nearly in their order, a look costs money
/// somewhere, and one long video must not hide that those behind it have ended.
const LOOKED_AT: usize = 16;

/// Prints a line for each of `tasks` as it ends; those that have ended between two looks in their order.
pub(super) fn wait(teller: &Teller<'_>, tasks: &[Awaited<'_>]) -> Outcome {
    let bar = ProgressBar::new(tasks.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} videos ended  {elapsed}") {
        bar.set_style(style);
    }
    let mut dead = 0;
    let mut open: Vec<&Awaited<'_>> = tasks.iter().collect();
    while !open.is_empty() {
        let before = open.len();
        let mut at = 0;
        while at < open.len().min(LOOKED_AT) {
            let Some(end) = teller.end(open[at].id)? else {
                at += 1;
                continue;
            };
            let task = open.remove(at);
            let (state, reason) = match end {
                Ok(()) => ("done", None),
                Err(reason) => ("dead", Some(reason)),
            };
            if let Some(reason) = &reason {
                dead += 1;
                bar.suspend(|| say(format_args!("{}: {reason}", task.shown)));
            }
            print_json(&Line { id: task.id, input: task.input, state, reason })?;
            bar.inc(1);
        }
        if open.len() == before {
            std::thread::sleep(teller.pause());
        }
    }
    bar.finish_and_clear();
    if dead == 0 {
        return Ok(());
    }
    Err(Exit::Failed(format!("{} of {} went to the dead letters", dead, counted(tasks.len(), "video"))))
}
