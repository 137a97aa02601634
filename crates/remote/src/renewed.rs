//! What is in files that somebody replaces before its time is over: tokens and certificates.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::Result;

/// So long it is taken from memory: those who replace a file do so minutes before what is in it ends.
const KEPT: Duration = Duration::from_secs(5);

/// What was read of files, and is read anew.
pub(crate) struct Renewed<T> {
    read: Box<dyn Fn() -> Result<T> + Send + Sync>,
    /// As it was read last, and when that was tried last.
    kept: Mutex<(T, Instant)>,
}

impl<T: Clone> Renewed<T> {
    /// What `read` reads.
    ///
    /// # Errors
    /// As `read`.
    pub(crate) fn new(read: impl Fn() -> Result<T> + Send + Sync + 'static) -> Result<Self> {
        let kept = Mutex::new((read()?, Instant::now()));
        Ok(Self { read: Box::new(read), kept })
    }

    /// What is there at the time `now`.
    ///
    /// # Errors
    /// As `read`, for what is there now.
    pub(crate) fn at(&self, now: Instant) -> Result<T> {
        let mut kept = self.lock();
        if now.saturating_duration_since(kept.1) >= KEPT {
            *kept = ((self.read)()?, now);
        }
        Ok(kept.0.clone())
    }

    /// What is there at the time `now`, or what was there before while that cannot be read: two files are not replaced at
    /// once.
    pub(crate) fn at_best(&self, now: Instant) -> T {
        self.at(now).unwrap_or_else(|error| {
            let mut kept = self.lock();
            kept.1 = now;
            tracing::warn!(%error, "cannot be read anew; what was there before still counts");
            kept.0.clone()
        })
    }

    /// Has it read anew the next time.
    #[cfg(test)]
    pub(crate) fn expire(&self) {
        let mut kept = self.lock();
        kept.1 = kept.1.checked_sub(KEPT).unwrap();
    }

    fn lock(&self) -> MutexGuard<'_, (T, Instant)> {
        // It is replaced as a whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Renewed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewed").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use engine::Error;

    use super::*;

    #[test]
    fn it_is_read_anew_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        let read = {
            let path = path.clone();
            move || std::fs::read_to_string(&path).map_err(|error| Error::invalid(error.to_string()))
        };
        assert!(Renewed::new(read.clone()).is_err());
        write("first");
        let file = Renewed::new(read).unwrap();
        write("second");
        let (now, later) = (Instant::now(), Instant::now() + KEPT);
        assert_eq!(file.at(now).unwrap(), "first");
        assert_eq!(file.at(later).unwrap(), "second");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.at(later).unwrap(), "second");
        assert!(file.at(later + KEPT).is_err(), "what is there now counts");
        assert_eq!(file.at_best(later + KEPT), "second");
        write("third");
        assert_eq!(file.at_best(later + KEPT), "second", "it was tried a moment ago");
        assert_eq!(file.at_best(later + KEPT * 2), "third");
    }
}
