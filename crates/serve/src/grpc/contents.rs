//! Typed tensor contents, the form with a list of numbers per element type, to a [`Tensor`] and back.

use bytes::Bytes;
use engine::{DataType, Error, Result, Tensor, element_count, strings_from_wire, strings_to_wire};
use proto::inference::InferTensorContents;

/// The tensor in `contents`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the elements are in another datatype's field, are not as
/// many as the shape has, or do not fit their type, and for a datatype that has no field.
pub(super) fn decode(dtype: DataType, shape: Vec<usize>, contents: InferTensorContents) -> Result<Tensor> {
    check_fields(dtype, element_count(&shape)?, &shape, &contents)?;
    let data = match dtype {
        DataType::Bool => contents.bool_contents.into_iter().map(u8::from).collect(),
        DataType::I8 => narrow(dtype, &contents.int_contents, i8::to_le_bytes)?,
        DataType::I16 => narrow(dtype, &contents.int_contents, i16::to_le_bytes)?,
        DataType::I32 => bytes(&contents.int_contents, i32::to_le_bytes),
        DataType::I64 => bytes(&contents.int64_contents, i64::to_le_bytes),
        DataType::U8 => narrow(dtype, &contents.uint_contents, u8::to_le_bytes)?,
        DataType::U16 => narrow(dtype, &contents.uint_contents, u16::to_le_bytes)?,
        DataType::U32 => bytes(&contents.uint_contents, u32::to_le_bytes),
        DataType::U64 => bytes(&contents.uint64_contents, u64::to_le_bytes),
        DataType::F32 => return Tensor::from_f32(shape, contents.fp32_contents),
        DataType::F64 => bytes(&contents.fp64_contents, f64::to_le_bytes),
        DataType::Bytes => strings_to_wire(contents.bytes_contents.iter().map(|string| &**string)),
        DataType::F16 | DataType::Bf16 => return Err(raw_only(dtype)),
    };
    Tensor::new(dtype, shape, Bytes::from(data))
}

/// The typed form of `tensor`; `None` for a datatype that has no field.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the framing of a BYTES tensor is broken.
pub(super) fn encode(tensor: &Tensor) -> Result<Option<InferTensorContents>> {
    let data = tensor.data();
    let mut contents = InferTensorContents::default();
    match tensor.dtype() {
        DataType::Bool => contents.bool_contents = data.iter().map(|&byte| byte != 0).collect(),
        DataType::I8 => contents.int_contents = values(data, |bytes| i8::from_le_bytes(bytes).into()),
        DataType::I16 => contents.int_contents = values(data, |bytes| i16::from_le_bytes(bytes).into()),
        DataType::I32 => contents.int_contents = values(data, i32::from_le_bytes),
        DataType::I64 => contents.int64_contents = values(data, i64::from_le_bytes),
        DataType::U8 => contents.uint_contents = values(data, |bytes| u8::from_le_bytes(bytes).into()),
        DataType::U16 => contents.uint_contents = values(data, |bytes| u16::from_le_bytes(bytes).into()),
        DataType::U32 => contents.uint_contents = values(data, u32::from_le_bytes),
        DataType::U64 => contents.uint64_contents = values(data, u64::from_le_bytes),
        DataType::F32 => contents.fp32_contents = values(data, f32::from_le_bytes),
        DataType::F64 => contents.fp64_contents = values(data, f64::from_le_bytes),
        DataType::Bytes => {
            contents.bytes_contents = strings_from_wire(data)?.map(|string| data.slice_ref(string)).collect();
        }
        DataType::F16 | DataType::Bf16 => return Ok(None),
    }
    Ok(Some(contents))
}

/// Whether elements of `dtype` can travel typed.
pub(super) fn has_field(dtype: DataType) -> bool {
    field(dtype).is_some()
}

/// Whether `contents` holds no element of any type.
pub(super) fn is_empty(contents: &InferTensorContents) -> bool {
    field_lengths(contents).iter().all(|&(_, length)| length == 0)
}

/// Checks that the datatype's own field holds `count` elements and that no other field holds any.
fn check_fields(dtype: DataType, count: usize, shape: &[usize], contents: &InferTensorContents) -> Result<()> {
    let own = field(dtype).ok_or_else(|| raw_only(dtype))?;
    let lengths = field_lengths(contents);
    if let Some((other, length)) = lengths.iter().find(|&&(name, length)| name != own && length > 0) {
        return Err(Error::invalid(format!("{dtype} elements go into {own}, but {other} holds {length}")));
    }
    let length = lengths.iter().find(|&&(name, _)| name == own).map_or(0, |&(_, length)| length);
    if length != count {
        return Err(Error::invalid(format!("shape {shape:?} has {count} elements, but {own} holds {length}")));
    }
    Ok(())
}

/// The protocol's field for elements of `dtype`; half precision has none.
fn field(dtype: DataType) -> Option<&'static str> {
    match dtype {
        DataType::Bool => Some("bool_contents"),
        DataType::I8 | DataType::I16 | DataType::I32 => Some("int_contents"),
        DataType::I64 => Some("int64_contents"),
        DataType::U8 | DataType::U16 | DataType::U32 => Some("uint_contents"),
        DataType::U64 => Some("uint64_contents"),
        DataType::F32 => Some("fp32_contents"),
        DataType::F64 => Some("fp64_contents"),
        DataType::Bytes => Some("bytes_contents"),
        DataType::F16 | DataType::Bf16 => None,
    }
}

fn field_lengths(contents: &InferTensorContents) -> [(&'static str, usize); 8] {
    [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ]
}

fn raw_only(dtype: DataType) -> Error {
    Error::invalid(format!("{dtype} has no field in contents; send every input in raw_input_contents"))
}

fn bytes<T: Copy, const N: usize>(values: &[T], to_bytes: fn(T) -> [u8; N]) -> Vec<u8> {
    values.iter().flat_map(|&value| to_bytes(value)).collect()
}

fn values<T, const N: usize>(data: &[u8], from_bytes: fn([u8; N]) -> T) -> Vec<T> {
    let (elements, _) = data.as_chunks::<N>();
    elements.iter().map(|&element| from_bytes(element)).collect()
}

/// The bytes of a type that travels in a wider field.
fn narrow<W, T, const N: usize>(dtype: DataType, values: &[W], to_bytes: fn(T) -> [u8; N]) -> Result<Vec<u8>>
where
    W: Copy + std::fmt::Display,
    T: TryFrom<W>,
{
    let mut data = Vec::with_capacity(values.len().saturating_mul(N));
    for (index, &value) in values.iter().enumerate() {
        let value = T::try_from(value)
            .map_err(|_| Error::invalid(format!("element {index} is {value}, which {dtype} cannot hold")))?;
        data.extend(to_bytes(value));
    }
    Ok(data)
}
