//! `packhorse models`

use std::collections::{HashMap, HashSet};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use store::Manifest;
use store::manifest::ProgramKind;
use store::pack::weight_bytes;
use store::task::{Detection, Task};

use super::{counted, human_bytes, print_json, say};
use crate::Outcome;
use crate::exit::Exit;
use crate::node::Place;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The models: a store of packs, another server's repository, or .onnx files
    #[arg(long, env = "PACKHORSE_STORE")]
    store: String,
    /// Where packs of another server's repository are kept [default: packhorse in the user's cache]
    #[arg(long, env = "PACKHORSE_PACK_CACHE", value_name = "FOLDER")]
    pack_cache: Option<String>,
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
    own_bytes: u64,
    shared_bytes: u64,
    segments: usize,
    inputs: &'a [store::manifest::Io],
    outputs: &'a [store::manifest::Io],
    source: &'a store::manifest::Source,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let place = Place { store: &args.store, pack_cache: args.pack_cache.as_deref() };
    let repository = place.open(None)?;
    let mut manifests = Vec::new();
    let mut unpacked = Vec::new();
    let mut broken = Vec::new();
    for (name, listed) in repository.list()? {
        if let Some(refusal) = &listed.refusal {
            broken.push(format!("model '{name}': {refusal}"));
            continue;
        }
        for version in listed.wanted() {
            match repository.at_hand(&name, version, &listed.versions[&version]) {
                Some(Ok(mut manifest)) => match listed.settings.apply(&mut manifest) {
                    Ok(()) => manifests.push(manifest),
                    Err(error) => broken.push(format!("model '{name}' version {version}: {error}")),
                },
                Some(Err(error)) => broken.push(error.message),
                None => unpacked.push(format!("{name} version {version}")),
            }
        }
    }
    let users = users(&manifests);
    if args.json {
        for manifest in &manifests {
            print_json(&line(manifest, &users))?;
        }
    } else {
        print(&manifests, &users);
    }
    if !unpacked.is_empty() {
        say(format_args!("not packed yet, which is done when it is served: {}", unpacked.join(", ")));
    }
    if broken.is_empty() { Ok(()) } else { Err(Exit::Failed(broken.join("\npackhorse: "))) }
}

/// How many of the listed models lie in each segment.
type Users<'a> = HashMap<&'a str, usize>;

fn users(manifests: &[Manifest]) -> Users<'_> {
    let mut users = HashMap::new();
    for segment in manifests.iter().flat_map(|manifest| &manifest.weights.segments) {
        *users.entry(segment.hash.as_str()).or_insert(0) += 1;
    }
    users
}

/// The bytes of `manifest`'s weights that lie in segments of its own, and in those that other models use as well.
fn own_and_shared(manifest: &Manifest, users: &Users<'_>) -> (u64, u64) {
    if manifest.program.kind == ProgramKind::Whole {
        return (manifest.source.bytes, 0);
    }
    let segments = manifest.weights.segments.iter();
    segments.fold((0, 0), |(own, shared), segment| match users.get(segment.hash.as_str()) {
        None | Some(0 | 1) => (own + segment.used_bytes, shared),
        Some(_) => (own, shared + segment.used_bytes),
    })
}

fn line<'a>(manifest: &'a Manifest, users: &Users<'_>) -> Line<'a> {
    let (own_bytes, shared_bytes) = own_and_shared(manifest, users);
    Line {
        name: &manifest.name,
        version: manifest.version,
        task: manifest.task.as_ref(),
        program: &manifest.program.hash,
        kind: manifest.program.kind,
        target: &manifest.program.target,
        weights: manifest.weights.len(),
        weight_bytes: weight_bytes(manifest),
        own_bytes,
        shared_bytes,
        segments: manifest.weights.segments.len(),
        inputs: &manifest.inputs,
        outputs: &manifest.outputs,
        source: &manifest.source,
    }
}

fn print(manifests: &[Manifest], users: &Users<'_>) {
    let mut table = Table::new();
    let header = ["MODEL", "VERSION", "TASK", "PROGRAM", "TARGET", "WEIGHTS", "OWN", "SHARED"];
    table.load_style(presets::NOTHING).set_header(header);
    for column in [1, 5, 6, 7] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut total = 0;
    // What several models use is there once.
    let mut seen = HashSet::new();
    for manifest in manifests {
        let (own, shared) = own_and_shared(manifest, users);
        let segments = manifest.weights.segments.iter();
        let files = segments.filter(|segment| seen.insert(&segment.hash));
        total += match manifest.program.kind {
            ProgramKind::Whole => manifest.source.bytes,
            ProgramKind::Lifted => files.map(|segment| segment.bytes.max(segment.used_bytes)).sum(),
        };
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
            human_bytes(own),
            human_bytes(shared),
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
