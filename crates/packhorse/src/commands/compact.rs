//! `packhorse compact`

use indicatif::ProgressBar;
use serde::Serialize;
use store::{Store, upkeep};

use super::{counted, human_bytes, print_json, say};
use crate::Outcome;
use crate::exit::Exit;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder of packs
    #[arg(long, env = "PACKHORSE_STORE")]
    store: String,
    /// Copy weights that lie in files outside the store into it, so that it can be moved or pushed elsewhere
    #[arg(long)]
    copy: bool,
}

#[derive(Serialize)]
struct Line {
    models: usize,
    changed_meanwhile: usize,
    stored_bytes: u64,
    freed_bytes: u64,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let store = Store::open(&args.store).map_err(|error| Exit::configuration(&error))?;
    let bar = ProgressBar::new(0);
    let compacted = upkeep::compact(&store, args.copy, &|done, all| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
    });
    bar.finish_and_clear();
    let upkeep::Compacted { models, changed_meanwhile, stored_bytes, freed_bytes } = compacted?;
    say(format_args!(
        "moved {}: {} written, and {} no longer needed, which 'packhorse gc' frees an hour from now",
        counted(models, "model"),
        human_bytes(stored_bytes),
        human_bytes(freed_bytes)
    ));
    if changed_meanwhile > 0 {
        say(format_args!(
            "{} changed meanwhile and stay as they are; run it again",
            counted(changed_meanwhile, "model")
        ));
    }
    print_json(&Line { models, changed_meanwhile, stored_bytes, freed_bytes })
}
