//! The table of a model's weights: datatype, shape and place of each, in program order. A small binary file that is read
//! when the model is made ready, so that listing models does not read it.
//!
//! Little-endian: eight bytes of magic, then for each weight the datatype's and the shape's length (a byte each), the
//! segment (two bytes), the offset (eight) and each dimension (eight).

use bytes::{Buf, BufMut};
use engine::{DataType, Error, Result, element_count};

const MAGIC: &[u8; 8] = b"PHWTBL02";

/// One weight: where its bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WeightRef {
    /// Index into the manifest's segments.
    pub(crate) segment: u32,
    /// From the start of the file.
    pub(crate) offset_bytes: u64,
    pub(crate) dtype: DataType,
    /// Dimensions, all known.
    pub(crate) shape: Vec<usize>,
}

impl WeightRef {
    /// Where its bytes are in the file.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when there is no such place.
    pub(crate) fn range(&self) -> Result<std::ops::Range<u64>> {
        let end = self.offset_bytes.checked_add(size_bytes(self.dtype, &self.shape)?);
        let end = end.ok_or_else(|| Error::corrupt("a weight is said to lie past the end of all files"))?;
        Ok(self.offset_bytes..end)
    }
}

/// The bytes of a weight of `dtype` and `shape`.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) when there is no such number.
pub(crate) fn size_bytes(dtype: DataType, shape: &[usize]) -> Result<u64> {
    let lies =
        || Error::corrupt(format!("a weight cannot be a {dtype} tensor of shape {shape:?}; pack the model again"));
    let size = dtype.size_bytes().ok_or_else(lies)?;
    let count = element_count(shape).map_err(|_| lies())?;
    count.checked_mul(size).map(|bytes| bytes as u64).ok_or_else(lies)
}

/// The file that holds `weights`.
pub(crate) fn encode(weights: &[WeightRef]) -> Result<Vec<u8>> {
    let mut out = MAGIC.to_vec();
    for weight in weights {
        let of = |what: &str| Error::unsupported(format!("a model cannot have a weight with so many {what}"));
        // The codes are the positions in this list, which grows at its end alone.
        let code = DataType::ALL.iter().position(|&dtype| dtype == weight.dtype).unwrap_or(usize::from(u8::MAX));
        out.put_u8(u8::try_from(code).map_err(|_| of("datatypes"))?);
        out.put_u8(u8::try_from(weight.shape.len()).map_err(|_| of("dimensions"))?);
        out.put_u16_le(u16::try_from(weight.segment).map_err(|_| of("segments before it"))?);
        out.put_u64_le(weight.offset_bytes);
        weight.shape.iter().for_each(|&dim| out.put_u64_le(dim as u64));
    }
    Ok(out)
}

/// The weights that `bytes` hold.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) when it is no such table.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<WeightRef>> {
    read(bytes).ok_or_else(|| Error::corrupt("it is no table of weights"))
}

fn read(bytes: &[u8]) -> Option<Vec<WeightRef>> {
    let mut rest = bytes.strip_prefix(MAGIC)?;
    let mut weights = Vec::new();
    while rest.has_remaining() {
        let dtype = *DataType::ALL.get(usize::from(rest.try_get_u8().ok()?))?;
        let rank = rest.try_get_u8().ok()?;
        let segment = u32::from(rest.try_get_u16_le().ok()?);
        let offset_bytes = rest.try_get_u64_le().ok()?;
        let dim = |rest: &mut &[u8]| usize::try_from(rest.try_get_u64_le().ok()?).ok();
        let shape = (0..rank).map(|_| dim(&mut rest)).collect::<Option<Vec<_>>>()?;
        weights.push(WeightRef { segment, offset_bytes, dtype, shape });
    }
    Some(weights)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_weight() -> impl Strategy<Value = WeightRef> {
        let shape = prop::collection::vec(any::<usize>(), 0..5);
        (0..=u32::from(u16::MAX), any::<u64>(), prop::sample::select(&DataType::ALL[..]), shape)
            .prop_map(|(segment, offset_bytes, dtype, shape)| WeightRef { segment, offset_bytes, dtype, shape })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(weights in prop::collection::vec(any_weight(), 0..20)) {
            prop_assert_eq!(decode(&encode(&weights).unwrap()).unwrap(), weights);
        }

        #[test]
        fn a_table_that_was_cut_or_is_none_is_refused(
            weights in prop::collection::vec(any_weight(), 1..5), cut in 1usize..11, soup in any::<Vec<u8>>()
        ) {
            // The shortest entry has twelve bytes, so a shorter cut leaves part of one.
            let whole = encode(&weights).unwrap();
            prop_assert!(decode(&whole[..whole.len() - cut]).is_err());
            prop_assert!(decode(&soup).is_err());
            let _ = decode(&[&MAGIC[..], &soup].concat());
        }
    }

    #[test]
    fn the_codes_of_datatypes_stay_what_they_are() {
        let names: Vec<_> = DataType::ALL.iter().map(|dtype| dtype.name()).collect();
        let codes = "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 BF16 FP32 FP64 BYTES";
        assert_eq!(names.join(" "), codes, "files are read by these positions");
    }

    #[test]
    fn sizes_are_checked() {
        assert_eq!(size_bytes(DataType::F32, &[2, 3]).unwrap(), 24);
        assert_eq!(size_bytes(DataType::F32, &[0, usize::MAX]).unwrap(), 0);
        for (dtype, shape) in
            [(DataType::Bytes, &[1][..]), (DataType::U8, &[usize::MAX, 2]), (DataType::F64, &[1 << 61])]
        {
            assert!(size_bytes(dtype, shape).is_err(), "{dtype} {shape:?}");
        }
    }
}
