//! `packhorse work`

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serve::{Control, QueueLimits, Scheduler};
use store::repository::Layout;
use work::media::Tools;
use work::policy::Verdict;
use work::{Config, FolderStore, Mode, Observer, Report, Stop, Summary, Task, Worker};

use super::submit::open_queue;
use super::{print_json, say};
use crate::exit::Exit;
use crate::inference::InProcess;
use crate::node::{self, Place};
use crate::{Outcome, signal};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The queue's file
    #[arg(long, env = "PACKHORSE_QUEUE")]
    queue: String,
    /// The models: a store of packs, another server's repository, or .onnx files
    #[arg(long, env = "PACKHORSE_STORE")]
    store: String,
    /// Where packs of another server's repository are kept [default: packhorse in the user's cache]
    #[arg(long, env = "PACKHORSE_PACK_CACHE", value_name = "FOLDER")]
    pack_cache: Option<String>,
    /// The folder of results; each task gets a folder of its own in it
    #[arg(long, env = "PACKHORSE_OUTPUT")]
    output: String,
    /// When to end: never, when the queue is empty, or after one task
    #[arg(long, env = "PACKHORSE_MODE", value_enum, default_value = "serve")]
    mode: ModeChoice,
    /// Seconds after a worker's last sign of life until its task is given to another
    #[arg(long, env = "PACKHORSE_VISIBILITY", default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=43_200))]
    visibility: u64,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum ModeChoice {
    Serve,
    DrainOnce,
    OneJob,
}

/// What a program reads at the end.
#[derive(Serialize)]
struct Line {
    completed: u64,
    dead: u64,
    released: u64,
    lost: u64,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let mode = match args.mode {
        ModeChoice::Serve => Mode::Serve,
        ModeChoice::DrainOnce => Mode::DrainOnce,
        ModeChoice::OneJob => Mode::OneJob,
    };
    let tools = Tools::from_env();
    tools.check().map_err(|error| Exit::Configuration(error.message))?;
    // What must be there already is looked at before what is made when it is not.
    Layout::of(&args.store).map_err(|error| Exit::configuration(&error))?;
    let queue = Arc::new(open_queue(&args.queue)?);
    let objects = Arc::new(open_output(&args.output)?);
    let place = Place { store: &args.store, pack_cache: args.pack_cache.as_deref() };
    let scheduler = node::start(place, QueueLimits::default(), Control::None, BTreeMap::new())?;
    settle(&scheduler);
    let stop = Stop::new();
    let asked = stop.clone();
    signal::on_stop(move || asked.request())?;
    let config = Config { visibility: Duration::from_secs(args.visibility), ..Config::default() };
    let worker = Worker { queue, objects, inference: Arc::new(InProcess(Arc::clone(&scheduler))), tools, config };
    let outcome = worker.run(mode, &stop, &Progress::default());
    // Whatever was still on a lane belongs to a job that has ended.
    scheduler.drain(Duration::from_secs(5));
    let Report { completed, dead, released, lost } = outcome?;
    print_json(&Line { completed, dead, released, lost })?;
    match dead {
        0 => Ok(()),
        1 => Err(Exit::Failed("a task went to the dead letters".to_owned())),
        _ => Err(Exit::Failed(format!("{dead} tasks went to the dead letters"))),
    }
}

/// Packs what the repository holds and was not packed before: a task is of any of its models.
fn settle(scheduler: &Scheduler) {
    let residency = scheduler.residency();
    let bar = ProgressBar::new(residency.unsettled() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} models packed  {eta} left") {
        bar.set_style(style);
    }
    while residency.settle_next() {
        bar.inc(1);
    }
    bar.finish_and_clear();
}

/// The place for results at `place`.
pub(super) fn open_output(place: &str) -> Result<FolderStore, Exit> {
    let path = match place.split_once("://") {
        None => Path::new(place),
        Some(("file", path)) => Path::new(path),
        Some((scheme, _)) => {
            return Err(Exit::Configuration(format!(
                "{place}: this build writes results into folders and cannot write to {scheme}:// yet; give a folder"
            )));
        }
    };
    FolderStore::open(path).map_err(|error| Exit::configuration(&error))
}

/// A bar while a video is worked, a line when it has ended.
#[derive(Default)]
pub(super) struct Progress {
    /// The running task's; the worker and its job report from different threads.
    bar: Mutex<Option<ProgressBar>>,
}

impl Progress {
    fn end(&self) {
        if let Some(bar) = self.bar.lock().unwrap_or_else(PoisonError::into_inner).take() {
            bar.finish_and_clear();
        }
    }
}

impl Observer for Progress {
    fn started(&self, task: &Task, delivery: u32) {
        if delivery > 1 {
            say(format_args!("{}: delivery {delivery}", task.input));
        }
        let bar = ProgressBar::no_length();
        let style =
            ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} frames  {per_sec}  {eta} left  {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_message(task.input.clone());
        *self.bar.lock().unwrap_or_else(PoisonError::into_inner) = Some(bar);
    }

    fn progress(&self, _task: &Task, frames: u64, declared: Option<u64>) {
        if let Some(bar) = &*self.bar.lock().unwrap_or_else(PoisonError::into_inner) {
            if let Some(declared) = declared {
                bar.set_length(declared.max(frames));
            }
            bar.set_position(frames);
        }
    }

    fn finished(&self, task: &Task, summary: &Summary) {
        self.end();
        say(format_args!(
            "{}: {} frames, {} detections, {:.1} fps",
            task.input, summary.frames, summary.detections, summary.fps
        ));
    }

    fn failed(&self, task: &Task, verdict: &Verdict) {
        self.end();
        match verdict {
            Verdict::DeadLetter { reason } => say(format_args!("{}: dead letter: {reason}", task.input)),
            Verdict::Retry { delay, reason, .. } => {
                say(format_args!("{}: tried again in {} s: {reason}", task.input, delay.as_secs()));
            }
            Verdict::Place(error) => say(format_args!("{}: back in the queue: {error}", task.input)),
            Verdict::Leave => say(format_args!("{}: another worker has it now", task.input)),
        }
    }

    fn discarded(&self, id: &str, reason: &str) {
        say(format_args!("task {id}: dead letter: {reason}"));
    }
}
