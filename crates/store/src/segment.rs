//! Segments: the bytes of many weights in one file, laid out to be mapped, with a table of contents at the end.
//!
//! The table lists each tensor's BLAKE3, offset and length (32, 8 and 8 bytes, little-endian); a count and eight bytes of
//! magic end the file. The segment's name is the hash of the table, which covers the tensors by way of their hashes: a
//! tensor is hashed once, to look for it and to name it. Segments of format 1 had no table; their name is the hash of the
//! file.

use std::collections::HashMap;
use std::io::Write;

use bytes::{Buf, Bytes};
use engine::{Error, Result, Tensor};

use crate::table::{WeightRef, size_bytes};

/// A tensor of a page or more starts on a page, so that no two tensors share the pages that matter.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// Smaller tensors share pages, each on a cache line of its own.
const LINE_BYTES: u64 = 64;

const MAGIC: &[u8; 8] = b"PHSEG\0\0\x02";
const ENTRY_BYTES: usize = 48;
const FOOTER_BYTES: usize = 16;

/// A tensor of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// BLAKE3 of its bytes.
    pub(crate) hash: blake3::Hash,
    /// From the start of the segment.
    pub(crate) offset_bytes: u64,
    pub(crate) len_bytes: u64,
}

/// A segment that is to be written. Equal tensors are stored once.
#[derive(Default)]
pub(crate) struct Layout<'a> {
    /// By ascending offset.
    pieces: Vec<(Piece, &'a [u8])>,
    known: HashMap<blake3::Hash, u64>,
    end: u64,
}

impl<'a> Layout<'a> {
    /// Adds `bytes`, whose BLAKE3 is `hash`, and gives its offset.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the sizes add up to more than a file can hold.
    pub(crate) fn add(&mut self, hash: blake3::Hash, bytes: &'a [u8]) -> Result<u64> {
        if let Some(&offset) = self.known.get(&hash) {
            return Ok(offset);
        }
        let len_bytes = bytes.len() as u64;
        let align = if len_bytes >= PAGE_BYTES { PAGE_BYTES } else { LINE_BYTES };
        let place =
            self.end.checked_next_multiple_of(align).and_then(|start| Some((start, start.checked_add(len_bytes)?)));
        let (offset_bytes, end) = place.ok_or_else(|| Error::invalid("the weights are larger than a file can be"))?;
        self.end = end;
        self.known.insert(hash, offset_bytes);
        self.pieces.push((Piece { hash, offset_bytes, len_bytes }, bytes));
        Ok(offset_bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The bytes of the tensors, without what lies between them.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.pieces.iter().map(|(piece, _)| piece.len_bytes).sum()
    }

    /// The size of the file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.end + self.trailer().len() as u64
    }

    /// The segment's name.
    pub(crate) fn hash(&self) -> String {
        blake3::hash(&self.trailer()).to_hex().to_string()
    }

    /// Writes the whole segment.
    pub(crate) fn write_to(&self, out: &mut impl Write) -> std::io::Result<()> {
        const ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];
        let mut at = 0u64;
        for (piece, bytes) in &self.pieces {
            let gap = usize::try_from(piece.offset_bytes - at).unwrap_or(ZEROS.len());
            out.write_all(&ZEROS[..gap])?;
            out.write_all(bytes)?;
            at = piece.offset_bytes + piece.len_bytes;
        }
        out.write_all(&self.trailer())
    }

    /// Whether `file` is this very segment.
    pub(crate) fn is(&self, file: &[u8]) -> bool {
        file.len() as u64 == self.file_bytes()
            && file.ends_with(&self.trailer())
            && self.pieces.iter().all(|(piece, bytes)| slice(file, piece.offset_bytes, piece.len_bytes) == Some(bytes))
    }

    fn trailer(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.pieces.len() * ENTRY_BYTES + FOOTER_BYTES);
        for (piece, _) in &self.pieces {
            out.extend_from_slice(piece.hash.as_bytes());
            out.extend_from_slice(&piece.offset_bytes.to_le_bytes());
            out.extend_from_slice(&piece.len_bytes.to_le_bytes());
        }
        out.extend_from_slice(&(self.pieces.len() as u64).to_le_bytes());
        out.extend_from_slice(MAGIC);
        out
    }
}

/// The table of contents of `segment`, by ascending offset; `None` for a segment of format 1.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) when the table is not the one that the name is the hash of, or the file's
/// length is not what it says.
pub(crate) fn contents(segment: &[u8], hash: &str) -> Result<Option<Vec<Piece>>> {
    Ok(contents_of(segment, segment.len() as u64, hash)?.map(|(pieces, _)| pieces))
}

/// As [`contents`], of a segment of `file_bytes` of which only the end is at hand; and the part of `tail` that the table is.
pub(crate) fn contents_of<'a>(tail: &'a [u8], file_bytes: u64, hash: &str) -> Result<Option<(Vec<Piece>, &'a [u8])>> {
    let Some(trailer) = trailer(tail) else { return Ok(None) };
    if blake3::hash(trailer).to_hex().as_str() != hash {
        // A file of format 1 may end in any bytes; what it is, its own name tells, but only when all of it is hashed.
        return Ok(None);
    }
    let mut pieces = Vec::with_capacity(trailer.len() / ENTRY_BYTES);
    let mut end = 0;
    let entries = &trailer[..trailer.len() - FOOTER_BYTES];
    for mut entry in entries.chunks_exact(ENTRY_BYTES) {
        let mut hash = [0; 32];
        entry.copy_to_slice(&mut hash);
        let piece = Piece { hash: hash.into(), offset_bytes: entry.get_u64_le(), len_bytes: entry.get_u64_le() };
        end = piece.offset_bytes.saturating_add(piece.len_bytes);
        pieces.push(piece);
    }
    if end != file_bytes - trailer.len() as u64 {
        return Err(Error::corrupt(format!("segment {hash}: its length is not what its table of contents says")));
    }
    Ok(Some((pieces, trailer)))
}

/// Table and footer, when the file's end looks like them.
fn trailer(tail: &[u8]) -> Option<&[u8]> {
    let len = usize::try_from(trailer_bytes(tail)?).ok()?;
    tail.get(tail.len().checked_sub(len)?..)
}

/// How long table and footer are, by what the last bytes of a file say.
pub(crate) fn trailer_bytes(tail: &[u8]) -> Option<u64> {
    let footer = tail.get(tail.len().checked_sub(FOOTER_BYTES)?..)?;
    let count = (&footer[..8]).get_u64_le();
    (&footer[8..] == MAGIC).then_some(())?;
    count.checked_mul(ENTRY_BYTES as u64)?.checked_add(FOOTER_BYTES as u64)
}

/// Whether every tensor of `segment`, and so the segment, is what its name says.
pub(crate) fn is_sound(segment: &[u8], hash: &str) -> bool {
    match contents(segment, hash) {
        Ok(Some(pieces)) => pieces.iter().all(|piece| {
            slice(segment, piece.offset_bytes, piece.len_bytes).is_some_and(|bytes| blake3::hash(bytes) == piece.hash)
        }),
        Ok(None) => blake3::hash(segment).to_hex().as_str() == hash,
        Err(_) => false,
    }
}

/// `len` bytes of `file` from `offset` on, when there are as many.
pub(crate) fn slice(file: &[u8], offset: u64, len: u64) -> Option<&[u8]> {
    let (start, len) = (usize::try_from(offset).ok()?, usize::try_from(len).ok()?);
    file.get(start..start.checked_add(len)?)
}

/// Whether a tensor of `len` bytes begins at `offset` of `segment`, as its table of contents has it. A file without one cannot
/// tell. Reads a few lines of the table, however many tensors there are.
fn has(segment: &[u8], offset: u64, len: u64) -> bool {
    let Some(trailer) = trailer(segment) else { return true };
    let (entries, _) = trailer[..trailer.len() - FOOTER_BYTES].as_chunks::<ENTRY_BYTES>();
    let place = |entry: &[u8; ENTRY_BYTES]| {
        let mut numbers = &entry[ENTRY_BYTES - 16..];
        (numbers.get_u64_le(), numbers.get_u64_le())
    };
    // An empty tensor begins where the next one does.
    let first = entries.partition_point(|entry| place(entry).0 < offset);
    entries[first..].iter().map(place).take_while(|(begins, _)| *begins == offset).any(|(_, bytes)| bytes == len)
}

/// The tensor that `weight` points at, inside `segment`'s mapping.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) when it does not lie inside, is not what lies there or does not add up.
pub(crate) fn tensor(segment: &Bytes, weight: &WeightRef) -> Result<Tensor> {
    let bytes = size_bytes(weight.dtype, &weight.shape)?;
    let lies = |what: &str| {
        let WeightRef { dtype, shape, offset_bytes, .. } = weight;
        let len = segment.len();
        Error::corrupt(format!(
            "a {dtype} weight of shape {shape:?} is said to be at byte {offset_bytes} of a segment of {len} bytes{what}; pack the model \
             again"
        ))
    };
    let inside = slice(segment, weight.offset_bytes, bytes).ok_or_else(|| lies(""))?;
    if !has(segment, weight.offset_bytes, bytes) {
        return Err(lies(", where there is no tensor of that size"));
    }
    Tensor::new(weight.dtype, weight.shape.clone(), segment.slice_ref(inside))
        .map_err(|error| Error::corrupt(error.message))
}

#[cfg(test)]
mod tests {
    use engine::DataType;
    use proptest::prelude::*;

    use super::*;

    fn pieces() -> Vec<Vec<u8>> {
        let of = |value: u8, len: usize| vec![value; len];
        vec![of(1, 10), of(2, 5000), of(1, 10), of(3, 64), of(4, 4096)]
    }

    fn layout(pieces: &[Vec<u8>]) -> (Layout<'_>, Vec<u64>, Vec<u8>) {
        let mut layout = Layout::default();
        let offsets = pieces.iter().map(|bytes| layout.add(blake3::hash(bytes), bytes).unwrap()).collect();
        let mut file = Vec::new();
        layout.write_to(&mut file).unwrap();
        (layout, offsets, file)
    }

    #[test]
    fn large_tensors_start_on_pages_and_equal_ones_are_stored_once() {
        let pieces = pieces();
        let (layout, offsets, file) = layout(&pieces);
        assert_eq!(offsets, [0, 4096, 0, 9152, 12288]);
        assert_eq!(layout.stored_bytes(), 10 + 5000 + 64 + 4096);
        assert_eq!(layout.file_bytes(), file.len() as u64);
        assert!(layout.is(&file) && is_sound(&file, &layout.hash()));
    }

    #[test]
    fn the_contents_are_read_back_and_no_change_goes_unseen() {
        let pieces = pieces();
        let (layout, offsets, file) = layout(&pieces);
        let hash = layout.hash();
        let found = contents(&file, &hash).unwrap().unwrap();
        for (bytes, offset) in pieces.iter().zip(offsets) {
            let want = Piece { hash: blake3::hash(bytes), offset_bytes: offset, len_bytes: bytes.len() as u64 };
            assert!(found.contains(&want));
        }
        // The gap from 10 to 4096 holds nothing that anybody reads.
        for at in [0, 9, 4096, 9095, 12_288, 16_383, 16_384, 16_420, file.len() - 10, file.len() - 1] {
            let mut flipped = file.clone();
            flipped[at] ^= 1;
            assert!(!layout.is(&flipped) && !is_sound(&flipped, &hash), "byte {at}");
        }
        for len in [0, 1, 15, 16, file.len() / 2, file.len() - 1] {
            assert!(!is_sound(&file[..len], &hash), "{len} bytes");
        }
        let longer = [&[0; 64], &file[..]].concat();
        assert!(contents(&longer, &hash).is_err() && !is_sound(&longer, &hash));
    }

    #[test]
    fn a_segment_of_format_1_has_no_contents_but_its_name() {
        let file = vec![7u8; 5000];
        let hash = blake3::hash(&file).to_hex();
        assert_eq!(contents(&file, &hash).unwrap(), None);
        assert!(is_sound(&file, &hash) && !is_sound(&file[1..], &hash));
    }

    #[test]
    fn a_table_that_lies_is_refused() {
        let segment = Bytes::from(vec![0u8; 100]);
        let weight =
            |offset_bytes, shape: &[usize], dtype| WeightRef { segment: 0, offset_bytes, dtype, shape: shape.to_vec() };
        for (lie, what) in [
            (weight(97, &[1], DataType::F32), "past the end"),
            (weight(u64::MAX, &[1], DataType::F32), "offset overflow"),
            (weight(0, &[usize::MAX, 2], DataType::F32), "shape overflow"),
            (weight(0, &[1], DataType::Bytes), "strings"),
        ] {
            assert!(tensor(&segment, &lie).is_err(), "{what}");
        }
        assert!(tensor(&segment, &weight(96, &[1], DataType::F32)).is_ok());
        assert!(tensor(&segment, &weight(100, &[0], DataType::F32)).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(soup in any::<Vec<u8>>(), count in any::<u64>()) {
            let file = [&soup[..], &count.to_le_bytes(), MAGIC].concat();
            let name = trailer(&file).map_or_else(String::new, |trailer| blake3::hash(trailer).to_hex().to_string());
            let _ = contents(&file, &name);
            let _ = is_sound(&file, &name);
        }
    }
}
