//! `packhorse pack`

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use store::Store;
use store::manifest::ProgramKind;
use store::pack::{Packed, Request, pack};
use store::task::{Task, TaskChoice};

use super::{human_bytes, print_json, say};
use crate::exit::Exit;
use crate::{Outcome, node};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The ONNX file
    path: PathBuf,
    /// The folder of packs; made when it is not there
    #[arg(long, env = "PACKHORSE_STORE")]
    store: String,
    /// The model's name [default: the file's name without its ending]
    #[arg(long)]
    name: Option<String>,
    /// The model's version [default: the next free one]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    /// What the tensors mean: object-detection
    #[arg(long)]
    task: Option<TaskChoice>,
    /// Class names: a name a line, counted from 0, or lines of the form `N: name`
    #[arg(long)]
    labels: Option<PathBuf>,
}

/// What a program reads about a pack.
#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    version: u64,
    changed: bool,
    program: &'a str,
    kind: ProgramKind,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_whole: Option<&'a str>,
    weights: usize,
    weight_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<&'a Task>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    if !args.path.is_file() {
        return Err(Exit::Configuration(format!("{}: there is no such file", args.path.display())));
    }
    if let Some(name) = &args.name {
        store::name::check(name).map_err(|error| Exit::configuration(&error))?;
    }
    let labels = args.labels.as_deref().map_or(Ok(BTreeMap::new()), store::labels::read);
    let request = Request {
        path: args.path.clone(),
        name: args.name.clone(),
        version: args.version,
        task: args.task,
        labels: labels.map_err(|error| Exit::configuration(&error))?,
    };
    let onnx = node::onnx()?;
    let store = Store::create(&args.store).map_err(|error| Exit::configuration(&error))?;
    let started = Instant::now();
    let packed = pack(&store, &onnx, &request)?;
    describe(&packed, started.elapsed().as_secs_f64());
    let manifest = &packed.manifest;
    print_json(&Report {
        name: &manifest.name,
        version: manifest.version,
        changed: packed.changed,
        program: &manifest.program.hash,
        kind: manifest.program.kind,
        target: &manifest.program.target,
        why_whole: manifest.program.why_whole.as_deref(),
        weights: manifest.weights.len(),
        weight_bytes: packed.weight_bytes,
        task: manifest.task.as_ref(),
    })
}

fn describe(packed: &Packed, seconds: f64) {
    let manifest = &packed.manifest;
    let (name, version) = (&manifest.name, manifest.version);
    if !packed.changed {
        say(format_args!("{name} version {version} is this very pack already; nothing was written"));
        return;
    }
    say(format_args!("packed {name} version {version} in {seconds:.1} s"));
    let program = &manifest.program.hash[..12];
    match &manifest.program.why_whole {
        None => say(format_args!(
            "  program {program} ({}), {} weights of {} lifted out",
            manifest.program.target,
            manifest.weights.len(),
            human_bytes(packed.weight_bytes)
        )),
        Some(why) => say(format_args!("  kept whole, in memory of its own when it is loaded: {why}")),
    }
}
