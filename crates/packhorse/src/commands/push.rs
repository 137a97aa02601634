//! `packhorse push`

use serde::Serialize;
use store::{Store, remote};

use super::{bar_of_bytes, counted, human_bytes, print_json, say};
use crate::exit::Exit;
use crate::{Outcome, node};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder of packs that has the models
    store: String,
    /// Where they go: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or a folder
    place: String,
    /// The models, as NAME or NAME/VERSION [default: all of them]
    names: Vec<String>,
    /// Write files that are there once more, so that what was damaged there is whole afterwards
    #[arg(long)]
    again: bool,
}

#[derive(Serialize)]
pub(super) struct Line {
    pub(super) models: usize,
    pub(super) same: usize,
    pub(super) files: usize,
    pub(super) bytes: u64,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let store = Store::open(&args.store).map_err(|error| Exit::configuration(&error))?;
    let network = node::network(false)?;
    let place = network.place(&args.place).map_err(|error| Exit::configuration(&error))?;
    let (bar, progress) = bar_of_bytes();
    let pushed = remote::push(&store, &place, &args.names, args.again, &progress);
    bar.finish_and_clear();
    let remote::Pushed { models, same, files, bytes } = pushed?;
    let written = format!("{} of {}", counted(files, "file"), human_bytes(bytes));
    say(format_args!(
        "pushed {} to {}: {written} written; {same} were there",
        counted(models, "model"),
        place.address()
    ));
    print_json(&Line { models, same, files, bytes })
}
