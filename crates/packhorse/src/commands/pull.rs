//! `packhorse pull`

use store::{Store, remote};

use super::push::Line;
use super::{bar_of_bytes, counted, human_bytes, print_json, say};
use crate::exit::Exit;
use crate::{Outcome, node};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the models are: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX, or a folder
    place: String,
    /// The folder of packs that they come into; made when it is not there
    store: String,
    /// The models, as NAME or NAME/VERSION [default: all of them]
    names: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let network = node::network(false)?;
    let place = network.place(&args.place).map_err(|error| Exit::configuration(&error))?;
    let store = Store::create(&args.store).map_err(|error| Exit::configuration(&error))?;
    let (bar, progress) = bar_of_bytes();
    let pulled = remote::pull(&place, &store, &args.names, &progress);
    bar.finish_and_clear();
    let remote::Pushed { models, same, files, bytes } = pulled?;
    if models + same == 0 {
        // Of names each would have been missed; without any, a prefix that is mistyped looks like a place without models.
        let place = place.address();
        let fix = format!("correct it; 'packhorse push STORE {place}' brings models there");
        return Err(Exit::Configuration(format!("{place}: there is no model here; {fix}")));
    }
    let read = format!("{} of {}", counted(files, "file"), human_bytes(bytes));
    say(format_args!("pulled {} from {}: {read} read; {same} were there", counted(models, "model"), place.address()));
    print_json(&Line { models, same, files, bytes })
}
