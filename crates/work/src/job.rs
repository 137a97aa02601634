//! One video: decode, prepare and submit on the calling thread, detect and write on a second, inference in between.
//!
//! What is in flight is bounded by the channel between the two, so a slow model slows the decoder and memory stays
//! level. Frames are written in their order.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::Thread;
use std::time::{Duration, Instant};

use engine::cpu::thread_cpu;
use engine::{Error, ErrorKind, Tensor};
use pipeline::{Detector, detect};
use store::Manifest;

use crate::inference::{Inference, Pending};
use crate::judge::{declared_s, identify, judge};
use crate::media::{self, Decode, DecodeReport, Frames, Probe, Tools};
use crate::object::ObjectWriter;
use crate::policy::Failure;
use crate::result::{self, CpuSplit, Damage, InputIdentity, Labels, ModelIdentity, Summary, Tally, Video, append_line};
use crate::task::Task;

/// How long the reader naps when the model's queue is full, unless an answer wakes it.
const FULL_NAP: Duration = Duration::from_millis(20);

/// One video to be worked, and what it takes.
pub struct Job<'a> {
    /// What to do.
    pub task: &'a Task,
    /// Runs the model.
    pub inference: &'a dyn Inference,
    /// Decode.
    pub tools: &'a Tools,
    /// The longest wait for a sign of life of the decoder, or for room in the model's queue.
    pub stall_limit: Duration,
    /// Asked at every frame; when it says yes, the job ends with [`Failure::Stopped`].
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Told after every frame: frames written, and how many the file claims to have.
    pub progress: &'a (dyn Fn(u64, Option<u64>) + Sync),
}

/// Works the video and writes a line per frame into `lines`, which the caller commits.
///
/// # Errors
/// [`Failure::Place`] when a line cannot be written, [`Failure::Stopped`] when it was cancelled, else
/// [`Failure::Task`]; a panic is the latter, so that it costs this task alone.
pub fn run(job: &Job<'_>, lines: &mut dyn ObjectWriter) -> Result<Summary, Failure> {
    // What a panic may leave half done is this job's own, and goes with it.
    catch_unwind(AssertUnwindSafe(|| Work::prepare(job)?.run(lines)))
        .unwrap_or_else(|panic| Err(Failure::Task(panicked(panic.as_ref()))))
}

/// A job with everything looked up.
struct Work<'a> {
    job: &'a Job<'a>,
    begun: Instant,
    identity: InputIdentity,
    probe: Probe,
    /// How long the frames that the file declares would last.
    lasts_s: Option<f64>,
    manifest: Arc<Manifest>,
    detector: Box<dyn Detector>,
    frames: Frames,
}

/// A frame between the two threads.
struct InFlight {
    index: u64,
    pts_s: f64,
    pending: Pending,
}

/// What the reading thread found out.
struct ReaderEnd {
    decode: DecodeReport,
    /// Presentation times of the first and of the last frame, in seconds.
    span_s: Option<(f64, f64)>,
    read_cpu: Duration,
    prepare_cpu: Duration,
}

/// What the writing thread found out.
#[derive(Default)]
struct WriterEnd {
    tally: Tally,
    infer_cpu: Duration,
    post_cpu: Duration,
}

impl<'a> Work<'a> {
    fn prepare(job: &'a Job<'a>) -> Result<Self, Failure> {
        let begun = Instant::now();
        let open = || {
            // The model first: it is the cheaper question.
            let manifest = job.inference.model(&job.task.model)?;
            let detector = detect::for_model(&manifest)?;
            let path = job.task.input_path()?;
            let probe = media::probe(job.tools, &path)?;
            let lasts_s = declared_s(&path, &probe);
            let identity = identify(&job.task.input, &path)?;
            let (size, channels) = detector.input_format();
            let decode = Decode { size, channels, stall_limit: job.stall_limit };
            let frames = Frames::open(job.tools, &path, &probe, &decode)?;
            Ok(Self { job, begun, identity, probe, lasts_s, manifest, detector, frames })
        };
        open().map_err(Failure::Task)
    }

    fn run(self, lines: &mut dyn ObjectWriter) -> Result<Summary, Failure> {
        let Self { job, begun, identity, probe, lasts_s, manifest, detector, frames } = self;
        // One with the writer, one at the door, and the rest in the channel: twice the lanes and two.
        let (sender, receiver) = sync_channel(job.inference.lanes().max(1) * 2);
        let writer = Writer {
            detector: detector.as_ref(),
            job,
            labels: Labels::new(&manifest.labels),
            displayed: (probe.width, probe.height),
            frames_declared: probe.frames_declared,
            reader: std::thread::current(),
        };
        let (read, written) = std::thread::scope(|scope| {
            let writing = scope.spawn(move || writer.run(&receiver, lines));
            let read = read(job, &manifest, detector.as_ref(), frames, sender);
            let written = writing.join().unwrap_or_else(|panic| Err(Failure::Task(panicked(panic.as_ref()))));
            (read, written)
        });
        // A writer that failed makes the reader fail too, so its reason comes first, but for a stop, which explains both.
        let (read, written) = match (read, written) {
            (Err(Failure::Stopped), _) => return Err(Failure::Stopped),
            (_, Err(failure)) | (Err(failure), Ok(_)) => return Err(failure),
            (Ok(read), Ok(written)) => (read, written),
        };
        let judged =
            judge(job.task, &read.decode, read.span_s, probe.frames_declared.zip(lasts_s)).and_then(|damage| {
                match identify(&job.task.input, &job.task.input_path()?)? == identity {
                    true => Ok(damage),
                    false => {
                        Err(Error::unavailable(format!("video '{}' was changed while it was read", identity.path)))
                    }
                }
            });
        let damage = judged.map_err(Failure::Task)?;
        let parts = Parts { task: job.task, identity, probe, manifest: &manifest, damage, wall: begun.elapsed() };
        Ok(summary(parts, &read, &written))
    }
}

/// Decodes, prepares and submits until the video ends.
fn read(
    job: &Job<'_>,
    manifest: &Manifest,
    detector: &dyn Detector,
    mut frames: Frames,
    sender: SyncSender<InFlight>,
) -> Result<ReaderEnd, Failure> {
    let (mut read_cpu, mut prepare_cpu, mut span_s) = (Duration::ZERO, Duration::ZERO, None);
    let mut mark = thread_cpu();
    let mut lap = |total: &mut Duration| {
        let now = thread_cpu();
        *total += now.saturating_sub(std::mem::replace(&mut mark, now));
    };
    loop {
        if (job.cancelled)() {
            return Err(Failure::Stopped);
        }
        let frame = frames.next().map_err(Failure::Task)?;
        lap(&mut read_cpu);
        let Some(frame) = frame else { break };
        let inputs = detector.prepare(&frame.picture).map_err(Failure::Task)?;
        let (index, pts_s) = (frame.index, frame.pts_s);
        span_s = Some((span_s.map_or(pts_s, |(first, _)| first), pts_s));
        frames.recycle(frame.picture.pixels);
        let pending = submit(job, manifest, &inputs)?;
        // The writer hangs up only when it failed, and then its own reason is the one that is told.
        if sender.send(InFlight { index, pts_s, pending }).is_err() {
            return Err(Failure::Task(Error::internal("the writer ended before the reader")));
        }
        lap(&mut prepare_cpu);
    }
    drop(sender);
    let decode = frames.finish().map_err(Failure::Task)?;
    Ok(ReaderEnd { decode, span_s, read_cpu, prepare_cpu })
}

/// Submits, and waits for room where there is none: a full queue is back-pressure, not a failure.
fn submit(job: &Job<'_>, manifest: &Manifest, inputs: &[Tensor]) -> Result<Pending, Failure> {
    let begun = Instant::now();
    loop {
        // The copy shares the bytes.
        match job.inference.submit(manifest, inputs.to_vec()) {
            Ok(pending) => return Ok(pending),
            Err(error) if error.kind == ErrorKind::Exhausted => {
                if (job.cancelled)() {
                    return Err(Failure::Stopped);
                }
                if begun.elapsed() > job.stall_limit {
                    let waited = job.stall_limit.as_secs_f64();
                    return Err(Failure::Task(error.context(format_args!("no room for a frame within {waited} s"))));
                }
                // The writer unparks this thread after every answer.
                std::thread::park_timeout(FULL_NAP);
            }
            Err(error) => return Err(Failure::Task(error)),
        }
    }
}

/// The second thread's half of a job.
struct Writer<'a> {
    detector: &'a dyn Detector,
    job: &'a Job<'a>,
    labels: Labels,
    /// Size of the video as displayed, which boxes are given in.
    displayed: (u32, u32),
    frames_declared: Option<u64>,
    /// Woken after every answer, in case it waits for room.
    reader: Thread,
}

impl Writer<'_> {
    fn run(&self, frames: &Receiver<InFlight>, lines: &mut dyn ObjectWriter) -> Result<WriterEnd, Failure> {
        let mut end = WriterEnd::default();
        let mut line = String::new();
        for InFlight { index, pts_s, pending } in frames {
            let answer = pending.wait().map_err(Failure::Task)?;
            self.reader.unpark();
            let mark = thread_cpu();
            let threshold = self.job.task.threshold;
            let found = self.detector.detect(&answer.outputs, self.displayed, threshold).map_err(Failure::Task)?;
            line.clear();
            append_line(&mut line, index, pts_s, &found, &self.labels).map_err(Failure::Task)?;
            lines.append(line.as_bytes()).map_err(Failure::Place)?;
            end.tally.add(&found);
            end.infer_cpu += answer.cpu;
            end.post_cpu += thread_cpu().saturating_sub(mark);
            (self.job.progress)(end.tally.frames, self.frames_declared);
        }
        Ok(end)
    }
}

/// What a summary is put together from, besides the two threads' findings.
struct Parts<'a> {
    task: &'a Task,
    identity: InputIdentity,
    probe: Probe,
    manifest: &'a Manifest,
    damage: Damage,
    wall: Duration,
}

fn summary(parts: Parts<'_>, read: &ReaderEnd, written: &WriterEnd) -> Summary {
    let Parts { task, identity, probe, manifest, damage, wall } = parts;
    let tally = &written.tally;
    let frames = tally.frames as f64;
    let per_frame = |cpu: Duration| cpu.as_secs_f64() / frames;
    let mut cpu = CpuSplit {
        decode: per_frame(read.decode.cpu + read.read_cpu),
        prepare: per_frame(read.prepare_cpu),
        infer: per_frame(written.infer_cpu),
        post: per_frame(written.post_cpu),
        total: 0.0,
    };
    cpu.total = cpu.decode + cpu.prepare + cpu.infer + cpu.post;
    Summary {
        format: result::FORMAT,
        task: task.id.clone(),
        input: identity,
        model: ModelIdentity {
            name: manifest.name.clone(),
            version: manifest.version,
            program: manifest.program.hash.clone(),
        },
        threshold: task.threshold,
        frames: tally.frames,
        frames_with_detections: tally.frames_with_detections,
        detections: tally.detections,
        classes: tally.by_label(&manifest.labels),
        video: Video {
            codec: probe.codec,
            width: probe.width,
            height: probe.height,
            rotation_degrees: probe.rotation_degrees,
            frame_rate: probe.frame_rate,
            duration_s: probe.duration_s,
            frames_declared: probe.frames_declared,
        },
        damage,
        wall_s: wall.as_secs_f64(),
        fps: frames / wall.as_secs_f64(),
        cpu_s_per_frame: cpu,
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::internal(format!("a bug stopped this job: panic: {}", said.unwrap_or("without a message")))
}
