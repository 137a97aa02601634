//! A folder for files that are mapped and then have no name any more: they take disk as long as somebody has them mapped,
//! and a process that ends in whatever way leaves none behind that the next one does not remove.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use engine::{Error, ErrorKind, Result};
use rustix::fs::{FlockOperation, flock, statfs, statvfs};
use rustix::io::Errno;
use tempfile::TempDir;

use crate::atomic::io_error;

/// The file system that is memory, in statfs(2).
const TMPFS: u64 = 0x0102_1994;
/// So much of the disk is left to others, in bytes.
const LEFT_BYTES: u64 = 1 << 30;

/// A folder of this process alone among those of others, made at the first need.
#[derive(Debug)]
pub struct Scratch {
    root: PathBuf,
    /// Made once; the lock says that somebody has it.
    ours: OnceLock<(TempDir, File)>,
    /// Set once, when nothing more is to be made.
    given_up: AtomicBool,
}

impl Scratch {
    /// A folder of its own in `root`, which nobody has looked at yet.
    pub fn at(root: PathBuf) -> Self {
        Self { root, ours: OnceLock::new(), given_up: AtomicBool::new(false) }
    }

    /// Makes the folder unless it is there, and `root`; those of processes that died go.
    ///
    /// # Errors
    /// [`FailedPrecondition`](ErrorKind::FailedPrecondition) when `root` is in memory, and the file system's.
    pub fn open(&self) -> Result<&Path> {
        if self.ours.get().is_none() {
            // Of two at once one is kept, and the other goes again.
            let _ = self.ours.set(make(&self.root)?);
        }
        self.ours.get().map(|(ours, _)| ours.path()).ok_or_else(|| Error::internal("a folder that was made is gone"))
    }

    /// Whether nothing more is to be made.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Has go what is in it; files that are mapped stay as long as they are.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        if let Some((ours, _)) = self.ours.get() {
            // The next process removes what is left.
            let _ = fs::remove_dir_all(ours.path());
        }
    }

    /// An empty folder for `bytes` of files.
    ///
    /// # Errors
    /// [`Exhausted`](ErrorKind::Exhausted) when the disk has not as many; as [`open`](Self::open).
    pub fn folder(&self, bytes: u64) -> Result<TempDir> {
        let root = self.open()?;
        let disk = statvfs(root).map_err(|source| io_error(root, "cannot be used", &source.into()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize).saturating_sub(LEFT_BYTES);
        if free < bytes {
            let what = format!("{}: {bytes} bytes are needed, and {free} are free past a reserve", root.display());
            return Err(Error::new(ErrorKind::Exhausted, what));
        }
        TempDir::new_in(root).map_err(|source| io_error(root, "cannot be written", &source))
    }
}

fn make(root: &Path) -> Result<(TempDir, File)> {
    let io = |path: &Path, source: Errno| io_error(path, "cannot be used", &source.into());
    fs::create_dir_all(root).map_err(|source| io_error(root, "cannot be made", &source))?;
    if is_memory(root).map_err(|source| io(root, source))? {
        let what = "it is kept in memory, and what is there should spare memory; name a folder on a disk";
        return Err(Error::new(ErrorKind::FailedPrecondition, format!("{}: {what}", root.display())));
    }
    // One at a time, or what one has just made another takes for a dead one's.
    let door = File::open(root).map_err(|source| io_error(root, "cannot be opened", &source))?;
    flock(&door, FlockOperation::LockExclusive).map_err(|source| io(root, source))?;
    for entry in fs::read_dir(root).map_err(|source| io_error(root, "cannot be read", &source))?.flatten() {
        let path = entry.path();
        if is_ours(&path) && hold(&path).is_ok() {
            // What cannot be removed takes room, and does no other harm.
            let _ = fs::remove_dir_all(&path);
        }
    }
    let ours = tempfile::Builder::new().prefix(PREFIX).tempdir_in(root);
    let ours = ours.map_err(|source| io_error(root, "cannot be written", &source))?;
    let held = hold(ours.path()).map_err(|source| io(ours.path(), source))?;
    Ok((ours, held))
}

/// What the folders here are called.
const PREFIX: &str = "process-";

fn is_ours(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(PREFIX)) && path.is_dir()
}

/// Has `folder` for as long as the result lives, unless somebody else has.
fn hold(folder: &Path) -> rustix::io::Result<File> {
    let held =
        rustix::fs::open(folder, rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    flock(&held, FlockOperation::NonBlockingLockExclusive)?;
    Ok(held.into())
}

fn is_memory(folder: &Path) -> rustix::io::Result<bool> {
    // The field's type differs between targets; the number is small and positive in all.
    Ok(u64::try_from(statfs(folder)?.f_type) == Ok(TMPFS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dead_left_goes_and_what_the_living_have_stays() {
        let root = tempfile::tempdir().unwrap();
        let names = || {
            let mut names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names
        };
        let dead = root.path().join("process-dead");
        fs::create_dir_all(dead.join("some")).unwrap();
        fs::write(root.path().join("other"), "of somebody").unwrap();
        let first = Scratch::at(root.path().to_owned());
        assert!(dead.exists(), "nobody needs it");
        first.open().unwrap();
        let second = Scratch::at(root.path().to_owned());
        second.open().unwrap();
        assert!(!dead.exists() && root.path().join("other").exists());
        assert_eq!(names().len(), 3, "{:?}", names());
        let folder = first.folder(1).unwrap();
        assert!(folder.path().starts_with(root.path()));
        let error = second.folder(u64::MAX).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Exhausted, "{error}");
        first.give_up();
        assert!(first.is_given_up() && !folder.path().exists() && names().len() == 2);
        drop((folder, first, second));
        assert_eq!(names().len(), 1, "{:?}", names());
    }

    #[test]
    fn memory_is_no_disk() {
        let Ok(shared) = tempfile::tempdir_in("/dev/shm") else { return };
        if is_memory(shared.path()) == Ok(true) {
            let error = Scratch::at(shared.path().to_owned()).open().map(drop).unwrap_err();
            assert_eq!(error.kind, ErrorKind::FailedPrecondition, "{error}");
        }
    }
}
