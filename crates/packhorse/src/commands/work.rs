//! `packhorse work`

use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use serve::{QueueLimits, ResidencyOptions, Scheduler};
use work::job::Checkpoint;
use work::media::Tools;
use work::policy::Verdict;
use work::{Config, Cost, FolderStore, Mode, Observer, Report, Stop, Summary, Task, Worker};

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
    /// The models: a store of packs in a folder or a bucket, another server's repository, or .onnx files
    #[arg(long, env = "PACKHORSE_STORE")]
    store: String,
    /// Where packs of another server's repository are kept [default: packhorse in the user's cache]
    #[arg(long, env = "PACKHORSE_PACK_CACHE", value_name = "FOLDER")]
    pack_cache: Option<String>,
    /// Where what is fetched of a store in a bucket is kept [default: packhorse-stores in the user's cache]
    #[arg(long, env = "PACKHORSE_CACHE", value_name = "FOLDER")]
    cache: Option<String>,
    /// The folder of results; each task gets a folder of its own in it
    #[arg(long, env = "PACKHORSE_OUTPUT")]
    output: String,
    /// When to end: never, when the queue is empty, or after one task
    #[arg(long, env = "PACKHORSE_MODE", value_enum, default_value = "serve")]
    mode: ModeChoice,
    /// Seconds after a worker's last sign of life until its task is given to another
    #[arg(long, env = "PACKHORSE_VISIBILITY", default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=43_200))]
    visibility: u64,
    /// Videos worked at once; one long video keeps every core busy alone
    #[arg(long, env = "PACKHORSE_VIDEOS_MAX", default_value_t = 2, value_name = "VIDEOS", value_parser = clap::value_parser!(u16).range(1..=256))]
    videos_max: u16,
    /// Seconds after which what is done of a video is made durable; a worker that is killed loses no more than that
    #[arg(long, env = "PACKHORSE_CHECKPOINT", default_value_t = 10.0, value_name = "SECONDS", value_parser = checkpoint)]
    checkpoint: f64,
}

fn checkpoint(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "give seconds, such as 10 or 0.5")?;
    if (0.0..=86_400.0).contains(&seconds) { Ok(seconds) } else { Err("give 0 to 86400 seconds".to_owned()) }
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
    let place = Place { cache: args.cache.as_deref(), ..Place::of(&args.store, args.pack_cache.as_deref()) };
    place.check()?;
    let queue = Arc::new(open_queue(&args.queue)?);
    let objects = Arc::new(open_output(&args.output)?);
    let scheduler = node::start(place, QueueLimits::default(), ResidencyOptions::default())?;
    settle(&scheduler);
    let stop = Stop::new();
    let asked = stop.clone();
    signal::on_stop(move || asked.request())?;
    let config = Config {
        visibility: Duration::from_secs(args.visibility),
        videos_max: usize::from(args.videos_max),
        checkpoint: Checkpoint { every: Duration::from_secs_f64(args.checkpoint), ..Checkpoint::default() },
        ..Config::default()
    };
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

/// A bar for each video that is worked, a line when it has ended.
#[derive(Default)]
pub(super) struct Progress {
    bars: MultiProgress,
    /// By task; the worker's loops and their jobs report from different threads.
    running: Mutex<HashMap<String, ProgressBar>>,
}

impl Progress {
    fn running(&self) -> MutexGuard<'_, HashMap<String, ProgressBar>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, task: &Task, line: impl Display) {
        if let Some(bar) = self.running().remove(&task.id) {
            bar.finish_and_clear();
        }
        self.say(line);
    }

    fn say(&self, line: impl Display) {
        self.bars.suspend(|| say(line));
    }
}

impl Observer for Progress {
    fn started(&self, task: &Task, delivery: u32) {
        if delivery > 1 {
            self.say(format_args!("{}: delivery {delivery}", task.input));
        }
        let bar = self.bars.add(ProgressBar::no_length());
        let style =
            ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} frames  {per_sec}  {eta} left  {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_message(task.input.clone());
        self.running().insert(task.id.clone(), bar);
    }

    fn progress(&self, task: &Task, frames: u64, declared: Option<u64>) {
        if let Some(bar) = self.running().get(&task.id) {
            if let Some(declared) = declared {
                bar.set_length(declared.max(frames));
            }
            bar.set_position(frames);
        }
    }

    fn finished(&self, task: &Task, summary: &Summary, cost: Option<&Cost>) {
        let speed = cost.map_or_else(
            || "finished before".to_owned(),
            |cost| format!("{:.1} fps, bottleneck: {}", cost.fps, cost.bottleneck.name()),
        );
        let Summary { frames, detections, .. } = summary;
        self.end(task, format_args!("{}: {frames} frames, {detections} detections, {speed}", task.input));
    }

    fn failed(&self, task: &Task, verdict: &Verdict) {
        let input = &task.input;
        match verdict {
            Verdict::DeadLetter { reason } => self.end(task, format_args!("{input}: dead letter: {reason}")),
            Verdict::Retry { delay, reason, .. } => {
                self.end(task, format_args!("{input}: tried again in {} s: {reason}", delay.as_secs()));
            }
            Verdict::Place(error) => self.end(task, format_args!("{input}: back in the queue: {error}")),
            Verdict::Leave => self.end(task, format_args!("{input}: another worker has it now")),
        }
    }

    fn discarded(&self, id: &str, reason: &str) {
        self.say(format_args!("task {id}: dead letter: {reason}"));
    }
}
