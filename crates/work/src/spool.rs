//! Videos that are elsewhere, fetched into files while they are worked.
//!
//! A decoder jumps about in a file and is not allowed to talk to a network, so a video is fetched before it is worked. What
//! was fetched before its worker died is not fetched again by the next one on this machine. A video is pinned by its tag:
//! of one that is replaced meanwhile nothing is worked.

use std::collections::BTreeMap;
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

use crate::source::Source;
use crate::task::{Task, nonce};

/// Fetched in one request.
const RANGE_BYTES: u64 = 8 << 20;
/// Requests at once. A window of so many ranges is durable before the next one begins, so that whatever is there of a
/// video, up to the last whole window, is right.
const PARALLEL: usize = 4;
const WINDOW_BYTES: u64 = RANGE_BYTES * PARALLEL as u64;
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
    /// The videos that are fetched or worked now, by file name, and their sizes. Behind a lock of its own, since fetching
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
        Ok(Self { network: Arc::clone(network), folder, _lock: lock, bytes_max, held, changed })
    }

    /// The video of `task`, here for as long as what is returned. Waits for room, and ends early when `cancelled` says so.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), [`InvalidInput`](ErrorKind::InvalidInput) when it can never fit,
    /// [`FailedPrecondition`](ErrorKind::FailedPrecondition) when it is another than the task was made for,
    /// [`Cancelled`](ErrorKind::Cancelled); [`Unavailable`](ErrorKind::Unavailable) and the like may be over later.
    pub fn fetch(&self, task: &Task, cancelled: &dyn Fn() -> bool) -> Result<Fetched<'_>> {
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
        if object.bytes > self.bytes_max {
            return Err(Error::invalid(format!(
                "video '{shown}' has {} bytes, and the spool takes {}: give the worker a larger --spool-max",
                object.bytes, self.bytes_max
            )));
        }
        let name = name(&shown, &object);
        let hold = self.hold(&name, object.bytes, cancelled)?;
        self.complete(&hold.file, &place, &object, cancelled)?;
        // Not of this file's time, which is another on every machine.
        let source = Source::fetched(task.shown_input(), &hold.path, &name)?;
        Ok(Fetched { source, _hold: hold })
    }

    /// Makes room for the file called `name`, and opens it.
    fn hold(&self, name: &str, bytes: u64, cancelled: &dyn Fn() -> bool) -> Result<Hold<'_>> {
        let mut held = self.lock();
        // The same video twice at once is two files, since either may be removed first.
        let name = if held.contains_key(name) { format!("{name}-{:016x}", nonce()) } else { name.to_owned() };
        while held.values().sum::<u64>().saturating_add(bytes) > self.bytes_max {
            if cancelled() {
                return Err(stopped());
            }
            held = self.changed.wait_timeout(held, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
        let after = held.values().sum::<u64>() + bytes;
        self.remove_leftovers(&held, &name, self.bytes_max - after).map_err(|e| self.fault(&e))?;
        let path = self.folder.join(&name);
        let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = options.map_err(|e| self.fault(&e))?;
        held.insert(name.clone(), bytes);
        drop(held);
        Ok(Hold { spool: self, name, path, file })
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
        let folder = self.folder.display();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::new(
                ErrorKind::Exhausted,
                format!(
                    "the disk of spool {folder} is full ({error}): give it a smaller --spool-max, or free some space"
                ),
            ),
            _ => Error::unavailable(format!("spool {folder}: {error}")),
        }
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

/// A video that was fetched; its file goes with this.
pub struct Fetched<'a> {
    /// The video as a file.
    pub source: Source,
    _hold: Hold<'a>,
}

struct Hold<'a> {
    spool: &'a Spool,
    name: String,
    path: PathBuf,
    file: File,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        // One that cannot be removed is a leftover, and goes when its room is needed.
        drop(fs::remove_file(&self.path));
        self.spool.lock().remove(&self.name);
        self.spool.changed.notify_all();
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
fn maybe_later(error: Error) -> Error {
    match error.kind {
        ErrorKind::Forbidden => Error { kind: ErrorKind::Unavailable, ..error },
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use objects::{Limits, Variables, When};

    use super::*;
    use crate::servers::{self, KEY, SECRET, Server};

    const MIB: usize = 1 << 20;

    fn network(server: &Server) -> Arc<Network> {
        let url = server.url();
        let keys = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_REGION", "us-east-1")];
        let variables = Variables::from([keys[0], keys[1], keys[2], ("AWS_ENDPOINT_URL", &url)]);
        Network::start(Limits::default(), variables).unwrap()
    }

    fn task(input: &str) -> Task {
        Task::new(Path::new(input), "m").unwrap()
    }

    fn bytes(count: usize, seed: usize) -> Vec<u8> {
        (0..count).map(|at| (at * 31 + at / 251 + seed) as u8).collect()
    }

    fn files(root: &Path) -> Vec<PathBuf> {
        let of = fs::read_dir(root.join("0")).unwrap().map(|entry| entry.unwrap().path());
        of.filter(|path| !path.ends_with(LOCK)).collect()
    }

    fn go_on() -> bool {
        false
    }

    #[test]
    fn a_video_is_a_file_while_it_is_held_and_what_was_fetched_is_not_fetched_again() {
        let server = servers::ministack();
        server.make_bucket("spool");
        let (network, folder) = (network(server), tempfile::tempdir().unwrap());
        let place = network.place("s3://spool").unwrap();
        let whole = bytes(50 * MIB + 7, 1);
        place.put("a b.mp4", whole.clone().into(), &When::Always).unwrap();
        let object = place.head("a b.mp4").unwrap();
        let spool = Spool::open(&network, folder.path(), 100 << 20).unwrap();
        // Another one left it in the middle of the second window, with holes where parts were still on their way.
        let left = folder.path().join("0").join(name("s3://spool/a b.mp4", &object));
        let mut begun = whole[..40 * MIB].to_vec();
        begun[33 * MIB..].fill(0);
        begun[5] ^= 1;
        fs::write(&left, &begun).unwrap();
        let fetched = spool.fetch(&task("s3://spool/a b.mp4"), &go_on).unwrap();
        let mut got = fs::read(&fetched.source.path).unwrap();
        assert_eq!(got[5], begun[5], "the first window was fetched again");
        got[5] ^= 1;
        assert!(got == whole);
        assert_eq!(fetched.source.identity.path, "s3://spool/a b.mp4");
        drop(fetched);
        assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
        let fresh = spool.fetch(&task("s3://spool/a b.mp4"), &go_on).unwrap();
        assert!(fs::read(&fresh.source.path).unwrap() == whole);
    }

    #[test]
    fn what_cannot_be_had_is_said() {
        let server = servers::ministack();
        server.make_bucket("spool-not");
        let (network, folder) = (network(server), tempfile::tempdir().unwrap());
        let place = network.place("s3://spool-not").unwrap();
        place.put("a", bytes(1000, 0).into(), &When::Always).unwrap();
        let spool = Spool::open(&network, folder.path(), 900).unwrap();
        let check = |spool: &Spool, task: &Task, kind: ErrorKind, says: &str| {
            let error = spool.fetch(task, &go_on).map(|_| ()).unwrap_err();
            assert!(error.kind == kind && error.message.contains(says), "{:?} {error}", error.kind);
        };
        check(&spool, &task("s3://spool-not/b"), ErrorKind::NotFound, "s3://spool-not/b");
        check(&spool, &task("s3://spool-nowhere/b"), ErrorKind::NotFound, "s3://spool-nowhere/b");
        check(&spool, &task("s3://spool-not/a"), ErrorKind::InvalidInput, "--spool-max");
        let other = Task { input_etag: Some("another".to_owned()), ..task("s3://spool-not/a") };
        check(&spool, &other, ErrorKind::FailedPrecondition, "replaced");
        assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
    }

    #[test]
    fn the_spool_holds_no_more_than_it_may() {
        let server = servers::ministack();
        server.make_bucket("spool-max");
        let (network, root) = (network(server), tempfile::tempdir().unwrap());
        let place = network.place("s3://spool-max").unwrap();
        for (key, seed) in [("a", 1), ("b", 2)] {
            place.put(key, bytes(600, seed).into(), &When::Always).unwrap();
        }
        let spool = Spool::open(&network, root.path(), 1000).unwrap();
        fs::write(root.path().join("0/left"), bytes(500, 0)).unwrap();
        let first = spool.fetch(&task("s3://spool-max/a"), &go_on).unwrap();
        assert_eq!(files(root.path()), std::slice::from_ref(&first.source.path), "what nobody needs had to go");
        // The second waits for the first, or gives up when it is told to.
        let given_up = spool.fetch(&task("s3://spool-max/b"), &|| true).map(|_| ()).unwrap_err();
        assert_eq!(given_up.kind, ErrorKind::Cancelled);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| {
                let second = spool.fetch(&task("s3://spool-max/b"), &go_on).unwrap();
                fs::read(&second.source.path).unwrap()
            });
            drop(first);
            assert_eq!(waiting.join().unwrap(), bytes(600, 2));
        });
        // Another worker has another folder of the same spool.
        let beside = Spool::open(&network, root.path(), 1000).unwrap();
        assert!(beside.folder.ends_with("1") && spool.folder.ends_with("0"));
        drop(spool);
        assert!(Spool::open(&network, root.path(), 1000).unwrap().folder.ends_with("0"));
    }
}
