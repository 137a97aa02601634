//! `packhorse remove`

use serde::Serialize;
use store::{Store, remote, upkeep};

use super::{print_json, say};
use crate::exit::Exit;
use crate::{Outcome, node};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The model's name
    name: String,
    /// The version that goes [default: all of them]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// The store of packs: a folder, or s3://BUCKET/PREFIX and its like
    #[arg(long, env = "PACKHORSE_STORE")]
    store: String,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    version: u64,
    removed: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let removed = if let Some(place) = node::elsewhere(&args.store)? {
        remote::remove(&place, &args.name, args.version)?
    } else {
        let store = Store::open(&args.store).map_err(|error| Exit::configuration(&error))?;
        upkeep::remove(&store, &args.name, args.version)?
    };
    for version in removed {
        say(format_args!("removed {} version {version}; 'packhorse gc' frees what only it needed", args.name));
        print_json(&Line { name: &args.name, version, removed: true })?;
    }
    Ok(())
}
