//! One decoder's way through a segment, or through the whole video: frames are prepared and submitted on the calling
//! thread, answers collected on a second.

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, Instant};

use engine::{Error, ErrorKind, Tensor};
use pipeline::Planes;

use super::clock::Clock;
use super::collect::{Collector, Step};
use super::listing::Sure;
use super::{Running, panicked};
use crate::gate::Patches;
use crate::inference::Pending;
use crate::media::{Between, Choice, Decode, DecodeReport, Frame, Frames, Span};
use crate::policy::Failure;
use crate::sampling::{Moment, Sampling};
use crate::segment::{Access, Segment, SegmentEnd};

/// How long the reader naps when the model's queue is full, unless an answer wakes it.
const FULL_NAP: Duration = Duration::from_millis(20);

/// Where a decoder goes.
#[derive(Clone, Debug)]
pub(super) enum Course {
    /// Straight to one segment.
    Seek(Segment),
    /// From the beginning to the end of the video, past these.
    Through(Vec<Segment>),
}

/// How a course ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// Every frame of it is in a part.
    Done,
    /// The segment cannot be reached like that, or not without errors, which may come of that.
    Refused,
}

/// A decoder on its course.
pub(super) struct Stream<'a> {
    running: &'a Running<'a>,
    /// Of the video up to where the course ends.
    sure: Arc<Sure>,
    access: Access,
    targets: Vec<Segment>,
    /// Frames of each target that are there already.
    done: Vec<u64>,
    sender: SyncSender<Step<'a>>,
    /// Which key frames are the target's, where it is read by the index alone: these come in order, and what they say of
    /// their times counts for the first alone.
    keys: Option<Range<usize>>,
    /// Of the frame before, where it matters whether anything moves.
    before: Option<Patches>,
    clock: Clock,
}

impl<'a> Stream<'a> {
    /// Goes the course to its end.
    ///
    /// # Errors
    /// As [`super::run`]. What was found until then is in parts all the same, unless the place is what failed.
    pub(super) fn run(running: &'a Running<'a>, course: Course) -> Result<Arrival, Failure> {
        let (access, targets) = match course {
            Course::Seek(segment) => (Access::Seek, vec![segment]),
            Course::Through(segments) => (Access::Through, segments),
        };
        let done = {
            let ledger = running.ledger();
            targets.iter().map(|segment| ledger.progress(access, segment.index).0).collect()
        };
        let (sender, receiver) = sync_channel(running.job.inference.lanes().max(1) * 2);
        let collector = Collector::new(running, access, std::thread::current());
        let sure = running.sure();
        let keys = match (access, &targets[..], &sure.keys) {
            (Access::Seek, [target], keys) if keys.spans.is_some() => {
                Some(keys.between(target.from_us, target.before_us))
            }
            _ => None,
        };
        let mut stream =
            Self { running, sure, access, targets, done, sender, keys, before: None, clock: Clock::start() };
        // The stream moves in, so that a panic in it hangs up on the collector, for which the scope waits.
        let (read, written) = std::thread::scope(move |scope| {
            let writing = scope.spawn(move || collector.run(&receiver));
            let read = stream.read();
            drop(stream);
            let written = writing.join().unwrap_or_else(|panic| Err(Failure::Task(panicked(panic.as_ref()))));
            (read, written)
        });
        // A collector that failed makes the reader fail too, so its reason comes first, but for a stop, which explains both.
        match (read, written) {
            (Err(Failure::Stopped), _) => Err(Failure::Stopped),
            (_, Err(failure)) | (Err(failure), Ok(())) => Err(failure),
            (Ok(arrival), Ok(())) => Ok(arrival),
        }
    }

    /// Decodes, prepares and submits until the course ends.
    fn read(&mut self) -> Result<Arrival, Failure> {
        let input = self.running.setup.detector.input();
        let stall_limit = self.running.job.stall_limit;
        let setup = self.running.setup;
        let (placement, resample, span) = (self.running.placement, input.resample, self.span());
        let choice = self.choice(span.skip);
        let decode = Decode { placement, resample, stall_limit, span, choice };
        let frames = Frames::open(self.running.job.tools, &setup.source.input, &self.sure.probe, &decode);
        let mut frames = frames.map_err(Failure::Task)?;
        let outcome = self.follow(&mut frames);
        let outcome = match outcome {
            // Where the decoder was sent may be what it failed at; coming through shows it.
            Err(Failure::Task(error)) if self.may_refuse() && error.kind == ErrorKind::InvalidInput => {
                tracing::info!(segment = self.targets[0].index, %error, "a segment cannot be reached by seeking");
                Ok(Followed::Refused)
            }
            other => other,
        };
        let report = frames.finish();
        let spent = self.clock.spent(report.as_ref().map_or(Duration::ZERO, |report| report.cpu));
        self.send(Step::Spent(spent))?;
        match outcome? {
            Followed::Refused => Ok(Arrival::Refused),
            Followed::ToTheEnd(followed) => self.arrive(followed, report),
        }
    }

    /// The frames that are wanted. Of a segment reached by seeking the frame after it is wanted as well, for the seam.
    fn span(&self) -> Span {
        let whole = [Between::default()];
        let keep: Vec<Between> = match (self.access, &self.targets[..]) {
            (Access::Seek, [segment]) => vec![Between {
                from_us: segment.from_us,
                before_us: segment.before_us.map(|before_us| before_us.saturating_add(1)),
            }],
            (_, targets) => {
                let between = |segment: &Segment| Between { from_us: segment.from_us, before_us: segment.before_us };
                targets.iter().map(between).collect()
            }
        };
        let seek_us = self.targets[0].from_us.filter(|_| self.access == Access::Seek);
        // Whether a frame is looked at may hang on the one before.
        let is_sampled = self.running.job.task.sampling != Sampling::All;
        let skip = if self.targets.len() == 1 { self.done[0].saturating_sub(u64::from(is_sampled)) } else { 0 };
        // One more than there are tells of a frame after the end, or of one too many.
        let most = self.keys.as_ref().map(|keys| keys.len() as u64 + 1);
        let is_whole = keep == whole || most.is_some();
        Span { seek_us, keep: if is_whole { Vec::new() } else { keep }, skip, most }
    }

    /// Which of those the decoder gives out, when it leaves out the first `skip`: what is looked at, and what is looked at
    /// by [`follow`](Self::follow) itself. Where frames have no time of their own, or several segments have frames of their
    /// own to begin with, it gives out all.
    fn choice(&self, skip: u64) -> Choice {
        let Running { job, decoded, .. } = self.running;
        let [segment] = &self.targets[..] else {
            return decoded.clone();
        };
        match job.task.sampling.expression(segment.frames_before + skip) {
            Some(expression) if self.sure.is_timed => {
                let seam = segment.before_us.map(|before_us| format!("+gte(pts,{before_us})")).unwrap_or_default();
                Choice::Where(format!("eq(n,0)+{expression}{seam}"))
            }
            _ => match (&self.keys, &self.sure.keys.spans) {
                (Some(_), Some(spans)) => Choice::IndexedKeys(Arc::clone(spans)),
                _ => decoded.clone(),
            },
        }
    }

    /// Whether errors may come of where the decoder was sent.
    fn may_refuse(&self) -> bool {
        self.access == Access::Seek && (self.targets[0].from_us.is_some() || self.keys.is_some())
    }

    fn follow(&mut self, frames: &mut Frames) -> Result<Followed, Failure> {
        let running = self.running;
        let (task, setup) = (running.job.task, running.setup);
        // Counted by the decoder, where the target's first frame is.
        let (mut target, mut begins, mut seam) = (0, 0, None);
        self.send(Step::Begin { segment: self.targets[0].index, first: self.done[0] })?;
        while let Some(mut frame) = self.next(frames)? {
            self.heed(frames)?;
            if let Some(keys) = &self.keys {
                let Some(pts_us) = self.sure.keys.told(keys.start, (frame.index, frame.pts_us)) else {
                    return Ok(Followed::Refused);
                };
                frame.pts_us = pts_us;
            }
            if frames.complaint().is_some() && self.access == Access::Seek {
                return Ok(Followed::Refused);
            }
            let past = |segment: &Segment| segment.before_us.is_some_and(|before_us| frame.pts_us >= before_us);
            if self.access == Access::Seek && past(&self.targets[0]) {
                let hash = || Seam { frames: frame.index, last_us: frame.previous_us, hash: hash(&frame.planes) };
                seam.get_or_insert_with(hash);
                frames.recycle(frame.planes.bytes);
                continue;
            }
            while target + 1 < self.targets.len() && past(&self.targets[target]) {
                let end = SegmentEnd { last_us: frame.previous_us, ..SegmentEnd::default() };
                self.send(Step::End { frames: frame.index - begins, end })?;
                (target, begins) = (target + 1, frame.index);
                self.send(Step::Begin { segment: self.targets[target].index, first: self.done[target] })?;
            }
            let segment = &self.targets[target];
            let offset = frame.index - begins;
            if offset == 0 && self.may_refuse() {
                if segment.from_us.is_some_and(|from_us| from_us != frame.pts_us) {
                    return Ok(Followed::Refused);
                }
                self.send(Step::Head(hash(&frame.planes)))?;
            }
            // Of a segment's first frame the plan knows what came before, whichever way the decoder came.
            let previous_us = if offset == 0 { segment.previous_us } else { frame.previous_us };
            let (number, pts_us) = (segment.frames_before + offset, frame.pts_us);
            let (is_entry, is_key) = (self.sure.is_entry(previous_us, pts_us), self.sure.keys.has(pts_us));
            let moment = Moment { number, pts_us, previous_us, is_entry, is_key, change: self.change(&frame.planes) };
            // What a decoder that comes through meets again is there already.
            if offset >= self.done[target] && task.sampling.wants(&moment) {
                let inputs = setup.detector.prepare_planes(&frame.planes).map_err(Failure::Task)?;
                self.clock.prepared();
                self.submit(offset, pts_us, &inputs)?;
            }
            frames.recycle(frame.planes.bytes);
        }
        Ok(Followed::ToTheEnd(Reached { target, begins, seam }))
    }

    /// By how much a picture has changed since the frame before, where that is asked.
    fn change(&mut self, planes: &Planes) -> Option<f64> {
        self.running.job.task.sampling.gate()?;
        let patches = Patches::of(planes);
        let change = self.before.as_ref().map(|before| patches.change(before));
        self.before = Some(patches);
        self.clock.gated();
        change
    }

    /// The decoder's next frame.
    fn next(&mut self, frames: &mut Frames) -> Result<Option<Frame>, Failure> {
        if self.running.is_halted() {
            return Err(Failure::Stopped);
        }
        let begun = Instant::now();
        let frame = frames.next().map_err(Failure::Task)?;
        self.running.waited_for_decoder(begun.elapsed(), &mut self.clock.spent);
        self.clock.read();
        Ok(frame)
    }

    /// Errors that are not put up with end the job as soon as they are sure.
    fn heed(&self, frames: &Frames) -> Result<(), Failure> {
        let task = self.running.job.task;
        match frames.complaint() {
            Some(said) if task.damage_tolerance == 0.0 && !self.may_refuse() => {
                Err(Failure::Task(crate::judge::damaged(task, said)))
            }
            _ => Ok(()),
        }
    }

    /// Submits, and waits for room where there is none: a full queue is back-pressure, not a failure.
    fn submit(&mut self, offset: u64, pts_us: i64, inputs: &[Tensor]) -> Result<(), Failure> {
        let Running { job, setup, shared, .. } = self.running;
        let begun = Instant::now();
        let place = shared.frames.enter(&|| self.running.is_halted()).ok_or(Failure::Stopped)?;
        let pending: Pending = loop {
            // The copy shares the bytes.
            match job.inference.submit(&setup.manifest, inputs.to_vec()) {
                Ok(pending) => break pending,
                Err(error) if error.kind == ErrorKind::Exhausted => {
                    if self.running.is_halted() {
                        return Err(Failure::Stopped);
                    }
                    if begun.elapsed() > job.stall_limit {
                        let waited = job.stall_limit.as_secs_f64();
                        return Err(Failure::Task(
                            error.context(format_args!("no room for a frame within {waited} s")),
                        ));
                    }
                    // The collector unparks this thread after every answer.
                    std::thread::park_timeout(FULL_NAP);
                }
                Err(error) => return Err(Failure::Task(error)),
            }
        };
        self.running.waited_for_model(begun.elapsed(), &mut self.clock.spent);
        self.clock.prepared();
        self.send(Step::Frame { offset, pts_us, pending, place })
    }

    /// Judges the end of the course and says so.
    fn arrive(
        &mut self,
        Reached { target, begins, seam }: Reached,
        report: engine::Result<DecodeReport>,
    ) -> Result<Arrival, Failure> {
        let report = match report {
            Err(error) if self.may_refuse() && error.kind == ErrorKind::InvalidInput => return Ok(Arrival::Refused),
            report => report.map_err(Failure::Task)?,
        };
        let task = self.running.job.task;
        let damaged = report.damage_count > 0;
        let (frames, last_us) =
            seam.as_ref().map_or((report.frames, report.last_us), |seam| (seam.frames, seam.last_us));
        let mut frames = frames.saturating_sub(begins);
        let lacks_some = self.keys.as_ref().is_some_and(|keys| frames != keys.len() as u64);
        let has_no_seam = self.targets[0].before_us.is_some() && seam.is_none();
        let cut_short = self.access == Access::Seek && (has_no_seam || lacks_some);
        match (self.access, damaged) {
            (Access::Seek, _) if self.may_refuse() && (damaged || cut_short || frames == 0) => {
                return Ok(Arrival::Refused);
            }
            (_, true) if task.damage_tolerance == 0.0 => {
                let said = report.first_damage.as_deref().unwrap_or("the decoder gave no reason");
                return Err(Failure::Task(crate::judge::damaged(task, said)));
            }
            // Even the first segment has none, so that all errors are counted by one decoder.
            (Access::Seek, _) if damaged || cut_short => return Ok(Arrival::Refused),
            _ => {}
        }
        let seam = seam.map(|seam| seam.hash);
        let mut end = SegmentEnd { seam, last_us, damage_count: 0, first_damage: None };
        for next in target..self.targets.len() {
            if next > target {
                self.send(Step::Begin { segment: self.targets[next].index, first: self.done[next] })?;
                frames = 0;
            }
            if next + 1 == self.targets.len() && self.access == Access::Through {
                (end.damage_count, end.first_damage) = (report.damage_count, report.first_damage.clone());
            }
            self.send(Step::End { frames, end: end.clone() })?;
        }
        Ok(Arrival::Done)
    }

    fn send(&self, step: Step<'a>) -> Result<(), Failure> {
        // The collector hangs up only when it failed, and then its own reason is the one that is told.
        let sent = self.sender.send(step);
        sent.map_err(|_| Failure::Task(Error::internal("the collector of answers ended before the decoder")))
    }
}

/// How far a decoder was followed.
enum Followed {
    ToTheEnd(Reached),
    Refused,
}

/// Where a decoder ended.
struct Reached {
    /// The last target that had a frame.
    target: usize,
    /// Where its first frame is, counted by the decoder.
    begins: u64,
    seam: Option<Seam>,
}

/// The frame after a segment that was reached by seeking.
struct Seam {
    /// Frames of the segment, and when the last of them is shown.
    frames: u64,
    last_us: Option<i64>,
    hash: String,
}

fn hash(planes: &Planes) -> String {
    blake3::hash(&planes.bytes).to_hex()[..32].to_owned()
}
