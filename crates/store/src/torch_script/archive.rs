//! The file of a TorchScript module: a zip archive with everything in one folder, whose name is anybody's choice.
//!
//! It is read as libtorch's own reader does (miniz, through caffe2/serialize/inline_container.cc), and what the two could
//! read differently is refused: what was looked through here is what is loaded there.

use std::collections::BTreeMap;
use std::io::Read as _;

use engine::{Error, Result};

/// End of central directory (PKWARE's APPNOTE, 4.3.16): its mark and size in bytes, when it ends without a comment.
const END: (u32, usize) = (0x0605_4b50, 22);
/// The locator of the 64-bit end of central directory (4.3.15), which lies right before the end.
const LOCATOR: (u32, usize) = (0x0706_4b50, 20);
/// The 64-bit end of central directory (4.3.14).
const END_64: (u32, usize) = (0x0606_4b50, 56);
/// A file's header in the central directory (4.3.12).
const CENTRAL: (u32, usize) = (0x0201_4b50, 46);
/// A file's header before its bytes (4.3.7).
const LOCAL: (u32, usize) = (0x0403_4b50, 30);
/// The extra field with 64-bit sizes (4.5.3).
const EXTRA_64: u16 = 1;

/// No archive of a module has as many files: libtorch writes a few for each weight.
const FILES_MAX: u64 = 1 << 20;
/// What the files that are compressed may come to: code, which is all that libtorch compresses.
const INFLATED_BYTES_MAX: u64 = 64 << 20;
/// miniz reads no longer names.
const NAME_BYTES_MAX: usize = 511;

/// The files of an archive, by name without the folder and in small letters: libtorch's reader finds a file by its name in
/// whatever letters.
pub(super) struct Archive<'a> {
    bytes: &'a [u8],
    files: BTreeMap<String, File>,
}

/// Where a file lies.
#[derive(Clone, Copy)]
struct File {
    is_deflated: bool,
    start: usize,
    packed_bytes: usize,
    bytes: usize,
}

impl<'a> Archive<'a> {
    /// The archive in `bytes`.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for what is none, or is not as `torch.jit.save` writes one.
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self> {
        let (count, at, end) = directory(bytes)?;
        let mut central = cut(bytes, at, end)?;
        let mut files = BTreeMap::new();
        let (mut folder, mut inflated) = (None, 0u64);
        for _ in 0..count {
            let (name, file) = Self::file(bytes, &mut central, at)?;
            let (within, rest) = name.split_once('/').ok_or_else(|| odd("a file of it is in no folder"))?;
            if *folder.get_or_insert(within) != within {
                return Err(odd("its files are in several folders"));
            }
            if file.is_deflated {
                inflated = inflated.saturating_add(file.bytes as u64);
            }
            if files.insert(rest.to_ascii_lowercase(), file).is_some() {
                return Err(odd("two of its files go by one name"));
            }
        }
        if inflated > INFLATED_BYTES_MAX {
            return Err(odd("what is compressed in it comes to more than any code"));
        }
        Ok(Self { bytes, files })
    }

    /// The next file of the directory `central`; its bytes lie before `end`, where the directory begins.
    fn file(bytes: &'a [u8], central: &mut &'a [u8], end: usize) -> Result<(&'a str, File)> {
        let header = take(central, CENTRAL.1)?;
        if word(header, 0) != CENTRAL.0 {
            return Err(odd("its directory is not whole"));
        }
        let (name, extra) = (usize::from(half(header, 28)), usize::from(half(header, 30)));
        let comment = usize::from(half(header, 32));
        let raw_name = take(central, name)?;
        let extra = take(central, extra)?;
        take(central, comment)?;
        let name = str::from_utf8(raw_name).map_err(|_| odd("a name in it is no text"))?;
        if raw_name.len() > NAME_BYTES_MAX || raw_name.contains(&0) {
            return Err(odd("a name in it is too long"));
        }
        // In the order in which the extra field has those that do not fit 32 bits: size, packed size, place.
        let fields = [24, 20, 42].map(|at| u64::from(word(header, at)));
        let [size, packed, place] = wide(fields, extra)?;
        let (flags, method) = (half(header, 8), half(header, 10));
        // Encrypted, patched or of strong encryption.
        if flags & 0b110_0001 != 0 || !matches!(method, 0 | 8) {
            return Err(odd("a file of it is encrypted, or compressed in an unusual way"));
        }
        let place = usize::try_from(place).map_err(|_| odd("a file of it lies outside of it"))?;
        let mut local = cut(bytes, place, end)?;
        let header = take(&mut local, LOCAL.1)?;
        if word(header, 0) != LOCAL.0 || take(&mut local, usize::from(half(header, 26)))? != raw_name {
            return Err(odd("its directory is not that of its files"));
        }
        take(&mut local, usize::from(half(header, 28)))?;
        let (start, is_deflated) = (end - local.len(), method == 8);
        let size = usize::try_from(size).ok().filter(|&size| is_deflated || packed == size as u64);
        let packed = usize::try_from(packed).ok().filter(|&packed| packed <= local.len());
        let (Some(bytes), Some(packed_bytes)) = (size, packed) else {
            return Err(odd("a file of it is cut off"));
        };
        Ok((name, File { is_deflated, start, packed_bytes, bytes }))
    }

    /// The names of its files.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    /// The size of the file `name` in bytes, when it is there and lies in the archive as it is.
    pub(super) fn stored_bytes(&self, name: &str) -> Option<usize> {
        self.files.get(&name.to_ascii_lowercase()).filter(|file| !file.is_deflated).map(|file| file.bytes)
    }

    /// What the file `name` holds.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is not there or does not come to what it says.
    pub(super) fn content(&self, name: &str) -> Result<Vec<u8>> {
        let file = self.files.get(name).ok_or_else(|| odd(&format!("it has no file '{name}'")))?;
        let packed = cut(self.bytes, file.start, file.start + file.packed_bytes)?;
        if !file.is_deflated {
            return Ok(packed.to_vec());
        }
        let mut content = Vec::new();
        // One byte more than it says, so that it is seen when there is more.
        let mut limited = flate2::read::DeflateDecoder::new(packed).take(file.bytes as u64 + 1);
        let read = limited.read_to_end(&mut content);
        if read.is_err() || content.len() != file.bytes {
            return Err(odd(&format!("its file '{name}' is damaged")));
        }
        Ok(content)
    }
}

/// How many files the archive in `bytes` has, and from where to where its directory lies.
fn directory(bytes: &[u8]) -> Result<(u64, usize, usize)> {
    let none = || Error::invalid("it is no TorchScript archive: it does not end as a zip file does; was it cut off?");
    let at = bytes.len().checked_sub(END.1).ok_or_else(none)?;
    let end = &bytes[at..];
    if word(end, 0) != END.0 || half(end, 20) != 0 {
        return Err(none());
    }
    let located = at.checked_sub(LOCATOR.1).filter(|&before| word(&bytes[before..], 0) == LOCATOR.0);
    let (count, size, place, end) = match located {
        None => (u64::from(half(end, 10)), u64::from(word(end, 12)), u64::from(word(end, 16)), at),
        Some(before) => {
            let place = usize::try_from(long(&bytes[before..], 8)).map_err(|_| none())?;
            let header = cut(bytes, place, before)?;
            let header = header.get(..END_64.1).filter(|header| word(header, 0) == END_64.0).ok_or_else(none)?;
            (long(header, 32), long(header, 40), long(header, 48), place)
        }
    };
    let start = usize::try_from(place).ok().filter(|_| count <= FILES_MAX);
    let whole = place.checked_add(size).is_some_and(|stop| stop <= end as u64);
    start.filter(|_| whole).map(|start| (count, start, end)).ok_or_else(|| odd("its directory is not whole"))
}

/// `fields` with those that do not fit 32 bits out of `extra`.
fn wide(fields: [u64; 3], mut extra: &[u8]) -> Result<[u64; 3]> {
    if !fields.contains(&u64::from(u32::MAX)) {
        return Ok(fields);
    }
    let missing = || odd("a size in it is missing");
    loop {
        let header = take(&mut extra, 4).map_err(|_| missing())?;
        let mut data = take(&mut extra, usize::from(half(header, 2)))?;
        if half(header, 0) != EXTRA_64 {
            continue;
        }
        let mut wide = fields;
        for field in wide.iter_mut().filter(|field| **field == u64::from(u32::MAX)) {
            *field = long(take(&mut data, 8).map_err(|_| missing())?, 0);
        }
        return Ok(wide);
    }
}

fn odd(why: &str) -> Error {
    Error::invalid(format!("the archive is not as torch.jit.save writes one: {why}"))
}

/// `bytes` from `start` to `end`.
fn cut(bytes: &[u8], start: usize, end: usize) -> Result<&[u8]> {
    bytes.get(start..end).ok_or_else(|| odd("a part of it lies outside of it"))
}

/// The first `count` of `bytes`, which are taken off.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or_else(|| odd("it is cut off"))?;
    *bytes = rest;
    Ok(taken)
}

// Numbers of headers, whose lengths were looked at; a place beyond one is none.

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |raw| u16::from_le_bytes(*raw))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |raw| u32::from_le_bytes(*raw))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |raw| u64::from_le_bytes(*raw))
}
