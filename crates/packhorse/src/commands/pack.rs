//! `packhorse pack`

mod files;
mod meaning;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use engine::{ErrorKind, Runtimes};
use pipeline::Tokenizers;
use pipeline::recognise::{Understood, Wish, said_beside, understand};
use serde::Serialize;
use store::accuracy::{Accuracy, OutputAccuracy, TOLERANCE};
use store::manifest::ProgramKind;
use store::pack::{Packed, Request, Targets, is_checkpoint, pack};
use store::task::Task;
use store::torch_script::Declared;
use store::{Manifest, Precision, Store};

use self::files::files;
use self::meaning::Meaning;
use super::{human_bytes, migrate, print_json, say};
use crate::exit::Exit;
use crate::{Outcome, node};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// ONNX and TorchScript (.pt) files, folders of Hugging Face models and SavedModels, and folders of which every file that
    /// ends in .onnx is packed
    #[arg(required_unless_present = "from", value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The packing system's config.properties: packs the model that it names under the names that it serves, and says of each
    /// key what became of it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["paths", "name", "version", "labels", "signature", "Meaning"])]
    from: Option<PathBuf>,
    /// The folder of packs; made when it is not there
    #[arg(long, env = "PACKHORSE_STORE")]
    pub(super) store: String,
    /// The model's name, for one file [default: the file's name without its ending]
    #[arg(long)]
    name: Option<String>,
    /// The model's version [default: the next free one]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    version: Option<u64>,
    #[command(flatten)]
    meaning: Meaning,
    /// What a TorchScript file takes and gives, which it does not say itself: TOML with inputs = [{ name, datatype, shape }]
    /// and, where wanted, outputs, or a Triton config.pbtxt
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// Class names: a name a line, counted from 0, or lines of the form `N: name`
    #[arg(long)]
    labels: Option<PathBuf>,
    /// Store weights that would be mapped where they lie, so that their folder may go
    #[arg(long)]
    copy: bool,
    /// What to keep large matrices and tables as
    #[arg(long, value_enum, default_value_t = Kept::Float)]
    precision: Kept,
    /// With eight bits: inputs to compare the answers on, .jsonl (an object of nested lists by input a line) or .safetensors
    /// [default: made-up ones]
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// With eight bits: how far an output may be off, as a part of its length; refused beyond
    #[arg(long, value_name = "PART", default_value_t = TOLERANCE)]
    tolerance: f64,
    /// Which forms to pack of a graph that CPUs want laid out each in its own way
    #[arg(long, value_enum, default_value_t = Target::Both)]
    target: Target,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Target {
    /// The quickest on CPUs like this one; other nodes refuse the model until it is packed there
    Native,
    /// One that every CPU runs, and takes longer
    Portable,
    /// Both, what they have in common once
    Both,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kept {
    /// As they are
    Float,
    /// Eight bits, and products of whole numbers: several times as fast
    Int8,
    /// Eight bits, widened at each request: nearer to the original, and slower than floats
    Int8Weights,
}

impl From<Kept> for Precision {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Float => Self::Float,
            Kept::Int8 => Self::Int8,
            Kept::Int8Weights => Self::Int8Weights,
        }
    }
}

impl From<Target> for Targets {
    fn from(target: Target) -> Self {
        match target {
            Target::Native => Self::Native,
            Target::Portable => Self::Portable,
            Target::Both => Self::Both,
        }
    }
}

/// What a program reads about a pack.
#[derive(Serialize)]
struct Report<'a> {
    name: &'a str,
    version: u64,
    changed: bool,
    program: &'a str,
    kind: ProgramKind,
    /// Of the form that this node runs.
    target: &'a str,
    /// Of all of its forms.
    targets: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    why_whole: Option<&'a str>,
    weights: usize,
    weight_bytes: u64,
    /// What of them was written; the rest the store had.
    stored_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<&'a Task>,
    precision: Precision,
    #[serde(skip_serializing_if = "Option::is_none")]
    accuracy: Option<&'a Accuracy>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    notes: &'a [String],
}

pub(crate) fn run(args: &Args) -> Outcome {
    if let Some(file) = &args.from {
        return migrate::run(args, file);
    }
    let files = files(args)?;
    let configuration = |error: engine::Error| Exit::configuration(&error);
    args.name.as_deref().map_or(Ok(()), store::name::check).map_err(configuration)?;
    let labels = args.labels.as_deref().map_or(Ok(BTreeMap::new()), store::labels::read).map_err(configuration)?;
    let signature = args.signature.as_deref().map_or(Ok(Declared::default()), Declared::read).map_err(configuration)?;
    let wish = args.meaning.wish()?.map(|wish| Wish { signature: signature.clone(), ..wish });
    let runtimes = node::runtimes()?;
    let store = Store::create(&args.store).map_err(configuration)?;
    let mut failures = Vec::new();
    for file in &files {
        let started = Instant::now();
        let mut request = Request { labels: labels.clone(), signature: signature.clone(), ..request(args, file) };
        let notes = match &wish {
            Some(wish) => meant(&runtimes, &mut request, wish),
            None => meant_by_itself(&runtimes, &mut request),
        };
        let packed = notes.and_then(|notes| {
            let mut packed = pack(&store, &runtimes, &request)?;
            packed.notes.extend(notes);
            packed.notes.extend(no_texts(&store, &packed.manifest));
            Ok(packed)
        });
        match packed {
            Ok(packed) => tell(&store, &packed, started.elapsed().as_secs_f64())?,
            Err(error) => failures.push(error.message),
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    if files.len() > 1 {
        failures.push(format!("{} of {} files could not be packed", failures.len(), files.len()));
    }
    Err(Exit::Failed(failures.join("\npackhorse: ")))
}

/// What `args` ask for of the model at `path`.
pub(super) fn request(args: &Args, path: &Path) -> Request {
    Request {
        path: path.to_owned(),
        name: args.name.clone(),
        version: args.version,
        task: None,
        labels: BTreeMap::new(),
        copy: args.copy,
        precision: args.precision.into(),
        calibration: args.calibration.clone(),
        tolerance: Some(args.tolerance),
        signature: Declared::default(),
        files: Vec::new(),
        targets: args.target.into(),
    }
}

/// Says what became of a pack, to people and to programs.
pub(super) fn tell(store: &Store, packed: &Packed, seconds: f64) -> Outcome {
    let accuracy = Accuracy::of(store, &packed.manifest)?;
    describe(packed, seconds);
    if let Some(accuracy) = &accuracy {
        describe_accuracy(accuracy);
    }
    print_json(&report(packed, accuracy.as_ref()))
}

/// Why a model that came with a tokenizer takes no texts all the same, which whoever asks it would be the first to hear.
fn no_texts(store: &Store, manifest: &Manifest) -> Option<String> {
    let came_with_one = manifest.task.is_some() && manifest.files.contains_key("tokenizer.json");
    let opened = came_with_one.then(|| pipeline::open(store, manifest, &Tokenizers::default()))?;
    opened.err().map(|error| format!("it takes tensors, and no texts: {error}"))
}

/// Finds out what the model of `request` is for, and packs it so; returns what there is to say of that besides.
fn meant(runtimes: &Runtimes, request: &mut Request, wish: &Wish) -> engine::Result<Vec<String>> {
    let shown = request.path.display();
    if is_checkpoint(&request.path) {
        return Err(engine::Error::invalid(format!(
            "{shown}: its config.json says what the model is for; leave --task and --tokenizer out"
        )));
    }
    let Understood { task, labels, files, notes } = understand(runtimes, &request.path, wish, &request.labels)?;
    (request.task, request.labels, request.files) = (Some(task), labels, files);
    Ok(notes)
}

/// The same when nobody said anything: what the files beside the model say. A model that they do not fit is one of tensors,
/// as one without such files is, and the note says why.
fn meant_by_itself(runtimes: &Runtimes, request: &mut Request) -> engine::Result<Vec<String>> {
    if is_checkpoint(&request.path) {
        return Ok(Vec::new());
    }
    let said = said_beside(&request.path).and_then(|said| {
        let wish = said.map(|wish| Wish { signature: request.signature.clone(), ..wish });
        wish.map_or(Ok(Vec::new()), |wish| meant(runtimes, request, &wish))
    });
    said.or_else(|error| match error.kind {
        ErrorKind::InvalidInput | ErrorKind::Unsupported => Ok(vec![format!(
            "it takes tensors alone: files of Hugging Face lie beside it, but {}; say with --task what it is for",
            error.message
        )]),
        _ => Err(error),
    })
}

fn report<'a>(packed: &'a Packed, accuracy: Option<&'a Accuracy>) -> Report<'a> {
    let manifest = &packed.manifest;
    Report {
        name: &manifest.name,
        version: manifest.version,
        changed: packed.changed,
        program: &manifest.program.hash,
        kind: manifest.program.kind,
        target: &manifest.program.target,
        targets: manifest.forms().map(|(program, _)| &program.target[..]).collect(),
        why_whole: manifest.program.why_whole.as_deref(),
        weights: manifest.weights.len(),
        weight_bytes: packed.weight_bytes,
        stored_bytes: packed.stored_bytes,
        task: manifest.task.as_ref(),
        precision: manifest.precision,
        accuracy,
        notes: &packed.notes,
    }
}

/// How near the answers are to the original's, an output a line.
fn describe_accuracy(accuracy: &Accuracy) {
    let header = ["output", "relative error", "largest", "mean", "cosine", "same first"];
    let percent = |part: f64| format!("{:.2}%", part * 100.0);
    let row = |output: &OutputAccuracy| {
        vec![
            output.name.clone(),
            percent(output.relative_error),
            percent(output.max_error),
            percent(output.mean_error),
            format!("{:.5}", output.cosine),
            output.agreement.map_or_else(String::new, percent),
        ]
    };
    let rows: Vec<_> = accuracy.outputs.iter().map(row).collect();
    say(bench::table(&header, &rows));
    say(format_args!(
        "  compared with the original on {} inputs ({}); taken up to {}",
        accuracy.samples,
        accuracy.inputs,
        percent(accuracy.tolerance)
    ));
    if !accuracy.floats.is_empty() {
        say(format_args!("  left as floats, which hurt most: {}", accuracy.floats.join(", ")));
    }
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
            human_bytes(packed.weight_bytes),
        )),
        Some(why) => say(format_args!("  kept whole, in memory of its own when it is loaded: {why}")),
    }
    for form in &manifest.others {
        let (hash, weights) = (&form.program.hash[..12], human_bytes(form.weights.bytes));
        say(format_args!("  program {hash} ({}), weights of {weights}", form.program.target));
    }
    if manifest.program.why_whole.is_none() {
        say(format_args!("  {} of the weights are new to the store", human_bytes(packed.stored_bytes)));
    }
    for note in &packed.notes {
        say(format_args!("  {note}"));
    }
}
