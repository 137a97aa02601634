//! `packhorse pack --from`

use std::path::Path;
use std::time::Instant;

use serde_json::json;
use store::Store;
use store::pack::{Request, pack, under};

use super::pack::{Args, request, tell};
use super::{print_json, say};
use crate::exit::Exit;
use crate::migration::{self, Key, Migration, Places};
use crate::{Outcome, node};

pub(super) fn run(args: &Args, file: &Path) -> Outcome {
    let migration =
        migration::read(file, &Places::here()).map_err(|error| Exit::configuration(&error.context(file.display())))?;
    let runtimes = node::runtimes()?;
    let store = Store::create(&args.store).map_err(|error| Exit::configuration(&error))?;
    let Migration { folder, names, keys, flags } = migration;
    let row = |key: &Key| vec![key.key.clone(), key.value.clone(), key.fate.to_string(), key.says.clone()];
    say(bench::table(&["key", "value", "is", "because"], &keys.iter().map(row).collect::<Vec<_>>()));
    print_json(&json!({ "from": file, "keys": keys }))?;
    let mut first = None;
    for name in names {
        let started = Instant::now();
        let packed = match &first {
            None => pack(&store, &runtimes, &Request { name: Some(name), ..request(args, &folder) })?,
            Some(first) => under(&store, first, &name)?,
        };
        tell(&store, &packed, started.elapsed().as_secs_f64())?;
        first.get_or_insert(packed.manifest);
    }
    say(format_args!("serve them with: packhorse serve --store {} {flags}", args.store));
    Ok(())
}
