//! The stop token: asked for once, seen by everyone who waits.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A request to stop; clones share it. Owned by whoever made it, usually the binary on behalf of SIGTERM.
///
/// A condition variable rather than an atomic, so that a worker which waits for a task wakes at once. Hence
/// [`Stop::request`] takes a lock and must not be called from inside a signal handler, only from a thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    requested: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// A token that nobody has used yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everyone to stop; asking twice changes nothing.
    pub fn request(&self) {
        *self.lock() = true;
        self.0.changed.notify_all();
    }

    /// Whether anyone asked.
    pub fn requested(&self) -> bool {
        *self.lock()
    }

    /// Sleeps for `at_most`, or until someone asks; says whether anyone did.
    pub fn wait(&self, at_most: Duration) -> bool {
        let held = self.lock();
        let waited = self.0.changed.wait_timeout_while(held, at_most, |requested| !*requested);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// The flag is a plain bool, so a panic elsewhere cannot leave it half written.
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.0.requested.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_wakes_a_waiter_on_another_thread_and_stays() {
        let stop = Stop::new();
        assert!(!stop.wait(Duration::ZERO));
        let waiter = std::thread::spawn({
            let stop = stop.clone();
            move || stop.wait(Duration::from_secs(600))
        });
        stop.request();
        assert!(waiter.join().unwrap());
        assert!(stop.requested() && stop.wait(Duration::ZERO));
    }
}
