//! The inspector: a thread of a low priority that looks through the weights of models once they have been made ready. Nobody
//! waits for it, so what was damaged on disk may be run on until it comes to it; then every model of it is refused.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{Error, ErrorKind, Result};
use store::{DamagedSegment, Manifest};

use super::Residency;
use super::room::models;
use crate::metrics::Inspected;
use crate::model::Model;
use crate::scheduler::Scheduler;

/// Starts a thread.
pub(crate) type Start = Box<dyn FnOnce() + Send>;

/// Rests add up to this before one is taken.
const REST_MIN: Duration = Duration::from_millis(20);

/// Whose weights are still to be looked through.
#[derive(Default)]
pub(super) struct Unseen {
    /// Whether somebody does.
    is_wanted: AtomicBool,
    /// Starts the thread; taken when there is something for it to do, which in many a server there never is.
    start: Mutex<Option<Start>>,
    /// Each model is in it once.
    queue: Mutex<VecDeque<Arc<Manifest>>>,
    more: Condvar,
}

impl Unseen {
    fn push(&self, manifest: &Arc<Manifest>) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(Arc::clone(manifest));
        self.more.notify_one();
        if let Some(start) = { self.start.lock().unwrap_or_else(PoisonError::into_inner).take() } {
            start();
        }
    }

    /// The next one; waits for it. `None` when `leaving`.
    fn next(&self, leaving: &AtomicBool) -> Option<Arc<Manifest>> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if leaving.load(Ordering::Relaxed) {
                return None;
            }
            if let Some(manifest) = queue.pop_front() {
                return Some(manifest);
            }
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whoever waits looks whether he is to leave.
    pub(super) fn wake(&self) {
        // Not between his look and his sleep.
        drop(self.queue.lock());
        self.more.notify_all();
    }
}

/// How much a disk is read beside what it does for requests.
struct Pace {
    bytes_per_s: u64,
    /// Until when what was read so far is enough.
    rests_until: Instant,
}

impl Pace {
    /// So many bytes were read by `now`; how long to wait before more are.
    fn after(&mut self, now: Instant, bytes: u64) -> Duration {
        let rest = Duration::from_secs_f64(bytes as f64 / self.bytes_per_s.max(1) as f64);
        self.rests_until = self.rests_until.max(now) + rest;
        self.rests_until.saturating_duration_since(now)
    }
}

/// The life of the inspector, which reads so much a second from disk at the most.
pub(crate) fn inspect(scheduler: &Scheduler, bytes_per_s: u64) {
    engine::cpu::step_back();
    let residency = scheduler.residency();
    let mut pace = Pace { bytes_per_s, rests_until: Instant::now() };
    while let Some(manifest) = residency.unseen.next(&residency.leaving) {
        let looked = catch_unwind(AssertUnwindSafe(|| residency.look_through(&manifest, &mut pace)))
            .unwrap_or_else(|_| Err(Error::internal("looking through its weights panicked")));
        if let Err(error) = looked {
            tracing::warn!(model = %manifest.name, version = manifest.version, %error, "not looked through");
        }
    }
}

impl Residency {
    /// Has the weights of models looked through from now on, by the thread that `start` starts.
    pub(crate) fn begin_inspecting(&self, start: Start) {
        *self.unseen.start.lock().unwrap_or_else(PoisonError::into_inner) = Some(start);
        self.unseen.is_wanted.store(true, Ordering::Relaxed);
    }

    /// The weights of `model` were bound, or not: they are looked through, unless they have been.
    pub(super) fn bound(&self, model: &Model, outcome: Option<&Error>) {
        // What is damaged may have been mended where it lies.
        let again = outcome.is_some_and(|error| error.kind == ErrorKind::Corrupt);
        // What is kept whole is read and not mapped.
        let is_mapped = !model.is_whole() && !model.manifest().weights.segments.is_empty();
        let wanted = self.unseen.is_wanted.load(Ordering::Relaxed) && is_mapped;
        if wanted && (again || outcome.is_none() && model.begin_inspection()) {
            self.unseen.push(model.manifest());
        }
    }

    fn look_through(&self, manifest: &Manifest, pace: &mut Pace) -> Result<()> {
        let inspection = self.repository.store()?.inspect(manifest, |bytes, from_disk| {
            self.count(|metrics| metrics.inspected(Inspected::Bytes, bytes));
            let rest = if from_disk { pace.after(Instant::now(), bytes) } else { Duration::ZERO };
            if rest >= REST_MIN {
                self.rest(rest);
            }
            !self.leaving.load(Ordering::Relaxed)
        })?;
        for segment in &inspection.damaged {
            self.refuse_all_of(segment);
        }
        Ok(())
    }

    fn rest(&self, rest: Duration) {
        let queue = self.unseen.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let goes_on = |_: &mut VecDeque<_>| !self.leaving.load(Ordering::Relaxed);
        drop(self.unseen.more.wait_timeout_while(queue, rest, goes_on));
    }

    /// Has every model go that has weights in `segment`, which is damaged. The store gives them to nobody any more.
    fn refuse_all_of(&self, segment: &DamagedSegment) {
        let DamagedSegment { hash, error, is_news } = segment;
        let mut refused = 0;
        for model in models(&self.catalog()) {
            let manifest = model.manifest();
            let mut segments = manifest.weights.segments.iter();
            if !segments.any(|of| of.external.is_none() && of.hash == *hash) || !model.is_bound() {
                continue;
            }
            let error = error.clone().context(format!("model '{}' version {}", manifest.name, manifest.version));
            model.fail(&error);
            // After that: whoever makes it hot meanwhile looks once more whether it has failed, and a trunk that is made of
            // its weights meanwhile is shared by nobody who is bound later.
            drop(model.heat().take());
            drop(model.slot().take_trunk());
            model.end_inspection();
            refused += 1;
        }
        if *is_news {
            self.count(|metrics| metrics.inspected(Inspected::Damaged, 1));
            tracing::error!(segment = %hash, models = refused, %error, "damaged below its server; its models are refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{lifted, model, within};
    use super::*;

    #[test]
    fn a_disk_is_read_at_its_pace_and_what_was_not_read_is_not_made_up_for() {
        let now = Instant::now();
        let mut pace = Pace { bytes_per_s: 1000, rests_until: now };
        let ms = Duration::from_millis;
        assert_eq!(pace.after(now, 100), ms(100));
        assert_eq!(pace.after(now + ms(40), 100), ms(160));
        assert_eq!(pace.after(now + ms(5000), 10), ms(10));
    }

    #[test]
    fn models_of_a_damaged_segment_are_refused_and_the_others_go_on() {
        let (_folder, store) = lifted(2, 4096);
        let segment = |name: &str| {
            let manifest = store.manifest(name, 1).unwrap();
            let hash = &manifest.weights.segments.last().unwrap().hash;
            let found = std::fs::read_dir(store.root().join("segments")).unwrap();
            let found = found.map(|entry| entry.unwrap().path());
            found.into_iter().find(|path| path.to_str().unwrap().contains(&**hash)).unwrap()
        };
        let (path, bytes) = (segment("large0"), std::fs::read(segment("large0")).unwrap());
        assert_ne!(path, segment("large1"));
        let mut damaged = bytes.clone();
        damaged[100] ^= 1;
        // Another file, as packing writes it.
        let write = |bytes: &[u8]| {
            std::fs::write(path.with_extension("part"), bytes).unwrap();
            std::fs::rename(path.with_extension("part"), &path).unwrap();
        };
        write(&damaged);

        let residency = within(store, 1 << 30, 1, &[]);
        residency.begin_inspecting(Box::new(|| ()));
        let models = [model(&residency, "large0"), model(&residency, "large1")];
        let mut pace = Pace { bytes_per_s: 1 << 30, rests_until: Instant::now() };
        let mut look = || {
            while let Some(manifest) = { residency.unseen.queue.lock().unwrap().pop_front() } {
                residency.look_through(&manifest, &mut pace).unwrap();
            }
        };
        for model in &models {
            residency.ready(model).unwrap();
            residency.ready(model).unwrap();
        }
        assert_eq!(residency.unseen.queue.lock().unwrap().len(), 2, "each once");
        look();
        assert!(!models[0].is_bound() && models[1].is_bound());
        let error = residency.ready(&models[0]).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
        for says in ["model 'large0' version 1", "segments/", "hash", "pack the model again"] {
            assert!(error.message.contains(says), "{error}");
        }
        // Not for being tried again: the store knows.
        models[0].forget_failure();
        let error = residency.ready(&models[0]).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
        // Another file in its place is another matter, and is looked through as well.
        write(&bytes);
        models[0].forget_failure();
        residency.ready(&models[0]).unwrap();
        look();
        assert!(models[0].is_bound());
        let before = residency.unseen.queue.lock().unwrap().len();
        residency.ready(&models[0]).unwrap();
        assert_eq!((before, residency.unseen.queue.lock().unwrap().len()), (0, 0));
    }
}
