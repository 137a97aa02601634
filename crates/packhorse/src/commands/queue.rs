//! `packhorse queue`

use serde::Serialize;
use work::TaskQueue;
use work::queue::{Depth, SqsOptions};

use super::wait::{Awaited, Teller, wait};
use super::{counted, print_json, say};
use crate::Outcome;
use crate::exit::Exit;
use crate::places::{Outside, file};

/// So many dead letters are shown, unless it is said otherwise.
const SHOWN: usize = 100;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The queue: a file, https://sqs.REGION.amazonaws.com/ACCOUNT/NAME or sqs://NAME
    #[arg(long, env = "PACKHORSE_QUEUE", global = true)]
    queue: Option<String>,
    /// Where dead letters go, if not where the redrive policy of a queue in SQS says
    #[arg(long, env = "PACKHORSE_DEAD_LETTERS", value_name = "QUEUE", global = true)]
    dead_letters: Option<String>,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(clap::Subcommand)]
enum What {
    /// Count the tasks: waiting, delayed, in flight, dead (what is done without a subcommand)
    Depth,
    /// Show the dead letters and why each is one
    Dead {
        /// At most so many
        #[arg(long, default_value_t = SHOWN)]
        max: usize,
    },
    /// Put dead letters back as if they had never been tried
    Redrive {
        /// Their ids
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<String>,
        /// All of them
        #[arg(long)]
        all: bool,
    },
    /// Stay until tasks have ended, and print a line for each, as 'packhorse submit --wait' does
    Wait {
        /// Their ids
        #[arg(required = true)]
        ids: Vec<String>,
        /// Where their results go, which tell the end where a queue cannot: needed for tasks in SQS
        #[arg(long, env = "PACKHORSE_OUTPUT")]
        output: Option<String>,
    },
}

/// What a program reads of the queue.
#[derive(Serialize)]
struct Counts {
    visible: u64,
    delayed: u64,
    in_flight: u64,
    dead: u64,
    done: u64,
    oldest_s: Option<f64>,
}

/// What a program reads of a dead letter.
#[derive(Serialize)]
struct Dead {
    id: String,
    input: Option<String>,
    reason: String,
}

/// What a program reads at the end of putting them back.
#[derive(Serialize)]
struct Redriven {
    redriven: u64,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let outside = Outside::default();
    let place = args.queue.as_deref();
    let place = place
        .ok_or_else(|| Exit::Configuration("no queue is given: say --queue, or set PACKHORSE_QUEUE".to_owned()))?;
    // Whoever only looks makes no queue, and hears of a name that is mistyped.
    if let Some(path) = file(place).filter(|path| !path.exists()) {
        let fix = "correct the path; 'packhorse submit' makes a queue";
        return Err(Exit::Configuration(format!("queue {} does not exist: {fix}", path.display())));
    }
    let options = SqsOptions { dead_letters: args.dead_letters.clone(), ..SqsOptions::default() };
    let queue = outside.queue(place, options)?;
    match &args.what {
        None | Some(What::Depth) => depth(queue.as_ref()),
        Some(What::Dead { max }) => dead(queue.as_ref(), *max),
        Some(What::Redrive { ids, .. }) => redrive(queue.as_ref(), ids),
        Some(What::Wait { ids, output }) => {
            let teller = Teller::of(queue.as_ref(), place, output.as_deref(), &outside)?;
            let awaited = ids.iter().map(|id| Awaited { id, input: None, shown: id.clone() });
            wait(&teller, &awaited.collect::<Vec<_>>())
        }
    }
}

fn depth(queue: &dyn TaskQueue) -> Outcome {
    let depth = queue.depth().map_err(|error| Exit::configuration(&error))?;
    let Depth { visible, delayed, in_flight, dead, done, oldest_age } = depth;
    let oldest_s = oldest_age.map(|age| age.as_secs_f64());
    print_json(&Counts { visible, delayed, in_flight, dead, done, oldest_s })?;
    let oldest = oldest_s.map_or_else(String::new, |age_s| format!(", the oldest sent {age_s:.0} s ago"));
    say(format_args!("{visible} waiting, {delayed} delayed, {in_flight} in flight, {dead} dead{oldest}"));
    Ok(())
}

fn dead(queue: &dyn TaskQueue, max: usize) -> Outcome {
    let letters = queue.dead_letters(max)?;
    let count = letters.len();
    for letter in letters {
        print_json(&Dead { id: letter.id, input: letter.input, reason: letter.reason })?;
    }
    say(counted(count, "dead letter"));
    Ok(())
}

fn redrive(queue: &dyn TaskQueue, ids: &[String]) -> Outcome {
    let redriven = queue.redrive(&|id| ids.is_empty() || ids.iter().any(|wanted| wanted == id))?;
    print_json(&Redriven { redriven })?;
    match ids.len() as u64 {
        0 => say(format_args!("{redriven} put back")),
        wanted if wanted == redriven => say(format_args!("{redriven} put back")),
        wanted => {
            let error = format!("{redriven} of {wanted} were among the dead letters and are put back");
            return Err(Exit::Failed(error));
        }
    }
    Ok(())
}
