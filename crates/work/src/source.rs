//! A task's video as something that can be decoded, and how to tell whether it is still the same.

use std::fs::{File, Metadata};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use engine::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::media::Input;
use crate::ranges::Ranges;
use crate::task::Task;

/// Hashed at either end of a file: containers keep what tells two videos apart at one of them.
const ENDS_BYTES: u64 = 64 << 10;

/// Which video a result is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputIdentity {
    /// As the task names it.
    pub path: String,
    /// Its size.
    pub size_bytes: u64,
    /// BLAKE3 of its size and of the 64 KiB at either end: enough to tell two videos apart, where a hash of all of it
    /// would read it twice.
    pub fingerprint: String,
}

/// A video that is there.
#[derive(Clone, Debug)]
pub struct Source {
    /// Where it can be read.
    pub input: Input,
    /// What it is.
    pub identity: InputIdentity,
    /// Time of the last change, in nanoseconds since 1970; not part of the identity, since a copy is the same video.
    modified_ns: i64,
    /// What tells contents of a video apart that was fetched from elsewhere, on every machine alike.
    tag: Option<String>,
}

impl Source {
    /// The video of `task`.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound) or [`InvalidInput`](engine::ErrorKind::InvalidInput).
    pub fn of(task: &Task) -> Result<Self> {
        let path = task.input_path()?;
        let input = &task.input;
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => Error::not_found(format!("video '{input}' does not exist: check the path")),
            _ => Error::invalid(format!("video '{input}' cannot be read: {e}")),
        };
        let metadata = std::fs::metadata(&path).map_err(failed)?;
        // A folder and the like are refused by whoever looks what is in it, in words of their own.
        let fingerprint = match metadata.is_file() {
            true => fingerprint_of_file(&path, metadata.len()).map_err(failed)?,
            false => String::new(),
        };
        let identity = InputIdentity { path: input.clone(), size_bytes: metadata.len(), fingerprint };
        Ok(Self { input: Input::File(path), identity, modified_ns: modified_ns(&metadata), tag: None })
    }

    /// The video that `input` names and that was fetched into the file `path`; `tag` is of its content.
    ///
    /// # Errors
    /// [`Unavailable`](engine::ErrorKind::Unavailable) when the file cannot be read.
    pub(crate) fn fetched(input: &str, path: &Path, tag: &str) -> Result<Self> {
        let failed = |e: io::Error| Error::unavailable(format!("{}, fetched of '{input}': {e}", path.display()));
        let metadata = std::fs::metadata(path).map_err(failed)?;
        let fingerprint = fingerprint_of_file(path, metadata.len()).map_err(failed)?;
        let identity = InputIdentity { path: input.to_owned(), size_bytes: metadata.len(), fingerprint };
        let input = Input::Fetched(path.to_owned(), input.to_owned());
        Ok(Self { input, identity, modified_ns: modified_ns(&metadata), tag: Some(tag.to_owned()) })
    }

    /// The video that is read where it is, by `ranges`; `tag` is of its content. Both of its ends are fetched before
    /// anything else is.
    ///
    /// # Errors
    /// What keeps it from being read.
    pub(crate) fn elsewhere(ranges: &Arc<Ranges>, tag: &str, cancelled: &dyn Fn() -> bool) -> Result<Self> {
        let size_bytes = ranges.bytes();
        for end in ends(size_bytes) {
            ranges.fetch_first(end, cancelled)?;
        }
        let fingerprint = fingerprint(size_bytes, |into, at| ranges.read_exact_at(into, at))?;
        let identity = InputIdentity { path: ranges.shown().to_owned(), size_bytes, fingerprint };
        let (input, tag) = (Input::Elsewhere(Arc::clone(ranges)), Some(tag.to_owned()));
        Ok(Self { input, identity, modified_ns: 0, tag })
    }

    /// What changes when the video is replaced by another, for the names of parts.
    pub(crate) fn stamp(&self) -> (&str, i64, Option<&str>) {
        let modified_ns = if self.tag.is_some() { 0 } else { self.modified_ns };
        (&self.identity.fingerprint, modified_ns, self.tag.as_deref())
    }

    /// That the video is the one that it was.
    ///
    /// # Errors
    /// [`Unavailable`](engine::ErrorKind::Unavailable) when a file is not: the new one is to be worked from its beginning.
    /// One that is elsewhere is held against what it was whenever something of it is read.
    pub fn check_unchanged(&self) -> Result<()> {
        let path = match &self.input {
            Input::File(path) | Input::Fetched(path, _) => path,
            Input::Elsewhere(ranges) => return ranges.fault().map_or(Ok(()), Err),
        };
        let same = std::fs::metadata(path)
            .is_ok_and(|now| (now.len(), modified_ns(&now)) == (self.identity.size_bytes, self.modified_ns));
        match same {
            true => Ok(()),
            false => Err(Error::unavailable(format!("video '{}' was changed while it was read", self.identity.path))),
        }
    }
}

fn modified_ns(metadata: &Metadata) -> i64 {
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    modified.and_then(|since_1970| i64::try_from(since_1970.as_nanos()).ok()).unwrap_or_default()
}

/// The ends of a video of so many bytes, which do not overlap.
fn ends(bytes: u64) -> [Range<u64>; 2] {
    let first = 0..ENDS_BYTES.min(bytes);
    let second = bytes.saturating_sub(ENDS_BYTES).max(first.end)..bytes;
    [first, second]
}

fn fingerprint_of_file(path: &Path, bytes: u64) -> io::Result<String> {
    let file = File::open(path)?;
    fingerprint(bytes, |into, at| file.read_exact_at(into, at))
}

/// Of a video of so many bytes, of which `read` reads what is at an offset.
fn fingerprint<E>(
    bytes: u64,
    read: impl Fn(&mut [u8], u64) -> std::result::Result<(), E>,
) -> std::result::Result<String, E> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes.to_le_bytes());
    for end in ends(bytes) {
        let mut there = vec![0; usize::try_from(end.end - end.start).unwrap_or_default()];
        read(&mut there, end.start)?;
        hasher.update(&there);
    }
    Ok(hasher.finalize().to_hex()[..32].to_owned())
}

#[cfg(test)]
mod tests {
    use engine::ErrorKind;

    use super::*;

    #[test]
    fn a_video_is_known_by_its_size_and_its_ends() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            Source::of(&Task::new(&path, "m").unwrap()).unwrap().identity.fingerprint
        };
        let whole: Vec<u8> = (0..300_000u32).map(|byte| byte as u8).collect();
        let same = write("a", &whole);
        assert_eq!(write("copy", &whole), same);
        for place in [0, 65_535, 300_000 - 65_536, 299_999] {
            let mut other = whole.clone();
            other[place] ^= 1;
            assert_ne!(write("b", &other), same, "{place}");
        }
        assert_ne!(write("c", &whole[..299_999]), same);
        assert_ne!(write("d", &[]), write("e", &[0]));
    }

    #[test]
    fn a_video_that_was_replaced_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "one").unwrap();
        let source = Source::of(&Task::new(&path, "m").unwrap()).unwrap();
        source.check_unchanged().unwrap();
        std::fs::write(&path, "other").unwrap();
        assert_eq!(source.check_unchanged().unwrap_err().kind, ErrorKind::Unavailable);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(source.check_unchanged().unwrap_err().kind, ErrorKind::Unavailable);
        assert_eq!(Source::of(&Task::new(&path, "m").unwrap()).unwrap_err().kind, ErrorKind::NotFound);
    }
}
