//! Clips from the queue to durable detections, beside decoding alone and the bare runtime.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bench::{median, table};
use engine::Tensor;
use pipeline::{Placement, detect};
use serve::Scheduler;
use store::pack::Packed;
use work::cost::CpuSplit;
use work::{Cost, Summary, Task};

use super::Bench;
use crate::commands::demo::{drain, work_off};
use crate::commands::say;
use crate::exit::Exit;
use crate::inference::InProcess;
use crate::node;

/// How often the bare runtime runs on each core in a round.
const RUNS_PER_CORE: usize = 200;
/// Clips in a queue that is longer than one.
const CLIPS: usize = 4;

/// What the rounds gave for one clip.
#[derive(Default)]
struct Figures {
    decode_fps: Vec<f64>,
    runtime_fps: Vec<f64>,
    runtime_cpu_ms: Vec<f64>,
    one_fps: Vec<f64>,
    several_fps: Vec<f64>,
    splits: Vec<CpuSplit>,
}

/// The tables; clips and floor take turns, so that a machine that changes its speed changes all of them.
pub(super) fn run(bench: &Bench) -> Result<String, Exit> {
    let (store, runtimes, rounds) = (bench.store("video")?, &bench.runtimes, bench.rounds);
    let model = bench.assets.join("nanodet_g_coco80.onnx");
    let clips = [("768x576, as it is", bench.assets.join("street.mp4")), ("1280x720", large(bench)?)];
    let packed = bench.detector(&store, &model)?;
    let fit = detect::for_model(&packed.manifest)?.input().fit;
    let (width, height) = Placement::of(fit, (1, 1))?.canvas_px;
    let (width, height) = (width as usize, height as usize);
    let scheduler = node::start_for_frames(store, Arc::clone(runtimes))?;
    let cores = engine::cpu::lane_cores();
    let input = Tensor::from_f32(vec![1, 3, height, width], vec![0.25; 3 * height * width])?;
    let mut all = [Figures::default(), Figures::default()];
    for round in 1..=rounds {
        for ((size, clip), figures) in clips.iter().zip(&mut all) {
            say(format_args!("round {round} of {rounds}, {size}: one clip, the floor, {CLIPS} clips"));
            let (summary, cost) = end_to_end(bench, clip, &scheduler, &packed)?;
            figures.decode_fps.push(bench::decode_fps(clip, summary.frames, width, height)?);
            let (fps, cpu) =
                bench::runtime_fps(runtimes.onnx(), &model, std::slice::from_ref(&input), &cores, RUNS_PER_CORE)?;
            figures.runtime_fps.push(fps);
            figures.runtime_cpu_ms.push(cpu.as_secs_f64() * 1e3);
            figures.one_fps.push(cost.fps);
            figures.splits.push(cost.cpu_s_per_frame);
            figures.several_fps.push(several(bench, (clip, summary.frames), &scheduler, &packed)?);
        }
    }
    scheduler.drain(Duration::from_secs(5));
    let tables =
        clips.iter().zip(&all).map(|((size, _), figures)| format!("{size}:\n\n{}", figures.tables(cores.len())));
    Ok(tables.collect::<Vec<_>>().join("\n\n"))
}

/// The clip at 1280x720, in H.264 as its encoder makes it by itself.
fn large(bench: &Bench) -> Result<PathBuf, Exit> {
    let clip = bench.scratch.path().join("large.mp4");
    let mut scale = Command::new("ffmpeg");
    scale.args(["-nostdin", "-v", "error", "-y", "-i"]).arg(bench.assets.join("street.mp4"));
    scale.args(["-vf", "scale=1280:720,setsar=1", "-c:v", "libx264", "-an"]).arg(&clip).stdin(Stdio::null());
    if !scale.status().is_ok_and(|status| status.success()) {
        return Err(Exit::Failed("ffmpeg cannot scale the clip".to_owned()));
    }
    Ok(clip)
}

impl Figures {
    fn tables(&self, cores: usize) -> String {
        let row = |name: String, fps: &[f64], of_floor: bool, cpu_ms: String| {
            let floors = self.decode_fps.iter().zip(&self.runtime_fps).map(|(decode, runtime)| decode.min(*runtime));
            let ratios: Vec<_> = fps.iter().zip(floors).map(|(fps, floor)| fps / floor).collect();
            let ratio = if of_floor { format!("{:.3}", median(&ratios)) } else { String::new() };
            vec![name, format!("{:.1}", median(fps)), ratio, cpu_ms]
        };
        let rows = [
            row("ffmpeg alone: decode and scale".to_owned(), &self.decode_fps, false, String::new()),
            row(
                format!("bare runtime loop on {cores} cores"),
                &self.runtime_fps,
                false,
                format!("{:.2}", median(&self.runtime_cpu_ms)),
            ),
            row("packhorse: one clip".to_owned(), &self.one_fps, true, self.cpu_ms(|split| split.total)),
            row(format!("packhorse: {CLIPS} clips in the queue"), &self.several_fps, true, String::new()),
        ];
        let phases = [
            vec!["decode (child and pipe)".to_owned(), self.cpu_ms(|split| split.decode)],
            vec!["prepare".to_owned(), self.cpu_ms(|split| split.prepare)],
            vec!["infer".to_owned(), self.cpu_ms(|split| split.infer)],
            vec!["post".to_owned(), self.cpu_ms(|split| split.post)],
        ];
        let first = table(&["", "frames a second", "of the floor", "CPU ms a frame"], &rows);
        format!("{first}\n\n{}", table(&["phase", "CPU ms a frame"], &phases))
    }

    fn cpu_ms(&self, of: impl Fn(&CpuSplit) -> f64) -> String {
        let values: Vec<f64> = self.splits.iter().map(|split| of(split) * 1e3).collect();
        format!("{:.2}", median(&values))
    }
}

fn end_to_end(
    bench: &Bench,
    clip: &Path,
    scheduler: &Arc<Scheduler>,
    packed: &Packed,
) -> Result<(Summary, Cost), Exit> {
    let folder = bench.folder()?;
    let inference = Arc::new(InProcess(Arc::clone(scheduler)));
    drain(clip, &packed.manifest.name, folder.path(), folder.path(), inference)
}

/// Frames a second of [`CLIPS`] times the clip, from before the first is taken up until all are durable.
fn several(
    bench: &Bench,
    (clip, frames): (&Path, u64),
    scheduler: &Arc<Scheduler>,
    packed: &Packed,
) -> Result<f64, Exit> {
    let folder = bench.folder()?;
    let inference = Arc::new(InProcess(Arc::clone(scheduler)));
    let tasks = (0..CLIPS).map(|_| Task::new(clip, &packed.manifest.name)).collect::<engine::Result<Vec<_>>>()?;
    let begun = Instant::now();
    work_off(&tasks, folder.path(), &folder.path().join("results"), inference)?;
    Ok(frames as f64 * CLIPS as f64 / begun.elapsed().as_secs_f64())
}
