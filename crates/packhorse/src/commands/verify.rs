//! `packhorse verify`

use serde::Serialize;
use store::{Store, remote, upkeep};

use super::{bar_of_bytes, counted, human_bytes, print_json, say};
use crate::exit::Exit;
use crate::{Outcome, node};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store of packs: a folder, or s3://BUCKET/PREFIX and its like
    #[arg(long, env = "PACKHORSE_STORE")]
    store: String,
    /// Threads that read and hash [default: one per core]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: Option<u16>,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    version: u64,
    damage: &'a str,
    fix: &'a str,
}

pub(crate) fn run(args: &Args) -> Outcome {
    // Whoever serves comes first; a refusal costs politeness alone.
    let _ = rustix::process::nice(19);
    let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (bar, progress) = bar_of_bytes();
    let verified = if let Some(place) = node::elsewhere(&args.store)? {
        remote::verify(&place, &progress)
    } else {
        let store = Store::open(&args.store).map_err(|error| Exit::configuration(&error))?;
        upkeep::verify(&store, args.threads.map_or_else(cores, usize::from), &progress)
    };
    bar.finish_and_clear();
    let verified = verified?;
    for damage in &verified.damage {
        say(format_args!("{} version {}: {}\n  fix: {}", damage.name, damage.version, damage.reason, damage.fix));
        let (name, version) = (&damage.name, damage.version);
        print_json(&Line { name, version, damage: &damage.reason, fix: &damage.fix })?;
    }
    let (models, files) = (counted(verified.models, "model"), counted(verified.files, "file"));
    let all = format!("{models} checked, {files} of {}", human_bytes(verified.bytes));
    if verified.damage.is_empty() {
        say(format_args!("{all}: every byte is what it was"));
        return Ok(());
    }
    Err(Exit::Failed(format!("{all}: {} damaged, named above", counted(verified.damage.len(), "model"))))
}
