//! The loader, the fetchers and the readers: threads that have ready what requests wait for. Files that are on this node are
//! looked up by the loader, or at the desk; those that are not are a fetcher's, so that no model waits for another's download.
//! Weights that are on disk alone are a reader's, so that no lane waits for a disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::{Error, ErrorKind, Result};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::oneshot;

use super::Scheduler;
use crate::job::Job;
use crate::lane;
use crate::model::Model;
use crate::queue::{Loaded, Next, Queues, Waiter};
use crate::residency::{self, AtHand, Program};
use crate::waiting::Batch;

/// Models whose files are fetched at once; each of them reads several ranges.
const FETCHERS: usize = 8;
/// Models whose weights are read from disk at once, each by several threads: one that is large does not keep all others.
const READERS: usize = 2;
/// How often it is looked whether those who wait for files have waited too long.
const TIRED_AFTER: Duration = Duration::from_millis(100);

/// Where they sleep.
#[derive(Default)]
pub(super) struct Loads {
    pub(super) load: Condvar,
    fetch: Condvar,
    read: Condvar,
}

impl Loads {
    pub(super) fn notify_all(&self) {
        [&self.load, &self.fetch, &self.read].into_iter().for_each(Condvar::notify_all);
    }
}

/// Starts the loader, the readers, and fetchers where there is something to fetch.
///
/// # Errors
/// [`Internal`](engine::ErrorKind::Internal) when the system gives no more threads.
pub(super) fn start(scheduler: &Arc<Scheduler>) -> Result<Vec<JoinHandle<()>>> {
    let loader = Arc::clone(scheduler);
    let mut threads = vec![lane::spawn("loader", move || load(&loader))?];
    let fetchers = if scheduler.residency.fetches() { FETCHERS } else { 0 };
    for number in 0..fetchers {
        let fetcher = Arc::clone(scheduler);
        threads.push(lane::spawn(&format!("fetcher-{number}"), move || fetch(&fetcher))?);
    }
    for number in 0..READERS {
        let reader = Arc::clone(scheduler);
        threads.push(lane::spawn(&format!("reader-{number}"), move || read(&reader))?);
    }
    Ok(threads)
}

/// The life of the loader: it builds programs that somebody waits for, and yields the cores to whoever computes.
fn load(scheduler: &Scheduler) {
    engine::cpu::step_back();
    while let Some(model) = scheduler.next_load() {
        // Held until the queue has them.
        let Some(_files) = scheduler.residency.at_hand(&model) else {
            if scheduler.lock().fetch(Arc::clone(&model)) {
                scheduler.loads.fetch.notify_one();
            }
            continue;
        };
        let started = Instant::now();
        let cold = model.program().is_none();
        let outcome = catch_unwind(AssertUnwindSafe(|| scheduler.residency.load(&model)))
            .unwrap_or_else(|_| Err(Error::internal("the runtime panicked while it loaded the program")));
        let manifest = model.manifest();
        match &outcome {
            Ok(_) if cold => {
                let ms = started.elapsed().as_millis();
                tracing::info!(model = %manifest.name, version = manifest.version, ms, "program ready");
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(model = %manifest.name, version = manifest.version, %error, "not loaded"),
        }
        if cold {
            scheduler.metrics().loaded(outcome.is_ok(), started.elapsed());
        }
        model.loaded(outcome.as_ref().err());
        scheduler.loaded(&model, outcome);
    }
}

/// The life of a fetcher: it has the files there that somebody waits for.
fn fetch(scheduler: &Scheduler) {
    engine::cpu::step_back();
    while let Some(model) = scheduler.next_fetch() {
        let started = Instant::now();
        let fetched = catch_unwind(AssertUnwindSafe(|| scheduler.residency.fetch(&model)))
            .unwrap_or_else(|_| Err(Error::internal("fetching the model panicked")));
        let (name, version) = (&model.manifest().name, model.manifest().version);
        match fetched {
            Ok(files) => {
                let ms = started.elapsed().as_millis();
                tracing::info!(model = %name, version, ms, "fetched");
                let waiters = scheduler.lock().fetched(model.id(), Some(files.clone()));
                scheduler.loads.load.notify_one();
                tell(waiters, &Ok(files));
            }
            Err(error) => {
                tracing::warn!(model = %name, version, %error, "not fetched");
                let waiters = scheduler.lock().fetched(model.id(), None);
                tell(waiters, &Err(error.clone()));
                scheduler.loaded(&model, Err(error));
            }
        }
    }
}

/// The life of a reader: it has the weights in memory that somebody waits for. That is mostly a wait for the disk, so it
/// takes what it needs of the cores at once.
fn read(scheduler: &Scheduler) {
    while let Some(model) = scheduler.next_read() {
        scheduler.residency.read_in(&model);
        let refused = scheduler.go_on(|queues| queues.read(model.id()));
        debug_assert!(refused.is_empty(), "what has a program is refused nothing");
    }
}

/// One more that waits, as long as this lives.
struct Waits(Gauge);

impl Waits {
    fn counted(waiting: &Gauge) -> Self {
        waiting.inc();
        Self(waiting.clone())
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn tell(waiters: Vec<Waiter>, what: &Result<AtHand>) {
    for waiter in waiters {
        // Whoever asked may have gone in the meantime.
        let _ = waiter.send(what.clone());
    }
}

impl Scheduler {
    /// Has requests for models that share a trunk run through it together, and models that are asked for most on sessions of
    /// their own, where there is a place for those. Both are made on a thread of its own with a low priority.
    ///
    /// # Errors
    /// [`Internal`](ErrorKind::Internal) when the system gives no more threads.
    pub fn promote(self: &Arc<Self>) -> Result<()> {
        let scheduler = Arc::clone(self);
        let thread = lane::spawn("promoter", move || residency::promote(&scheduler))?;
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Has the weights of models looked through once they are ready, on a thread of its own with a low priority that reads so
    /// many bytes a second from disk at the most. Models whose weights are damaged are refused from then on.
    pub fn inspect(self: &Arc<Self>, bytes_per_s: u64) {
        let scheduler = Arc::downgrade(self);
        self.residency.begin_inspecting(Box::new(move || {
            let Some(scheduler) = scheduler.upgrade() else { return };
            let inspected = Arc::clone(&scheduler);
            match lane::spawn("inspector", move || residency::inspect(&inspected, bytes_per_s)) {
                Ok(thread) => scheduler.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread),
                Err(error) => tracing::warn!(%error, "weights are not looked through"),
            }
        }));
    }

    /// Has `model` made ready, if that is of use, while the rest of a request for it is on its way. The caller drives a
    /// connection.
    pub(crate) fn expect(&self, model: &Arc<Model>) {
        if let Some(make_ready) = self.residency.expected(model) {
            drop(tokio::task::spawn_blocking(make_ready));
        }
    }

    /// Waits until a fetcher has had the files of `model` there, where they stay while what comes back lives. Dropping the
    /// future takes whoever waits out of it, and not the fetch.
    ///
    /// # Errors
    /// [`DeadlineExceeded`](ErrorKind::DeadlineExceeded) when that takes longer than a request may wait,
    /// [`Exhausted`](ErrorKind::Exhausted) when as many wait as may, [`Unavailable`](ErrorKind::Unavailable) when the
    /// server stops, and those of [`Residency::fetch`](crate::Residency).
    pub(crate) async fn files(&self, model: &Arc<Model>) -> Result<AtHand> {
        let (waiter, files) = oneshot::channel();
        let limit = self.limits.of(model).time_limit;
        let _waits = Waits::counted(&self.metrics.desk_waiting);
        if self.lock().fetch_for(Arc::clone(model), waiter)? {
            self.loads.fetch.notify_one();
        }
        match tokio::time::timeout(limit, files).await {
            Ok(files) => files.unwrap_or_else(|_| Err(Error::unavailable("the server is stopping; ask another one"))),
            Err(_) => {
                let (name, limit_s) = (&model.manifest().name, limit.as_secs_f64());
                let late = format!("the request waited longer than {limit_s} s for the files of model '{name}'");
                Err(Error::new(ErrorKind::DeadlineExceeded, late))
            }
        }
    }

    /// The next model whose program somebody waits for; waits for one. `None` when the loader should leave.
    fn next_load(&self) -> Option<Arc<Model>> {
        let mut queues = self.lock();
        loop {
            match queues.next_load() {
                Next::Do(model) => return Some(model),
                Next::Leave => return None,
                Next::Wait | Next::WaitUntil(_) if queues.is_fetching() => {
                    let waited = self.loads.load.wait_timeout(queues, TIRED_AFTER);
                    queues = waited.unwrap_or_else(PoisonError::into_inner).0;
                    let (now, tired) = (Instant::now(), queues.tired(Instant::now()));
                    drop(queues);
                    if !tired.is_empty() {
                        self.idle.notify_all();
                    }
                    for (job, why) in tired {
                        self.metrics.queued.dec();
                        self.refuse(job, why, now);
                    }
                    queues = self.lock();
                }
                Next::Wait | Next::WaitUntil(_) => {
                    queues = self.loads.load.wait(queues).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// The next model whose files somebody waits for; waits for one. `None` when the fetcher should leave.
    fn next_fetch(&self) -> Option<Arc<Model>> {
        self.next(&self.loads.fetch, Queues::next_fetch)
    }

    /// The next model whose weights somebody waits for; waits for one. `None` when the reader should leave.
    fn next_read(&self) -> Option<Arc<Model>> {
        self.next(&self.loads.read, Queues::next_read)
    }

    /// What is `next`, for whoever sleeps at `place` until there is something.
    fn next(&self, place: &Condvar, next: fn(&mut Queues) -> Next<Arc<Model>>) -> Option<Arc<Model>> {
        let mut queues = self.lock();
        loop {
            match next(&mut queues) {
                Next::Do(model) => return Some(model),
                Next::Leave => return None,
                Next::Wait | Next::WaitUntil(_) => {
                    queues = place.wait(queues).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    /// `batch`, for `model` alone, which a lane took for so long, waits until a reader has had the model's weights in memory.
    pub(crate) fn put_back(&self, batch: Batch, model: &Arc<Model>, cost: Duration) {
        self.metrics.queued.inc_by(i64::try_from(batch.len()).unwrap_or(i64::MAX));
        let late = self.lock().put_back(batch, model, cost);
        self.loads.read.notify_one();
        // It looks whether those who wait have waited too long.
        self.loads.load.notify_one();
        self.send_home(late);
    }

    /// Answers `jobs`, which waited when the scheduler stopped.
    pub(super) fn send_home(&self, jobs: Vec<Job>) {
        for job in jobs {
            self.metrics.queued.dec();
            job.into_reply().send(Err(Error::unavailable("the server stopped before this request's turn")));
        }
    }

    /// The loader is done with `model`: its queue takes part, or is answered with why it cannot.
    fn loaded(&self, model: &Model, outcome: Result<Arc<Program>>) {
        let refused = self.go_on(|queues| queues.loaded(model.id(), outcome.as_ref().ok().map(Arc::clone)));
        if let Err(error) = outcome {
            for job in refused {
                self.metrics.queued.dec();
                self.metrics.refused(error.kind);
                job.into_reply().send(Err(error.clone()));
            }
        }
    }

    /// Something has `ended` that requests waited for: they take part, or are given back to be refused.
    fn go_on(&self, ended: impl FnOnce(&mut Queues) -> Loaded) -> Vec<Job> {
        let Loaded { refused, asked } = {
            let mut queues = self.lock();
            queues.sleepers.all_woken(Instant::now());
            ended(&mut queues)
        };
        if let Some(asked) = asked {
            self.metrics.cold_started(asked.elapsed());
        }
        self.wake(0..self.lanes());
        self.idle.notify_all();
        refused
    }
}
