//! The second thread of a stream: takes the answers in the order of their frames, detects, and puts parts away.

use std::sync::mpsc::Receiver;
use std::thread::Thread;
use std::time::Instant;

use engine::cpu::thread_cpu;

use super::Running;
use super::room::Place;
use crate::cost::Spent;
use crate::inference::Pending;
use crate::object::Put;
use crate::policy::Failure;
use crate::result::parts_folder;
use crate::segment::{Access, Look, Part, PartName, SegmentEnd};

/// What a reader tells its collector.
pub(super) enum Step<'a> {
    /// From here on frames are of this segment, of which `first` are there.
    Begin { segment: u32, first: u64 },
    /// The hash of the segment's first frame.
    Head(String),
    /// A frame, and where its answer will be.
    Frame {
        offset: u64,
        pts_us: i64,
        pending: Pending,
        /// Given back once the answer is there.
        place: Place<'a>,
    },
    /// The segment has so many frames in all.
    End { frames: u64, end: SegmentEnd },
    /// What reading took.
    Spent(Spent),
}

/// What a collector has in hand.
pub(super) struct Collector<'a> {
    running: &'a Running<'a>,
    access: Access,
    /// Woken after every answer, in case it waits for room.
    reader: Thread,
    segment: u32,
    first: u64,
    /// Frames of the segment that were looked at or passed over.
    passed: u64,
    part: Part,
    /// Detections in the part.
    found: usize,
    /// When the part was begun.
    since: Instant,
}

impl<'a> Collector<'a> {
    pub(super) fn new(running: &'a Running<'a>, access: Access, reader: Thread) -> Self {
        let (part, since) = (Part::default(), Instant::now());
        Self { running, access, reader, segment: 0, first: 0, passed: 0, part, found: 0, since }
    }

    /// Collects until the reader hangs up. What is in hand then becomes a part too: whoever takes the video up next goes
    /// on behind it.
    pub(super) fn run(mut self, steps: &Receiver<Step<'a>>) -> Result<(), Failure> {
        let collected = steps.iter().try_for_each(|step| self.take(step));
        match collected {
            // A place that failed once is not asked again.
            Err(Failure::Place(_) | Failure::Lost) => collected,
            _ => self.keep_looks().and(collected),
        }
    }

    fn take(&mut self, step: Step<'a>) -> Result<(), Failure> {
        match step {
            Step::Begin { segment, first } => {
                (self.segment, self.first, self.passed, self.since) = (segment, first, first, Instant::now());
            }
            Step::Head(hash) => self.part.head = Some(hash),
            Step::Spent(spent) => self.part.spent += spent,
            Step::Frame { offset, pts_us, pending, place } => self.look(offset, pts_us, pending, place)?,
            Step::End { frames, end } => {
                self.pass(frames);
                self.part.end = Some(end);
                self.keep(frames.saturating_sub(self.first))?;
            }
        }
        Ok(())
    }

    fn look(&mut self, offset: u64, pts_us: i64, pending: Pending, place: Place<'a>) -> Result<(), Failure> {
        let Running { job, setup, .. } = self.running;
        let answer = pending.wait().map_err(Failure::Task)?;
        drop(place);
        self.reader.unpark();
        let mark = thread_cpu();
        let found = setup.detector.detect(&answer.outputs, &self.running.placement, job.task.threshold_of_use());
        let found = found.map_err(Failure::Task)?;
        self.found += found.len();
        self.part.looks.push(Look { offset, pts_us, found });
        self.part.spent.infer_s += answer.cpu.as_secs_f64();
        if let Some(remote) = answer.remote {
            *self.part.spent.remote.get_or_insert_default() += remote;
        }
        self.part.spent.post_s += thread_cpu().saturating_sub(mark).as_secs_f64();
        self.pass(offset + 1);
        let due = self.since.elapsed() >= job.checkpoint.every;
        let large = self.found + self.part.looks.len() >= job.checkpoint.detections_max;
        if due || large { self.keep_looks() } else { Ok(()) }
    }

    /// Tells how far it is: `frames` of the segment are done with.
    fn pass(&mut self, frames: u64) {
        self.running.passed(frames.saturating_sub(self.passed));
        self.passed = self.passed.max(frames);
    }

    /// Puts a part away that ends with the last frame that was looked at.
    fn keep_looks(&mut self) -> Result<(), Failure> {
        match self.part.looks.last().map(|look| look.offset + 1 - self.first) {
            Some(frames) => self.keep(frames),
            None => Ok(()),
        }
    }

    /// Puts the part in hand away, which is `frames` long.
    fn keep(&mut self, frames: u64) -> Result<(), Failure> {
        let job = self.running.job;
        let part = std::mem::take(&mut self.part);
        let name = PartName {
            hash: self.running.hash(self.segment).map_err(Failure::Task)?,
            access: self.access,
            segment: self.segment,
            first: self.first,
            frames,
            is_end: part.end.is_some(),
        };
        let seam = part.end.as_ref().and_then(|end| end.seam.clone());
        let head = part.head.clone();
        // A video that is over before a part was due has no use for one.
        let is_all = {
            let ledger = self.running.ledger();
            name.is_end && ledger.is_empty() && ledger.is_only(name.segment)
        };
        let in_memory = if is_all {
            Some(part)
        } else {
            let bytes = part.to_bytes().map_err(Failure::Task)?;
            let key = format!("{}/{name}", parts_folder(&job.task.id));
            job.objects.put(&key, &bytes, Put::IfAbsent).map_err(crate::policy::placed)?;
            None
        };
        let mut ledger = self.running.ledger();
        ledger.add(name, in_memory);
        ledger.seam(self.segment, head, seam);
        drop(ledger);
        (self.first, self.found, self.since) = (self.first + frames, 0, Instant::now());
        Ok(())
    }
}
