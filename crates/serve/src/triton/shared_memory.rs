//! [`SharedMemory`]: regions of the system's shared memory by which a client on this machine hands over tensors.
//!
//! A region is read and written as a file and never mapped: a client that truncates it meanwhile gets an error, not a
//! server that is killed by a signal, and a tensor cannot change after it was checked.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use engine::{Error, ErrorKind, Result};
use rustix::fs::{FileType, Mode, OFlags};

/// Where the system keeps POSIX shared memory.
const FOLDER: &str = "/dev/shm";

/// Each region holds a file descriptor.
const REGIONS_MAX: usize = 1024;

/// A region that requests can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// The name that requests use.
    pub(crate) name: String,
    /// The system's name, as the client gave it.
    pub(crate) key: String,
    /// Where in it the region begins, in bytes.
    pub(crate) offset: u64,
    /// Its length in bytes.
    pub(crate) bytes: u64,
}

/// A part of a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The region's name.
    pub(crate) region: String,
    /// From the region's start, in bytes.
    pub(crate) offset: u64,
    /// Its length in bytes.
    pub(crate) bytes: u64,
}

impl Span {
    /// The span that a tensor's `shared_memory_region`, `shared_memory_offset` and `shared_memory_byte_size` say; none
    /// without a region.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the size is missing.
    pub(crate) fn from_parameters(
        region: Option<String>,
        offset: Option<u64>,
        bytes: Option<u64>,
    ) -> Result<Option<Self>> {
        let Some(region) = region else { return Ok(None) };
        let bytes = bytes.ok_or_else(|| {
            Error::invalid("parameter 'shared_memory_region' comes without 'shared_memory_byte_size'; give both")
        })?;
        Ok(Some(Self { region, offset: offset.unwrap_or_default(), bytes }))
    }
}

/// What one request may still take out of shared memory: as much as it might have sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    left: u64,
    limit: u64,
}

impl Budget {
    /// `limit` bytes in all.
    pub(crate) fn new(limit: usize) -> Self {
        Self { left: limit as u64, limit: limit as u64 }
    }
}

/// The regions that clients have registered, of the part of the system's shared memory that is open to them. One for
/// all listeners, so that a region registered on one can be named on another.
#[derive(Debug)]
pub struct SharedMemory {
    prefix: String,
    folder: PathBuf,
    /// By name. A file is cloned out of the lock before it is read, so that copies do not wait for each other.
    regions: Mutex<BTreeMap<String, Held>>,
}

#[derive(Clone, Debug)]
struct Held {
    region: Region,
    file: Arc<File>,
}

impl SharedMemory {
    /// Opens shared memory whose system name begins with `prefix` to clients, and no other.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a prefix that could begin another program's name unawares: it is
    /// at least three letters, digits, `-` or `_`.
    pub fn new(prefix: &str) -> Result<Self> {
        Self::within(prefix, PathBuf::from(FOLDER))
    }

    fn within(prefix: &str, folder: PathBuf) -> Result<Self> {
        let prefix = prefix.strip_prefix('/').unwrap_or(prefix);
        let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
        if prefix.len() < 3 || !prefix.chars().all(plain) {
            return Err(Error::invalid(format!(
                "'{prefix}' is no prefix of shared memory: give three or more letters, digits, '-' or '_'"
            )));
        }
        Ok(Self { prefix: prefix.to_owned(), folder, regions: Mutex::default() })
    }

    /// The shared memory in `memory`.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) when there is none, with how to get it.
    pub(crate) fn of(memory: Option<&Self>) -> Result<&Self> {
        memory.ok_or_else(|| {
            Error::unsupported("shared memory is off; start the server with --shared-memory PREFIX, or send the bytes")
        })
    }

    /// Gives a region its name.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a key outside the prefix and for a range outside the memory,
    /// [`NotFound`](ErrorKind::NotFound) when there is no such memory,
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) for a name that is taken.
    pub(crate) fn register(&self, region: Region) -> Result<()> {
        let of = |error: Error| error.context(format_args!("shared memory region '{}'", region.name));
        let file = self.open(&region).map_err(of)?;
        let mut regions = self.regions();
        if regions.contains_key(&region.name) {
            return Err(of(Error::new(ErrorKind::AlreadyExists, "it is registered already; unregister it first")));
        }
        if regions.len() >= REGIONS_MAX {
            let full = format!("{REGIONS_MAX} regions are registered already; unregister one first");
            return Err(of(Error::new(ErrorKind::Exhausted, full)));
        }
        regions.insert(region.name.clone(), Held { region, file: Arc::new(file) });
        Ok(())
    }

    /// Forgets the region called `name`, or all; forgetting what is not there is no error.
    pub(crate) fn unregister(&self, name: Option<&str>) {
        match name {
            Some(name) => drop(self.regions().remove(name)),
            None => self.regions().clear(),
        }
    }

    /// The region called `name`, or all of them by name.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for a name that is not registered.
    pub(crate) fn status(&self, name: Option<&str>) -> Result<Vec<Region>> {
        match name {
            Some(name) => Ok(vec![self.held(name)?.region]),
            None => Ok(self.regions().values().map(|held| held.region.clone()).collect()),
        }
    }

    /// Checks that `span` lies within a region.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn check(&self, span: &Span) -> Result<()> {
        self.place(span).map(drop)
    }

    /// The bytes in `span`, copied; their number is taken from `budget`.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for the region, [`InvalidInput`](ErrorKind::InvalidInput) for the range.
    pub(crate) fn read(&self, span: &Span, budget: &mut Budget) -> Result<Bytes> {
        let (file, start) = self.place(span)?;
        let Budget { left, limit } = *budget;
        budget.left = left.checked_sub(span.bytes).ok_or_else(|| {
            Error::invalid(format!("the request takes more than {limit} bytes out of shared memory; send less at once"))
        })?;
        let length = usize::try_from(span.bytes).map_err(|_| Error::invalid("it is larger than an address space"))?;
        let mut data = vec![0; length];
        file.read_exact_at(&mut data, start).map_err(|source| unusable(&span.region, &source))?;
        Ok(Bytes::from(data))
    }

    /// Writes `data` to the start of `span`; gives back the part that was written.
    ///
    /// # Errors
    /// As [`read`](Self::read), and when `data` is larger than `span`.
    pub(crate) fn write(&self, span: &Span, data: &[u8]) -> Result<Span> {
        let (file, start) = self.place(span)?;
        let bytes = data.len() as u64;
        if bytes > span.bytes {
            return Err(Error::invalid(format!(
                "it takes {bytes} bytes, but shared_memory_byte_size is {}; give it more room",
                span.bytes
            )));
        }
        // A write past the end would make the memory grow, so one that has shrunk is left alone.
        let length = file.metadata().map_err(|source| unusable(&span.region, &source))?.len();
        if start.saturating_add(bytes) > length {
            return Err(unusable(&span.region, &std::io::ErrorKind::UnexpectedEof.into()));
        }
        file.write_all_at(data, start).map_err(|source| unusable(&span.region, &source))?;
        Ok(Span { bytes, ..span.clone() })
    }

    /// The file behind `span` and where in it the span begins.
    fn place(&self, span: &Span) -> Result<(Arc<File>, u64)> {
        let Held { region, file } = self.held(&span.region)?;
        let end = span.offset.checked_add(span.bytes).filter(|&end| end <= region.bytes);
        // The sum is within the file, as registration has checked.
        let start = end.and_then(|_| region.offset.checked_add(span.offset));
        let start = start.ok_or_else(|| {
            Error::invalid(format!(
                "shared memory region '{}' has {} bytes, and {} from byte {} are asked for",
                region.name, region.bytes, span.bytes, span.offset
            ))
        })?;
        Ok((file, start))
    }

    fn held(&self, name: &str) -> Result<Held> {
        self.regions().get(name).cloned().ok_or_else(|| {
            Error::not_found(format!("shared memory region '{name}' is not registered; register it first"))
        })
    }

    fn open(&self, region: &Region) -> Result<File> {
        let prefix = &self.prefix;
        let file_name = region.key.strip_prefix('/').unwrap_or(&region.key);
        if !file_name.starts_with(prefix.as_str()) || file_name.contains(['/', '\0']) {
            return Err(Error::invalid(format!(
                "key '{}' is not open to clients: it must begin with '{prefix}' and hold no further '/'",
                region.key
            )));
        }
        // Without waiting: of what is no regular file, the open itself must not hang.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::open(self.folder.join(file_name), flags, Mode::empty()).map_err(|source| {
            let key = &region.key;
            match source {
                rustix::io::Errno::NOENT => Error::not_found(format!("there is no shared memory '{key}'")),
                _ => Error::invalid(format!("shared memory '{key}' cannot be opened: {source}")),
            }
        })?;
        let status = rustix::fs::fstat(&file).map_err(|source| unusable(&region.name, &source.into()))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(Error::invalid(format!("'{}' is no shared memory", region.key)));
        }
        let size = u64::try_from(status.st_size).unwrap_or_default();
        if region.offset.checked_add(region.bytes).is_none_or(|end| end > size) {
            return Err(Error::invalid(format!(
                "'{}' has {size} bytes, and {} from byte {} are asked for",
                region.key, region.bytes, region.offset
            )));
        }
        Ok(File::from(file))
    }

    fn regions(&self) -> MutexGuard<'_, BTreeMap<String, Held>> {
        // Only whole entries come and go under the lock.
        self.regions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unusable(region: &str, source: &std::io::Error) -> Error {
    if source.kind() == std::io::ErrorKind::UnexpectedEof {
        return Error::invalid(format!("shared memory region '{region}' has shrunk since it was registered"));
    }
    Error::internal(format!("shared memory region '{region}' cannot be used: {source}"))
}

#[cfg(test)]
#[path = "shared_memory_tests.rs"]
mod tests;
