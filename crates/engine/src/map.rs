//! Memory-mapped files and the views between bytes and numbers.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Error, ErrorKind, Result};

pub(crate) mod torn;
pub(crate) mod watched;

/// A file mapped read-only. Views of it keep it mapped, so it is handed around in an [`Arc`].
pub struct Map {
    /// What is known of it when its file is cut. Goes before the map does, as fields go in their order.
    place: Option<torn::Place>,
    /// As it was, where it is a file that others may write. Goes before the map, too.
    watch: Option<Arc<watched::Watch>>,
    /// `None` for an empty file, of which there is nothing to map.
    map: Option<memmap2::Mmap>,
    stamp: Stamp,
}

/// What tells a file from every other, and from what it was before it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its file system.
    pub device: u64,
    /// Which file it is there; no other comes by that number while somebody has it open or mapped.
    pub inode: u64,
    /// Its length.
    pub len_bytes: u64,
    /// When it was last written, in nanoseconds since 1970; 0 where the file system does not say. Tools may set it.
    pub modified_ns: u64,
    /// When anything about it was last changed, names and rights too, likewise. Nobody sets that.
    pub changed_ns: u64,
}

impl Stamp {
    /// That of the file that `metadata` is of.
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        let since = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        let changed_ns = i128::from(metadata.ctime()) * 1_000_000_000 + i128::from(metadata.ctime_nsec());
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len_bytes: metadata.len(),
            modified_ns: since.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0),
            changed_ns: u64::try_from(changed_ns).unwrap_or(0),
        }
    }
}

impl Map {
    /// Maps the file at `path`, without reading it: pages come in when they are first touched.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), [`Exhausted`](ErrorKind::Exhausted) when the process may have no more maps, or
    /// [`Internal`](ErrorKind::Internal), naming the file.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        Self::of(path, false)
    }

    /// As [`open`](Self::open), of a file that others may write: what runs on it looks afterwards whether anybody did.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_watched(path: &Path) -> Result<Arc<Self>> {
        Self::of(path, true)
    }

    #[expect(unsafe_code, reason = "a mapping cannot be proven immutable by the compiler")]
    fn of(path: &Path, is_watched: bool) -> Result<Arc<Self>> {
        let failed = |source: std::io::Error| {
            let (kind, fix) = match source.kind() {
                std::io::ErrorKind::NotFound => (ErrorKind::NotFound, ""),
                std::io::ErrorKind::OutOfMemory => {
                    (ErrorKind::Exhausted, "; the kernel gives this process no more maps, raise vm.max_map_count")
                }
                _ => (ErrorKind::Internal, ""),
            };
            Error::new(kind, format!("{}: cannot be mapped: {source}{fix}", path.display()))
        };
        let file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let stamp = Stamp::of(&metadata);
        if metadata.len() == 0 {
            return Ok(Arc::new(Self { place: None, watch: None, map: None, stamp }));
        }
        // SAFETY: the map is private and read-only. Files of a store are written under another name, renamed into place
        // and never written again (store::atomic is the only writer), so no byte changes under the slice. Of a segment that
        // a cache has in part, only tensors that were checked are looked at, and those are not written again. Files that a
        // packer was given are its user's promise, as they are with every tool that maps a checkpoint: their size and
        // time are checked when they are mapped and after each run (`watched`), what is cut later is seen (`torn`), and any
        // bytes at all are numbers.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(failed)?;
        let watch = is_watched.then(|| watched::Watch::begin(path, stamp, &map));
        Ok(Arc::new(Self { place: torn::Place::of(&map), watch, map: Some(map), stamp }))
    }

    /// The file's bytes; the view and its clones keep the file mapped.
    pub fn bytes(self: &Arc<Self>) -> Bytes {
        if self.map.is_none() { Bytes::new() } else { Bytes::from_owner(View(Arc::clone(self))) }
    }

    /// The file's length when it was mapped.
    pub fn len_bytes(&self) -> u64 {
        self.map.as_ref().map_or(0, |map| map.len() as u64)
    }

    /// Whether its file was seen not to have all of it any more; then some of its bytes are nobody's.
    pub fn is_torn(&self) -> bool {
        self.place.as_ref().is_some_and(torn::Place::is_torn)
    }

    /// Whether its file, if it is watched, was written since it was mapped; then its bytes may be others than they were.
    pub fn is_written(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| watch.is_written())
    }

    /// What the file was when it was mapped.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }
}

struct View(Arc<Map>);

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        self.0.map.as_deref().unwrap_or_default()
    }
}

/// The bytes of the file at `path`, mapped.
///
/// # Errors
/// As [`Map::open`].
pub fn map_file(path: &Path) -> Result<Bytes> {
    Map::open(path).map(|map| map.bytes())
}

/// What is said to the kernel about memory that mapped files are seen in. None of it changes what is read there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// It will be read soon: begin to bring it in, and do not wait for that.
    Soon,
    /// It will not be read soon: take it before anything else when memory is short.
    Later,
    /// It is read a page here and a page there: bring in none beside those. Makes a map of its own of them.
    Scattered,
}

/// Says `advice` about the pages that `bytes` lie in. The kernel may refuse, or do otherwise; `false` then.
#[expect(unsafe_code, reason = "advice is given by address")]
pub fn advise(bytes: &[u8], advice: Advice) -> bool {
    use rustix::mm::{Advice as Kernel, madvise};
    let kernel = match advice {
        Advice::Soon => Kernel::WillNeed,
        Advice::Later => Kernel::LinuxCold,
        Advice::Scattered => Kernel::Random,
    };
    let (start, len) = pages(bytes);
    // SAFETY: the pages are mapped as long as the slice lives, and none of these changes their content: they say when it is
    // brought in and when it may be written back and dropped.
    bytes.is_empty() || unsafe { madvise(start.cast_mut().cast(), len, kernel) }.is_ok()
}

/// Whether all pages that `bytes`, mapped from a file, lie in are in memory. Where the kernel does not tell, they are not.
#[expect(unsafe_code, reason = "the kernel is asked by address")]
pub fn is_resident(bytes: &[u8]) -> bool {
    if bytes.is_empty() {
        return true;
    }
    let (start, len) = pages(bytes);
    let mut pages = vec![0u8; len.div_ceil(rustix::param::page_size())];
    // SAFETY: the range is mapped as long as the slice lives, and the vector has a byte for each of its pages.
    let told = unsafe { libc::mincore(start.cast_mut().cast(), len, pages.as_mut_ptr()) } == 0;
    told && pages.iter().all(|&page| page & 1 != 0)
}

/// The pages that `bytes` lie in: the first one's address, and the length up to the last byte.
fn pages(bytes: &[u8]) -> (*const u8, usize) {
    let start = bytes.as_ptr();
    let before = start.addr() % rustix::param::page_size();
    (start.wrapping_sub(before), bytes.len() + before)
}

struct F32Owner(Vec<f32>);

impl AsRef<[u8]> for F32Owner {
    #[expect(unsafe_code, reason = "reading floats as bytes needs a cast of the slice")]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: every bit pattern of an f32 is four valid bytes, the pointer is that of a live vector, and the
        // length in bytes cannot overflow because the vector's allocation already has that size.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), size_of_val(self.0.as_slice())) }
    }
}

/// `values` as little-endian bytes, without a copy.
pub fn bytes_from_f32(values: Vec<f32>) -> Bytes {
    const { assert!(cfg!(target_endian = "little"), "tensors are little-endian and viewed in place") };
    Bytes::from_owner(F32Owner(values))
}

/// `bytes` as single-precision values, or `None` when they are not aligned for it or not whole.
#[expect(unsafe_code, reason = "reading bytes as floats needs a cast of the slice")]
pub fn f32_view(bytes: &[u8]) -> Option<&[f32]> {
    // SAFETY: every pattern of four bytes is a valid f32, and align_to only puts aligned, whole values in the middle.
    let (head, values, tail) = unsafe { bytes.align_to::<f32>() };
    (head.is_empty() && tail.is_empty()).then_some(values)
}

/// `bytes` at an address that is a multiple of `align`: shared when they already are, copied when they are not.
///
/// A request body is sliced wherever its header ended, but a runtime may use aligned loads.
pub fn aligned(bytes: &Bytes, align: usize) -> Bytes {
    debug_assert!(align.is_power_of_two() && align <= align_of::<u128>(), "a copy is aligned for its words");
    if bytes.as_ptr().addr().is_multiple_of(align) {
        return bytes.clone();
    }
    written(bytes.len(), |copy| copy.copy_from_slice(bytes))
}

/// `len_bytes` that `write` writes, zeroes until then, aligned for any number.
pub(crate) fn written(len_bytes: usize, write: impl FnOnce(&mut [u8])) -> Bytes {
    let mut words = vec![0u128; len_bytes.div_ceil(size_of::<u128>())];
    write(&mut words_as_bytes(&mut words)[..len_bytes]);
    Bytes::from_owner(Words(words)).slice(..len_bytes)
}

struct Words(Vec<u128>);

impl AsRef<[u8]> for Words {
    #[expect(unsafe_code, reason = "reading words as bytes needs a cast of the slice")]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: as in F32Owner: any word is sixteen valid bytes and the vector outlives the borrow.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), size_of_val(self.0.as_slice())) }
    }
}

#[expect(unsafe_code, reason = "filling words as bytes needs a cast of the slice")]
fn words_as_bytes(words: &mut [u128]) -> &mut [u8] {
    // SAFETY: any sixteen bytes are a valid word, and the exclusive borrow covers exactly these words.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unaligned_bytes_are_copied_and_aligned_ones_shared() {
        let whole = bytes_from_f32((0u8..8).map(f32::from).collect());
        assert_eq!(aligned(&whole, 4).as_ptr(), whole.as_ptr());
        let odd = whole.slice(1..29);
        for align in [2, 4, 8, 16] {
            let copy = aligned(&odd, align);
            assert_eq!(copy, odd);
            assert!(copy.as_ptr().addr().is_multiple_of(align));
        }
        assert!(f32_view(&odd).is_none());
        assert_eq!(f32_view(&whole).unwrap()[7], 7.0);
    }

    #[test]
    fn advice_changes_no_byte() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let whole: Vec<u8> = (0..1u32 << 18).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, &whole).unwrap();
        let mapped = map_file(&path).unwrap();
        for advice in [Advice::Soon, Advice::Scattered, Advice::Later, Advice::Soon] {
            for bytes in [&mapped[..], &mapped[5000..300_001], &[]] {
                assert!(advise(bytes, advice), "{advice:?} about {} bytes", bytes.len());
            }
            assert_eq!(mapped, whole);
        }
        assert!(is_resident(&mapped) && is_resident(&mapped[1..2]) && is_resident(&[]));
    }

    #[test]
    fn a_missing_file_is_named_and_an_empty_one_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let missing = map_file(&folder.path().join("none")).unwrap_err();
        assert_eq!(missing.kind, ErrorKind::NotFound);
        assert!(missing.message.contains("none"));
        std::fs::write(folder.path().join("empty"), b"").unwrap();
        assert!(map_file(&folder.path().join("empty")).unwrap().is_empty());
    }
}
