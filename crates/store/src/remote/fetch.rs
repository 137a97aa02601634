//! Bringing a file of a bucket into a folder: once however many want it, in ranges, taken up where it was left, and under its
//! name only when its bytes are those of its hash.

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::map::Map;
use engine::{Error, ErrorKind, Result};
use objects::{Object, Place};

use super::item::Item;
use super::partial::{self, Partial};
use super::plan::{self, Part, Reading, covering, extents};
use crate::atomic::io_error;
use crate::maps::Maps;
use crate::segment::{self, Piece};

/// What fits is read in one request.
const SMALL_BYTES_MAX: u64 = 4 << 20;
/// As much of a segment's end is read for its table of contents; of most that is all of it.
const TAIL_BYTES: u64 = 64 << 10;
const DAMAGED: &str = "its bytes are not those of its hash";
/// Between two looks at whether somebody else is done with a file.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// As much of a file as somebody needs.
#[derive(Clone, Debug)]
pub(super) enum Need {
    Whole,
    /// Of a segment, the tensors at these ranges.
    Some(Vec<Range<u64>>),
}

/// Where there has to be room before anything is fetched.
pub(super) trait Room: Sync {
    /// Makes room for `bytes` more; `reserve` takes it from the disk.
    fn admit(&self, bytes: u64, reserve: &mut dyn FnMut() -> Result<()>) -> Result<()>;

    /// `bytes` came in `time`.
    fn fetched(&self, bytes: u64, time: Duration);
}

/// A folder that files are brought into.
pub(super) struct Fetch<'a> {
    pub(super) place: &'a Place,
    pub(super) root: &'a Path,
    pub(super) room: &'a dyn Room,
    /// Ranges of one file that are read at once.
    pub(super) parallel: usize,
    /// Until when somebody wants it.
    pub(super) deadline: Instant,
}

/// A file whose contents are known.
struct Known {
    object: Object,
    parts: Vec<Part>,
    /// What the parts are good for; empty when each has its own hash.
    tag: String,
    /// The end of a segment: its table of contents.
    trailer: Bytes,
}

impl Fetch<'_> {
    /// Has as much of `item` in the folder as `need` says; gives the bytes that were fetched.
    ///
    /// # Errors
    /// As the place's; [`Corrupt`](ErrorKind::Corrupt) when the bytes there are not those of the name, and
    /// [`Exhausted`](ErrorKind::Exhausted) when there is no room for them.
    pub(super) fn bring(&self, item: &Item, need: &Need) -> Result<u64> {
        let path = self.root.join(&item.key);
        loop {
            if is_there(&path, need) {
                touch(&path);
                return Ok(0);
            }
            let Some(partial) = Partial::take(&path)? else {
                if Instant::now() >= self.deadline {
                    let reason = "somebody else has been fetching it all the time; try again";
                    return Err(Error::unavailable(reason).context(self.place.url(&item.key)));
                }
                std::thread::sleep(LOOK_AGAIN);
                continue;
            };
            // Whoever had it until now may have brought what is wanted.
            if path.exists() {
                partial.discard();
                continue;
            }
            let started = Instant::now();
            let bytes = self.fill(partial, item, need)?;
            self.room.fetched(bytes, started.elapsed());
            return Ok(bytes);
        }
    }

    fn fill(&self, partial: Partial, item: &Item, need: &Need) -> Result<u64> {
        if !item.is_segment() {
            match self.place.get(&item.key, SMALL_BYTES_MAX) {
                Ok((_, bytes)) => return self.small(partial, item, &bytes),
                Err(error) if error.kind == ErrorKind::InvalidInput => {}
                Err(error) => {
                    partial.leave();
                    return Err(error);
                }
            }
        }
        match self.look(item) {
            Ok(known) => self.large(partial, item, need, &known),
            Err(error) => {
                partial.leave();
                Err(error)
            }
        }
    }

    /// What is wrong with the object that `item` names.
    fn of(&self, item: &Item, reason: impl Into<String>) -> Error {
        Error::corrupt(format!("{}: {}; push the model again", self.place.url(&item.key), reason.into()))
    }

    /// A file that came in one piece.
    fn small(&self, mut partial: Partial, item: &Item, bytes: &Bytes) -> Result<u64> {
        if !item.is(bytes) {
            partial.discard();
            return Err(self.of(item, DAMAGED));
        }
        let len = bytes.len() as u64;
        let written = partial.fit("", len, 1).and_then(|_| {
            self.room.admit(len, &mut || partial.reserve(0, len))?;
            partial.write(0, bytes)
        });
        match written {
            Ok(()) => partial.finish().map(|()| len),
            Err(error) => {
                partial.discard();
                Err(error)
            }
        }
    }

    /// What the file is made of.
    fn look(&self, item: &Item) -> Result<Known> {
        if !item.is_segment() {
            let object = self.place.head(&item.key)?;
            return Ok(unknown(object));
        }
        let bytes = match item.bytes {
            Some(bytes) => bytes,
            None => self.place.head(&item.key)?.bytes,
        };
        let (object, mut tail) = self.place.peek(&item.key, bytes.saturating_sub(TAIL_BYTES)..bytes)?;
        if object.bytes != bytes {
            return Err(self.of(item, format!("it has {} bytes and should have {bytes}", object.bytes)));
        }
        // What a table of contents says of its own length is believed only as far as the file is long.
        if let Some(len) = segment::trailer_bytes(&tail).filter(|&len| len > tail.len() as u64 && len <= bytes) {
            tail = self.place.read(&object, bytes - len..bytes)?;
        }
        match segment::contents_of(&tail, bytes, item.hash())? {
            Some((pieces, trailer)) => {
                let parts = pieces.iter().map(|piece: &Piece| Part::from(piece)).collect();
                Ok(Known { object, parts, tag: String::new(), trailer: tail.slice_ref(trailer) })
            }
            None => Ok(unknown(object)),
        }
    }

    fn large(&self, mut partial: Partial, item: &Item, need: &Need, known: &Known) -> Result<u64> {
        let Known { object, parts, tag, trailer } = known;
        if !partial.fit(tag, object.bytes, parts.len())? && !trailer.is_empty() {
            partial.write(object.bytes - trailer.len() as u64, trailer)?;
        }
        let wanted = match need {
            Need::Some(ranges) if tag.is_empty() => covering(parts, ranges)
                .ok_or_else(|| self.of(item, "a weight is said to lie where it has no tensor"))?,
            Need::Some(_) | Need::Whole => (0..parts.len()).collect(),
        };
        // An empty part is there as soon as the file is.
        parts.iter().enumerate().filter(|(_, part)| part.len == 0).for_each(|(at, _)| partial.note(at));
        let missing: Vec<usize> = wanted.into_iter().filter(|&at| !partial.has(at)).collect();
        let reading = plan::reading(parts, &missing, |at| partial.has(at));
        let filled = self.read(&mut partial, item, known, &reading);
        if filled.is_ok() && partial.is_whole() {
            return self.finish(partial, item, known).map(|()| reading.bytes());
        }
        // What came is kept, whatever kept the rest from coming.
        let saved = partial.save();
        filled.and(saved).map(|()| reading.bytes())
    }

    /// Reads what `reading` says, part by part.
    fn read(&self, partial: &mut Partial, item: &Item, known: &Known, reading: &Reading) -> Result<()> {
        let parts = &known.parts;
        self.room.admit(reading.bytes(), &mut || {
            reading.ranges.iter().try_for_each(|range| partial.reserve(range.start, range.end - range.start))
        })?;
        let mut left: HashMap<usize, u64> = reading.parts.iter().map(|&at| (at, parts[at].len)).collect();
        self.place.fetch(&known.object, reading.ranges.clone(), self.parallel, &mut |offset, bytes| {
            partial.write(offset, &bytes)?;
            let end = offset + bytes.len() as u64;
            let first = parts.partition_point(|part| part.end() <= offset);
            for at in (first..parts.len()).take_while(|&at| parts[at].offset < end) {
                let Some(missing) = left.get_mut(&at) else { continue };
                *missing -= parts[at].end().min(end) - parts[at].offset.max(offset);
                if *missing == 0 {
                    left.remove(&at);
                    if !partial.check(&parts[at])? {
                        let (from, to) = (parts[at].offset, parts[at].end());
                        return Err(self.of(item, format!("bytes {from} to {to}: {DAMAGED}")));
                    }
                    partial.note(at);
                }
            }
            if partial.is_due() { partial.save() } else { Ok(()) }
        })
    }

    fn finish(&self, partial: Partial, item: &Item, known: &Known) -> Result<()> {
        // Parts with hashes were checked one by one, and the trailer when it was read.
        if known.tag.is_empty() || item.is(&partial.mapped()?) {
            return partial.finish();
        }
        partial.discard();
        Err(self.of(item, DAMAGED))
    }
}

/// A file of which nothing is known but its size.
fn unknown(object: Object) -> Known {
    // Parts that nobody can check are good as long as the object is what it was.
    let tag = object.tag.etag.clone().unwrap_or_else(|| format!("{:?}", object.modified));
    let parts = extents(object.bytes);
    Known { parts, tag: if tag.is_empty() { "?".to_owned() } else { tag }, trailer: Bytes::new(), object }
}

/// Whether the file at `path` is there as far as `need` says.
pub(super) fn is_there(path: &Path, need: &Need) -> bool {
    match need {
        _ if path.exists() => true,
        Need::Whole => false,
        Need::Some(ranges) => view(&Maps::default(), path, ranges).is_ok(),
    }
}

/// The unfinished segment that is to be at `path`, mapped, when the tensors at `ranges` are there.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) when they are not.
pub(crate) fn view(maps: &Maps, path: &Path, ranges: &[Range<u64>]) -> Result<Bytes> {
    let none = || Error::not_found(format!("{}: it is not in the cache", path.display()));
    let hash = path.file_stem().and_then(|stem| stem.to_str()).ok_or_else(none)?;
    let part = partial::path_of(path);
    let is_current = |map: &Map| {
        let now = std::fs::metadata(&part).map(|about| about.ino());
        if now.is_ok_and(|now| now == map.stamp().inode) { Ok(()) } else { Err(none()) }
    };
    let map = maps.map_if(&part, is_current).map_err(|_| none())?;
    let bytes = map.bytes();
    let pieces = segment::contents(&bytes, hash).ok().flatten().ok_or_else(none)?;
    let parts: Vec<Part> = pieces.iter().map(Part::from).collect();
    let there = partial::recorded(path, map.stamp().inode, parts.len()).ok_or_else(none)?;
    let has = covering(&parts, ranges).is_some_and(|parts| parts.into_iter().all(|at| there[at]));
    if has { Ok(bytes) } else { Err(none()) }
}

/// Marks the file at `path`, or its part, as used just now.
pub(super) fn touch(path: &Path) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    // Who may read and not write a cache marks nothing; then others have less to go by.
    if utimensat(CWD, path, &times, AtFlags::empty()).is_err() {
        let _ = utimensat(CWD, partial::path_of(path), &times, AtFlags::empty());
    }
}

/// A folder of this node without a bound: what is pulled is wanted for good.
pub(super) struct Unbounded;

impl Room for Unbounded {
    fn admit(&self, _: u64, reserve: &mut dyn FnMut() -> Result<()>) -> Result<()> {
        reserve()
    }

    fn fetched(&self, _: u64, _: Duration) {}
}

/// The folder of `key` below `root`, made when it is not there.
///
/// # Errors
/// As the file system's.
pub(super) fn make_folder(root: &Path, key: &str) -> Result<()> {
    let folder = root.join(key).parent().map(Path::to_owned).unwrap_or_default();
    std::fs::create_dir_all(&folder).map_err(|source| io_error(&folder, "cannot be made", &source))
}
