//! The folder of this node in which what is used of a store elsewhere is kept: a store without models, within a budget.
//!
//! Several processes may share one, and several stores may: a file is named by its content. What is in it was checked before
//! it got its name, so a start looks at nothing but what is there.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use engine::{Error, ErrorKind, Result};
use rustix::fs::{FlockOperation, flock};

use super::fetch::Room;
use super::item::Item;
use super::partial::RECORD;
use super::pins::{Pinned, Pins};
use super::room::{Cost, Kept, victims};
use crate::Store;
use crate::atomic::{PART, io_error};
use crate::content::Content;

/// How much of a disk a cache may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheBytes {
    /// Nine tenths of what is free when it is opened, and of what it has already.
    Auto,
    /// At most so many bytes.
    AtMost(u64),
}

impl CacheBytes {
    /// How many that is for a cache in the folder `place`, which takes so many `bytes` already.
    ///
    /// # Errors
    /// When the folder cannot be looked at.
    pub(crate) fn of(self, place: &Path, bytes: u64) -> Result<u64> {
        match self {
            Self::AtMost(most) => Ok(most),
            Self::Auto => {
                let disk = rustix::fs::statvfs(place)
                    .map_err(|source| io_error(place, "cannot be looked at", &source.into()))?;
                Ok(disk.f_bavail.saturating_mul(disk.f_frsize).saturating_add(bytes) / 10 * 9)
            }
        }
    }
}

/// What a cache did since it was opened, and what is in it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CacheCounts {
    /// Files that were wanted and there.
    pub hits: u64,
    /// Files that were wanted and fetched.
    pub misses: u64,
    /// What was fetched.
    pub fetched_bytes: u64,
    /// The time that fetching took, of all threads.
    pub fetch_seconds: f64,
    /// Files that were fetched and not what their names say.
    pub corrupt: u64,
    /// Files that could not be fetched for other reasons.
    pub failed: u64,
    /// Files that gave way to others.
    pub evictions: u64,
    /// What the cache takes on disk.
    pub bytes: u64,
    /// What it may take.
    pub bytes_max: u64,
}

#[derive(Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
    fetched_bytes: AtomicU64,
    fetch_us: AtomicU64,
    corrupt: AtomicU64,
    failed: AtomicU64,
    evictions: AtomicU64,
}

/// What was seen of the folder.
struct Seen {
    /// What it took, and what was added since.
    bytes: u64,
    at: Instant,
    cost: Cost,
}

/// The folder.
pub(super) struct Cache {
    store: Store,
    bytes_max: u64,
    pins: Arc<Pins>,
    seen: Mutex<Seen>,
    counts: Counts,
}

/// After so long the folder is looked at again, as others may have changed it.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// An empty part that nobody has held for so long is the rest of a process that was killed.
const STALE: Duration = Duration::from_secs(60);

impl Cache {
    /// # Errors
    /// As the file system's, naming the folder.
    pub(super) fn open(place: &Path, bytes_max: CacheBytes) -> Result<Self> {
        let text = place.to_str().ok_or_else(|| Error::invalid(format!("{}: the path is no text", place.display())))?;
        let store = Store::of_cache(text)?;
        tempfile::tempfile_in(place).map_err(|source| io_error(place, "cannot be written", &source))?;
        let pins = Arc::new(Pins::open(place)?);
        let bytes = scan(place)?.iter().map(|file| file.bytes).sum();
        let bytes_max = bytes_max.of(place, bytes)?;
        let seen = Mutex::new(Seen { bytes, at: Instant::now(), cost: Cost::default() });
        Ok(Self { store, bytes_max, pins, seen, counts: Counts::default() })
    }

    /// The folder as a store: its programs, tables, segments and files, without models.
    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// How many bytes the folder may have.
    pub(super) fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    pub(super) fn root(&self) -> &Path {
        self.store.root()
    }

    /// Keeps `items` where they are, or will be, until what this returns is dropped.
    pub(super) fn hold(&self, items: &[Item]) -> Pinned {
        self.pins.hold(items.iter().map(|item| item.key.clone()).collect())
    }

    /// One that is wanted was there, or was not and is, or cannot be had.
    pub(super) fn count(&self, outcome: &Result<u64>) {
        let counter = match outcome {
            Ok(0) => &self.counts.hits,
            Ok(_) => &self.counts.misses,
            Err(error) if error.kind == ErrorKind::Corrupt => &self.counts.corrupt,
            Err(_) => &self.counts.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> CacheCounts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheCounts {
            hits: get(&self.counts.hits),
            misses: get(&self.counts.misses),
            fetched_bytes: get(&self.counts.fetched_bytes),
            fetch_seconds: get(&self.counts.fetch_us) as f64 / 1e6,
            corrupt: get(&self.counts.corrupt),
            failed: get(&self.counts.failed),
            evictions: get(&self.counts.evictions),
            bytes: self.seen().bytes,
            bytes_max: self.bytes_max,
        }
    }

    /// Removes files until `bytes` more fit into `budget` beside what is left; how many went.
    fn make_room(&self, bytes: u64, budget: u64) -> Result<usize> {
        let lock = self.root().join(".lock");
        let open = File::options().create(true).append(true).open(&lock);
        let lock = open.map_err(|source| io_error(&lock, "cannot be opened", &source))?;
        // One after the other: two who make room at the same time would each take what one needs.
        let _ = flock(&lock, FlockOperation::LockExclusive);
        let files = scan(self.root())?;
        let needed = self.pins.needed();
        let now = SystemTime::now();
        let kept: Vec<Kept> = files.iter().map(|file| file.as_kept(now, &needed)).collect();
        let all: u64 = kept.iter().map(|file| file.bytes).sum();
        let going = victims(&kept, bytes, budget, self.seen().cost).ok_or_else(|| {
            let held: u64 = kept.iter().filter(|file| file.held).map(|file| file.bytes).sum();
            Error::new(
                ErrorKind::Exhausted,
                format!(
                    "{}: {bytes} bytes do not fit into the cache of {budget}, of which models in use take {held}; \
                     give it more with --cache-bytes-max, or a larger disk",
                    self.root().display()
                ),
            )
        })?;
        let mut freed = 0;
        for &at in &going {
            if files[at].remove() {
                freed += files[at].bytes;
                self.counts.evictions.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(file = %files[at].path.display(), "gave way in the cache");
            }
        }
        let mut seen = self.seen();
        (seen.bytes, seen.at) = (all - freed, Instant::now());
        Ok(going.len())
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A cache, for whoever can have models let go of their files in it.
pub(super) struct Shared<'a> {
    pub(super) cache: &'a Cache,
    /// Has models go that hold so many bytes of files, if there are any; whether some went.
    pub(super) let_go: &'a (dyn Fn(u64) -> bool + Sync),
}

impl Room for Shared<'_> {
    fn admit(&self, bytes: u64, reserve: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        loop {
            match self.cache.admit(bytes, reserve) {
                Err(error) if error.kind == ErrorKind::Exhausted && (self.let_go)(bytes) => {}
                admitted => return admitted,
            }
        }
    }

    fn fetched(&self, bytes: u64, time: Duration) {
        self.cache.fetched(bytes, time);
    }
}

impl Cache {
    /// Has room for `bytes` more, which `reserve` takes from the disk.
    fn admit(&self, bytes: u64, reserve: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        let fits = {
            let seen = self.seen();
            seen.at.elapsed() < LOOK_AGAIN && seen.bytes.saturating_add(bytes) <= self.bytes_max
        };
        if !fits {
            self.make_room(bytes, self.bytes_max)?;
        }
        loop {
            match reserve() {
                Err(error) if error.kind == ErrorKind::Exhausted => {
                    // The disk has less than the budget. What the cache has now and what it needs is then all there is.
                    let budget = self.seen().bytes;
                    let gone = self.make_room(bytes, budget).ok().filter(|&gone| gone > 0);
                    gone.ok_or(error)?;
                }
                reserved => {
                    reserved?;
                    self.seen().bytes += bytes;
                    return Ok(());
                }
            }
        }
    }

    fn fetched(&self, bytes: u64, time: Duration) {
        self.counts.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.counts.fetch_us.fetch_add(us, Ordering::Relaxed);
        let mut seen = self.seen();
        seen.cost = seen.cost.learnt(bytes, time.as_secs_f64());
    }
}

use std::fs::File;

/// A file of the folder, whole or in part.
struct Found {
    path: PathBuf,
    /// The key of what it is, or will be.
    key: String,
    /// What it takes on disk.
    bytes: u64,
    used: SystemTime,
    is_part: bool,
}

impl Found {
    fn as_kept(&self, now: SystemTime, needed: &HashSet<String>) -> Kept {
        let idle = now.duration_since(self.used).unwrap_or_default();
        Kept { bytes: self.bytes, idle_s: idle.as_secs_f64(), held: needed.contains(&self.key) }
    }

    /// Removes it, unless somebody fills it at this moment.
    fn remove(&self) -> bool {
        if self.is_part {
            let Ok(file) = File::open(&self.path) else { return false };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                return false;
            }
            let name = self.path.file_name().unwrap_or_default().to_string_lossy();
            let _ = std::fs::remove_file(self.path.with_file_name(format!("{name}{RECORD}")));
            return std::fs::remove_file(&self.path).is_ok();
        }
        std::fs::remove_file(&self.path).is_ok()
    }
}

/// What is in the folder of a cache.
fn scan(root: &Path) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for content in Content::ALL {
        let folder = root.join(content.folder());
        let entries = match std::fs::read_dir(&folder) {
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => continue,
            entries => entries.map_err(|source| io_error(&folder, "cannot be read", &source))?,
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            // What went in the meantime takes no room.
            let Ok(about) = entry.metadata() else { continue };
            let whole = name.strip_prefix(PART).unwrap_or(&name);
            let used = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            let is_part = whole.len() < name.len();
            if content.hash_of(whole).is_some() {
                let (path, key) = (entry.path(), format!("{}/{whole}", content.folder()));
                found.push(Found { path, key, bytes: about.blocks() * 512, used, is_part });
            } else if is_part && !name.ends_with(RECORD) && used.elapsed().is_ok_and(|age| age > STALE) {
                // A record that was being written when its process was killed.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
    Ok(found)
}
