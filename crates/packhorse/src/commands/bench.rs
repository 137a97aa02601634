//! `packhorse bench`: this machine, measured; every figure beside its floor, in one run.

mod serving;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use bench::{Readiness, median, table};
use engine::Tensor;
use engine::onnx::Onnx;
use serve::{Control, QueueLimits, Scheduler};
use store::Store;
use store::pack::{Packed, Request, pack};
use store::task::{Detection, Task, TaskChoice};

use super::demo::{assets_folder, drain};
use super::{print_json, say};
use crate::exit::Exit;
use crate::{Outcome, node};

/// How often the bare runtime runs on each core in a round.
const RUNS_PER_CORE: usize = 200;
/// How often a model is made ready.
const READY_TIMES: usize = 200;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The bundled models and clip [default: assets, here or beside the build]
    #[arg(long, env = "PACKHORSE_ASSETS")]
    assets: Option<PathBuf>,
    /// How often floor and product take turns; medians are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// More ONNX files to make ready, beside the bundled one
    #[arg(long, value_name = "FILE")]
    ready: Vec<PathBuf>,
    /// A small model of one FP32 input `x` [N,64], to measure what serving costs
    #[arg(long, value_name = "FILE")]
    serving: Option<PathBuf>,
    /// Measure only how FILE, packed in STORE as NAME, is made ready; how this command calls itself
    #[arg(long, hide = true, num_args = 3, value_names = ["FILE", "STORE", "NAME"])]
    ready_alone: Option<Vec<String>>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    if let Some([file, store, name]) = args.ready_alone.as_deref() {
        return ready_alone(Path::new(file), store, name);
    }
    let assets = assets_folder(args.assets.as_deref())?;
    let scratch = tempfile::tempdir().map_err(|error| Exit::Failed(format!("no temporary folder: {error}")))?;
    let store = Store::create(&scratch.path().join("store").to_string_lossy())?;
    let onnx = Arc::new(node::onnx()?);
    let mut out = String::from("### Ready\n\n");
    out += &ready(&store, &onnx, &[vec![assets.join("bert_tiny_qa.onnx")], args.ready.clone()].concat())?;
    if let Some(file) = &args.serving {
        out += "\n\n### Serving\n\n";
        out += &serving::run(&store, &onnx, file, args.rounds)?;
    }
    out += "\n\n### Video, end to end\n\n";
    out += &video(&store, &onnx, &assets, scratch.path(), args.rounds)?;
    use std::io::Write;
    writeln!(std::io::stdout(), "{out}")?;
    Ok(())
}

/// Making packed models ready, beside plain sessions; each in a process of its own, or memory could not be told.
fn ready(store: &Store, onnx: &Onnx, files: &[PathBuf]) -> Result<String, Exit> {
    let ms = |time: std::time::Duration| format!("{:.3}", time.as_secs_f64() * 1e3);
    let mb = |bytes: u64| format!("{:.3}", bytes as f64 / 1e6);
    let mut rows = Vec::new();
    for file in files {
        say(format_args!("making {} ready {READY_TIMES} times", file.display()));
        let packed = packed(store, onnx, file, None)?;
        let figures = readiness(file, store, &packed.manifest.name)?;
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
    print_json(&bench::readiness(&store, &node::onnx()?, &manifest, file, READY_TIMES)?)
}

/// The clip from queue to durable detections, beside the floor; they take turns, so that a machine that changes its
/// speed changes both.
fn video(store: &Store, onnx: &Arc<Onnx>, assets: &Path, scratch: &Path, rounds: u32) -> Result<String, Exit> {
    let (clip, model) = (assets.join("street.mp4"), assets.join("nanodet_g_coco80.onnx"));
    let packed = packed(store, onnx, &model, Some(TaskChoice::ObjectDetection))?;
    let Some(Task::ObjectDetection(Detection::Nanodet { width, height, .. })) = packed.manifest.task else {
        return Err(Exit::Failed("the bundled detector was not recognised".to_owned()));
    };
    let scheduler = node::start_with(store.clone(), Arc::clone(onnx), QueueLimits::default(), Control::None)?;
    let cores = engine::cpu::lane_cores();
    let input = Tensor::from_f32(vec![1, 3, height, width], vec![0.25; 3 * height * width])?;
    let (mut decode, mut runtime, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut runtime_cpu, mut splits) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        say(format_args!("round {round} of {rounds}: the whole way, then the floor"));
        let summary = end_to_end(&clip, scratch, &scheduler, &packed)?;
        let decode_fps = bench::decode_fps(&clip, summary.frames, width, height)?;
        let (runtime_fps, cpu) = bench::runtime_fps(onnx, &model, &input, &cores, RUNS_PER_CORE)?;
        ratios.push(summary.fps / decode_fps.min(runtime_fps));
        decode.push(decode_fps);
        runtime.push(runtime_fps);
        runtime_cpu.push(cpu.as_secs_f64() * 1e3);
        ours.push(summary.fps);
        splits.push(summary.cpu_s_per_frame);
    }
    scheduler.drain(std::time::Duration::from_secs(5));
    let one = |values: &[f64]| format!("{:.1}", median(values));
    let rows = [
        vec!["ffmpeg alone: decode and scale".to_owned(), one(&decode), String::new()],
        vec![
            format!("bare runtime loop on {} cores", cores.len()),
            one(&runtime),
            format!("{:.2}", median(&runtime_cpu)),
        ],
        vec!["packhorse: queue to durable detections".to_owned(), one(&ours), cpu_ms(&splits, |split| split.total)],
        vec!["ratio to the floor (median of the rounds)".to_owned(), format!("{:.3}", median(&ratios)), String::new()],
    ];
    let phases = [
        vec!["decode (child and pipe)".to_owned(), cpu_ms(&splits, |split| split.decode)],
        vec!["prepare".to_owned(), cpu_ms(&splits, |split| split.prepare)],
        vec!["infer".to_owned(), cpu_ms(&splits, |split| split.infer)],
        vec!["post".to_owned(), cpu_ms(&splits, |split| split.post)],
    ];
    let first = table(&["", "frames a second", "CPU ms a frame"], &rows);
    Ok(format!("{first}\n\n{}", table(&["phase", "CPU ms a frame"], &phases)))
}

fn cpu_ms(splits: &[work::result::CpuSplit], of: impl Fn(&work::result::CpuSplit) -> f64) -> String {
    let values: Vec<f64> = splits.iter().map(|split| of(split) * 1e3).collect();
    format!("{:.2}", median(&values))
}

fn end_to_end(clip: &Path, scratch: &Path, scheduler: &Arc<Scheduler>, packed: &Packed) -> Result<work::Summary, Exit> {
    let folder =
        tempfile::tempdir_in(scratch).map_err(|error| Exit::Failed(format!("no temporary folder: {error}")))?;
    drain(clip, &packed.manifest.name, folder.path(), folder.path(), scheduler)
}

fn packed(store: &Store, onnx: &Onnx, path: &Path, task: Option<TaskChoice>) -> Result<Packed, Exit> {
    let request =
        Request { path: path.to_owned(), name: None, version: None, task, labels: Default::default(), portable: false };
    Ok(pack(store, onnx, &request)?)
}
