//! One video: cut into segments, each worked by a decoder and put away in parts, then put together.
//!
//! What is in flight is bounded by places that all videos of a worker share, so a slow model slows the decoders and memory
//! stays level. A part is durable at the latest a while after its first frame, so whoever dies loses no more than that.

mod assemble;
mod clock;
mod collect;
mod draw;
mod room;
mod setup;
mod stream;
mod walk;

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Scope;
use std::time::{Duration, Instant};

use engine::Error;

use crate::cost::{Cost, Spent};
use crate::inference::Inference;
use crate::media::Tools;
use crate::object::{ObjectStore, Put};
use crate::output::files::Whole;
use crate::policy::{Failure, placed};
use crate::result::Summary;
use crate::segment::{Ledger, Lengths, Next};
use crate::source::Source;
use crate::task::Task;

use self::assemble::Assembled;
pub use self::room::Shared;
use self::setup::Setup;
use self::stream::{Arrival, Course, Stream};

/// Between two looks whether another decoder would help.
const PACE: Duration = Duration::from_millis(500);

/// One video to be worked, and what it takes.
pub struct Job<'a> {
    /// What to do.
    pub task: &'a Task,
    /// Its video.
    pub source: &'a Source,
    /// Where parts and results go.
    pub objects: &'a dyn ObjectStore,
    /// Runs the model.
    pub inference: &'a dyn Inference,
    /// Decode.
    pub tools: &'a Tools,
    /// Which decoder that is: what [`Tools::check`] says.
    pub decoder: &'a str,
    /// Shared with the worker's other videos.
    pub shared: &'a Shared,
    /// How the video is cut.
    pub lengths: Lengths,
    /// When what is done is made durable.
    pub checkpoint: Checkpoint,
    /// The longest wait for a sign of life of the decoder, or for room in the model's queue.
    pub stall_limit: Duration,
    /// Asked at every frame; when it says yes, the job ends with [`Failure::Stopped`].
    pub cancelled: &'a (dyn Fn() -> bool + Sync),
    /// Told after every frame: frames looked at, and how many the file claims to have.
    pub progress: &'a (dyn Fn(u64, Option<u64>) + Sync),
}

/// When a part ends, whatever its segment does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// So long after it was begun.
    pub every: Duration,
    /// When it holds so many frames and detections together, which bounds its size.
    pub detections_max: usize,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { every: Duration::from_secs(10), detections_max: 100_000 }
    }
}

/// What a job came to.
pub struct Finished {
    /// For everybody.
    pub summary: Summary,
    /// Of this run.
    pub cost: Cost,
    /// The files of results, for whoever is sure that the task is still his.
    files: Vec<Whole>,
}

impl Finished {
    /// Makes the files of results durable and gives them their names.
    ///
    /// # Errors
    /// As [`ObjectWriter::commit`](crate::object::ObjectWriter::commit).
    pub fn commit(self) -> engine::Result<(Summary, Cost)> {
        self.files.into_iter().try_for_each(|file| file.object.commit(Put::Replace).map(drop))?;
        Ok((self.summary, self.cost))
    }
}

/// Works the video, as far as it is not worked yet, and writes its results.
///
/// # Errors
/// [`Failure::Place`] when something cannot be put away, [`Failure::Stopped`] when it was cancelled, [`Failure::Lost`] when
/// another attempt is ahead, else [`Failure::Task`]; a panic is the latter, so that it costs this task alone.
pub fn run(job: &Job<'_>) -> Result<Finished, Failure> {
    let begun = Instant::now();
    // What a panic may leave half done is this job's own, and goes with it.
    let worked = catch_unwind(AssertUnwindSafe(|| {
        let (setup, plan) = Setup::new(job).map_err(Failure::Task)?;
        let ledger = setup.ledger(job, plan).map_err(placed)?;
        let frames_resumed = ledger.frames();
        let running = Running::new(job, &setup, ledger);
        running.work()?;
        let Assembled { summary, spent, files } = assemble::assemble(&running)?;
        let cost = Cost::new(spent, (summary.frames, summary.frames_looked), frames_resumed, begun.elapsed());
        Ok(Finished { summary, cost, files })
    }));
    worked.unwrap_or_else(|panic| Err(Failure::Task(panicked(panic.as_ref()))))
}

/// A job under way: what its streams share.
struct Running<'a> {
    job: &'a Job<'a>,
    setup: &'a Setup,
    shared: &'a Shared,
    /// Changed by collectors as they put parts away.
    ledger: Mutex<Ledger>,
    /// Set when one stream failed, so that the others end.
    failed: AtomicBool,
    /// Frames looked at, those of earlier attempts too.
    looked: AtomicU64,
    /// What all readers waited since the last look, in microseconds.
    decoder_us: AtomicU64,
    model_us: AtomicU64,
}

impl<'a> Running<'a> {
    fn new(job: &'a Job<'a>, setup: &'a Setup, ledger: Ledger) -> Self {
        let looked = AtomicU64::new(ledger.frames());
        let (ledger, failed) = (Mutex::new(ledger), AtomicBool::new(false));
        let (decoder_us, model_us) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { job, setup, shared: job.shared, ledger, failed, looked, decoder_us, model_us }
    }

    /// Sends decoders out until every frame is in a part.
    fn work(&self) -> Result<(), Failure> {
        std::thread::scope(|scope| {
            let (arrived, arrivals) = sync_channel(1);
            let mut out = Out::default();
            let mut wanted = 1;
            loop {
                self.send_out(scope, &arrived, &mut out, wanted)?;
                if out.streams == 0 {
                    return Ok(());
                }
                match arrivals.recv_timeout(PACE) {
                    Ok((course, arrival)) => {
                        out.back(&course);
                        match arrival {
                            Ok(Arrival::Done) => {}
                            Ok(Arrival::Refused) => self.refuse(&course),
                            Err(failure) => {
                                self.failed.store(true, Ordering::Relaxed);
                                // The first to fail knows why; the rest were stopped for it.
                                return Err(failure);
                            }
                        }
                    }
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
                }
                wanted = pace(out.streams, self.waits(), self.shared.decoders.is_wanted());
            }
        })
    }

    /// Sends decoders out while fewer than `wanted` are, and there is something to be done.
    fn send_out<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        arrived: &SyncSender<(Course, Result<Arrival, Failure>)>,
        out: &mut Out,
        wanted: usize,
    ) -> Result<(), Failure> {
        while out.streams < wanted.max(1) && !out.through {
            let next = self.ledger().next(&out.segments, self.job.task.damage_tolerance == 0.0);
            let course = match next {
                Next::Seek(segments) if segments.is_empty() => break,
                Next::Seek(segments) => Course::Seek(segments[0]),
                Next::Through(segments) => Course::Through(segments),
                Next::Assemble => break,
            };
            // The first may wait for its turn; more are only taken where nobody waits.
            let permit = match out.streams {
                0 => self.shared.decoders.enter(&|| self.is_halted()).ok_or(Failure::Stopped)?,
                _ => match self.shared.decoders.try_enter() {
                    Some(permit) => permit,
                    None => break,
                },
            };
            out.go(&course);
            let arrived = arrived.clone();
            scope.spawn(move || {
                let run = || Stream::run(self, course.clone());
                let arrival = catch_unwind(AssertUnwindSafe(run))
                    .unwrap_or_else(|panic| Err(Failure::Task(panicked(panic.as_ref()))));
                drop(permit);
                // The job has ended when nobody listens.
                let _ = arrived.send((course, arrival));
            });
        }
        Ok(())
    }

    fn refuse(&self, course: &Course) {
        // One that comes through has nowhere else to come from, and is never refused.
        if let Course::Seek(segment) = course {
            self.ledger().refuse(segment.index);
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_halted(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || (self.job.cancelled)()
    }

    /// That so many more frames were looked at or passed over.
    fn passed(&self, frames: u64) {
        if frames == 0 {
            return;
        }
        let frames = self.looked.fetch_add(frames, Ordering::Relaxed) + frames;
        (self.job.progress)(frames, self.setup.probe.frames_declared);
    }

    fn waited_for_decoder(&self, wait: Duration, spent: &mut Spent) {
        self.decoder_us.fetch_add(microseconds(wait), Ordering::Relaxed);
        spent.wait_decoder_s += wait.as_secs_f64();
    }

    fn waited_for_model(&self, wait: Duration, spent: &mut Spent) {
        self.model_us.fetch_add(microseconds(wait), Ordering::Relaxed);
        spent.wait_model_s += wait.as_secs_f64();
    }

    /// What readers waited since the last call: for their decoders, and for the model.
    fn waits(&self) -> (u64, u64) {
        (self.decoder_us.swap(0, Ordering::Relaxed), self.model_us.swap(0, Ordering::Relaxed))
    }
}

/// The decoders that are out.
#[derive(Default)]
struct Out {
    streams: usize,
    segments: BTreeSet<u32>,
    through: bool,
}

impl Out {
    fn go(&mut self, course: &Course) {
        self.streams += 1;
        match course {
            Course::Seek(segment) => drop(self.segments.insert(segment.index)),
            Course::Through(_) => self.through = true,
        }
    }

    fn back(&mut self, course: &Course) {
        self.streams -= 1;
        match course {
            Course::Seek(segment) => drop(self.segments.remove(&segment.index)),
            Course::Through(_) => self.through = false,
        }
    }
}

/// How many decoders a video should have that has `streams` now: one more while the lanes wait for decoders, one less
/// while decoders wait for the lanes or other videos wait for a decoder. `waits` are what readers waited since the last
/// time, for their decoder and for the model.
fn pace(streams: usize, (decoder_us, model_us): (u64, u64), is_wanted: bool) -> usize {
    let model_share = model_us.saturating_mul(100).checked_div(decoder_us + model_us);
    match (is_wanted, model_share) {
        (true, _) | (false, Some(60..)) => streams.saturating_sub(1).max(1),
        (false, Some(0..20)) => streams + 1,
        (false, Some(_) | None) => streams,
    }
}

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::internal(format!("a bug stopped this job: panic: {}", said.unwrap_or("without a message")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoders_are_added_while_lanes_wait_for_them() {
        let table = [
            (1, (400, 0), false, 2),
            (2, (0, 0), false, 2),
            (3, (90, 10), false, 4),
            (3, (60, 40), false, 3),
            (3, (10, 90), false, 2),
            (1, (10, 90), false, 1),
            (3, (400, 0), true, 2),
            (1, (400, 0), true, 1),
        ];
        for (streams, waits, is_wanted, want) in table {
            assert_eq!(pace(streams, waits, is_wanted), want, "{streams} {waits:?} {is_wanted}");
        }
    }
}
