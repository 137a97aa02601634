//! `packhorse submit`

mod videos;

use std::path::{Path, PathBuf};

use work::Task;
use work::queue::SqsOptions;

use super::look::Look;
use super::wait::{Awaited, Line, Teller, wait};
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
    /// Stay until every one of them has ended; 'packhorse queue wait' takes that up again
    #[arg(long)]
    wait: bool,
    /// Where the results go, which tell the end where a queue cannot: needed to wait for tasks in SQS
    #[arg(long, env = "PACKHORSE_OUTPUT")]
    output: Option<String>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let outside = Outside::default();
    // All are looked at before the first is sent: a mistyped name must not leave half of them in the queue.
    let inputs = videos::gather(&args.videos, &outside)?;
    let tasks = inputs.iter().map(|input| task(input, args)).collect::<Result<Vec<_>, _>>()?;
    let queue = outside.queue(&args.queue, SqsOptions::default())?;
    // Who cannot be waited for is known before anything is sent.
    let teller = || Teller::of(queue.as_ref(), &args.queue, args.output.as_deref(), &outside);
    let teller = args.wait.then(teller).transpose()?;
    for task in &tasks {
        queue.send(task)?;
        print_json(&Line { id: &task.id, input: Some(&task.input), state: "queued", reason: None })?;
    }
    say(format_args!("submitted {} to {}", counted(tasks.len(), "video"), args.queue));
    let Some(teller) = teller else { return Ok(()) };
    let awaited = tasks.iter().map(|task| {
        let (id, input, shown) = (&*task.id, Some(&*task.input), task.shown_input().into_owned());
        Awaited { id, input, shown }
    });
    wait(&teller, &awaited.collect::<Vec<_>>())
}

fn task(input: &str, args: &Args) -> Result<Task, Exit> {
    let task = Task::new(Path::new(input), &args.model).map_err(|error| Exit::configuration(&error))?;
    let (reply_to, reply_form) = (args.reply_to.clone(), args.reply_form.map(Into::into));
    args.look.with(Task { reply_to, reply_form, ..task })
}
