//! `packhorse bench`: this machine, measured; every figure beside its floor, in one run.

mod churn;
mod cycles;
mod lifting;
mod overload;
mod peer;
mod remote;
mod server;
mod serving;
mod variants;
mod video;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bench::{Api, Load, Pace, Question, Readiness, table};
use clap::ValueEnum;
use engine::Runtimes;
use engine::Tensor;
use pipeline::recognise::{Wish, understand};
use store::Store;
use store::pack::{Packed, Request, Targets, pack};
use store::task::{Task, TaskChoice};

use self::server::Server;
use super::demo::assets_folder;
use super::{print_json, say};
use crate::exit::Exit;
use crate::{Outcome, node};

/// How often a model is made ready.
const READY_TIMES: usize = 200;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Measure only this; may be given several times
    #[arg(long, value_enum, value_name = "SECTION")]
    only: Vec<Section>,
    /// The models to measure with, as 'make bench-models' writes them [default: .cache/bench, here or beside the build]
    #[arg(long, value_name = "FOLDER")]
    models: Option<PathBuf>,
    /// The bundled models and clip [default: assets, here or beside the build]
    #[arg(long, env = "PACKHORSE_ASSETS")]
    assets: Option<PathBuf>,
    /// How often floor and product take turns; medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// A peer to measure beside the server: a command that serves a model when 'serve PORT MODEL' is added to it
    #[arg(long, value_name = "COMMAND")]
    peer: Option<String>,
    /// Measure only how FILE, packed in STORE as NAME, is made ready; how this command calls itself
    #[arg(long, hide = true, num_args = 3, value_names = ["FILE", "STORE", "NAME"])]
    ready_alone: Option<Vec<String>>,
    /// Measure only how all models of STORE are made ready, and print it as JSON
    #[arg(long, hide = true, value_name = "STORE")]
    ready_all: Option<String>,
    /// Pack fine-tunes of the model BASE of STORE, one for each head in FILE; how 'make bench-packing' makes thousands
    #[arg(long, hide = true, num_args = 3, value_names = ["STORE", "BASE", "FILE"])]
    variants: Option<Vec<String>>,
}

/// What is measured, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Section {
    /// Making packed models ready, beside plain sessions
    Ready,
    /// What it costs a request that weights come at run time, beside a plain session
    Lifting,
    /// What eight bits save and cost
    Precision,
    /// What serving costs, beside the bare runtime
    Serving,
    /// A model's latency while two hundred others load and unload
    Churn,
    /// What is still answered when five times too much is asked
    Overload,
    /// Memory after a thousand loads and unloads
    Cycles,
    /// From queue to durable detections, beside decoding and the bare runtime
    Video,
    /// A worker that has its frames inferred by a server, beside one that does it itself
    Remote,
}

/// What every section stands on.
struct Bench {
    runtimes: Arc<Runtimes>,
    /// Gone with everything in it when the measuring ends.
    scratch: tempfile::TempDir,
    assets: PathBuf,
    models: PathBuf,
    /// See [`Args::peer`].
    peer: Option<String>,
    rounds: u32,
}

pub(crate) fn run(args: &Args) -> Outcome {
    if let Some([file, store, name]) = args.ready_alone.as_deref() {
        return ready_alone(Path::new(file), store, name);
    }
    if let Some(store) = &args.ready_all {
        let store = Store::open(store).map_err(|error| Exit::configuration(&error))?;
        return print_json(&bench::all_ready(&store, node::runtimes()?.onnx())?);
    }
    if let Some([store, base, heads]) = args.variants.as_deref() {
        return variants::run(store, base, Path::new(heads));
    }
    let scratch = tempfile::tempdir().map_err(|error| Exit::Failed(format!("no temporary folder: {error}")))?;
    let bench = Bench {
        runtimes: node::runtimes()?,
        scratch,
        assets: assets_folder(args.assets.as_deref())?,
        models: models_folder(args.models.as_deref()),
        peer: args.peer.clone(),
        rounds: args.rounds,
    };
    let sections = if args.only.is_empty() { Section::value_variants() } else { &args.only };
    for section in sections {
        let missing = section.files().iter().map(|file| bench.models.join(file)).find(|file| !file.exists());
        if let Some(file) = missing {
            let what = format!("{}: 'make bench-models' writes it, and --models says where", file.display());
            if args.only.contains(section) {
                return Err(Exit::Configuration(what));
            }
            say(format_args!("{section:?} is not measured, because there is no {what}"));
            continue;
        }
        let text = section.measure(&bench)?;
        writeln!(std::io::stdout(), "### {}\n\n{text}\n", section.title())?;
    }
    Ok(())
}

impl Section {
    /// The files of the models' folder that it cannot do without.
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Ready | Self::Video | Self::Remote => &[],
            Self::Lifting => &["bert_base_qa.onnx", "resnet18.onnx"],
            Self::Precision => &["bert_base_qa.onnx"],
            Self::Serving => &["mlp.onnx", "resnet18.onnx"],
            Self::Churn | Self::Cycles => &["convnet.onnx", "fleet"],
            Self::Overload => &["convnet.onnx"],
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Ready => "Making a model ready",
            Self::Lifting => "What lifting costs a request",
            Self::Precision => "Eight bits",
            Self::Serving => "What serving costs",
            Self::Churn => "A model while others come and go",
            Self::Overload => "More than it can do",
            Self::Cycles => "Memory of models that come and go",
            Self::Video => "Video, end to end",
            Self::Remote => "Frames on another machine",
        }
    }

    fn measure(self, bench: &Bench) -> Result<String, Exit> {
        match self {
            Self::Ready => bench.ready(),
            Self::Lifting => lifting::run(bench),
            Self::Precision => lifting::precision(bench),
            Self::Serving => serving::run(bench),
            Self::Churn => churn::run(bench),
            Self::Overload => overload::run(bench),
            Self::Cycles => cycles::run(bench),
            Self::Video => video::run(bench),
            Self::Remote => remote::run(bench),
        }
    }
}

/// The folder given, or the one that is here, or the one beside the build.
fn models_folder(given: Option<&Path>) -> PathBuf {
    const FOLDER: &str = ".cache/bench";
    let here = given.map_or_else(|| PathBuf::from(FOLDER), Path::to_path_buf);
    if given.is_some() || here.is_dir() {
        return here;
    }
    let build = std::env::current_exe().ok().and_then(|program| Some(program.ancestors().nth(3)?.join(FOLDER)));
    build.unwrap_or(here)
}

/// What a model is asked.
struct Inputs {
    model: String,
    /// By name.
    tensors: Vec<(String, Tensor)>,
}

/// Packs the file at `path` into `store`, and makes up inputs for it.
fn inputs(bench: &Bench, store: &Store, path: &Path) -> Result<Inputs, Exit> {
    let manifest = bench.packed(store, path, None)?.manifest;
    let signature = manifest.signature()?;
    let tensors = signature.inputs.iter().map(|spec| Ok((spec.name.clone(), bench::input(spec, None)?)));
    Ok(Inputs { model: manifest.name, tensors: tensors.collect::<engine::Result<_>>()? })
}

/// Answers a second that `server` gives at most: to four callers a lane, each with one request after the other.
fn capacity(server: &Server, api: Api, question: &Question) -> Result<f64, Exit> {
    const TIME: Duration = Duration::from_secs(3);
    let load = bench::load(server.listener(api), question, closed(engine::cpu::lane_cores().len()), TIME)?;
    all_answered(&load)?;
    Ok(load.per_second())
}

/// As much as `lanes` can do, and not more than their queue holds.
fn closed(lanes: usize) -> Pace {
    Pace::Closed { callers: lanes * 4 }
}

fn all_answered(load: &Load) -> Result<(), Exit> {
    if load.answered > 0 && load.refused + load.failures() == 0 {
        return Ok(());
    }
    Err(Exit::Failed(format!("requests within what the server can do were not answered: {load:?}")))
}

impl Bench {
    /// A store of a section's own.
    fn store(&self, name: &str) -> Result<Store, Exit> {
        Ok(Store::create(&self.scratch.path().join(name).to_string_lossy())?)
    }

    /// Packs the file at `path` into `store`.
    fn packed(&self, store: &Store, path: &Path, task: Option<Task>) -> Result<Packed, Exit> {
        let request = Request { path: path.to_owned(), task, targets: Targets::Native, ..Request::default() };
        Ok(pack(store, &self.runtimes, &request)?)
    }

    /// Packs the detector at `path` into `store`, which is found out to be one.
    fn detector(&self, store: &Store, path: &Path) -> Result<Packed, Exit> {
        let wish = Wish { task: Some(TaskChoice::ObjectDetection), ..Wish::default() };
        let task = understand(&self.runtimes, path, &wish, &BTreeMap::new())?.task;
        self.packed(store, path, Some(task))
    }

    /// A folder that goes when it is dropped.
    fn folder(&self) -> Result<tempfile::TempDir, Exit> {
        let folder = tempfile::tempdir_in(self.scratch.path());
        folder.map_err(|error| Exit::Failed(format!("no temporary folder: {error}")))
    }

    /// Packs the fleet of small models into `store`, and gives their names.
    fn fleet(&self, store: &Store) -> Result<Vec<String>, Exit> {
        let folder = self.models.join("fleet");
        let entries = std::fs::read_dir(&folder)
            .map_err(|error| Exit::Configuration(format!("{}: cannot be read: {error}", folder.display())))?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        files.sort();
        say(format_args!("packing {} models", files.len()));
        files.iter().map(|file| Ok(self.packed(store, file, None)?.manifest.name)).collect()
    }
}

impl Bench {
    /// Making packed models ready; each in a process of its own, or memory could not be told.
    fn ready(&self) -> Result<String, Exit> {
        let store = self.store("ready")?;
        let files = [self.assets.join("bert_tiny_qa.onnx"), self.models.join("bert_base_qa.onnx")];
        let ms = |time: Duration| format!("{:.3}", time.as_secs_f64() * 1e3);
        let mb = |bytes: u64| format!("{:.3}", bytes as f64 / 1e6);
        let mut rows = Vec::new();
        for file in files.iter().filter(|file| file.exists()) {
            say(format_args!("making {} ready {READY_TIMES} times", file.display()));
            let packed = self.packed(&store, file, None)?;
            let figures = readiness(file, &store, &packed.manifest.name)?;
            rows.push(vec![
                packed.manifest.name.clone(),
                packed.manifest.weights.len().to_string(),
                format!("{:.1}", packed.weight_bytes as f64 / 1e6),
                ms(figures.ready),
                ms(figures.ready_p99),
                mb(figures.ready_bytes),
                ms(figures.program),
                ms(figures.plain),
                mb(figures.plain_bytes),
            ]);
        }
        let header = [
            "model",
            "weights",
            "weights MB",
            "ready ms p50",
            "ready ms p99",
            "ready private MB",
            "program ms, once",
            "plain session ms",
            "plain private MB",
        ];
        Ok(table(&header, &rows))
    }
}

fn readiness(file: &Path, store: &Store, name: &str) -> Result<Readiness, Exit> {
    let failed = |reason: &dyn std::fmt::Display| Exit::Failed(format!("{}: not measured: {reason}", file.display()));
    let program = std::env::current_exe().map_err(|error| failed(&error))?;
    let output = Command::new(program)
        .args(["bench", "--ready-alone"])
        .args([file, store.root(), Path::new(name)])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| failed(&error))?;
    serde_json::from_slice(&output.stdout).map_err(|error| failed(&error))
}

fn ready_alone(file: &Path, store: &str, name: &str) -> Outcome {
    let store = Store::open(store).map_err(|error| Exit::configuration(&error))?;
    let version = store.versions(name)?.into_iter().max().unwrap_or(1);
    let manifest = store.manifest(name, version)?;
    print_json(&bench::readiness(&store, node::runtimes()?.onnx(), &manifest, file, READY_TIMES)?)
}
