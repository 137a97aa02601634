//! `packhorse models`

use std::collections::HashSet;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use store::manifest::ProgramKind;
use store::pack::weight_bytes;
use store::task::{Detection, Task};
use store::{Manifest, Store};

use super::{counted, human_bytes, print_json, say};
use crate::Outcome;
use crate::exit::Exit;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The folder of packs
    #[arg(long, env = "PACKHORSE_STORE")]
    store: String,
    /// One line of JSON per version of a model on standard output, instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    version: u64,
    task: Option<&'a Task>,
    program: &'a str,
    kind: ProgramKind,
    target: &'a str,
    weights: usize,
    weight_bytes: u64,
    inputs: &'a [store::manifest::Io],
    outputs: &'a [store::manifest::Io],
    source: &'a store::manifest::Source,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let store = Store::open(&args.store).map_err(|error| Exit::configuration(&error))?;
    let mut manifests = Vec::new();
    let mut broken = Vec::new();
    for name in store.names()? {
        for version in store.versions(&name)? {
            match store.manifest(&name, version) {
                Ok(manifest) => manifests.push(manifest),
                Err(error) => broken.push(error.message),
            }
        }
    }
    if args.json {
        for manifest in &manifests {
            print_json(&line(manifest))?;
        }
    } else {
        print(&manifests);
    }
    if broken.is_empty() { Ok(()) } else { Err(Exit::Failed(broken.join("\npackhorse: "))) }
}

fn line(manifest: &Manifest) -> Line<'_> {
    Line {
        name: &manifest.name,
        version: manifest.version,
        task: manifest.task.as_ref(),
        program: &manifest.program.hash,
        kind: manifest.program.kind,
        target: &manifest.program.target,
        weights: manifest.weights.len(),
        weight_bytes: weight_bytes(manifest),
        inputs: &manifest.inputs,
        outputs: &manifest.outputs,
        source: &manifest.source,
    }
}

fn print(manifests: &[Manifest]) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["MODEL", "VERSION", "TASK", "PROGRAM", "TARGET", "WEIGHTS", "SIZE"]);
    for column in [1, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut total = 0;
    for manifest in manifests {
        let bytes =
            if manifest.program.kind == ProgramKind::Whole { manifest.source.bytes } else { weight_bytes(manifest) };
        total += bytes;
        table.add_row([
            manifest.name.clone(),
            manifest.version.to_string(),
            task(manifest.task.as_ref()).to_owned(),
            manifest.program.hash[..12].to_owned(),
            manifest.program.target.clone(),
            if manifest.program.kind == ProgramKind::Whole {
                "whole".to_owned()
            } else {
                manifest.weights.len().to_string()
            },
            human_bytes(bytes),
        ]);
    }
    let programs: HashSet<_> = manifests.iter().map(|manifest| &manifest.program.hash).collect();
    say(&table);
    let (models, programs) = (counted(manifests.len(), "model"), counted(programs.len(), "program"));
    say(format_args!("{models} on {programs}, {}", human_bytes(total)));
}

fn task(task: Option<&Task>) -> &'static str {
    match task {
        None => "-",
        Some(Task::ObjectDetection(Detection::Nanodet { .. })) => "object-detection (NanoDet)",
        Some(Task::ObjectDetection(Detection::Odapi { .. })) => "object-detection (TF OD API)",
        Some(Task::QuestionAnswering) => "question-answering",
        Some(Task::TextClassification { .. }) => "text-classification",
        Some(Task::TokenClassification) => "token-classification",
        Some(Task::FillMask) => "fill-mask",
        Some(Task::SentenceEmbedding) => "sentence-embedding",
    }
}
