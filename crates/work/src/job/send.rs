//! The decoders of one video: where they are sent, and what becomes of them.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

use engine::ErrorKind;

use super::listing::{Known, Video};
use super::stream::{Arrival, Course, Stream};
use super::{Running, panicked};
use crate::policy::{Failure, placed};
use crate::segment::Next;

/// Between two looks whether another decoder would help.
const PACE: Duration = Duration::from_millis(500);

/// What somebody has to say to whoever sends decoders out.
pub(super) enum Event {
    /// A decoder has come to its end.
    Arrived(Course, Result<Arrival, Failure>),
    /// More of the video is known.
    Listed,
}

/// What working a video by what was known of it came to.
pub(super) enum Worked {
    /// Every frame is in a part.
    All(Arc<Video>),
    /// The video is not what it was taken for.
    Otherwise(Arc<Video>),
}

impl Running<'_> {
    /// Looks what the list says by now; `None` while it goes on. It may say before its end that the video `is_otherwise`.
    fn heed_list(&self, is_otherwise: &mut bool) -> Result<Option<Worked>, Failure> {
        let before = self.sure();
        match self.listing.now().map_err(Failure::Task)? {
            Some(Known::All(video)) if *is_otherwise || !before.is_continued_by(&video.sure) => {
                Ok(Some(Worked::Otherwise(video)))
            }
            Some(Known::Otherwise) => {
                // What is out is so for nothing.
                *is_otherwise = true;
                self.failed.store(true, Ordering::Relaxed);
                Ok(None)
            }
            Some(Known::All(video)) => {
                self.learn(&video.sure).map_err(placed)?;
                Ok(Some(Worked::All(video)))
            }
            Some(Known::Some(sure)) => {
                if !Arc::ptr_eq(&before, &sure) {
                    self.learn(&sure).map_err(placed)?;
                }
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Sends decoders out until every frame is in a part.
    pub(super) fn work(&self) -> Result<Worked, Failure> {
        std::thread::scope(|scope| {
            let (sender, events) = sync_channel(1);
            self.listing.wakes(sender.clone());
            let worked = self.send_out_all(scope, &sender, &events);
            // Whoever is out still is so for nothing.
            self.failed.fetch_or(!matches!(worked, Ok(Worked::All(_))), Ordering::Relaxed);
            if worked.is_err() {
                self.job.source.input.close();
            }
            worked
        })
    }

    fn send_out_all<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        sender: &SyncSender<Event>,
        events: &Receiver<Event>,
    ) -> Result<Worked, Failure> {
        let (mut out, mut wanted) = (Out::default(), 1);
        let (mut listed, mut failure, mut is_otherwise) = (None, None, false);
        let mut paced = Instant::now();
        loop {
            if listed.is_none() {
                listed = self.heed_list(&mut is_otherwise)?;
            }
            match (listed.take(), failure.take()) {
                (Some(Worked::Otherwise(video)), _) => {
                    tracing::info!(task = %self.job.task.id, "the video is begun again, now that all of its frames are listed");
                    return Ok(Worked::Otherwise(video));
                }
                (Some(_), Some(failure)) => return Err(failure),
                (None, None) if is_otherwise => {}
                (list, None) => {
                    self.send_out(scope, sender, &mut out, wanted)?;
                    match list {
                        Some(list) if out.streams == 0 => return Ok(list),
                        list => listed = list,
                    }
                }
                (None, some) => failure = some,
            }
            if out.streams == 0 && (self.job.cancelled)() {
                return Err(Failure::Stopped);
            }
            let input = &self.job.source.input;
            input.awaits_list(out.streams == 0);
            let event = events.recv_timeout(PACE);
            input.awaits_list(false);
            let is_list = matches!(event, Ok(Event::Listed));
            match event {
                Ok(Event::Arrived(course, arrival)) => {
                    out.back(&course);
                    match arrival {
                        Ok(Arrival::Done) => {}
                        Ok(Arrival::Refused) => self.refuse(&course),
                        // Of a video that is broken the list may have more to say.
                        Err(Failure::Task(error)) if listed.is_none() && error.kind == ErrorKind::InvalidInput => {
                            self.failed.store(true, Ordering::Relaxed);
                            failure.get_or_insert(Failure::Task(error));
                        }
                        // These were stopped for it.
                        Err(Failure::Stopped) if (failure.is_some() || is_otherwise) && !(self.job.cancelled)() => {}
                        // The first to fail knows why; the rest were stopped for it.
                        Err(failure) => return Err(failure),
                    }
                }
                Ok(Event::Listed) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
            // What waited for what in a moment says nothing, and a list may be heard of every moment.
            if !is_list || paced.elapsed() >= PACE {
                wanted = pace(out.streams, self.waits(), self.shared.decoders.is_wanted());
                paced = Instant::now();
            }
        }
    }

    /// Sends decoders out while fewer than `wanted` are, and there is something to be done.
    fn send_out<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
        arrived: &SyncSender<Event>,
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
                0 => match self.shared.decoders.enter(&|| self.is_halted() || self.listing.is_refuted()) {
                    Some(permit) => permit,
                    None if self.is_halted() => return Err(Failure::Stopped),
                    // What the list says comes first.
                    None => break,
                },
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
                let _ = arrived.send(Event::Arrived(course, arrival));
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
