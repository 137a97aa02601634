//! Segments looked through while they are served. A file is mapped without being read, so what a disk changed in it on its
//! own is found here: each is read once by whoever serves from it, beside what else he does, and one whose bytes are not
//! those of its hashes is given to nobody any more.
//!
//! What is in the page cache is read from there, for that is what models run on; the rest is read past it, so that it takes
//! no room from what is asked for.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use engine::map::{Map, Stamp, is_resident};
use engine::{Error, Result};

use crate::atomic::io_error;
use crate::content::Content;
use crate::folder::Store;
use crate::manifest::{Manifest, SegmentRef};
use crate::segment::{Piece, contents_of, trailer_bytes};

/// What is read at once: little enough to come from the heap's small blocks each time.
const BLOCK_BYTES: u64 = 64 << 10;
/// Reading past the page cache wants whole pages, in memory and on disk.
const ALIGN_BYTES: usize = 4096;
/// What the end of a segment is read with: the footer, by which the table of contents is found.
const TAIL_BYTES: u64 = 4096;

/// What was found, by segments' hashes: of which file, and what is wrong with it.
#[derive(Debug, Default)]
pub(crate) struct Inspected(Mutex<HashMap<String, (Stamp, Option<Error>)>>);

/// What looking through a model's segments came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// What was read.
    pub bytes: u64,
    /// The segments that are damaged.
    pub damaged: Vec<DamagedSegment>,
}

/// A segment whose bytes are not those of its hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedSegment {
    /// Its hash.
    pub hash: String,
    /// What to tell about it.
    pub error: Error,
    /// Whether nobody knew.
    pub is_news: bool,
}

impl Inspected {
    /// That the file that `map` is of is not known to be other than the segment `hash`.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt), as it was found.
    pub(crate) fn believe(&self, hash: &str, map: &Map) -> Result<()> {
        match self.of(hash, &map.stamp()) {
            Some((_, Some(damage))) => Err(damage),
            _ => Ok(()),
        }
    }

    /// What was found of the segment `hash` in the file that `now` is of. Packers set the times of what they share.
    fn of(&self, hash: &str, now: &Stamp) -> Option<(Stamp, Option<Error>)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(hash).cloned();
        known.filter(|(then, _)| is_same_file(then, now))
    }

    fn put(&self, hash: &str, stamp: Stamp, damage: Option<Error>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(hash.to_owned(), (stamp, damage));
    }
}

impl Store {
    /// Reads the segments of `manifest` that lie in this store and that nobody has looked through in this process, and compares
    /// their bytes with their hashes. `goes_on` is told what was read, and whether from disk, after each part; it may take its
    /// time. What is damaged is refused to everybody from then on, until another file is in its place; the cache of a store
    /// elsewhere has it fetched again.
    ///
    /// # Errors
    /// When a file cannot be read. Damage is what is found, not an error.
    pub fn inspect(&self, manifest: &Manifest, mut goes_on: impl FnMut(u64, bool) -> bool) -> Result<Inspection> {
        let mut inspection = Inspection::default();
        for segment in manifest.weights.segments.iter().filter(|segment| segment.external.is_none()) {
            let mut told = |bytes: u64, from_disk: bool| {
                inspection.bytes += bytes;
                goes_on(bytes, from_disk)
            };
            if let Some((error, is_news)) = self.inspect_segment(segment, &mut told)? {
                inspection.damaged.push(DamagedSegment { hash: segment.hash.clone(), error, is_news });
            }
        }
        Ok(inspection)
    }

    /// What is wrong with `segment`, and whether nobody knew.
    fn inspect_segment(
        &self,
        segment: &SegmentRef,
        goes_on: &mut dyn FnMut(u64, bool) -> bool,
    ) -> Result<Option<(Error, bool)>> {
        let path = self.content(Content::Segment, &segment.hash)?;
        let unreadable = |source: std::io::Error| io_error(&path, "cannot be read", &source);
        let file = match File::open(&path) {
            Ok(file) => file,
            // It is told where it is missed; or only a part of it is here, which was looked through when it came.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error)),
        };
        let stamp = Stamp::of(&file.metadata().map_err(unreadable)?);
        if let Some((then, damage)) = self.inspected.of(&segment.hash, &stamp)
            // What is damaged may have been written over.
            && (damage.is_none() || then == stamp)
        {
            return Ok(damage.map(|damage| (damage.context(path.display()), false)));
        }
        let map = self.maps.known(&path);
        if map.as_ref().is_some_and(|map| !is_same_file(&map.stamp(), &stamp)) {
            // What models run on is another file, whose name this one has taken.
            return Ok(None);
        }
        let mut reader = Reader::new(file, &path, stamp.len_bytes, map.map(|map| map.bytes()));
        let Some(is_sound) = reader.is_sound(&segment.hash, goes_on).map_err(unreadable)? else { return Ok(None) };
        let damage = (!is_sound).then(|| {
            let fix = if self.in_part { "it is fetched again" } else { "pack the model again" };
            Error::corrupt(format!("its bytes are not those of its hash, so its disk or somebody changed them; {fix}"))
        });
        if damage.is_some() && self.in_part {
            std::fs::remove_file(&path).map_err(unreadable)?;
        }
        self.inspected.put(&segment.hash, stamp, damage.clone());
        Ok(damage.map(|damage| (damage.context(path.display()), true)))
    }
}

/// Whether both are of one file, whatever was made of its times.
fn is_same_file(one: &Stamp, other: &Stamp) -> bool {
    (one.device, one.inode, one.len_bytes) == (other.device, other.inode, other.len_bytes)
}

/// Reads one file from its beginning to its end.
struct Reader {
    file: File,
    /// The same past the page cache, where the file system has that.
    direct: Option<File>,
    len_bytes: u64,
    map: Option<Bytes>,
    block: Range<u64>,
    buffer: Vec<u8>,
    /// Where in the buffer the block begins.
    begins: usize,
}

impl Reader {
    fn new(file: File, path: &Path, len_bytes: u64, map: Option<Bytes>) -> Self {
        let past_cache = rustix::fs::OFlags::DIRECT.bits().cast_signed();
        let direct = File::options().read(true).custom_flags(past_cache).open(path).ok();
        let buffer = vec![0; usize::try_from(BLOCK_BYTES).unwrap_or_default() + ALIGN_BYTES];
        let begins = buffer.as_ptr().align_offset(ALIGN_BYTES).min(ALIGN_BYTES);
        Self { file, direct, len_bytes, map, block: 0..0, buffer, begins }
    }

    /// Whether every tensor is what the segment's name says; `None` when it was to go on no more.
    fn is_sound(&mut self, hash: &str, goes_on: &mut dyn FnMut(u64, bool) -> bool) -> std::io::Result<Option<bool>> {
        let pieces = match self.contents(hash)? {
            Ok(Some(pieces)) => pieces,
            // A segment of format 1 is named by the hash of all of it.
            Ok(None) => {
                let Ok(hash) = hash.parse() else { return Ok(Some(false)) };
                vec![Piece { hash, offset_bytes: 0, len_bytes: self.len_bytes }]
            }
            Err(_) => return Ok(Some(false)),
        };
        for piece in pieces {
            let (mut hasher, end) = (blake3::Hasher::new(), piece.offset_bytes.saturating_add(piece.len_bytes));
            let mut at = piece.offset_bytes;
            while at < end {
                if !self.block.contains(&at) && !self.read_block(at, goes_on)? {
                    return Ok(None);
                }
                let upto = self.block.end.min(end);
                // It ends before the file did.
                let Some(bytes) = self.part(at..upto).filter(|bytes| !bytes.is_empty()) else { return Ok(Some(false)) };
                hasher.update(bytes);
                at = upto;
            }
            if hasher.finalize() != piece.hash {
                return Ok(Some(false));
            }
        }
        Ok(Some(true))
    }

    /// What the end of the file says lies in it.
    fn contents(&self, hash: &str) -> std::io::Result<Result<Option<Vec<Piece>>>> {
        let tail = self.tail(TAIL_BYTES)?;
        let wanted = trailer_bytes(&tail).filter(|bytes| *bytes > tail.len() as u64 && *bytes <= self.len_bytes);
        let tail = wanted.map_or(Ok(tail), |bytes| self.tail(bytes))?;
        Ok(contents_of(&tail, self.len_bytes, hash).map(|found| found.map(|(pieces, _)| pieces)))
    }

    fn tail(&self, bytes: u64) -> std::io::Result<Vec<u8>> {
        let bytes = bytes.min(self.len_bytes);
        let mut tail = vec![0; usize::try_from(bytes).unwrap_or_default()];
        self.file.read_exact_at(&mut tail, self.len_bytes - bytes)?;
        Ok(tail)
    }

    fn part(&self, range: Range<u64>) -> Option<&[u8]> {
        let place = |at: u64| usize::try_from(at - self.block.start).ok().map(|at| self.begins + at);
        self.buffer.get(place(range.start)?..place(range.end)?)
    }

    /// Reads the block that has byte `at`; `false` when it was to go on no more.
    fn read_block(&mut self, at: u64, goes_on: &mut dyn FnMut(u64, bool) -> bool) -> std::io::Result<bool> {
        let start = at / BLOCK_BYTES * BLOCK_BYTES;
        let end = (start + BLOCK_BYTES).min(self.len_bytes);
        let is_here = self.map.as_ref().is_some_and(|map| {
            let block = usize::try_from(start).ok().zip(usize::try_from(end).ok());
            block.and_then(|(start, end)| map.get(start..end)).is_some_and(is_resident)
        });
        let whole = self.begins..self.begins + usize::try_from(BLOCK_BYTES).unwrap_or_default();
        let buffer = self.buffer.get_mut(whole).unwrap_or_default();
        let direct = self.direct.as_ref().filter(|_| !is_here);
        let read = match direct.map(|direct| read_up_to(direct, buffer, start)) {
            Some(Ok(read)) => read,
            // Not every file system that opens it reads it so.
            Some(Err(_)) | None => {
                if !is_here {
                    self.direct = None;
                }
                read_up_to(&self.file, buffer, start)?
            }
        };
        self.block = start..start + read;
        Ok(goes_on(read, !is_here))
    }
}

/// Fills `buffer` with what the file has from `start` on, and gives how much that is.
fn read_up_to(file: &File, buffer: &mut [u8], start: u64) -> std::io::Result<u64> {
    let mut read = 0;
    while let Some(rest) = buffer.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, start + read as u64) {
            Ok(0) => break,
            // What is no whole page is the end of the file.
            Ok(bytes) if bytes % ALIGN_BYTES != 0 => {
                read += bytes;
                break;
            }
            Ok(bytes) => read += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read as u64)
}

#[cfg(test)]
mod tests {
    use engine::{DataType, ErrorKind, Tensor};

    use super::*;
    use crate::upkeep::tests::Place;

    fn tensor(seed: u8, len: usize) -> Tensor {
        let bytes: Vec<u8> = (0..len).map(|at| (at / 7) as u8 ^ seed).collect();
        Tensor::new(DataType::U8, vec![len], bytes.into()).unwrap()
    }

    fn segment_path(store: &Store, manifest: &Manifest, at: usize) -> std::path::PathBuf {
        store.content(Content::Segment, &manifest.weights.segments[at].hash).unwrap()
    }

    /// Writes over one byte, where it lies, as no one should.
    fn flip(path: &Path, at: u64) {
        let mut permissions = path.metadata().unwrap().permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
        std::fs::set_permissions(path, permissions).unwrap();
        let file = File::options().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }

    #[test]
    fn what_is_whole_is_read_once_and_a_flipped_byte_is_found() {
        let place = Place::new();
        let trunk = tensor(1, 5_000_003);
        place.pack("base", &[trunk.clone(), tensor(2, 5000)]);
        let (tuned, _) = place.pack("tuned", &[trunk, tensor(3, 100_000)]);
        let store = &place.store;
        let segments = &tuned.weights.segments;
        assert_eq!(segments.len(), 2, "a trunk and a head");
        let bytes: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let mut told = 0;
        let count = |told: &mut u64, bytes| {
            *told += bytes;
            true
        };
        let found = store.inspect(&tuned, |bytes, _| count(&mut told, bytes)).unwrap();
        assert!(found.damaged.is_empty(), "{found:?}");
        // All but the tables of contents, in whole blocks.
        assert!(found.bytes == told && (5_100_000..=bytes + 2).contains(&told), "{told} of {bytes}");
        assert_eq!(store.inspect(&tuned, |_, _| panic!("it is known")).unwrap(), Inspection::default());

        // Another process, which knows nothing of it. The model is held, so that it is mapped, and read from memory.
        let other = Store::open(store.root().to_str().unwrap()).unwrap();
        let held = other.weights(&tuned).unwrap();
        let head = segment_path(store, &tuned, segments.len() - 1);
        flip(&head, 99_999);
        assert!(other.weights(&tuned).is_ok(), "nobody has looked");
        let found = other.inspect(&tuned, |_, _| true).unwrap();
        let hash = &segments[segments.len() - 1].hash;
        assert_eq!(found.damaged.iter().map(|found| (&found.hash, found.is_news)).collect::<Vec<_>>(), [(hash, true)]);
        let error = other.weights(&tuned).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Corrupt, "{error}");
        assert!(error.message.contains(&**hash) && error.message.contains("pack the model again"), "{error}");
        let again = other.inspect(&tuned, |_, _| panic!("it is known")).unwrap().damaged;
        assert_eq!(again, [DamagedSegment { is_news: false, ..found.damaged[0].clone() }]);
        // Times alone make nothing whole; its bytes do, once they were looked at.
        filetime(&head);
        assert!(other.weights(&tuned).is_err());
        flip(&head, 99_999);
        assert!(other.weights(&tuned).is_err(), "nobody has looked");
        assert!(other.inspect(&tuned, |_, _| true).unwrap().damaged.is_empty());
        assert_eq!(other.weights(&tuned).unwrap(), held);
        // Another file of that name is not what is mapped, and does that no harm.
        let fresh = Store::open(store.root().to_str().unwrap()).unwrap();
        let held = fresh.weights(&tuned).unwrap();
        let mut bytes = std::fs::read(&head).unwrap();
        bytes[0] ^= 1;
        std::fs::write(head.with_extension("part"), bytes).unwrap();
        std::fs::rename(head.with_extension("part"), &head).unwrap();
        assert!(fresh.inspect(&tuned, |_, _| true).unwrap().damaged.is_empty());
        assert_eq!(fresh.weights(&tuned).unwrap(), held);
        drop(held);
        assert_eq!(fresh.inspect(&tuned, |_, _| true).unwrap().damaged.len(), 1);
    }

    fn filetime(path: &Path) {
        let now = std::time::SystemTime::now();
        File::options().write(true).open(path).unwrap().set_modified(now).unwrap();
    }

    #[test]
    fn whoever_stops_it_has_found_nothing() {
        let place = Place::new();
        let (model, _) = place.pack("base", &[tensor(1, 5_000_003)]);
        let path = segment_path(&place.store, &model, 0);
        flip(&path, 4_900_000);
        let stopped = place.store.inspect(&model, |_, _| false).unwrap();
        assert!(stopped.damaged.is_empty() && stopped.bytes <= BLOCK_BYTES, "{stopped:?}");
        assert_eq!(place.store.inspect(&model, |_, _| true).unwrap().damaged.len(), 1);
        // What is cut, or has another table, is damaged as well; what is gone is for others to tell.
        for change in [0, 10] {
            let store = Store::open(place.store.root().to_str().unwrap()).unwrap();
            if change == 0 {
                flip(&path, 4_900_000);
                flip(&path, path.metadata().unwrap().len() - 30);
            } else {
                File::options().write(true).open(&path).unwrap().set_len(change).unwrap();
            }
            assert_eq!(store.inspect(&model, |_, _| true).unwrap().damaged.len(), 1, "{change}");
        }
        std::fs::remove_file(&path).unwrap();
        let store = Store::open(place.store.root().to_str().unwrap()).unwrap();
        assert_eq!(store.inspect(&model, |_, _| true).unwrap(), Inspection::default());
    }
}
