//! The store's lock: it is held for moments, between packers that are about to rely on a file and gc that is about to
//! remove it. Readers and servers never take it.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use engine::{Error, Result};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::atomic::io_error;

/// Who may hold the lock at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Packers, which add.
    Shared,
    /// Whoever removes or replaces.
    Alone,
}

/// Held until it is dropped, or the process ends in whatever way.
pub(crate) struct Lock(#[expect(dead_code, reason = "closing it is what gives the lock back")] File);

/// Longer than anybody holds it; whoever does was stopped, or the file system's lock service is gone.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Takes the lock of the store at `root`.
///
/// # Errors
/// [`Unavailable`](engine::ErrorKind::Unavailable) after a minute.
pub(crate) fn take(root: &Path, hold: Hold) -> Result<Lock> {
    let path = root.join(".lock");
    let open = File::options().create(true).append(true).open(&path);
    let file = open.map_err(|source| io_error(&path, "cannot be opened", &source))?;
    let operation = match hold {
        Hold::Shared => FlockOperation::NonBlockingLockShared,
        Hold::Alone => FlockOperation::NonBlockingLockExclusive,
    };
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        match flock(&file, operation) {
            Ok(()) => return Ok(Lock(file)),
            Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(Errno::WOULDBLOCK | Errno::INTR) => {
                return Err(Error::unavailable(format!(
                    "{}: another process has held this lock for a minute; see which with 'fuser' and try again",
                    path.display()
                )));
            }
            // Somewhere that knows no locks, gc's grace period is what keeps it off young files.
            Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::INVAL) => return Ok(Lock(file)),
            Err(source) => return Err(io_error(&path, "cannot be locked", &source.into())),
        }
    }
}
