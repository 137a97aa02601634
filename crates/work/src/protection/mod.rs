//! What keeps a busy worker from being taken away by those who scale: asked for when a task is received, given back when
//! the worker is idle, and never held longer than the leases of its tasks.
//!
//! What is wanted is decided in [`decide`](self::decide), of plain values and the time. A thread for each [`Shield`] acts on
//! it, so that no task waits for it and no failure of it stops the work.

mod decide;
mod group;
mod hook;
mod pod;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::{Error, Result};

use self::decide::{Post, Step, Work};
pub use self::group::{Group, GroupNames};
pub use self::hook::Hook;
pub use self::pod::{Pod, PodAddress, SERVICE_ACCOUNT};

/// Something that can keep this worker from being taken away.
pub trait Shield: Send {
    /// What it is, for people.
    fn name(&self) -> String;

    /// Holds it up, or takes it away; doing so twice is doing it once. Ends within a few seconds.
    ///
    /// # Errors
    /// Whatever whoever is asked says; it may hold or not then.
    fn set(&self, on: bool) -> Result<()>;
}

/// The shields of one worker, and who is busy behind them. When it goes, on a panic too, they are taken away.
pub struct Protection {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    /// Written by guards and by [`Protection`], read by the threads.
    work: Mutex<Work>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Work> {
        // Every change of it is whole before anything can panic.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Work) -> T) -> T {
        let changed = change(&mut self.lock());
        self.changed.notify_all();
        changed
    }
}

impl Protection {
    /// Without shields; a worker that nobody takes away.
    pub fn none() -> Self {
        Self { shared: Arc::default(), threads: Vec::new() }
    }

    /// Starts a thread for each of `shields`, which takes away first what an earlier process may have left.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) when the system gives no threads.
    pub fn start(shields: Vec<Box<dyn Shield>>) -> Result<Self> {
        let mut protection = Self::none();
        for shield in shields {
            let shared = Arc::clone(&protection.shared);
            let thread = std::thread::Builder::new().name("protection".to_owned());
            let thread = thread.spawn(move || keep(&shared, shield.as_ref()));
            protection.threads.push(thread.map_err(|e| Error::internal(format!("no thread for protection: {e}")))?);
        }
        Ok(protection)
    }

    /// Says that a task is held, and will be for `time` unless [`Busy::renew`] says more.
    pub fn busy(&self, time: Duration) -> Busy {
        let id = self.shared.change(|work| work.begin(Instant::now() + time));
        Busy { shared: Arc::clone(&self.shared), id }
    }
}

impl Drop for Protection {
    fn drop(&mut self) {
        self.shared.change(|work| work.close(Instant::now()));
        for thread in self.threads.drain(..) {
            // A thread that panicked has told so.
            drop(thread.join());
        }
    }
}

/// That a task is held, for as long as this is there and its time is not over.
pub struct Busy {
    shared: Arc<Shared>,
    id: u64,
}

impl Busy {
    /// The task is held for `time` from now on.
    pub fn renew(&self, time: Duration) {
        self.shared.change(|work| work.renew(self.id, Instant::now() + time));
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.shared.change(|work| work.end(self.id, Instant::now()));
    }
}

/// Does for `shield` what is decided, until the end.
fn keep(shared: &Shared, shield: &dyn Shield) {
    let (mut post, mut work) = (Post::default(), shared.lock());
    loop {
        let now = Instant::now();
        match post.next(work.wanted(now), now) {
            Step::Set(on) => {
                drop(work);
                let done = shield.set(on);
                tell(shield, on, &post, &done);
                post.did(on, done.is_ok(), Instant::now(), crate::task::nonce());
                work = shared.lock();
            }
            Step::Wait(None) => work = shared.changed.wait(work).unwrap_or_else(PoisonError::into_inner),
            Step::Wait(Some(until)) => {
                let waited = shared.changed.wait_timeout(work, until.saturating_duration_since(now));
                work = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            Step::End { left } => {
                if left {
                    let name = shield.name();
                    tracing::error!(name, "protection may be left over: the next worker here takes it away");
                }
                return;
            }
        }
    }
}

fn tell(shield: &dyn Shield, on: bool, post: &Post, done: &Result<()>) {
    let name = shield.name();
    match done {
        Ok(()) if post.failures() > 0 => tracing::info!(name, on, "protection can be changed again"),
        Ok(()) => tracing::debug!(name, on, "protection is changed"),
        // Told when it begins, not at every try.
        Err(error) if post.failures() == 0 => {
            tracing::warn!(name, on, %error, "protection cannot be changed; goes on without");
        }
        Err(error) => tracing::debug!(name, on, %error, "protection cannot be changed yet"),
    }
}

#[cfg(test)]
mod tests;
