//! `packhorse submit`

mod videos;
mod wait;

use std::path::{Path, PathBuf};

use serde::Serialize;
use work::Task;
use work::queue::SqsOptions;

use self::wait::{Teller, wait};

use super::look::Look;
use super::work::FormChoice;
use super::{counted, print_json, say};
use crate::Outcome;
use crate::exit::Exit;
use crate::places::Outside;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The videos: files, folders, objects such as s3://BUCKET/KEY, and prefixes of buckets
    #[arg(required = true)]
    videos: Vec<PathBuf>,
    /// The queue: a file, made when it is not there, https://sqs.REGION.amazonaws.com/ACCOUNT/NAME or sqs://NAME
    #[arg(long, env = "PACKHORSE_QUEUE")]
    queue: String,
    /// The model that looks at the frames
    #[arg(long, env = "PACKHORSE_MODEL")]
    model: String,
    #[command(flatten)]
    look: Look,
    /// The queue that is told when each has ended; one of those that their worker lets be named
    #[arg(long, value_name = "QUEUE")]
    reply_to: Option<String>,
    /// What it is told
    #[arg(long, value_enum, value_name = "FORM")]
    reply_form: Option<FormChoice>,
    /// Stay until every one of them has ended
    #[arg(long)]
    wait: bool,
    /// Where the results go, which tell the end where a queue cannot: needed to wait for tasks in SQS
    #[arg(long, env = "PACKHORSE_OUTPUT")]
    output: Option<String>,
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
    let outside = Outside::default();
    // All are looked at before the first is sent: a mistyped name must not leave half of them in the queue.
    let inputs = videos::gather(&args.videos, &outside)?;
    let tasks = inputs.iter().map(|input| task(input, args)).collect::<Result<Vec<_>, _>>()?;
    let queue = outside.queue(&args.queue, SqsOptions::default())?;
    let results = match (args.wait && !queue.keeps_tasks(), &args.output) {
        (true, None) => {
            let why = "this queue cannot tell when a task has ended: say where its results go with --output, or do not --wait";
            return Err(Exit::Configuration(format!("{}: {why}", args.queue)));
        }
        (true, Some(output)) => Some(outside.output(output)?),
        (false, _) => None,
    };
    for task in &tasks {
        queue.send(task)?;
        print_json(&Line { id: &task.id, input: &task.input, state: "queued", reason: None })?;
    }
    say(format_args!("submitted {} to {}", counted(tasks.len(), "video"), args.queue));
    if !args.wait {
        return Ok(());
    }
    let of_queue = Teller::Queue(queue.as_ref());
    wait(&results.as_deref().map_or(of_queue, Teller::Results), &tasks)
}

fn task(input: &str, args: &Args) -> Result<Task, Exit> {
    let task = Task::new(Path::new(input), &args.model).map_err(|error| Exit::configuration(&error))?;
    let (reply_to, reply_form) = (args.reply_to.clone(), args.reply_form.map(Into::into));
    args.look.with(Task { reply_to, reply_form, ..task })
}
