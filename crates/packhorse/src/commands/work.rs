//! `packhorse work`

mod infer;
mod replies;
mod taken;

use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::ErrorKind;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use serve::admin::Admin;
use serve::{QueueLimits, Scheduler};
use work::job::Checkpoint;
use work::media::Tools;
use work::policy::Verdict;
use work::queue::SqsOptions;
use work::task::Template;
use work::{Config, Cost, Mode, ObjectStore, Observer, Report, Stop, Summary, Task, Worker};

use self::infer::InferArgs;
pub(super) use self::replies::FormChoice;
use self::replies::ReplyArgs;
use self::taken::Taken;
use super::look::Look;
use super::serve::bind;
use super::spool::SpoolArgs;
use super::{print_json, say};
use crate::exit::Exit;
use crate::node::{self, Place};
use crate::places::Outside;
use crate::{Outcome, signal};

/// What weights are looked through with, beside frames: what `serve` takes when nothing is said.
const INSPECT_BYTES_PER_S: u64 = 50_000_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The queue: a file, https://sqs.REGION.amazonaws.com/ACCOUNT/NAME or sqs://NAME
    #[arg(long, env = "PACKHORSE_QUEUE")]
    queue: String,
    /// Where dead letters go, if not where the redrive policy of a queue in SQS says
    #[arg(long, env = "PACKHORSE_DEAD_LETTERS", value_name = "QUEUE")]
    dead_letters: Option<String>,
    /// A task received this often without an end is given up: it may be what kills its workers
    #[arg(long, env = "PACKHORSE_RECEIVES_MAX", default_value_t = 10, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..=1000))]
    receives_max: u32,
    /// The model for what asks for none, such as the events of a bucket
    #[arg(long, env = "PACKHORSE_MODEL")]
    model: Option<String>,
    /// The models: a store of packs in a folder or a bucket, another server's repository, or .onnx files
    #[arg(long, env = "PACKHORSE_STORE")]
    store: String,
    /// Where packs of another server's repository are kept [default: packhorse in the user's cache]
    #[arg(long, env = "PACKHORSE_PACK_CACHE", value_name = "FOLDER")]
    pack_cache: Option<String>,
    /// Where what is fetched of a store in a bucket is kept [default: packhorse-stores in the user's cache]
    #[arg(long, env = "PACKHORSE_CACHE", value_name = "FOLDER")]
    cache: Option<String>,
    #[command(flatten)]
    spool: SpoolArgs,
    /// Where results go, a folder or a bucket; each task gets a folder of its own in it
    #[arg(long, env = "PACKHORSE_OUTPUT")]
    output: String,
    /// When to end: never, when the queue is empty, or after one task
    #[arg(long, env = "PACKHORSE_MODE", value_enum, default_value = "serve")]
    mode: ModeChoice,
    /// Seconds after a worker's last sign of life until its task is given to another, six hours at most
    #[arg(long, env = "PACKHORSE_VISIBILITY", default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=21_600))]
    visibility: u64,
    /// Videos worked at once; one long video keeps every core busy alone
    #[arg(long, env = "PACKHORSE_VIDEOS_MAX", default_value_t = 2, value_name = "VIDEOS", value_parser = clap::value_parser!(u16).range(1..=256))]
    videos_max: u16,
    /// Seconds after which what is done of a video is made durable; a worker that is killed loses no more than that
    #[arg(long, env = "PACKHORSE_CHECKPOINT", default_value_t = 10.0, value_name = "SECONDS", value_parser = checkpoint)]
    checkpoint: f64,
    /// Where probes and metrics are answered; nowhere when not given. Port 0 takes a free one, and the address is printed as
    /// one JSON line
    #[arg(long, env = "PACKHORSE_ADMIN", value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    #[command(flatten)]
    look: Look,
    #[command(flatten)]
    infer: InferArgs,
    #[command(flatten)]
    replies: ReplyArgs,
    #[command(flatten)]
    taken: Taken,
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
    /// What was asked of other machines, if there are any.
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<work::cost::Remote>,
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
    let (outside, stop) = (Arc::new(Outside::default()), Stop::new());
    let queue = outside.queue(&args.queue, args.queue_options(mode, &stop)?)?;
    // Told before anything is made ready.
    queue.depth().map_err(|error| Exit::configuration(&error))?;
    let objects = outside.output(&args.output)?;
    try_out(&args.output, &objects)?;
    let spool = args.spool.open(&outside)?;
    let replies = args.replies.replies(&outside, &args.queue)?;
    let protection = args.taken.protection(&outside)?;
    let hook = args.taken.hook(&outside)?;
    let scheduler = node::start(place, QueueLimits::default(), node::for_frames())?;
    scheduler.inspect(INSPECT_BYTES_PER_S);
    settle(&scheduler);
    let runner = args.infer.runner(&scheduler, args.model.as_deref())?;
    let admin = args.admin.map(|address| admin(address, &scheduler)).transpose()?;
    signal::on_stop(ask_to_stop(&stop, &outside))?;
    let _watch = args.taken.watch(&outside, ask_to_stop(&stop, &outside))?;
    let config = Config {
        visibility: Duration::from_secs(args.visibility),
        videos_max: usize::from(args.videos_max),
        checkpoint: Checkpoint { every: Duration::from_secs_f64(args.checkpoint), ..Checkpoint::default() },
        ..Config::default()
    };
    let inference = runner.inference();
    let worker = Worker { queue, objects, inference, tools, spool, replies, protection, config };
    let outcome = worker.run(mode, &stop, &Progress::default());
    // What it holds up is taken away first, while there is time.
    drop(worker);
    // Whatever was still on a lane belongs to a job that has ended.
    scheduler.drain(Duration::from_secs(5));
    if let Some(hook) = &hook {
        taken::let_go(hook);
    }
    drop(admin);
    let Report { completed, dead, released, lost } = outcome?;
    print_json(&Line { completed, dead, released, lost, remote: runner.used() })?;
    match dead {
        0 => Ok(()),
        1 => Err(Exit::Failed("a task went to the dead letters".to_owned())),
        _ => Err(Exit::Failed(format!("{dead} tasks went to the dead letters"))),
    }
}

/// The longest that a worker waits for its first look at where results go: with one that keeps silent it begins all the same.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// That results can be kept at `place`, as far as a look at it tells, before the first video is worked for nothing.
fn try_out(place: &str, objects: &Arc<dyn ObjectStore>) -> Result<(), Exit> {
    let (sender, looked) = sync_channel(1);
    let objects = Arc::clone(objects);
    // Ends with the network's own limits, if not before; nobody waits for it then.
    let look = move || drop(sender.send(objects.list("packhorse").map(|_| ())));
    std::thread::Builder::new().name("first look".to_owned()).spawn(look)?;
    let later = "tasks go back to the queue until it takes results";
    match looked.recv_timeout(FIRST_LOOK) {
        Ok(Ok(())) => {}
        // What does not pass. Who may not list may yet be let to, and who is out of reach comes back.
        Ok(Err(error))
            if matches!(error.kind, ErrorKind::NotFound | ErrorKind::InvalidInput | ErrorKind::Unsupported) =>
        {
            return Err(Exit::Configuration(format!("output place {place}: {error}")));
        }
        Ok(Err(error)) => tracing::warn!("output place {place}: {error}; {later}"),
        Err(_) => tracing::warn!("output place {place}: no answer in {} s; {later}", FIRST_LOOK.as_secs()),
    }
    Ok(())
}

/// Ends the worker, and its patience with places that do not answer.
fn ask_to_stop(stop: &Stop, outside: &Arc<Outside>) -> impl FnOnce() + Send + 'static {
    let (stop, outside) = (stop.clone(), Arc::clone(outside));
    move || {
        stop.request();
        outside.hurry();
    }
}

impl Args {
    fn queue_options(&self, mode: Mode, stop: &Stop) -> Result<SqsOptions, Exit> {
        /// A worker that is to end looks for the end more often.
        const WAIT_BRIEF: Duration = Duration::from_secs(2);
        let defaults = SqsOptions::default();
        Ok(SqsOptions {
            stop: stop.clone(),
            wait: if mode == Mode::Serve { defaults.wait } else { WAIT_BRIEF },
            receives_max: self.receives_max,
            dead_letters: self.dead_letters.clone(),
            template: self.template()?,
            ..defaults
        })
    }

    /// What is done with videos of which a body says no more than where they are.
    fn template(&self) -> Result<Template, Exit> {
        let template = self.look.template(self.model.clone())?;
        if template.model.is_some() {
            // What is wrong with it is told now, and not of each video.
            template.task("any", "/any").map_err(|error| Exit::configuration(&error))?;
        }
        Ok(template)
    }
}

/// Answers probes and metrics at `address`, and says where that is.
fn admin(address: SocketAddr, scheduler: &Arc<Scheduler>) -> Result<Admin, Exit> {
    let listener = bind(address)?;
    let bound = listener.local_addr()?;
    let admin = serve::admin::spawn(listener, Arc::clone(scheduler))?;
    print_json(&serde_json::json!({ "admin": bound }))?;
    Ok(admin)
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

/// Where frames were worked, when there was a choice.
fn elsewhere(cost: &Cost) -> String {
    let told = |remote: work::cost::Remote| {
        format!("; {} frames on other machines, {} here", remote.frames_remote, remote.frames_local)
    };
    cost.spent.remote.map(told).unwrap_or_default()
}

impl Observer for Progress {
    fn started(&self, task: &Task, delivery: u32) {
        if delivery > 1 {
            self.say(format_args!("{}: delivery {delivery}", task.shown_input()));
        }
        let bar = self.bars.add(ProgressBar::no_length());
        let style =
            ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} frames  {per_sec}  {eta} left  {msg}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_message(task.shown_input().into_owned());
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
            |cost| format!("{:.1} fps, bottleneck: {}{}", cost.fps, cost.bottleneck.name(), elsewhere(cost)),
        );
        let Summary { frames, detections, .. } = summary;
        self.end(task, format_args!("{}: {frames} frames, {detections} detections, {speed}", task.shown_input()));
    }

    fn failed(&self, task: &Task, verdict: &Verdict) {
        let input = task.shown_input();
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
