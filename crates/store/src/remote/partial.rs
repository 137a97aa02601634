//! A file that is not whole yet: as long as the whole one, with holes, and beside it a record of which parts are there.
//!
//! The record is written after the bytes are on disk, so whatever it tells is there after a power cut too. A part that has
//! a hash of its own is recorded when it was seen to have it, and stays good whatever becomes of the object; others are good
//! for one content of the object, whose tag is in the record.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Buf;
use engine::Result;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

use super::plan::Part;
use crate::atomic::{self, PART, io_error};

const MAGIC: &[u8; 8] = b"PHHAVE01";
/// The end of a record's name.
pub(super) const RECORD: &str = ".have";

/// Which parts of a file are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Which file it is of; one that comes in its place has none of this.
    inode: u64,
    /// The object's tag, where the parts are good for that content alone.
    tag: String,
    /// The whole file's size.
    bytes: u64,
    there: Vec<bool>,
}

impl Record {
    fn new(inode: u64, tag: &str, bytes: u64, parts: usize) -> Self {
        Self { inode, tag: tag.to_owned(), bytes, there: vec![false; parts] }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.inode.to_le_bytes());
        out.extend_from_slice(&self.bytes.to_le_bytes());
        out.extend_from_slice(&(self.tag.len() as u64).to_le_bytes());
        out.extend_from_slice(self.tag.as_bytes());
        out.extend_from_slice(&(self.there.len() as u64).to_le_bytes());
        out.extend(self.there.iter().map(|&there| u8::from(there)));
        let sum = blake3::hash(&out);
        out.extend_from_slice(&sum.as_bytes()[..8]);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
        (blake3::hash(body).as_bytes()[..8] == *sum).then_some(())?;
        let mut rest = body.strip_prefix(MAGIC)?;
        let inode = rest.try_get_u64_le().ok()?;
        let bytes = rest.try_get_u64_le().ok()?;
        let len = usize::try_from(rest.try_get_u64_le().ok()?).ok()?;
        let tag = std::str::from_utf8(rest.split_off(..len)?).ok()?.to_owned();
        let count = usize::try_from(rest.try_get_u64_le().ok()?).ok()?;
        (rest.len() == count).then(|| Self { inode, tag, bytes, there: rest.iter().map(|&there| there == 1).collect() })
    }
}

/// A file that is being filled, held by whoever fills it.
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    record: Record,
    /// When the record was written last, and what came since.
    saved: (Instant, u64),
}

/// The record is written when so much came since, or so long ago.
const SAVE_BYTES: u64 = 64 << 20;
const SAVE_AFTER: Duration = Duration::from_secs(2);

/// Where the part of the file at `path` is.
pub(crate) fn path_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{PART}{name}"))
}

fn record_of(part: &Path) -> PathBuf {
    let name = part.file_name().unwrap_or_default().to_string_lossy();
    part.with_file_name(format!("{name}{RECORD}"))
}

impl Partial {
    /// Takes the part of the file at `path` for oneself; `None` while somebody else, here or in another process, has it.
    ///
    /// # Errors
    /// As the file system's.
    pub(super) fn take(path: &Path) -> Result<Option<Self>> {
        let part = path_of(path);
        let failed = |source: std::io::Error| io_error(&part, "cannot be opened", &source);
        loop {
            let file =
                File::options().read(true).write(true).create(true).truncate(false).open(&part).map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                // Somewhere that knows no locks, two who fill one file write the same bytes.
                Err(rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => {}
                Err(source) => return Err(failed(source.into())),
            }
            // Whoever had it may have given it its name, or removed it.
            let inode = file.metadata().map_err(failed)?.ino();
            if std::fs::metadata(&part).is_ok_and(|about| about.ino() == inode) {
                let record = std::fs::read(record_of(&part)).ok().and_then(|bytes| Record::decode(&bytes));
                let record = record.filter(|record| record.inode == inode);
                let record = record.unwrap_or_else(|| Record::new(inode, "", 0, 0));
                return Ok(Some(Self { path: path.to_owned(), file, record, saved: (Instant::now(), 0) }));
            }
        }
    }

    /// Begins to fill it with a file of these parts, or goes on where that was left; `true` then.
    ///
    /// # Errors
    /// As the file system's.
    pub(super) fn fit(&mut self, tag: &str, bytes: u64, parts: usize) -> Result<bool> {
        let part = path_of(&self.path);
        let failed = |source: std::io::Error| io_error(&part, "cannot be written", &source);
        if self.record.tag == tag && self.record.bytes == bytes && self.record.there.len() == parts {
            return Ok(true);
        }
        if self.file.metadata().map_err(failed)?.len() > 0 {
            // Somebody may have the old one mapped, so it is not cut but gives way.
            let _ = std::fs::remove_file(record_of(&part));
            std::fs::remove_file(&part).map_err(failed)?;
            self.file = File::options().read(true).write(true).create_new(true).open(&part).map_err(failed)?;
            let _ = flock(&self.file, FlockOperation::NonBlockingLockExclusive);
        }
        self.record = Record::new(self.file.metadata().map_err(failed)?.ino(), tag, bytes, parts);
        self.file.set_len(bytes).map_err(failed)?;
        Ok(false)
    }

    pub(super) fn has(&self, part: usize) -> bool {
        self.record.there.get(part).copied().unwrap_or(false)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.record.there.iter().all(|&there| there)
    }

    /// Has the disk keep room for `len` bytes from `offset` on, so that a full one is found out before they are fetched.
    ///
    /// # Errors
    /// [`Exhausted`](engine::ErrorKind::Exhausted) when there is none.
    pub(super) fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, offset, len) {
            // A file system that cannot promise it finds out when it writes.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(source) => Err(io_error(&path_of(&self.path), "cannot be written", &source.into())),
        }
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// [`Exhausted`](engine::ErrorKind::Exhausted) when the disk is full.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.saved.1 += bytes.len() as u64;
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(|source| io_error(&path_of(&self.path), "cannot be written", &source))
    }

    /// Whether the bytes of `part` are those of its hash; one without a hash is whatever it is.
    ///
    /// # Errors
    /// As the file system's.
    pub(super) fn check(&self, part: &Part) -> Result<bool> {
        let Some(hash) = part.hash else { return Ok(true) };
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        let mut at = part.offset;
        while at < part.end() {
            let len = usize::try_from(part.end() - at).unwrap_or(usize::MAX).min(buffer.len());
            let read = self.file.read_exact_at(&mut buffer[..len], at);
            read.map_err(|source| io_error(&path_of(&self.path), "cannot be read", &source))?;
            hasher.update(&buffer[..len]);
            at += len as u64;
        }
        Ok(hasher.finalize() == hash)
    }

    /// Takes down that part is there. It is remembered from the next [`save`](Self::save) on.
    pub(super) fn note(&mut self, part: usize) {
        if let Some(there) = self.record.there.get_mut(part) {
            *there = true;
        }
    }

    /// Whether it is time to save.
    pub(super) fn is_due(&self) -> bool {
        self.saved.1 >= SAVE_BYTES || (self.saved.1 > 0 && self.saved.0.elapsed() >= SAVE_AFTER)
    }

    /// Makes what was noted last: first the bytes, then the record.
    ///
    /// # Errors
    /// As the file system's.
    pub(super) fn save(&mut self) -> Result<()> {
        let part = path_of(&self.path);
        self.file.sync_data().map_err(|source| io_error(&part, "cannot be written", &source))?;
        let record = record_of(&part);
        let name = record.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let encoded = self.record.encode();
        atomic::replace(record.parent().unwrap_or(Path::new(".")), &name, |file| file.write_all(&encoded))?;
        self.saved = (Instant::now(), 0);
        Ok(())
    }

    /// The bytes as they are, mapped, for whoever checks the whole file.
    ///
    /// # Errors
    /// As the file system's.
    pub(super) fn mapped(&self) -> Result<bytes::Bytes> {
        engine::map::map_file(&path_of(&self.path))
    }

    /// Gives the file its name. Durable on return.
    ///
    /// # Errors
    /// As the file system's.
    pub(super) fn finish(self) -> Result<()> {
        let part = path_of(&self.path);
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let finish = || {
            self.file.sync_all()?;
            std::fs::rename(&part, &self.path)?;
            let _ = std::fs::remove_file(record_of(&part));
            File::open(folder)?.sync_all()
        };
        finish().map_err(|source| io_error(&self.path, "cannot be written", &source))
    }

    /// Gives it back as it is, and takes it away when there is nothing in it.
    pub(super) fn leave(self) {
        if !self.record.there.contains(&true) {
            self.discard();
        }
    }

    /// Removes it: what is in it is of no use to anybody.
    pub(super) fn discard(self) {
        let part = path_of(&self.path);
        let _ = std::fs::remove_file(record_of(&part));
        let _ = std::fs::remove_file(&part);
    }
}

/// Which parts are there of the unfinished file that is to be at `path` and is `inode` now; none without a record of it.
pub(super) fn recorded(path: &Path, inode: u64, parts: usize) -> Option<Vec<bool>> {
    let record = Record::decode(&std::fs::read(record_of(&path_of(path))).ok()?)?;
    (record.inode == inode && record.there.len() == parts).then_some(record.there)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_was_saved_is_there_for_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut partial = Partial::take(&path).unwrap().unwrap();
        assert!(Partial::take(&path).unwrap().is_none(), "two have it");
        partial.fit("t", 10, 2).unwrap();
        partial.reserve(0, 10).unwrap();
        partial.write(0, b"01234").unwrap();
        partial.note(0);
        partial.save().unwrap();
        partial.note(1);
        drop(partial);
        let again = |tag: &str, bytes: u64, parts: usize| {
            let mut partial = Partial::take(&path).unwrap().unwrap();
            let goes_on = partial.fit(tag, bytes, parts).unwrap();
            (goes_on, partial.has(0), partial.has(1))
        };
        let inode = || std::fs::metadata(path_of(&path)).unwrap().ino();
        let seen = engine::map::map_file(&path_of(&path)).unwrap();
        assert_eq!(again("t", 10, 2), (true, true, false), "what was not saved counts");
        assert_eq!(recorded(&path, inode(), 2), Some(vec![true, false]));
        assert_eq!((recorded(&path, inode(), 3), recorded(&path, inode() + 1, 2)), (None, None));
        assert_eq!(again("other", 10, 2), (false, false, false), "another content goes on");
        assert_eq!(recorded(&path, inode(), 2), None, "the record outlives its bytes");
        assert_eq!(seen[..5], b"01234"[..], "what is mapped was cut");
        let mut partial = Partial::take(&path).unwrap().unwrap();
        partial.fit("t", 5, 1).unwrap();
        partial.write(0, b"whole").unwrap();
        partial.note(0);
        let part = Part { offset: 0, len: 5, hash: Some(blake3::hash(b"whole")) };
        assert!(partial.check(&part).unwrap() && partial.is_whole());
        assert!(!partial.check(&Part { len: 4, ..part }).unwrap());
        partial.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        Partial::take(&path).unwrap().unwrap().discard();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    proptest! {
        #[test]
        fn records_are_read_back_and_soup_is_not(
            tag in ".{0,20}", bytes in any::<u64>(), there in prop::collection::vec(any::<bool>(), 0..50),
            soup in any::<Vec<u8>>(), flip in any::<(usize, u8)>(),
        ) {
            let record = Record { inode: 7, tag, bytes, there };
            let mut encoded = record.encode();
            prop_assert_eq!(Record::decode(&encoded), Some(record));
            prop_assert_eq!(Record::decode(&soup), None);
            let at = flip.0 % encoded.len();
            encoded[at] ^= flip.1.max(1);
            prop_assert_eq!(Record::decode(&encoded), None);
        }
    }
}
