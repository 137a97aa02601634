//! Everything that is in the parts, frame by frame in order, read from the beginning as often as somebody walks along it.

use super::Job;
use super::assemble::stored;
use super::listing::Video;
use crate::cost::Spent;
use crate::output::Sighting;
use crate::policy::{Failure, placed};
use crate::segment::{Kept, Ledger, Look, Numbers, Segment, Times};
use crate::track::{Crossing, Places, Tracker};

/// A frame that was looked at, as it is told.
pub(super) struct Told {
    /// Counts the video's frames from 0.
    pub(super) index: u64,
    /// When it is shown, in microseconds.
    pub(super) pts_us: i64,
    /// Best first.
    pub(super) sightings: Vec<Sighting>,
    /// What crosses a line.
    pub(super) crossings: Vec<Crossing>,
}

/// Where somebody is in a video whose frames are all in parts.
pub(super) struct Walk<'a> {
    job: &'a Job<'a>,
    video: &'a Video,
    ledger: &'a Ledger,
    segments: std::slice::Iter<'a, Segment>,
    parts: Box<dyn Iterator<Item = &'a Kept> + 'a>,
    looks: std::vec::IntoIter<Look>,
    /// Frames before the segment, and in it, that were decoded.
    frames: (u64, u64),
    /// What numbers them where those are not all.
    numbers: Option<Numbers<'a>>,
    /// Where objects are followed.
    pub(super) tracker: Option<Tracker>,
    pub(super) places: Places<'a>,
    /// When the last frame is shown, in microseconds, of the segments that were read to their end.
    pub(super) last_us: Option<i64>,
    /// What the parts that were read took.
    pub(super) spent: Spent,
    /// Errors of the decoder in them, and the first.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(job: &'a Job<'a>, video: &'a Video, ledger: &'a Ledger) -> Self {
        let segments = ledger.plan().segments.iter();
        let (parts, looks) = (Box::new(std::iter::empty()), Vec::new().into_iter());
        let task = job.task;
        let tracker = task.is_tracking().then(|| Tracker::new(task.threshold));
        let places = Places::new(&task.zones, &task.lines, (video.probe.width, video.probe.height));
        let (spent, errors, first_error) = (Spent::default(), 0, None);
        let numbers = video.times.as_ref().map(Times::numbers);
        Self {
            job,
            video,
            last_us: None,
            ledger,
            segments,
            parts,
            looks,
            frames: (0, 0),
            numbers,
            tracker,
            places,
            spent,
            errors,
            first_error,
        }
    }

    /// The next frame that was looked at; `None` behind the last.
    pub(super) fn next(&mut self) -> Result<Option<Told>, Failure> {
        loop {
            if let Some(look) = self.looks.next() {
                return self.told(&look).map(Some);
            }
            if let Some(kept) = self.parts.next() {
                self.open(kept)?;
                continue;
            }
            let Some(segment) = self.segments.next() else { return Ok(None) };
            let access = self.ledger.access(segment.index);
            self.frames = (self.frames(), self.ledger.progress(access, segment.index).0);
            self.parts = Box::new(self.ledger.chain(access, segment.index));
        }
    }

    /// Frames of the video up to the end of the segment where somebody is, those that were not looked at too.
    pub(super) fn frames(&self) -> u64 {
        self.frames.0 + self.frames.1
    }

    fn open(&mut self, kept: &Kept) -> Result<(), Failure> {
        let part = match &kept.part {
            Some(part) => part.clone(),
            None => {
                let read = stored(self.job, &kept.name, true).map_err(placed)?;
                let damaged = || engine::Error::unavailable(format!("part {} was damaged", kept.name));
                read.ok_or_else(|| Failure::Task(damaged()))?
            }
        };
        self.spent += part.spent;
        if let Some(end) = part.end {
            self.last_us = self.last_us.max(end.last_us);
            self.errors += end.damage_count;
            self.first_error = self.first_error.take().or(end.first_damage);
        }
        self.looks = part.looks.into_iter();
        Ok(())
    }

    fn told(&mut self, look: &Look) -> Result<Told, Failure> {
        let (index, pts_us) = (self.number(look)?, look.pts_us);
        let mut sightings: Vec<Sighting> = look.found.iter().map(Sighting::from).collect();
        if let Some(tracker) = &mut self.tracker {
            let tracks = tracker.step(pts_us, &look.found);
            sightings.iter_mut().zip(tracks).for_each(|(one, track)| one.track = track);
            // Of what is hardly seen only that is told which is known to be something.
            sightings.retain(|one| one.track.is_some() || one.score >= self.job.task.threshold);
            self.places.keep(|track| tracker.is_followed(track));
        }
        let crossings = self.places.step(pts_us, &mut sightings);
        Ok(Told { index, pts_us, sightings, crossings })
    }

    /// Which frame of the video it is.
    fn number(&mut self, look: &Look) -> Result<u64, Failure> {
        let Some(numbers) = &mut self.numbers else { return Ok(self.frames.0 + look.offset) };
        let number = numbers.at(look.pts_us, |ticks| self.video.probe.microseconds(ticks)).map_err(Failure::Task)?;
        number.ok_or_else(|| {
            let (input, seconds) = (self.job.task.shown_input(), look.pts_us as f64 / 1e6);
            Failure::Task(engine::Error::invalid(format!(
                "video '{input}' has a frame at {seconds} s of which its container does not know: submit it with --sample \
                 every:N or fps:N"
            )))
        })
    }
}
