//! [`Tensor`]: a datatype, a shape and contiguous little-endian bytes.

use bytes::Bytes;

use crate::{Error, Result};

/// Element types, named as the Open Inference Protocol names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DataType {
    /// One byte, 0 or 1.
    Bool,
    /// Unsigned 8-bit integer.
    U8,
    /// Unsigned 16-bit integer.
    U16,
    /// Unsigned 32-bit integer.
    U32,
    /// Unsigned 64-bit integer.
    U64,
    /// Signed 8-bit integer.
    I8,
    /// Signed 16-bit integer.
    I16,
    /// Signed 32-bit integer.
    I32,
    /// Signed 64-bit integer.
    I64,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper half of a single.
    Bf16,
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// Byte strings, each framed by its length as a little-endian `u32` (the Open Inference Protocol's own framing).
    Bytes,
}

impl DataType {
    /// Every datatype, in the order of the declaration.
    pub const ALL: [DataType; 14] = [
        DataType::Bool,
        DataType::U8,
        DataType::U16,
        DataType::U32,
        DataType::U64,
        DataType::I8,
        DataType::I16,
        DataType::I32,
        DataType::I64,
        DataType::F16,
        DataType::Bf16,
        DataType::F32,
        DataType::F64,
        DataType::Bytes,
    ];

    /// Bytes an element takes; `None` for [`DataType::Bytes`], whose elements vary.
    pub const fn size_bytes(self) -> Option<usize> {
        match self {
            DataType::Bool | DataType::U8 | DataType::I8 => Some(1),
            DataType::U16 | DataType::I16 | DataType::F16 | DataType::Bf16 => Some(2),
            DataType::U32 | DataType::I32 | DataType::F32 => Some(4),
            DataType::U64 | DataType::I64 | DataType::F64 => Some(8),
            DataType::Bytes => None,
        }
    }

    /// The Open Inference Protocol's name, for example `FP32`.
    pub const fn name(self) -> &'static str {
        match self {
            DataType::Bool => "BOOL",
            DataType::U8 => "UINT8",
            DataType::U16 => "UINT16",
            DataType::U32 => "UINT32",
            DataType::U64 => "UINT64",
            DataType::I8 => "INT8",
            DataType::I16 => "INT16",
            DataType::I32 => "INT32",
            DataType::I64 => "INT64",
            DataType::F16 => "FP16",
            DataType::Bf16 => "BF16",
            DataType::F32 => "FP32",
            DataType::F64 => "FP64",
            DataType::Bytes => "BYTES",
        }
    }

    /// The datatype that the Open Inference Protocol calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl std::fmt::Display for DataType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The number of elements of `shape`, in checked arithmetic.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the product does not fit, so that a hostile shape never
/// wraps into a small allocation.
pub fn element_count(shape: &[usize]) -> Result<usize> {
    // A zero anywhere makes the tensor empty, whatever the other dimensions say.
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
        .filter(|&count| isize::try_from(count).is_ok())
        .ok_or_else(|| Error::invalid(format!("shape {shape:?} has more elements than an address can count")))
}

/// A dense tensor: row-major, contiguous, little-endian. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    dtype: DataType,
    shape: Vec<usize>,
    data: Bytes,
}

impl Tensor {
    /// A tensor of `dtype` and `shape` over `data`.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the byte count is not what datatype and shape ask for, or
    /// when the framing of a [`DataType::Bytes`] tensor does not hold exactly its elements, or a Boolean is neither 0
    /// nor 1.
    pub fn new(dtype: DataType, shape: Vec<usize>, data: Bytes) -> Result<Self> {
        let count = element_count(&shape)?;
        match dtype.size_bytes() {
            Some(size) => {
                let want = count.checked_mul(size).ok_or_else(|| {
                    Error::invalid(format!("a {dtype} tensor of shape {shape:?} does not fit an address space"))
                })?;
                if want != data.len() {
                    return Err(Error::invalid(format!(
                        "a {dtype} tensor of shape {shape:?} takes {want} bytes, but {} were given",
                        data.len()
                    )));
                }
            }
            None => {
                let held = strings_from_wire(&data)?.count();
                if held != count {
                    return Err(Error::invalid(format!(
                        "a BYTES tensor of shape {shape:?} has {count} elements, but {held} were given"
                    )));
                }
            }
        }
        // Any other byte is no value of the type, and what a runtime makes of it is anybody's guess.
        if dtype == DataType::Bool
            && let Some(at) = data.iter().position(|&byte| byte > 1)
        {
            return Err(Error::invalid(format!("a BOOL element is 0 or 1, but element {at} is {}", data[at])));
        }
        Ok(Self { dtype, shape, data })
    }

    /// A single-precision tensor that takes over `values`.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_f32(shape: Vec<usize>, values: Vec<f32>) -> Result<Self> {
        Self::new(DataType::F32, shape, crate::map::bytes_from_f32(values))
    }

    /// `parts`, which agree in all but their first dimension, one after the other along that.
    ///
    /// # Errors
    /// [`Internal`](crate::ErrorKind::Internal) when there are none, or they have no dimension;
    /// [`Exhausted`](crate::ErrorKind::Exhausted) when there is no memory.
    pub fn joined(parts: &[&Self]) -> Result<Self> {
        let [first, ..] = parts else { return Err(Error::internal("a batch of nothing")) };
        let mut shape = first.shape.clone();
        let items = parts.iter().map(|part| part.shape.first().copied().unwrap_or(0)).sum();
        *shape.first_mut().ok_or_else(|| Error::internal("a scalar cannot be put into a batch"))? = items;
        let data = crate::blocks::written(parts.iter().map(|part| part.data.len()).sum(), |mut data| {
            for part in parts {
                let (place, rest) = data.split_at_mut(part.data.len());
                place.copy_from_slice(&part.data);
                data = rest;
            }
        })?;
        Self::new(first.dtype, shape, data)
    }

    /// The datatype of an element.
    pub fn dtype(&self) -> DataType {
        self.dtype
    }

    /// Dimensions, outermost first; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements' bytes.
    pub fn data(&self) -> &Bytes {
        &self.data
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        // The product may overflow only where a zero makes it nothing, and Tensor::new has checked all others.
        if self.is_empty() { 0 } else { self.shape.iter().product() }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// The elements as single-precision values, when that is their type and the bytes are aligned for it.
    pub fn as_f32(&self) -> Option<&[f32]> {
        (self.dtype == DataType::F32).then(|| crate::map::f32_view(&self.data)).flatten()
    }
}

/// Frames `strings` as a [`DataType::Bytes`] tensor's data.
pub fn strings_to_wire<'a>(strings: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut wire = Vec::new();
    for string in strings {
        let length = u32::try_from(string.len()).unwrap_or(u32::MAX);
        wire.extend_from_slice(&length.to_le_bytes());
        wire.extend_from_slice(&string[..length as usize]);
    }
    wire
}

/// The strings in a [`DataType::Bytes`] tensor's data.
///
/// # Errors
/// [`InvalidInput`](crate::ErrorKind::InvalidInput) when a length runs past the end. The framing is checked whole
/// before the first string is given out.
pub fn strings_from_wire(wire: &[u8]) -> Result<impl Iterator<Item = &[u8]>> {
    fn split(wire: &[u8]) -> Option<(&[u8], &[u8])> {
        let (length, rest) = wire.split_first_chunk::<4>()?;
        rest.split_at_checked(u32::from_le_bytes(*length) as usize)
    }
    let mut rest = wire;
    while !rest.is_empty() {
        let Some((_, tail)) = split(rest) else {
            return Err(Error::invalid(format!(
                "BYTES data is cut off at byte {} of {}: each element is a little-endian uint32 length and that many bytes",
                wire.len() - rest.len(),
                wire.len()
            )));
        };
        rest = tail;
    }
    let mut rest = wire;
    Ok(std::iter::from_fn(move || {
        let (string, tail) = split(rest)?;
        rest = tail;
        Some(string)
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tensor_is_what_its_shape_says_or_is_refused() {
        const LARGE: usize = usize::MAX / 2;
        for (dtype, shape, bytes, fits) in [
            (DataType::F32, &[2, 3][..], 24, true),
            (DataType::F32, &[2, 3], 23, false),
            (DataType::F32, &[], 4, true),
            (DataType::U8, &[0, LARGE, LARGE], 0, true),
            (DataType::U8, &[LARGE, LARGE], 0, false),
            (DataType::F64, &[LARGE], 0, false),
            (DataType::Bool, &[5], 5, true),
            (DataType::Bytes, &[1], 4, true),
            (DataType::Bytes, &[2], 4, false),
            (DataType::Bytes, &[1], 3, false),
        ] {
            let tensor = Tensor::new(dtype, shape.to_vec(), vec![0; bytes].into());
            assert_eq!(tensor.is_ok(), fits, "{dtype} {shape:?} of {bytes} bytes");
            if let Ok(tensor) = tensor {
                let count = tensor.len();
                assert_eq!(tensor.is_empty(), count == 0);
            }
        }
        let refusal = Tensor::new(DataType::Bool, vec![3], vec![0, 1, 2].into()).unwrap_err();
        assert!(refusal.message.contains("element 2 is 2"), "{refusal}");
    }

    #[test]
    fn names_and_datatypes_are_one_to_one() {
        for dtype in DataType::ALL {
            assert_eq!(DataType::from_name(dtype.name()), Some(dtype));
        }
        assert_eq!(DataType::from_name("fp32"), None);
    }

    proptest! {
        #[test]
        fn strings_survive_their_framing(strings: Vec<Vec<u8>>) {
            let wire = strings_to_wire(strings.iter().map(Vec::as_slice));
            let back: Vec<_> = strings_from_wire(&wire).unwrap().map(<[u8]>::to_vec).collect();
            prop_assert_eq!(back, strings);
        }

        #[test]
        fn hostile_framing_is_an_error_and_never_a_panic(wire: Vec<u8>) {
            if let Ok(strings) = strings_from_wire(&wire) {
                let total: usize = strings.map(|string| string.len() + 4).sum();
                prop_assert_eq!(total, wire.len());
            }
        }

        #[test]
        fn hostile_shapes_never_wrap(shape: Vec<usize>) {
            if let Ok(count) = element_count(&shape) {
                let exact = shape.iter().try_fold(1u128, |product, &dim| product.checked_mul(dim as u128));
                prop_assert!(shape.contains(&0) && count == 0 || exact == Some(count as u128));
            }
        }
    }
}
