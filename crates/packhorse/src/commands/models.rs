//! `packhorse models`

use std::collections::{HashMap, HashSet};

use comfy_table::{CellAlignment, Table, presets};
use objects::Place;
use serde::Serialize;
use store::manifest::{PORTABLE, ProgramKind, SegmentRef};
use store::task::Task;
use store::{Manifest, remote};

use super::{counted, human_bytes, print_json, say};
use crate::Outcome;
use crate::exit::Exit;
use crate::node;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The models: a store of packs in a folder or a bucket, another server's repository, or .onnx files
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
    /// Of the form that this node runs; null when it can run none.
    target: Option<&'a str>,
    /// Of all of its forms.
    targets: Vec<&'a str>,
    /// Whether this node runs the portable form though others have a quicker one of their own.
    falls_back: bool,
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
    let Found { manifests, unpacked, broken } = match node::elsewhere(&args.store)? {
        Some(place) => elsewhere(&place)?,
        None => here(args)?,
    };
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

/// What a look at a repository found.
#[derive(Default)]
struct Found {
    manifests: Vec<Manifest>,
    unpacked: Vec<String>,
    broken: Vec<String>,
}

impl Found {
    fn add(&mut self, manifest: Manifest) {
        // What cannot run here is listed in its first form, and said to be for other CPUs.
        self.manifests.push(manifest.clone().on(&engine::cpu::target()).unwrap_or(manifest));
    }
}

/// What a store in a bucket holds.
fn elsewhere(place: &Place) -> Result<Found, Exit> {
    let mut found = Found::default();
    for listed in remote::list(place).map_err(|error| Exit::configuration(&error))? {
        match listed.manifest {
            Ok(manifest) => found.add(manifest),
            Err(error) => found.broken.push(error.message),
        }
    }
    Ok(found)
}

/// What a repository of this machine holds.
fn here(args: &Args) -> Result<Found, Exit> {
    let place = node::Place::of(&args.store, args.pack_cache.as_deref());
    let repository = place.open(None)?;
    let mut found = Found::default();
    let listing = repository.list()?;
    let mut manifests = repository.all_at_hand(&listing);
    for (name, listed) in listing {
        if let Some(refusal) = listed.refusal.clone().or_else(|| listed.unmet()) {
            found.broken.push(format!("model '{name}': {refusal}"));
            continue;
        }
        for version in listed.wanted() {
            match manifests.remove(&(name.clone(), version)).flatten() {
                Some(Ok(mut manifest)) => match listed.settings.apply(&mut manifest) {
                    Ok(()) => found.add(manifest),
                    Err(error) => found.broken.push(format!("model '{name}' version {version}: {error}")),
                },
                Some(Err(error)) => found.broken.push(error.message),
                None => found.unpacked.push(format!("{name} version {version}")),
            }
        }
    }
    Ok(found)
}

/// How many of the listed models lie in each segment.
type Users<'a> = HashMap<&'a str, usize>;

fn users(manifests: &[Manifest]) -> Users<'_> {
    let mut users = HashMap::new();
    for manifest in manifests {
        let segments = segments(manifest).map(|segment| segment.hash.as_str());
        for segment in segments.collect::<HashSet<_>>() {
            *users.entry(segment).or_insert(0) += 1;
        }
    }
    users
}

/// The segments of all forms of `manifest`; those that forms share come several times.
fn segments(manifest: &Manifest) -> impl Iterator<Item = &SegmentRef> {
    manifest.forms().flat_map(|(_, weights)| &weights.segments)
}

/// Where `manifest` can run: `None` where this node cannot.
fn target_here(manifest: &Manifest) -> Option<&str> {
    let target = &manifest.program.target[..];
    (target == PORTABLE || target == engine::cpu::target()).then_some(target)
}

/// The bytes of `manifest`'s weights that lie in segments of its own, and in those that other models use as well.
fn own_and_shared(manifest: &Manifest, users: &Users<'_>) -> (u64, u64) {
    if manifest.program.kind != ProgramKind::Lifted {
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
        target: target_here(manifest),
        targets: manifest.forms().map(|(program, _)| &program.target[..]).collect(),
        falls_back: manifest.falls_back(),
        weights: manifest.weights.len(),
        weight_bytes: manifest.weights.bytes,
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
        let files = segments(manifest).filter(|segment| seen.insert(&segment.hash));
        total += match manifest.program.kind {
            ProgramKind::Whole | ProgramKind::SavedModel | ProgramKind::TorchScript => manifest.source.bytes,
            ProgramKind::Lifted => files.map(|segment| segment.bytes.max(segment.used_bytes)).sum(),
        };
        table.add_row([
            manifest.name.clone(),
            manifest.version.to_string(),
            task(manifest.task.as_ref()),
            manifest.program.hash[..12].to_owned(),
            targets(manifest),
            match manifest.program.kind {
                ProgramKind::Lifted => manifest.weights.len().to_string(),
                ProgramKind::Whole | ProgramKind::SavedModel | ProgramKind::TorchScript => "whole".to_owned(),
            },
            human_bytes(own),
            human_bytes(shared),
        ]);
    }
    let programs: HashSet<_> =
        manifests.iter().flat_map(|manifest| manifest.forms().map(|form| &form.0.hash)).collect();
    say(&table);
    let (models, programs) = (counted(manifests.len(), "model"), counted(programs.len(), "program"));
    say(format_args!("{models} on {programs}, {}", human_bytes(total)));
    let count = |is: &dyn Fn(&Manifest) -> bool| manifests.iter().filter(|manifest| is(manifest)).count();
    for (what, count) in [
        ("slower here, in the portable form", count(&Manifest::falls_back)),
        ("not to be run here, without a portable form", count(&|manifest| target_here(manifest).is_none())),
    ] {
        if count > 0 {
            let (models, node) = (counted(count, "model"), engine::cpu::target());
            say(format_args!("{what}: {models}; packing the same files on this node adds a form for {node}"));
        }
    }
}

/// The target of the form that runs here, and those of the others.
fn targets(manifest: &Manifest) -> String {
    let targets = manifest.forms().map(|(program, _)| &program.target[..]);
    targets.collect::<Vec<_>>().join(", ")
}

fn task(task: Option<&Task>) -> String {
    let name = match task {
        None => "-",
        Some(Task::ObjectDetection(detection)) => return format!("object-detection ({})", detection.head.name()),
        Some(task) => task.name(),
    };
    name.to_owned()
}
