//! Segments: the bytes of a model's weights in one file, laid out to be mapped.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::{Error, Result, Tensor};

use crate::atomic::{self, Written};
use crate::manifest::{WeightRef, datatype};

/// A tensor of a page or more starts on a page, so that no two tensors share the pages that matter.
const PAGE_BYTES: u64 = 4096;
/// Smaller tensors share pages, each on a cache line of its own.
const LINE_BYTES: u64 = 64;

/// Where a tensor lies in a file outside the store, to be mapped in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) path: PathBuf,
    pub(crate) offset_bytes: u64,
}

/// Where each weight goes, and what has to be written. Equal tensors are stored once.
pub(crate) struct Layout<'a> {
    /// One entry per weight, in program order.
    pub(crate) weights: Vec<WeightRef>,
    /// Offset and bytes of each distinct tensor, ascending.
    pieces: Vec<(u64, &'a [u8])>,
}

impl<'a> Layout<'a> {
    /// Lays `tensors` out in order.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the sizes add up to more than a file can hold.
    pub(crate) fn of(tensors: &'a [Tensor]) -> Result<Self> {
        let mut layout = Self { weights: Vec::with_capacity(tensors.len()), pieces: Vec::new() };
        let mut known = HashMap::new();
        let mut end = 0u64;
        for tensor in tensors {
            let hash = blake3::hash(tensor.data());
            let len = tensor.data().len() as u64;
            let offset_bytes = match known.get(&hash) {
                Some(&offset) => offset,
                None => {
                    let align = if len >= PAGE_BYTES { PAGE_BYTES } else { LINE_BYTES };
                    let offset = end.next_multiple_of(align);
                    end = offset
                        .checked_add(len)
                        .ok_or_else(|| Error::invalid("the weights are larger than a file can be"))?;
                    layout.pieces.push((offset, tensor.data()));
                    known.insert(hash, offset);
                    offset
                }
            };
            layout.weights.push(WeightRef {
                segment: 0,
                offset_bytes,
                datatype: tensor.dtype().name().to_owned(),
                shape: tensor.shape().to_vec(),
                hash: hash.to_hex().to_string(),
            });
        }
        Ok(layout)
    }

    /// The segment's name: the hash of everything in it.
    pub(crate) fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        // Writing into a hasher cannot fail.
        let _ = self.write_to(&mut hasher);
        hasher.finalize().to_hex().to_string()
    }

    /// Writes the segment into `folder` under its hash, unless it is there.
    pub(crate) fn write(&self, folder: &Path, hash: &str) -> Result<Written> {
        atomic::create(folder, &file_name(hash), |file| self.write_to(file))
    }

    fn write_to(&self, out: &mut impl Write) -> std::io::Result<()> {
        const ZEROS: [u8; PAGE_BYTES as usize] = [0; PAGE_BYTES as usize];
        let mut at = 0u64;
        for &(offset, bytes) in &self.pieces {
            let gap = usize::try_from(offset - at).unwrap_or(ZEROS.len());
            out.write_all(&ZEROS[..gap])?;
            out.write_all(bytes)?;
            at = offset + bytes.len() as u64;
        }
        Ok(())
    }
}

/// The file of the segment named `hash`.
pub(crate) fn file_name(hash: &str) -> String {
    format!("{hash}.seg")
}

/// The tensor that `weight` points at, inside `segment`'s mapping.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) when it does not lie inside, does not add up, or is not aligned.
pub(crate) fn tensor(segment: &Bytes, weight: &WeightRef) -> Result<Tensor> {
    let dtype = datatype(&weight.datatype)?;
    let bytes = dtype
        .size_bytes()
        .ok_or_else(|| Error::corrupt("a weight cannot be of datatype BYTES"))
        .and_then(|size| Ok(engine::element_count(&weight.shape)?.checked_mul(size)))?;
    let range = usize::try_from(weight.offset_bytes)
        .ok()
        .zip(bytes)
        .and_then(|(start, bytes)| Some(start..start.checked_add(bytes)?))
        .filter(|range| range.end <= segment.len())
        .ok_or_else(|| {
            Error::corrupt(format!(
                "the manifest puts a {} weight of shape {:?} at byte {} of a segment of {} bytes",
                weight.datatype,
                weight.shape,
                weight.offset_bytes,
                segment.len()
            ))
        })?;
    Tensor::new(dtype, weight.shape.clone(), segment.slice(range)).map_err(|error| Error::corrupt(error.message))
}

#[cfg(test)]
mod tests {
    use engine::DataType;

    use super::*;

    fn tensors() -> Vec<Tensor> {
        let of = |value: u8, len: usize| Tensor::new(DataType::U8, vec![len], vec![value; len].into()).unwrap();
        vec![of(1, 10), of(2, 5000), of(1, 10), of(3, 64), of(4, 4096)]
    }

    #[test]
    fn large_tensors_start_on_pages_and_equal_ones_are_stored_once() {
        let tensors = tensors();
        let layout = Layout::of(&tensors).unwrap();
        let offsets: Vec<_> = layout.weights.iter().map(|weight| weight.offset_bytes).collect();
        assert_eq!(offsets, [0, 4096, 0, 9152, 12288]);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let tensors = tensors();
        let layout = Layout::of(&tensors).unwrap();
        let hash = layout.hash();
        assert_eq!(layout.write(folder.path(), &hash).unwrap(), Written::New);
        assert_eq!(layout.write(folder.path(), &hash).unwrap(), Written::Existed);
        let segment = engine::map::map_file(&folder.path().join(file_name(&hash))).unwrap();
        assert_eq!(blake3::hash(&segment).to_hex().as_str(), hash);
        for (weight, want) in layout.weights.iter().zip(&tensors) {
            assert_eq!(&tensor(&segment, weight).unwrap(), want);
        }
    }

    #[test]
    fn a_manifest_that_lies_is_refused() {
        let segment = Bytes::from(vec![0u8; 100]);
        let weight = |offset_bytes, shape: &[usize], datatype: &str| WeightRef {
            segment: 0,
            offset_bytes,
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
            hash: String::new(),
        };
        for (lie, what) in [
            (weight(97, &[1], "FP32"), "past the end"),
            (weight(u64::MAX, &[1], "FP32"), "offset overflow"),
            (weight(0, &[usize::MAX, 2], "FP32"), "shape overflow"),
            (weight(0, &[1], "BYTES"), "strings"),
            (weight(0, &[1], "FP31"), "unknown datatype"),
        ] {
            assert!(tensor(&segment, &lie).is_err(), "{what}");
        }
        assert!(tensor(&segment, &weight(96, &[1], "FP32")).is_ok());
    }
}
