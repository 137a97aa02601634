//! `packhorse submit`

use std::path::{Path, PathBuf};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use work::queue::{Options, Phase};
use work::{SqliteQueue, Task, TaskQueue};

use super::look::Look;
use super::{counted, print_json, say};
use crate::Outcome;
use crate::exit::Exit;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The videos
    #[arg(required = true)]
    videos: Vec<PathBuf>,
    /// The queue's file; made when it is not there
    #[arg(long, env = "PACKHORSE_QUEUE")]
    queue: String,
    /// The model that looks at the frames
    #[arg(long, env = "PACKHORSE_MODEL")]
    model: String,
    #[command(flatten)]
    look: Look,
    /// Stay until every one of them has ended
    #[arg(long)]
    wait: bool,
}

/// What a program reads about a submitted task; with `--wait` a second line tells its end.
#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    input: &'a str,
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    // All are looked at before the first is sent: a mistyped name must not leave half of them in the queue.
    let tasks = args.videos.iter().map(|video| task(video, args)).collect::<Result<Vec<_>, _>>()?;
    let queue = open_queue(&args.queue)?;
    for task in &tasks {
        queue.send(task)?;
        print_json(&Line { id: &task.id, input: &task.input, state: "queued", reason: None })?;
    }
    say(format_args!("submitted {} to {}", counted(tasks.len(), "video"), args.queue));
    if args.wait { wait(&queue, &tasks) } else { Ok(()) }
}

fn task(video: &Path, args: &Args) -> Result<Task, Exit> {
    if video.is_dir() {
        return Err(Exit::Configuration(format!("{}: this is a folder; name the videos in it", video.display())));
    }
    if !video.is_file() {
        return Err(Exit::Configuration(format!("{}: there is no such file", video.display())));
    }
    args.look.with(Task::new(video, &args.model).map_err(|error| Exit::configuration(&error))?)
}

/// The queue at `place`.
pub(super) fn open_queue(place: &str) -> Result<SqliteQueue, Exit> {
    let path = match place.split_once("://") {
        None => Path::new(place),
        Some(("file", path)) => Path::new(path),
        Some(_) => {
            return Err(Exit::Configuration(format!(
                "{place}: this build keeps queues in files and cannot use a queue service yet; give a file path"
            )));
        }
    };
    SqliteQueue::open(path, Options::default()).map_err(|error| Exit::configuration(&error))
}

fn wait(queue: &SqliteQueue, tasks: &[Task]) -> Outcome {
    let bar = ProgressBar::new(tasks.len() as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} videos ended  {elapsed}") {
        bar.set_style(style);
    }
    let mut dead = 0;
    for task in tasks {
        let state = loop {
            let state = queue.state(&task.id)?;
            if matches!(state.phase, Phase::Dead | Phase::Done) {
                break state;
            }
            std::thread::sleep(Duration::from_millis(200));
        };
        let ended_well = state.phase == Phase::Done;
        if !ended_well {
            dead += 1;
            let reason = state.reason.as_deref().unwrap_or("no reason was kept");
            bar.suspend(|| say(format_args!("{}: {reason}", task.input)));
        }
        let word = if ended_well { "done" } else { "dead" };
        print_json(&Line { id: &task.id, input: &task.input, state: word, reason: state.reason })?;
        bar.inc(1);
    }
    bar.finish_and_clear();
    if dead == 0 {
        return Ok(());
    }
    Err(Exit::Failed(format!("{} of {} went to the dead letters", dead, counted(tasks.len(), "video"))))
}
