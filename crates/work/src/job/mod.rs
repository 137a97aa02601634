//! One video: cut into segments, each worked by a decoder and put away in parts, then put together. Its frames are listed
//! meanwhile, and a segment is worked as soon as it is known where that ends.
//!
//! What is in flight is bounded by places that all videos of a worker share, so a slow model slows the decoders and memory
//! stays level. A part is durable at the latest a while after its first frame, so whoever dies loses no more than that.

mod assemble;
mod clock;
mod collect;
mod draw;
mod listing;
mod room;
mod send;
mod setup;
mod stream;
mod walk;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::Error;
use pipeline::Placement;

use crate::cost::{Cost, Spent};
use crate::inference::Inference;
use crate::media::{Choice, Tools};
use crate::object::{ObjectStore, Put};
use crate::output::files::Whole;
use crate::policy::{Failure, placed};
use crate::result::{Summary, parts_folder};
use crate::segment::{Ledger, Lengths, PartName, Plan};
use crate::source::Source;
use crate::task::Task;

use self::assemble::{Assembled, stored};
use self::listing::{Listing, Sure, Video};
pub use self::room::Shared;
use self::send::Worked;
use self::setup::Setup;

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
        let setup = Setup::new(job).map_err(Failure::Task)?;
        let listing = Listing::new(job);
        std::thread::scope(|scope| {
            let _ending = listing.start(scope);
            let mut sure = listing.first()?;
            job.source.input.awaits_list(false);
            loop {
                let running = Running::new(job, &setup, &listing, &sure)?;
                match running.work()? {
                    Worked::All(video) => return finish(&running, &video, begun),
                    Worked::Otherwise(video) => sure = Arc::clone(&video.sure),
                }
            }
        })
    }));
    worked.unwrap_or_else(|panic| Err(Failure::Task(panicked(panic.as_ref()))))
}

fn finish(running: &Running<'_>, video: &Video, begun: Instant) -> Result<Finished, Failure> {
    let Assembled { summary, spent, files } = assemble::assemble(running, video)?;
    let frames_resumed = running.resumed.load(Ordering::Relaxed);
    let cost = Cost::new(spent, (summary.frames, summary.frames_looked), frames_resumed, begun.elapsed());
    Ok(Finished { summary, cost, files })
}

/// A job under way: what its streams share.
struct Running<'a> {
    job: &'a Job<'a>,
    setup: &'a Setup,
    shared: &'a Shared,
    listing: &'a Listing<'a>,
    /// Where the video as it is displayed lies in what the model sees.
    placement: Placement,
    /// Which frames are decoded.
    decoded: Choice,
    /// What is known of the video by now.
    sure: Mutex<Arc<Sure>>,
    /// The parts that there were when it was begun.
    there: Vec<PartName>,
    /// Changed by collectors as they put parts away.
    ledger: Mutex<Ledger>,
    /// Set when one stream failed, so that the others end.
    failed: AtomicBool,
    /// Frames of earlier attempts.
    resumed: AtomicU64,
    /// Frames looked at, those of earlier attempts too.
    looked: AtomicU64,
    /// What all readers waited since the last look, in microseconds.
    decoder_us: AtomicU64,
    model_us: AtomicU64,
}

impl<'a> Running<'a> {
    fn new(job: &'a Job<'a>, setup: &'a Setup, listing: &'a Listing<'a>, sure: &Arc<Sure>) -> Result<Self, Failure> {
        let probe = &sure.probe;
        let size_px = (probe.width, probe.height);
        let placement = Placement::of(setup.detector.input().fit, size_px).map_err(Failure::Task)?;
        let keys = job.objects.list(&parts_folder(&job.task.id)).map_err(placed)?;
        let there = keys.iter().filter_map(|key| PartName::parse(key.rsplit('/').next()?)).collect();
        let mut ledger = Ledger::new(Plan { segments: Vec::new(), whole: sure.plan.whole });
        if sure.keys.spans.is_some() {
            ledger.doubt_both();
        }
        let running = Self {
            job,
            setup,
            shared: job.shared,
            listing,
            placement,
            decoded: job.task.sampling.decoded(probe),
            sure: Mutex::new(Arc::clone(sure)),
            there,
            ledger: Mutex::new(ledger),
            failed: AtomicBool::new(false),
            resumed: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            decoder_us: AtomicU64::new(0),
            model_us: AtomicU64::new(0),
        };
        running.learn(sure).map_err(placed)?;
        Ok(running)
    }

    /// Takes in what is sure by now, and what is there of it already.
    fn learn(&self, sure: &Arc<Sure>) -> engine::Result<()> {
        let known = self.ledger().plan().segments.len();
        let new = &sure.plan.segments[known..];
        let mut found = Vec::new();
        for segment in new {
            let hash = self.setup.hash(sure, segment);
            for name in self.there.iter().filter(|name| name.segment == segment.index && name.hash == hash) {
                // Both ends of a segment say whether it fits to its neighbours. They are read while nobody waits for the ledger.
                let is_at_an_end = name.first == 0 || name.is_end;
                let part = if is_at_an_end { stored(self.job, name, false)? } else { None };
                if part.is_some() || !is_at_an_end {
                    found.push((name, part));
                }
            }
        }
        let mut ledger = self.ledger();
        ledger.grow(sure.plan.clone(), sure.is_complete);
        *self.sure.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(sure);
        for (name, part) in found {
            if let Some(part) = part {
                ledger.seam(name.segment, part.head, part.end.and_then(|end| end.seam));
            }
            ledger.add(name.clone(), None);
        }
        let frames = new.iter().map(|segment| ledger.progress(ledger.access(segment.index), segment.index).0).sum();
        self.resumed.fetch_add(frames, Ordering::Relaxed);
        self.looked.fetch_add(frames, Ordering::Relaxed);
        Ok(())
    }

    /// What is sure by now.
    fn sure(&self) -> Arc<Sure> {
        Arc::clone(&self.sure.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What parts of `segment` are called by.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) of one that is in no plan.
    fn hash(&self, segment: u32) -> engine::Result<String> {
        let sure = self.sure();
        let found = sure.plan.segments.iter().find(|one| one.index == segment);
        let found = found.ok_or_else(|| Error::internal(format!("segment {segment} is in no plan")))?;
        Ok(self.setup.hash(&sure, found))
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
        (self.job.progress)(frames, self.sure().probe.frames_declared);
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

fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn panicked(panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    Error::internal(format!("a bug stopped this job: panic: {}", said.unwrap_or("without a message")))
}
