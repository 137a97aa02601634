//! A folder for videos that are elsewhere, and what they take of it while they are worked.
//!
//! A video is read where it is, by [`Ranges`], of which the folder keeps as much as there is room for. A small one is
//! fetched whole before it is worked, which is one request, and so is every one where decoders cannot be given a way to
//! read in ranges; what was fetched of such a one before its worker died is not fetched again by the next one on this
//! machine. A video is pinned by its tag: of one that is replaced meanwhile nothing is worked.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use engine::{Error, ErrorKind, Result};
use objects::{Network, Object, Place};
use rustix::fs::{FlockOperation, flock};

use crate::ranges::{BLOCK_BYTES, ROOM_BYTES_MIN, Ranges, SMALL_BLOCK_BYTES};
use crate::sampling::Sampling;
use crate::source::Source;
use crate::task::{Task, nonce};

/// Fetched in one request.
const RANGE_BYTES: u64 = 8 << 20;
/// Requests at once. A window of so many ranges is durable before the next one begins, so that whatever is there of a
/// video, up to the last whole window, is right.
const PARALLEL: usize = 4;
const WINDOW_BYTES: u64 = RANGE_BYTES * PARALLEL as u64;
/// A video of so many bytes is fetched whole, unless somebody says otherwise.
pub const WHOLE_BYTES_MAX: u64 = RANGE_BYTES;
/// Between two looks whether there is room by now, or whether anybody still waits for it.
const LOOK: Duration = Duration::from_millis(200);

/// Held by whoever has the folder.
const LOCK: &str = ".lock";
/// Workers on one machine that share a spool.
const SHARES_MAX: usize = 256;

/// A folder for videos that are elsewhere, and how much it may hold.
pub struct Spool {
    network: Arc<Network>,
    /// Ours alone, as long as we have the lock in it.
    folder: PathBuf,
    _lock: File,
    bytes_max: u64,
    /// Videos of so many bytes are fetched whole.
    pub whole_bytes_max: u64,
    /// The videos that are fetched or worked now, by name, and what they may take. Behind a lock of its own, since fetching
    /// takes long.
    held: Mutex<BTreeMap<String, u64>>,
    changed: Condvar,
}

/// A spool that is made at the first video that needs it; most workers on one machine read files.
pub type LazySpool = LazyLock<Result<Spool>, Box<dyn FnOnce() -> Result<Spool> + Send>>;

impl Spool {
    /// Fetches into a folder in `root` that no other worker has, and holds at most `bytes_max` bytes in it at any time. What
    /// is made when it is not there; the first that is free is taken, so that a worker that is started again finds what it
    /// had.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when it cannot be made.
    pub fn open(network: &Arc<Network>, root: &Path, bytes_max: u64) -> Result<Self> {
        let (folder, lock) = share(root)
            .map_err(|e| Error::invalid(format!("spool {}: {e}; give another folder as --spool", root.display())))?;
        let (held, changed) = (Mutex::default(), Condvar::new());
        let (network, whole_bytes_max) = (Arc::clone(network), WHOLE_BYTES_MAX);
        Ok(Self { network, folder, _lock: lock, bytes_max, whole_bytes_max, held, changed })
    }

    /// The video of `task`, to be read for as long as what is returned: in ranges where decoders can do that and it is not
    /// small, else as a file that is here. Waits for room, and ends early when `cancelled` says so.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), [`InvalidInput`](ErrorKind::InvalidInput) when it can never fit,
    /// [`FailedPrecondition`](ErrorKind::FailedPrecondition) when it is another than the task was made for,
    /// [`Cancelled`](ErrorKind::Cancelled); [`Unavailable`](ErrorKind::Unavailable) and the like may be over later.
    pub fn fetch(&self, task: &Task, in_ranges: bool, cancelled: &dyn Fn() -> bool) -> Result<Fetched<'_>> {
        let (place, key) = self.network.object(&task.input).map_err(maybe_later)?;
        let object = place.head(&key).map_err(maybe_later)?;
        let shown = place.url(&key);
        if let Some(want) = &task.input_etag {
            let has = object.tag.etag.as_deref().map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
            if has != Some(want.trim_matches('"')) {
                let error = "it was replaced since the task was made; what replaced it is a task of its own, if at all";
                return Err(Error::new(ErrorKind::FailedPrecondition, format!("video '{shown}': {error}")));
            }
        }
        // Not of a file's time, which is another on every machine.
        let tag = name(&shown, &object);
        if in_ranges && object.bytes > self.whole_bytes_max && self.bytes_max >= ROOM_BYTES_MIN {
            let (hold, room_bytes) = self.hold(&tag, (object.bytes.min(ROOM_BYTES_MIN), object.bytes), cancelled)?;
            let file = tempfile::tempfile_in(&self.folder).map_err(|e| self.fault(&e))?;
            let block_bytes = if task.sampling == Sampling::KeyFrames { SMALL_BLOCK_BYTES } else { BLOCK_BYTES };
            let ranges = Ranges::new(&task.shown_input(), (place, object), file, (room_bytes, block_bytes));
            let ranges = Arc::new(ranges?);
            let source = Source::elsewhere(&ranges, &tag, cancelled)?;
            return Ok(Fetched { source, ranges: Some(ranges), _hold: hold });
        }
        if object.bytes > self.bytes_max {
            return Err(Error::invalid(format!(
                "video '{shown}' has {} bytes, and the spool takes {}: give the worker a larger --spool-max",
                object.bytes, self.bytes_max
            )));
        }
        let (hold, _) = self.hold(&tag, (object.bytes, object.bytes), cancelled)?;
        let path = hold.path();
        let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        self.complete(&options.map_err(|e| self.fault(&e))?, &place, &object, cancelled)?;
        let source = Source::fetched(&task.shown_input(), &path, &tag)?;
        Ok(Fetched { source, ranges: None, _hold: hold })
    }

    /// Makes room for the video called `name`: `least` bytes, or up to `most` where there are that many, but then no more
    /// than half of what is free, so that the next one finds some. Says how many they are.
    fn hold(&self, name: &str, (least, most): (u64, u64), cancelled: &dyn Fn() -> bool) -> Result<(Hold<'_>, u64)> {
        let mut held = self.lock();
        // The same video twice at once is two files, since either may be removed first.
        let name = if held.contains_key(name) { format!("{name}-{:016x}", nonce()) } else { name.to_owned() };
        let free = loop {
            let free = self.bytes_max.saturating_sub(held.values().sum());
            if free >= least {
                break free;
            }
            if cancelled() {
                return Err(stopped());
            }
            held = self.changed.wait_timeout(held, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        };
        let bytes = most.min(least.max(free / 2));
        self.remove_leftovers(&held, &name, free - bytes).map_err(|e| self.fault(&e))?;
        held.insert(name.clone(), bytes);
        drop(held);
        Ok((Hold { spool: self, name }, bytes))
    }

    /// Removes what workers that died left, except the file called `name`, until it takes no more than `bytes_max`.
    fn remove_leftovers(&self, held: &BTreeMap<String, u64>, name: &str, bytes_max: u64) -> io::Result<()> {
        let mut left = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let of = entry.file_name().to_string_lossy().into_owned();
            let metadata = entry.metadata()?;
            if metadata.is_file() && of != LOCK && of != name && !held.contains_key(&of) {
                left.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        left.sort_unstable();
        let mut bytes: u64 = left.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, of, path) in left {
            if bytes <= bytes_max {
                break;
            }
            fs::remove_file(path)?;
            bytes -= of;
        }
        Ok(())
    }

    /// Fetches what is not there yet of `object`.
    fn complete(&self, file: &File, place: &Place, object: &Object, cancelled: &dyn Fn() -> bool) -> Result<()> {
        let mut done = self.done_of(file, object.bytes).map_err(|e| self.fault(&e))?;
        while done < object.bytes {
            let end = object.bytes.min(done + WINDOW_BYTES);
            let starts = (done..end).step_by(usize::try_from(RANGE_BYTES).unwrap_or(usize::MAX));
            let ranges = starts.map(|start| start..end.min(start + RANGE_BYTES)).collect();
            let mut write = |offset, bytes: Bytes| file.write_all_at(&bytes, offset).map_err(|e| self.fault(&e));
            let fetched = place.fetch_while(object, ranges, PARALLEL, &|| !cancelled(), &mut write);
            fetched.map_err(maybe_later)?;
            file.sync_data().map_err(|e| self.fault(&e))?;
            done = end;
        }
        Ok(())
    }

    /// How much of a video of `bytes` is there for sure: the window that was being fetched may have holes.
    fn done_of(&self, file: &File, bytes: u64) -> io::Result<u64> {
        let there = file.metadata()?.len();
        // The whole of it is only known to be whole once it was read to its end here, so its last window is fetched again.
        let whole = there.saturating_sub(1).min(bytes.saturating_sub(1)) / WINDOW_BYTES * WINDOW_BYTES;
        file.set_len(whole)?;
        Ok(whole)
    }

    fn fault(&self, error: &io::Error) -> Error {
        disk_failed(&format_args!("spool {}", self.folder.display()), error)
    }

    /// No panic leaves a map half written.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        // What earlier workers left has served. What cannot be removed now is removed when its room is needed.
        drop(clear(&self.folder));
    }
}

/// Removes the videos in `folder`.
fn clear(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() != LOCK && entry.file_type()?.is_file() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// A video that can be read; what is here of it goes with this.
pub struct Fetched<'a> {
    /// The video.
    pub source: Source,
    ranges: Option<Arc<Ranges>>,
    _hold: Hold<'a>,
}

impl Fetched<'_> {
    /// Where it is read by, unless it is whole here.
    pub(crate) fn ranges(&self) -> Option<&Arc<Ranges>> {
        self.ranges.as_ref()
    }
}

struct Hold<'a> {
    spool: &'a Spool,
    name: String,
}

impl Hold<'_> {
    fn path(&self) -> PathBuf {
        self.spool.folder.join(&self.name)
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        // Of one that is read in ranges there is none. One that cannot be removed is a leftover, and goes when its room is
        // needed.
        drop(fs::remove_file(self.path()));
        self.spool.lock().remove(&self.name);
        self.spool.changed.notify_all();
    }
}

/// What `error` of the disk under `spool`, as people call it, is to them.
pub(crate) fn disk_failed(spool: &dyn fmt::Display, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::new(
            ErrorKind::Exhausted,
            format!("the disk of {spool} is full ({error}): give it a smaller --spool-max, or free some space"),
        ),
        _ => Error::unavailable(format!("{spool}: {error}")),
    }
}

/// The first folder in `root` that nobody has, and the lock that says that we have it.
fn share(root: &Path) -> io::Result<(PathBuf, File)> {
    let mut ours = None;
    for number in 0..SHARES_MAX {
        let folder = root.join(number.to_string());
        if ours.is_some() && !folder.is_dir() {
            break;
        }
        fs::create_dir_all(&folder)?;
        let lock = File::options().write(true).create(true).truncate(false).open(folder.join(LOCK))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) if ours.is_none() => ours = Some((folder, lock)),
            // Of a worker that died; whoever is started again takes the first, so nobody comes for this one.
            Ok(()) => clear(&folder)?,
            Err(rustix::io::Errno::WOULDBLOCK) => {}
            Err(error) => return Err(error.into()),
        }
    }
    ours.ok_or_else(|| io::Error::other(format!("{SHARES_MAX} workers have a share of it already")))
}

/// A name for the file of this very content.
fn name(shown: &str, object: &Object) -> String {
    let time = object.modified.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    // Where there are tags the time says nothing more, and a copy of a bucket has another one.
    let time_ms = time.filter(|_| object.tag.etag.is_none()).map(|time| time.as_millis());
    let text =
        serde_json::json!([shown, object.bytes, object.tag.etag, object.tag.version, time_ms.map(|ms| ms.to_string())]);
    blake3::hash(text.to_string().as_bytes()).to_hex()[..32].to_owned()
}

fn stopped() -> Error {
    Error::new(ErrorKind::Cancelled, "fetching the video was given up")
}

/// What is forbidden may be allowed once credentials are mended, for which a whole queue should not go to the dead letters.
pub(crate) fn maybe_later(error: Error) -> Error {
    match error.kind {
        ErrorKind::Forbidden => Error { kind: ErrorKind::Unavailable, ..error },
        _ => error,
    }
}

#[cfg(test)]
mod tests;
