//! `packhorse gc`

use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use store::{Store, remote, upkeep};

use super::{counted, human_bytes, print_json, say};
use crate::exit::Exit;
use crate::{Outcome, node};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store of packs: a folder, or s3://BUCKET/PREFIX and its like
    #[arg(long, env = "PACKHORSE_STORE")]
    store: String,
    /// Seconds for which a file stays after it was last used by a pack, or let go by a model that was removed or compacted
    #[arg(long, default_value_t = 3600)]
    grace: u64,
    /// Only tell what would go
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    path: &'a Path,
    bytes: u64,
    removed: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let grace = Duration::from_secs(args.grace);
    let collected = if let Some(place) = node::elsewhere(&args.store)? {
        remote::collect(&place, grace, args.dry_run)?
    } else {
        let store = Store::open(&args.store).map_err(|error| Exit::configuration(&error))?;
        upkeep::collect(&store, grace, args.dry_run)?
    };
    for file in &collected.files {
        print_json(&Line { path: &file.path, bytes: file.bytes, removed: !args.dry_run })?;
    }
    let files = counted(collected.files.len(), "file");
    let bytes = human_bytes(collected.files.iter().map(|file| file.bytes).sum());
    say(format_args!("{} {files}, {bytes}", if args.dry_run { "would remove" } else { "removed" }));
    if collected.young > 0 {
        let young = counted(collected.young, "file");
        let since = if remote::is_remote(&args.store) {
            "this was first seen, for a gc then to take"
        } else {
            "their last use"
        };
        say(format_args!("{young} that no model needs stay until {} s after {since} (--grace)", args.grace));
    }
    Ok(())
}
