//! The list of a video's frames, made on a thread of its own while what it has already told is worked.
//!
//! Where a video is cut hangs on its list alone, and up to a cut on what comes before and a little behind it. So segments are
//! given out while the list goes on; and when it has ended, what they were taken for is held against what it says in the
//! end. Where a container has its frames in no order that may differ, and the video is begun again by the whole list.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use engine::{Error, Result};

use super::room::LOOK;
use super::send::Event;
use super::{Job, panicked};
use crate::judge::{declared, judge};
use crate::media::{self, Choice, DecodeReport, Probe, Told};
use crate::policy::Failure;
use crate::segment::{Keys, Lengths, Listed, Outline, Plan, Times};
use crate::task::Task;

/// Frames that are listed before anything is begun, and between two looks what may be.
const FRAMES_MIN: u64 = 32;
const FRAMES_STEP: u64 = 8;

/// What is sure of a video, as far as it is listed, unless the rest of the list shows otherwise.
pub(super) struct Sure {
    pub(super) probe: Probe,
    /// Whether each of its frames has a time.
    pub(super) is_timed: bool,
    /// Its segments.
    pub(super) plan: Plan,
    /// Whether these are all.
    pub(super) is_complete: bool,
    /// Whether anything can be begun by it.
    begins: bool,
    /// Key frames, where only those are looked at.
    pub(super) keys: Keys,
    /// Where a gate lets something through so that decoders may begin there, in microseconds; `None` without a gate.
    entries: Option<BTreeSet<i64>>,
}

impl Sure {
    fn of((probe, outline): (&Probe, &Outline), task: &Task, lengths: &Lengths, is_complete: bool) -> Self {
        let sampling = task.sampling;
        let is_keys = sampling.decoded(probe) == Choice::KeyFrames;
        let keys = if is_keys { Keys::of(probe, outline) } else { Keys::default() };
        let entries = sampling.gate().map(|gate| gate.entries(probe, outline));
        let plan = if is_complete { Plan::new } else { Plan::so_far }(probe, outline, lengths, entries.as_ref());
        // Whoever needs to know all that is to be looked at begins nothing while some of that may be missing; an index of key
        // frames is there soon.
        let needs_all = keys.spans.is_some() || plan.whole.is_some() && (is_keys || entries.is_some());
        // Frames that are told by their numbers, of a list that has shown that they cannot be: the task will be refused.
        let is_refused = sampling.decoded(probe) != Choice::All && !outline.is_in_order();
        let begins = is_complete || !plan.segments.is_empty() && !needs_all && !is_refused;
        Self { probe: probe.clone(), is_timed: outline.untimed == 0, plan, is_complete, begins, keys, entries }
    }

    /// Whether a frame is the first that is shown since one of the gate's entries.
    pub(super) fn is_entry(&self, previous_us: Option<i64>, pts_us: i64) -> bool {
        let Some((entries, previous_us)) = self.entries.as_ref().zip(previous_us) else { return false };
        previous_us < pts_us && entries.range(previous_us + 1..=pts_us).next().is_some()
    }

    /// Whether `later`, of a longer list, says the same of its segments.
    pub(super) fn is_continued_by(&self, later: &Self) -> bool {
        let until_us = self.plan.segments.last().and_then(|last| last.before_us).unwrap_or(i64::MAX);
        let keys = |sure: &Self| sure.keys.times_us.partition_point(|&key_us| key_us <= until_us);
        let entries = |sure: &Self| sure.entries.iter().flatten().copied().take_while(|&us| us <= until_us).collect();
        let (mine, its): (Vec<i64>, Vec<i64>) = (entries(self), entries(later));
        let same_selection = mine == its && self.keys.times_us[..keys(self)] == later.keys.times_us[..keys(later)];
        let same_video = self.probe.essence(self.is_timed) == later.probe.essence(later.is_timed);
        same_video && self.is_timed == later.is_timed && same_selection && self.plan.is_continued_by(&later.plan)
    }
}

/// All that the list of a video's frames says, and what the video says of itself.
pub(super) struct Video {
    pub(super) probe: Probe,
    pub(super) outline: Outline,
    /// When all frames are shown, where not all are decoded: nobody sees the others to count them.
    pub(super) times: Option<Times>,
    /// What is sure of it.
    pub(super) sure: Arc<Sure>,
}

impl Video {
    /// Of a video that said `first` of itself at its beginning, and `probe` once all was read.
    fn of(job: &Job<'_>, first: Option<Probe>, probe: Probe, outline: Outline, listed: Option<Listed>) -> Result<Self> {
        // What is cut off for sure is refused, whatever else there may be to say of it.
        let stored = DecodeReport { frames: outline.frames, ..DecodeReport::default() };
        let span_s = outline.span.map(|(first, last)| (probe.seconds(first), probe.seconds(last)));
        let is_timed = outline.untimed == 0;
        if is_timed && span_s.is_some() {
            judge(job.task, &stored, span_s, declared(&probe, &outline, None))?;
        }
        let listed = listed.filter(|_| job.task.sampling.decoded(&probe) != Choice::All);
        let times = listed.map(|listed| times(job, &outline, listed)).transpose()?;
        // Whatever was begun was begun by that.
        let first = first.filter(|first| first.essence(is_timed) == probe.essence(is_timed));
        let sure = Sure::of((first.as_ref().unwrap_or(&probe), &outline), job.task, &job.lengths, true);
        Ok(Self { probe, outline, times, sure: Arc::new(sure) })
    }
}

/// When all frames are shown, for a task that has some of them not decoded.
fn times(job: &Job<'_>, outline: &Outline, listed: Listed) -> Result<Times> {
    let times = listed.end()?.filter(|_| outline.is_in_order());
    times.ok_or_else(|| {
        Error::invalid(format!(
            "video '{}' does not say when each of its frames is shown, so that none can be told by its number unless all are \
             decoded: submit it with --sample every:N or fps:N",
            job.task.shown_input()
        ))
    })
}

/// A list that is being made.
pub(super) struct Listing<'a> {
    job: &'a Job<'a>,
    state: Mutex<State>,
    changed: Condvar,
    /// That nobody wants more of it; it guards no other data.
    stopped: AtomicBool,
}

#[derive(Default)]
struct State {
    sure: Option<Arc<Sure>>,
    /// Whether the list has shown since that the video is not what it was taken for.
    is_void: bool,
    end: Option<Result<Arc<Video>>>,
    /// Woken when there is more.
    waiting: Option<SyncSender<Event>>,
}

/// What is known of a video now.
pub(super) enum Known {
    /// So much for sure, and more is to come.
    Some(Arc<Sure>),
    /// That the video is not what it was taken for; what it is the end of the list says.
    Otherwise,
    All(Arc<Video>),
}

/// Ends the list when it goes.
pub(super) struct Ending<'a>(&'a Listing<'a>);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Relaxed);
        // ffprobe may be waiting for the place, and would tell nothing for as long.
        self.0.job.source.input.close();
    }
}

impl<'a> Listing<'a> {
    pub(super) fn new(job: &'a Job<'a>) -> Self {
        Self { job, state: Mutex::default(), changed: Condvar::new(), stopped: AtomicBool::new(false) }
    }

    /// Makes the list on a thread of `scope`, until it ends or what is returned goes.
    pub(super) fn start<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Ending<'scope>
    where
        'a: 'scope,
    {
        scope.spawn(|| {
            let list = catch_unwind(AssertUnwindSafe(|| self.list()));
            let end = list.unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
            self.tell(|state| state.end = Some(end.map(Arc::new)));
        });
        Ending(self)
    }

    /// Waits until something can be begun.
    ///
    /// # Errors
    /// What keeps the video from being listed, or from being worked by what its list says.
    pub(super) fn first(&self) -> std::result::Result<Arc<Sure>, Failure> {
        let mut state = self.lock();
        loop {
            match (&state.end, &state.sure) {
                (Some(Err(error)), _) => return Err(Failure::Task(error.clone())),
                (Some(Ok(whole)), _) => return Ok(Arc::clone(&whole.sure)),
                (None, Some(sure)) if !state.is_void => return Ok(Arc::clone(sure)),
                (None, _) => {}
            }
            // The lock is not held while a stranger is asked.
            drop(state);
            if (self.job.cancelled)() {
                return Err(Failure::Stopped);
            }
            state = self.lock();
            if state.end.is_none() && (state.sure.is_none() || state.is_void) {
                state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }

    /// What is known by now; `None` as long as nothing can be begun by that.
    ///
    /// # Errors
    /// As [`first`](Self::first).
    pub(super) fn now(&self) -> Result<Option<Known>> {
        let state = self.lock();
        match (&state.end, &state.sure) {
            (Some(end), _) => Ok(Some(Known::All(Arc::clone(end.as_ref().map_err(Error::clone)?)))),
            (None, _) if state.is_void => Ok(Some(Known::Otherwise)),
            (None, sure) => Ok(sure.clone().map(Known::Some)),
        }
    }

    /// Whether it has failed, or what was begun by it is for nothing.
    pub(super) fn is_refuted(&self) -> bool {
        let state = self.lock();
        state.end.as_ref().map_or(state.is_void, Result::is_err)
    }

    /// Has `waiting` hear that there is more to know, unless something else is in its way.
    pub(super) fn wakes(&self, waiting: SyncSender<Event>) {
        self.lock().waiting = Some(waiting);
    }

    fn list(&self) -> Result<Video> {
        let Job { task, lengths, .. } = self.job;
        let mut listed = task.sampling.passes_over().then(Listed::new).transpose()?;
        let (mut first, mut outline, mut due) = (None, Outline::default(), FRAMES_MIN);
        let mut hear = |told: Told<'_>| {
            match told {
                Told::Headers(probe) => first = Some(probe.clone()),
                Told::Packet(&packet) => {
                    listed.iter_mut().for_each(|listed| listed.add(&packet));
                    outline.add(packet);
                }
            }
            if let Some(probe) = first.as_ref().filter(|_| outline.frames >= due) {
                // What a look takes grows with the list, so that the looks become fewer; a segment is not to wait for one.
                due = outline.frames + (outline.frames / 64).min(lengths.frames).max(FRAMES_STEP);
                self.learn(Sure::of((probe, &outline), task, lengths, false));
            }
            if self.stopped.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let probe = media::survey(self.job.tools, &self.job.source.input, self.job.stall_limit, &mut hear)?;
        Video::of(self.job, first, probe, outline, listed)
    }

    /// Tells what is sure where that is more than before, or that it is otherwise: more of the list does not mend that.
    fn learn(&self, sure: Sure) {
        let before = self.lock().sure.clone();
        match before {
            Some(before) if !before.is_continued_by(&sure) => self.tell(|state| state.is_void = true),
            Some(before) if sure.plan.segments.len() <= before.plan.segments.len() => {}
            _ if sure.begins => self.tell(|state| state.sure = Some(Arc::new(sure))),
            _ => {}
        }
    }

    fn tell(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        if let Some(waiting) = &state.waiting {
            // Whoever has another reason to look sees this as well.
            let _ = waiting.try_send(Event::Listed);
        }
        drop(state);
        self.changed.notify_all();
    }

    /// No panic leaves it half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
