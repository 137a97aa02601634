//! A folder for files that are mapped and then have no name any more: they take disk as long as somebody has them mapped,
//! and a process that ends in whatever way leaves none behind that the next one does not remove.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

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
    /// Made once.
    ours: OnceLock<OwnFolder>,
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
        self.ours.get().map(OwnFolder::path).ok_or_else(|| Error::internal("a folder that was made is gone"))
    }

    /// Whether nothing more is to be made.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Has go what is in it; files that are mapped stay as long as they are.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        if let Some(ours) = self.ours.get() {
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

/// A folder of this process alone, which goes with this.
#[derive(Debug)]
pub struct OwnFolder {
    folder: TempDir,
    /// The lock says that somebody has the folder.
    _held: File,
}

impl OwnFolder {
    /// A folder in `root`, where anybody keeps anything, called `prefix` and something. Those of processes that died go; one
    /// that is younger than [`UNHELD`] may be one that somebody has made and not yet locked.
    ///
    /// # Errors
    /// As the file system's.
    pub fn make(root: &Path, prefix: &str) -> Result<Self> {
        let old = SystemTime::now() - UNHELD;
        let is_old = |path: &Path| fs::symlink_metadata(path).and_then(|file| file.modified()).is_ok_and(|at| at < old);
        // Where nobody may look, one can be made all the same.
        let _ = sweep(root, prefix, is_old);
        Self::locked(root, prefix)
    }

    fn locked(root: &Path, prefix: &str) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix(prefix).tempdir_in(root);
        let folder = folder.map_err(|source| io_error(root, "cannot be written", &source))?;
        let held = hold(folder.path()).map_err(|source| io_error(folder.path(), "cannot be used", &source.into()))?;
        Ok(Self { folder, _held: held })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Between making a folder and locking it there are microseconds.
const UNHELD: Duration = Duration::from_secs(60);

fn make(root: &Path) -> Result<OwnFolder> {
    let io = |path: &Path, source: Errno| io_error(path, "cannot be used", &source.into());
    fs::create_dir_all(root).map_err(|source| io_error(root, "cannot be made", &source))?;
    if is_memory(root).map_err(|source| io(root, source))? {
        let what = "it is kept in memory, and what is there should spare memory; name a folder on a disk";
        return Err(Error::new(ErrorKind::FailedPrecondition, format!("{}: {what}", root.display())));
    }
    // One at a time, or what one has just made another takes for a dead one's.
    let door = File::open(root).map_err(|source| io_error(root, "cannot be opened", &source))?;
    flock(&door, FlockOperation::LockExclusive).map_err(|source| io(root, source))?;
    sweep(root, PREFIX, |_| true)?;
    OwnFolder::locked(root, PREFIX)
}

/// Removes the folders in `root` that are called `prefix` and something, that nobody has, and that `may_go`.
fn sweep(root: &Path, prefix: &str, may_go: impl Fn(&Path) -> bool) -> Result<()> {
    for entry in fs::read_dir(root).map_err(|source| io_error(root, "cannot be read", &source))?.flatten() {
        let path = entry.path();
        if is_called(&path, prefix) && may_go(&path) && hold(&path).is_ok() {
            // What cannot be removed, another user's say, takes room and does no other harm.
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

/// What the folders here are called.
const PREFIX: &str = "process-";

fn is_called(path: &Path, prefix: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(prefix)) && path.is_dir() && !path.is_symlink()
}

/// Has `folder` for as long as the result lives, unless somebody else has.
fn hold(folder: &Path) -> rustix::io::Result<File> {
    use rustix::fs::{Mode, OFlags, open};
    // Where others may write it could have become anything since it was looked at.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let held = open(folder, flags, Mode::empty())?;
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
    fn a_folder_among_others_leaves_theirs() {
        let root = tempfile::tempdir().unwrap();
        let folder = |name: &str, old: bool| {
            let path = root.path().join(name);
            fs::create_dir(&path).unwrap();
            fs::write(path.join("file"), "something").unwrap();
            let at = if old { SystemTime::now() - 2 * UNHELD } else { SystemTime::now() };
            File::open(&path).unwrap().set_modified(at).unwrap();
            path
        };
        let (dead, young, others) = (folder("run-dead", true), folder("run-young", false), folder("other", true));
        let living = folder("run-living", true);
        let held = hold(&living).unwrap();
        let link = root.path().join("run-link");
        std::os::unix::fs::symlink(&others, &link).unwrap();
        let own = OwnFolder::make(root.path(), "run-").unwrap();
        let there = [&dead, &young, &others, &living, &link].map(|path| path.exists());
        assert_eq!(there, [false, true, true, true, true]);
        assert!(others.join("file").exists() && own.path().starts_with(root.path()));
        drop(held);
        let second = OwnFolder::make(root.path(), "run-").unwrap();
        assert!(!living.exists() && own.path().exists() && second.path() != own.path());
        let path = own.path().to_owned();
        drop(own);
        assert!(!path.exists());
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
