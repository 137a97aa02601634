//! `packhorse demo`: everything once, on the bundled street clip.

mod pictures;
mod request;
mod table;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pipeline::recognise::{Wish, understand};
use serde::Serialize;
use serve::Scheduler;
use store::Store;
use store::pack::{Request, Targets, pack};
use store::task::TaskChoice;
use work::media::Tools;
use work::queue::Options;
use work::{
    Config, Cost, FolderStore, Inference, Mode, Protection, Replies, SqliteQueue, Stop, Summary, Task, TaskQueue,
    Worker, result,
};

use super::serve::{Addresses, Server};
use super::work::Progress;
use super::{print_json, say};
use crate::exit::Exit;
use crate::inference::InProcess;
use crate::{Outcome, node, signal};

/// The detector of the demo, and the one that its `curl` line calls, for its answers can be read.
const DETECTOR: &str = "nanodet";
const PERSON: &str = "person";

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where results.jsonl, summary.json, cost.json, annotated.mp4, contact-sheet.png and request.json go
    #[arg(long, default_value = "packhorse-demo")]
    out: PathBuf,
    /// Leave the server up until it is interrupted
    #[arg(long)]
    keep: bool,
    /// The bundled models and clip [default: assets, here or beside the build]
    #[arg(long, env = "PACKHORSE_ASSETS")]
    assets: Option<PathBuf>,
}

#[derive(Serialize)]
struct Line<'a> {
    out: &'a Path,
    addresses: Addresses,
    frames: u64,
    detections: u64,
    fps: f64,
    cpu_s_per_frame: f64,
    seconds: f64,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let started = Instant::now();
    let assets = assets_folder(args.assets.as_deref())?;
    let clip = assets.join("street.mp4");
    Tools::from_env().check().map_err(|error| Exit::Configuration(error.message))?;
    make_folder(&args.out)?;
    // Beside the results, so that they only have to be renamed; gone when this function ends.
    let scratch =
        tempfile::Builder::new().prefix(".work-").tempdir_in(&args.out).map_err(|error| out_error(args, &error))?;

    let scheduler = packed_and_ready(&assets, scratch.path())?;
    let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let server =
        Server::start(Arc::clone(&scheduler), Addresses { http: free, grpc: free, admin: free, manage: None })?;
    say(format_args!("serving on http://{}", server.addresses.http));

    let (summary, cost) =
        drain(&clip, DETECTOR, scratch.path(), &args.out, Arc::new(InProcess(Arc::clone(&scheduler))))?;
    pictures::draw(&clip, &args.out, &summary)?;
    request::write(&clip, &args.out)?;
    table::print(&summary, &cost);
    // Until here Ctrl-C ends the demo at once.
    let asked = args.keep.then(signal::listen).transpose()?;
    report(args, &server, (&summary, &cost), started.elapsed())?;
    if let Some(asked) = asked {
        say("the server stays up; Ctrl-C ends it");
        asked.wait();
    }
    server.stop(Duration::ZERO, Duration::from_secs(10))
}

/// Packs both detectors into a store in `scratch` and starts the lanes over it.
fn packed_and_ready(assets: &Path, scratch: &Path) -> Result<Arc<Scheduler>, Exit> {
    let runtimes = node::runtimes()?;
    let place = scratch.join("store");
    let store = Store::create(&place.to_string_lossy())?;
    for (name, file, labels) in
        [(DETECTOR, "nanodet_g_coco80.onnx", "coco80.txt"), (PERSON, "person_ssdlite_odapi.onnx", "person.txt")]
    {
        let started = Instant::now();
        let (path, labels) = (assets.join(file), store::labels::read(&assets.join(labels))?);
        let wish = Wish { task: Some(TaskChoice::ObjectDetection), ..Wish::default() };
        let task = understand(&runtimes, &path, &wish, &labels)?.task;
        let request = Request {
            path,
            name: Some(name.to_owned()),
            task: Some(task),
            labels,
            targets: Targets::Native,
            ..Request::default()
        };
        let packed = pack(&store, &runtimes, &request)?;
        say(format_args!(
            "packed {name}: {} weights lifted out in {:.1} s",
            packed.manifest.weights.len(),
            started.elapsed().as_secs_f64()
        ));
    }
    node::start_for_frames(store, runtimes)
}

/// Puts `tasks` into a queue and drains it, with results in `place`.
pub(super) fn work_off(tasks: &[Task], scratch: &Path, place: &Path, inference: Arc<dyn Inference>) -> Outcome {
    let queue = SqliteQueue::open(&scratch.join("queue.sqlite"), Options::default())?;
    tasks.iter().try_for_each(|task| queue.send(task))?;
    let worker = Worker {
        queue: Arc::new(queue),
        objects: Arc::new(FolderStore::open(place)?),
        inference,
        tools: Tools::from_env(),
        spool: None,
        replies: Replies::none(),
        protection: Protection::none(),
        config: Config::default(),
    };
    let report = worker.run(Mode::DrainOnce, &Stop::new(), &Progress::default())?;
    if report.completed != tasks.len() as u64 {
        return Err(Exit::Failed("a clip was not completed; the reason is above".to_owned()));
    }
    Ok(())
}

/// Puts `clip` into a queue and drains it; the results end up in `out`.
pub(super) fn drain(
    clip: &Path,
    model: &str,
    scratch: &Path,
    out: &Path,
    inference: Arc<dyn Inference>,
) -> Result<(Summary, Cost), Exit> {
    let place = scratch.join("results");
    let task = Task::new(clip, model)?;
    work_off(std::slice::from_ref(&task), scratch, &place, inference)?;
    let names = ["results.jsonl", "summary.json", "cost.json"];
    let keys = [result::lines_key(&task.id), result::summary_key(&task.id), result::cost_key(&task.id)];
    let [_, summary, cost] = names.map(|name| out.join(name));
    for (key, name) in keys.iter().zip(names) {
        std::fs::rename(place.join(key), out.join(name)).map_err(|error| unreadable(&out.join(name), &error))?;
    }
    let read = |path: &Path| std::fs::read(path).map_err(|error| unreadable(path, &error));
    Ok((Summary::from_json(&read(&summary)?)?, Cost::from_json(&read(&cost)?)?))
}

fn unreadable(path: &Path, error: &std::io::Error) -> Exit {
    Exit::Failed(format!("{}: {error}", path.display()))
}

fn report(args: &Args, server: &Server, (summary, cost): (&Summary, &Cost), elapsed: Duration) -> Outcome {
    let out = args.out.display();
    say(format_args!("\nin {out}: results.jsonl, summary.json, cost.json, annotated.mp4, contact-sheet.png"));
    say(format_args!(
        "done in {:.1} s; people in a picture, asked of the server{}:\n",
        elapsed.as_secs_f64(),
        if args.keep { "" } else { " (run again with --keep to have it answer)" }
    ));
    say(format_args!("  {}\n", request::curl(server.addresses.http, &args.out)));
    print_json(&Line {
        out: &args.out,
        addresses: server.addresses,
        frames: summary.frames,
        detections: summary.detections,
        fps: cost.fps,
        cpu_s_per_frame: cost.cpu_s_per_frame.total,
        seconds: elapsed.as_secs_f64(),
    })
}

/// The folder of the bundled models and clip.
pub(super) fn assets_folder(given: Option<&Path>) -> Result<PathBuf, Exit> {
    let beside_build =
        std::env::current_exe().ok().and_then(|program| Some(program.ancestors().nth(3)?.join("assets")));
    let places: Vec<PathBuf> = match given {
        Some(place) => vec![place.to_owned()],
        None => std::iter::once(PathBuf::from("assets")).chain(beside_build).collect(),
    };
    places.iter().find(|place| place.join("street.mp4").is_file()).cloned().ok_or_else(|| {
        Exit::Configuration("the bundled models and clip were not found; name their folder with --assets".to_owned())
    })
}

fn make_folder(out: &Path) -> Outcome {
    std::fs::create_dir_all(out)
        .map_err(|error| Exit::Configuration(format!("{}: cannot be made: {error}", out.display())))
}

fn out_error(args: &Args, error: &std::io::Error) -> Exit {
    Exit::Failed(format!("{}: cannot be written: {error}", args.out.display()))
}
