//! The requests of one model that wait, and which of them go next, together. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Error, ErrorKind};
use store::LatencyClass;

use crate::costs::Curve;
use crate::job::Job;
use crate::lengths::{self, Room, Row};
use crate::model::Model;
use crate::residency::{AtHand, Program, Trunk};
use crate::{QueueLimits, batch, hold};

/// Requests looked at when a queue is swept, for each one that is refused.
const SWEPT_PER_REFUSAL: usize = 256;
/// A client is told to come back after this at the earliest, and at the latest.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A breath at the least and at the most: waking up takes as long as the first, and a client hardly notices the second.
const BREATH: (Duration, Duration) = (Duration::from_micros(100), Duration::from_millis(2));
/// A full queue is work for as many breaths, so that it never runs empty in one.
const BREATHS: u32 = 8;
/// Held back, a request with a deadline keeps so many times its batch's expected cost.
const DEADLINE_RESERVE: f64 = 1.5;
/// So many requests in line are looked at for those nearest in length, so that a long line costs no more.
const NEIGHBOURS_MAX: usize = 256;
/// Tokens of a batch, padding among them: what a run takes in memory grows with them.
const TOKENS_MAX: usize = 8192;

/// What a queue waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The loader, or a reader: it takes no part in the sharing of lanes.
    Loading,
    /// A lane; or nothing, when it is empty.
    Ready,
    /// Company, until then.
    Held(Instant),
}

/// Requests that run together, and what they run on.
pub(crate) struct Batch {
    pub(crate) jobs: Vec<Job>,
    pub(crate) program: Arc<Program>,
    /// What they run on stays in its place until they are done.
    pub(crate) files: AtHand,
    /// Set when they are for several models; those of a model are next to each other.
    pub(crate) shared: Option<Shared>,
}

/// What requests for several models run through together.
pub(crate) struct Shared {
    pub(crate) trunk: Arc<Trunk>,
    /// As [`Batch::files`], of the others.
    #[expect(dead_code, reason = "they are there while somebody holds them")]
    pub(crate) files: Vec<AtHand>,
}

/// Where a request waits: its model, its rank, its age.
pub(crate) type Place = (u64, (u32, u64));

impl std::ops::Deref for Batch {
    type Target = [Job];

    fn deref(&self) -> &[Job] {
        &self.jobs
    }
}

/// The requests of one model that wait.
pub(crate) struct Queue {
    pub(crate) model: Arc<Model>,
    /// What they run on; held from the moment at which it is there, so that it stays for them.
    pub(crate) program: Option<Arc<Program>>,
    /// The model's files, from the moment at which they are there.
    pub(crate) files: AtHand,
    pub(crate) state: State,
    /// By rank and then by age.
    jobs: BTreeMap<(u32, u64), Job>,
    /// Of all jobs.
    items: usize,
    /// Refusals since it was last swept.
    refused: usize,
}

impl Queue {
    pub(crate) fn new(model: Arc<Model>) -> Self {
        let (program, files) = model.runnable().unzip();
        let files = files.unwrap_or_default();
        Self { model, program, files, state: State::Ready, jobs: BTreeMap::new(), items: 0, refused: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// When the request came that has waited longest.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.jobs.values().map(|job| job.submitted).min()
    }

    /// Takes `job` in.
    pub(crate) fn push(&mut self, job: Job) {
        let curve = self.model.costs().curve();
        self.model.arrivals().arrived(job.submitted, job.items() as u64, hold::horizon(&curve));
        self.put_back(job);
    }

    /// Takes `job` in where it was before a lane took it.
    pub(crate) fn put_back(&mut self, job: Job) {
        self.items += job.items();
        self.jobs.insert((job.rank(), job.age), job);
    }

    /// Everything that waits.
    pub(crate) fn drain(&mut self) -> Vec<Job> {
        self.items = 0;
        std::mem::take(&mut self.jobs).into_values().collect()
    }

    /// Why one more is not taken, if so: the queue is full, or `lanes` would need longer for what waits already, and
    /// for nothing else, than anybody may wait.
    pub(crate) fn refusal(&self, limits: &QueueLimits, lanes: usize) -> Option<Error> {
        let QueueLimits { capacity, time_limit } = limits.of(&self.model);
        let work = self.work(lanes);
        let (name, waiting) = (&self.model.manifest().name, self.jobs.len());
        let why = if waiting >= capacity {
            format!("the queue of model '{name}' is full ({waiting} waiting); try again soon")
        } else if let Some(work) = work.filter(|&work| work > time_limit) {
            let (work_s, limit_s) = (work.as_secs_f64(), time_limit.as_secs_f64());
            format!(
                "the {waiting} requests that wait for model '{name}' take {work_s:.1} s, and none may wait longer than \
                 {limit_s} s; try again later"
            )
        } else {
            return None;
        };
        let retry_after = work.map(|work| work.clamp(RETRY_AFTER.0, RETRY_AFTER.1));
        Some(Error { retry_after, ..Error::new(ErrorKind::Exhausted, why) })
    }

    /// For how long `lanes` are busy with what waits, if nothing else does; `None` while nothing is known of the costs.
    fn work(&self, lanes: usize) -> Option<Duration> {
        let item = self.model.costs().curve().item()?;
        Some(item.mul_f64(self.items as f64 / lanes.max(1) as f64))
    }

    /// For how long `lanes` do not notice that nobody brings them anything.
    pub(crate) fn breath(&self, lanes: usize) -> Option<Duration> {
        let breath = (self.work(lanes)? / BREATHS).min(BREATH.1);
        (breath >= BREATH.0).then_some(breath)
    }

    /// Takes out what should not run any more at `now`, with the reason. Called for each request that would be refused;
    /// a long queue is looked through only so often that a refusal stays cheap on average.
    pub(crate) fn sweep(&mut self, limits: &QueueLimits, now: Instant) -> Vec<(Job, Error)> {
        self.refused += 1;
        if self.refused * SWEPT_PER_REFUSAL < self.jobs.len() {
            return Vec::new();
        }
        self.refused = 0;
        self.overdue(limits, now)
    }

    /// Takes out what should not run any more at `now`, with the reason.
    pub(crate) fn overdue(&mut self, limits: &QueueLimits, now: Instant) -> Vec<(Job, Error)> {
        let overdue = self.jobs.extract_if(.., |_, job| job.overdue(limits, now).is_some());
        let swept: Vec<(Job, Error)> =
            overdue.filter_map(|(_, job)| job.overdue(limits, now).map(|why| (job, why))).collect();
        self.items -= swept.iter().map(|(job, _)| job.items()).sum::<usize>();
        swept
    }

    /// Until when the requests are held back for company, with `idle` lanes; `None` when they should go.
    pub(crate) fn hold(&self, now: Instant, idle: usize) -> Option<Instant> {
        let (serving, max) = (self.model.serving(), self.model.max_batch_size());
        let waiting = self.items as u64;
        if serving.max_queue_delay_us == Some(0) || waiting >= max || self.preferred(waiting).is_some() {
            return None;
        }
        let (oldest, deadline) = self.alike(serving.max_queue_delay_us.is_some())?;
        let curve = self.model.costs().curve();
        let (until, size) = match serving.max_queue_delay_us {
            Some(delay_us) => {
                let size = self.wanted_size(&curve);
                let until = oldest.checked_add(Duration::from_micros(delay_us))?;
                ((waiting < size && until > now).then_some(until)?, size)
            }
            None => {
                let expected = self.model.arrivals().expected()?;
                let size = self.wanted_size(&curve);
                (hold::until(&expected, (waiting, oldest), now, idle as u64, (&curve, size))?, size)
            }
        };
        let Some(deadline) = deadline else { return Some(until) };
        // Without a known cost nobody with a deadline is made to wait.
        let reserve = Duration::try_from_secs_f64(DEADLINE_RESERVE * curve.run_s(size)?).ok()?;
        let latest = deadline.checked_sub(reserve)?;
        Some(until.min(latest)).filter(|&until| until > now)
    }

    /// The most items of a run that is over sooner than a lane could be woken for it; `None` when the next one is none, as
    /// of a model that is to be made ready first.
    pub(crate) fn brief(&self) -> Option<u64> {
        let first = self.jobs.values().next().filter(|_| self.model.is_bound())?;
        self.model.costs().curve().brief(first.items() as u64)
    }

    /// The requests that run next, together: the first, and those behind it that fit it, as many as pay, and `most`
    /// items.
    pub(crate) fn take(&mut self, now: Instant, idle: usize, most: u64) -> Vec<Job> {
        let size = usize::try_from(self.size(now, idle, 0).min(most)).unwrap_or(usize::MAX);
        let Some(first) = self.pop_first() else { return Vec::new() };
        let chosen = self.beside(&first, size, self.jobs());
        std::iter::once(first).chain(chosen.into_iter().filter_map(|(_, place)| self.remove(place))).collect()
    }

    /// The request whose turn it is.
    pub(crate) fn pop_first(&mut self) -> Option<Job> {
        let (_, job) = self.jobs.pop_first()?;
        self.items -= job.items();
        Some(job)
    }

    pub(crate) fn remove(&mut self, place: (u32, u64)) -> Option<Job> {
        let job = self.jobs.remove(&place)?;
        self.items -= job.items();
        Some(job)
    }

    /// Everything that waits, in order.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = (Place, &Job)> {
        self.jobs.iter().map(|(&place, job)| ((self.model.id(), place), job))
    }

    /// Items of everything that waits.
    pub(crate) fn items(&self) -> usize {
        self.items
    }

    pub(crate) fn class(&self) -> LatencyClass {
        self.model.class()
    }

    /// Whether there is no place in a batch for anything from elsewhere.
    pub(crate) fn fills_batches(&self) -> bool {
        self.items as u64 >= self.model.max_batch_size()
    }

    /// The trunk that the model shares with others, when its requests may go with theirs.
    pub(crate) fn trunk(&self) -> Option<Arc<Trunk>> {
        self.model.trunk().filter(|_| self.is_free())
    }

    /// Whether nobody asked for sizes of the model's batches, or for times to wait for them.
    fn is_free(&self) -> bool {
        let serving = self.model.serving();
        serving.preferred_batch_sizes.is_empty() && serving.max_queue_delay_us.is_none()
    }

    /// Whether requests that wait here may go with those of `other`, through its `trunk`.
    pub(crate) fn goes_with(&self, other: &Queue, trunk: &Trunk) -> bool {
        let (model, others) = (&self.model, &other.model);
        Arc::ptr_eq(model.slot(), others.slot())
            && !self.is_empty()
            && self.state != State::Loading
            && self.program.is_some()
            && self.is_free()
            && model.class() == others.class()
            && model.max_batch_size() == others.max_batch_size()
            && model.padding() == others.padding()
            && model.shares(trunk)
    }

    /// Those of `others`, which wait, that run with `first`: `size` items in all.
    pub(crate) fn beside<'a>(
        &self,
        first: &Job,
        size: usize,
        others: impl Iterator<Item = (Place, &'a Job)>,
    ) -> Vec<Place> {
        match self.row(first) {
            Some(row) => self.near(first, row, size, others),
            None => fitting(first, size, others),
        }
    }

    /// `job` as a row among others of other lengths, when it may be one. Sizes that somebody asked for are made of what is
    /// of one length.
    fn row(&self, job: &Job) -> Option<Row> {
        let length = job.length.filter(|_| self.model.serving().preferred_batch_sizes.is_empty())?;
        Some(Row { items: job.items(), length })
    }

    /// Those that go with `first`, which is `row`, because together they are cheaper by their lengths: `size` items in all.
    fn near<'a>(
        &self,
        first: &Job,
        row: Row,
        size: usize,
        others: impl Iterator<Item = (Place, &'a Job)>,
    ) -> Vec<Place> {
        if size <= row.items {
            return Vec::new();
        }
        let others = others.filter(|(_, job)| job.outputs == first.outputs);
        let (places, rows): (Vec<_>, Vec<_>) =
            others.filter_map(|(place, job)| Some((place, self.row(job)?))).take(NEIGHBOURS_MAX).unzip();
        let room = Room { items: size, tokens: TOKENS_MAX };
        lengths::company(row, &rows, room, self.model.lengths().line().as_ref())
            .into_iter()
            .map(|at| places[at])
            .collect()
    }

    /// The most items of the next run, when so many wait elsewhere that could run with those here.
    pub(crate) fn size(&self, now: Instant, idle: usize, elsewhere: usize) -> u64 {
        let (max, waiting) = (self.model.max_batch_size(), (self.items + elsewhere) as u64);
        let costs = self.model.costs();
        if max <= 1 || waiting <= 1 {
            return 1;
        }
        // What batches of different lengths cost says nothing of the next: it is looked at row by row.
        let worthwhile_size = || {
            let by_length = self.jobs.values().next().is_some_and(|first| self.row(first).is_some());
            if by_length { max } else { costs.worthwhile_size(max) }
        };
        let delay = self.model.serving().max_queue_delay_us.filter(|&us| us > 0).map(Duration::from_micros);
        // Of those that would go, not of all that wait.
        let next = self.jobs.values().take(usize::try_from(max).unwrap_or(usize::MAX));
        let oldest = next.map(|job| job.submitted).min();
        let due = |delay| oldest.is_some_and(|oldest| now.saturating_duration_since(oldest) >= delay);
        match (self.preferred(waiting), delay) {
            // Whoever has waited as long as he may goes with everybody who is there.
            (Some(_), Some(delay)) if due(delay) => max.min(waiting),
            (Some(size), _) => size,
            // What was waited for goes together.
            (None, Some(_)) if self.model.serving().preferred_batch_sizes.is_empty() => worthwhile_size(),
            (None, Some(_)) => max.min(waiting),
            (None, None) => batch::take(waiting, idle as u64, costs, worthwhile_size),
        }
    }

    /// The largest of the preferred sizes that `waiting` items make.
    fn preferred(&self, waiting: u64) -> Option<u64> {
        let reachable = waiting.min(self.model.max_batch_size());
        self.model.serving().preferred_batch_sizes.iter().copied().filter(|&size| (1..=reachable).contains(&size)).max()
    }

    /// The size at which nothing more is waited for.
    fn wanted_size(&self, curve: &Curve) -> u64 {
        let max = self.model.max_batch_size();
        let preferred = &self.model.serving().preferred_batch_sizes;
        let smallest = preferred.iter().copied().filter(|&size| (1..=max).contains(&size)).min();
        smallest.unwrap_or_else(|| curve.worthwhile_size(max))
    }

    /// When the oldest came and the earliest deadline, of requests that can all run together; `None` when there are
    /// others among them, which would be held back for a batch that is not theirs. Those of other lengths are among them
    /// unless `mixed`: whether it pays to go together is known when they are there, and not before.
    fn alike(&self, mixed: bool) -> Option<(Instant, Option<Instant>)> {
        let first = self.jobs.values().next()?;
        let (mut oldest, mut deadline) = (first.submitted, None::<Instant>);
        for job in self.jobs.values() {
            let pads = || mixed && self.row(first).is_some() && self.row(job).is_some() && first.outputs == job.outputs;
            if !first.fits(job) && !pads() {
                return None;
            }
            oldest = oldest.min(job.submitted);
            deadline = deadline.into_iter().chain(job.deadline).min();
        }
        Some((oldest, deadline))
    }
}

/// Those of `others` that go with `first` because they are of its shape: `size` items in all.
fn fitting<'a>(first: &Job, size: usize, others: impl Iterator<Item = (Place, &'a Job)>) -> Vec<Place> {
    let mut room = size.saturating_sub(first.items());
    let mut fitting = Vec::new();
    for (place, job) in others {
        if room == 0 {
            break;
        }
        if job.items() <= room && first.fits(job) {
            room -= job.items();
            fitting.push(place);
        }
    }
    fitting
}
