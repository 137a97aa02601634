//! TensorFlow's tensor message to a [`Tensor`] and back.

use bytes::Bytes;
use engine::{DataType, Error, Result, Tensor, element_count, strings_from_wire, strings_to_wire};
use proto::tensorflow::tensor_shape_proto::Dim;
use proto::tensorflow::{TensorProto, TensorShapeProto};

use crate::tfs::wire_type;

/// The tensor in `message`, whose elements are its content or the list of their type. A list that is short goes on
/// with its last value, and with zero when it is empty, so `bytes_max` bounds what a small message can ask for.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the field.
pub(in crate::grpc) fn decode(message: TensorProto, bytes_max: usize) -> Result<Tensor> {
    let dtype = datatype(message.dtype)?;
    let shape = shape(message.tensor_shape.as_ref())?;
    let count = element_count(&shape)?;
    let size = dtype.size_bytes().unwrap_or(STRING_BYTES_MIN);
    if count.checked_mul(size).is_none_or(|bytes| bytes > bytes_max) {
        return Err(Error::invalid(format!(
            "a tensor of shape {shape:?} is larger than {bytes_max} bytes, the most that this server takes"
        )));
    }
    if !message.tensor_content.is_empty() {
        if dtype == DataType::Bytes {
            return Err(Error::invalid("strings go into string_val; tensor_content is for numbers"));
        }
        return Tensor::new(dtype, shape, message.tensor_content);
    }
    let data = match dtype {
        DataType::F32 => fixed(&message.float_val, count, f32::to_le_bytes),
        DataType::F64 => fixed(&message.double_val, count, f64::to_le_bytes),
        DataType::I64 => fixed(&message.int64_val, count, i64::to_le_bytes),
        DataType::U32 => fixed(&message.uint32_val, count, u32::to_le_bytes),
        DataType::U64 => fixed(&message.uint64_val, count, u64::to_le_bytes),
        DataType::Bool => fixed(&message.bool_val, count, |value| [u8::from(value)]),
        DataType::I32 => fixed(&message.int_val, count, i32::to_le_bytes),
        DataType::I16 => fixed(&narrow(&message.int_val, dtype)?, count, i16::to_le_bytes),
        DataType::I8 => fixed(&narrow(&message.int_val, dtype)?, count, i8::to_le_bytes),
        DataType::U16 => fixed(&narrow(&message.int_val, dtype)?, count, u16::to_le_bytes),
        DataType::U8 => fixed(&narrow(&message.int_val, dtype)?, count, u8::to_le_bytes),
        DataType::F16 | DataType::Bf16 => fixed(&narrow(&message.half_val, dtype)?, count, u16::to_le_bytes),
        DataType::Bytes => strings(&message.string_val, count, bytes_max),
    }?;
    Tensor::new(dtype, shape, Bytes::from(data))
}

/// What an empty string takes in a tensor: its length.
const STRING_BYTES_MIN: usize = 4;

/// The message of `tensor`, its elements in the list of their type: that is where TensorFlow Serving puts them unless
/// it is told otherwise, and where its clients look.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the framing of a BYTES tensor is broken.
pub(in crate::grpc) fn encode(tensor: &Tensor) -> Result<TensorProto> {
    let data = tensor.data();
    let mut message = TensorProto {
        dtype: wire_type(tensor.dtype()).0,
        tensor_shape: Some(shape_message(tensor.shape().iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)))),
        ..TensorProto::default()
    };
    match tensor.dtype() {
        DataType::F32 => message.float_val = values(data, f32::from_le_bytes),
        DataType::F64 => message.double_val = values(data, f64::from_le_bytes),
        DataType::I64 => message.int64_val = values(data, i64::from_le_bytes),
        DataType::U32 => message.uint32_val = values(data, u32::from_le_bytes),
        DataType::U64 => message.uint64_val = values(data, u64::from_le_bytes),
        DataType::Bool => message.bool_val = data.iter().map(|&byte| byte != 0).collect(),
        DataType::I32 => message.int_val = values(data, i32::from_le_bytes),
        DataType::I16 => message.int_val = values(data, |bytes| i16::from_le_bytes(bytes).into()),
        DataType::I8 => message.int_val = values(data, |bytes| i8::from_le_bytes(bytes).into()),
        DataType::U16 => message.int_val = values(data, |bytes| u16::from_le_bytes(bytes).into()),
        DataType::U8 => message.int_val = values(data, |bytes| u8::from_le_bytes(bytes).into()),
        DataType::F16 | DataType::Bf16 => message.half_val = values(data, |bytes| u16::from_le_bytes(bytes).into()),
        DataType::Bytes => message.string_val = strings_from_wire(data)?.map(|string| data.slice_ref(string)).collect(),
    }
    Ok(message)
}

/// The message of a shape; -1 varies.
pub(super) fn shape_message(dims: impl IntoIterator<Item = i64>) -> TensorShapeProto {
    let dim = dims.into_iter().map(|size| Dim { size, name: String::new() }).collect();
    TensorShapeProto { dim, unknown_rank: false }
}

fn datatype(number: i32) -> Result<DataType> {
    DataType::ALL.into_iter().find(|&dtype| wire_type(dtype).0 == number).ok_or_else(|| {
        let known = DataType::ALL.map(|dtype| wire_type(dtype).1).join(", ");
        Error::invalid(format!("dtype {number} is none that is served; use one of {known}"))
    })
}

/// A message without a shape is a scalar's, as an empty message is.
fn shape(message: Option<&TensorShapeProto>) -> Result<Vec<usize>> {
    let Some(message) = message else { return Ok(Vec::new()) };
    let dims = message.dim.iter().map(|dim| usize::try_from(dim.size).ok()).collect::<Option<_>>();
    dims.filter(|_| !message.unknown_rank)
        .ok_or_else(|| Error::invalid("tensor_shape has a dimension that is not known; a request gives every size"))
}

/// `count` elements out of `values`, the last of which repeats.
fn fixed<T: Copy + Default, const N: usize>(values: &[T], count: usize, bytes: fn(T) -> [u8; N]) -> Result<Vec<u8>> {
    check_length(values.len(), count)?;
    let mut data = Vec::with_capacity(count.saturating_mul(N));
    data.extend(values.iter().flat_map(|&value| bytes(value)));
    let last = bytes(values.last().copied().unwrap_or_default());
    data.extend(std::iter::repeat_n(last, count - values.len()).flatten());
    Ok(data)
}

fn strings(values: &[Bytes], count: usize, bytes_max: usize) -> Result<Vec<u8>> {
    check_length(values.len(), count)?;
    let last = values.last().cloned().unwrap_or_default();
    let more = count - values.len();
    if last.len().saturating_add(STRING_BYTES_MIN).saturating_mul(more) > bytes_max {
        return Err(Error::invalid(format!("the last string repeats to more than {bytes_max} bytes; send them all")));
    }
    Ok(strings_to_wire(values.iter().chain(std::iter::repeat_n(&last, more)).map(|string| &**string)))
}

fn check_length(held: usize, count: usize) -> Result<()> {
    if held <= count {
        return Ok(());
    }
    Err(Error::invalid(format!("tensor_shape has {count} elements, but the list of values holds {held}")))
}

/// The values of a type that travels in a wider field.
fn narrow<T: TryFrom<i32>>(values: &[i32], dtype: DataType) -> Result<Vec<T>> {
    let narrowed = values.iter().enumerate().map(|(index, &value)| {
        T::try_from(value).map_err(|_| Error::invalid(format!("element {index} is {value}, which {dtype} cannot hold")))
    });
    narrowed.collect()
}

fn values<T, const N: usize>(data: &[u8], value: fn([u8; N]) -> T) -> Vec<T> {
    data.as_chunks::<N>().0.iter().map(|&bytes| value(bytes)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::fixture::any_tensor;

    const BYTES_MAX: usize = 1 << 16;

    fn message(dtype: DataType, dims: &[i64]) -> TensorProto {
        TensorProto {
            dtype: wire_type(dtype).0,
            tensor_shape: Some(shape_message(dims.iter().copied())),
            ..TensorProto::default()
        }
    }

    #[track_caller]
    fn check(message: TensorProto, want: std::result::Result<&[u8], &str>) {
        match (decode(message, BYTES_MAX), want) {
            (Ok(tensor), Ok(data)) => assert_eq!(&tensor.data()[..], data),
            (Err(error), Err(says)) => assert!(error.message.contains(says), "'{error}' does not say '{says}'"),
            (got, want) => panic!("got {got:?}, want {want:?}"),
        }
    }

    #[test]
    fn short_lists_go_on_with_their_last_value() {
        let ints = |values: &[i32]| TensorProto { int_val: values.to_vec(), ..message(DataType::U8, &[4]) };
        check(ints(&[1, 2, 3, 4]), Ok(&[1, 2, 3, 4]));
        check(ints(&[1, 2]), Ok(&[1, 2, 2, 2]));
        check(ints(&[]), Ok(&[0; 4]));
        check(ints(&[0; 5]), Err("has 4 elements, but the list of values holds 5"));
        check(ints(&[256]), Err("element 0 is 256, which UINT8 cannot hold"));
        let content =
            |bytes: &'static [u8]| TensorProto { tensor_content: bytes.into(), ..message(DataType::U8, &[4]) };
        check(content(&[1, 2, 3, 4]), Ok(&[1, 2, 3, 4]));
        check(content(&[1, 2]), Err("takes 4 bytes"));
        let strings = |values: &[&'static str], count| TensorProto {
            string_val: values.iter().map(|value| Bytes::from_static(value.as_bytes())).collect(),
            ..message(DataType::Bytes, &[count])
        };
        check(strings(&["a"], 2), Ok(b"\x01\0\0\0a\x01\0\0\0a"));
        check(strings(&[], 1), Ok(&[0; 4]));
        check(TensorProto { tensor_content: Bytes::from_static(b"a"), ..strings(&[], 1) }, Err("string_val"));
        check(strings(&["a", "b"], 1), Err("holds 2"));
        let half = TensorProto { half_val: vec![0x3c00], ..message(DataType::F16, &[2]) };
        check(half, Ok(&[0, 0x3c, 0, 0x3c]));
        check(TensorProto { tensor_shape: None, ..ints(&[7]) }, Ok(&[7]));
    }

    #[test]
    fn hostile_sizes_are_refused_before_memory_is_asked_for() {
        check(message(DataType::F32, &[1 << 40]), Err("larger than 65536 bytes"));
        check(message(DataType::F32, &[i64::MAX, i64::MAX]), Err("more elements than an address can count"));
        check(message(DataType::F32, &[-1]), Err("not known"));
        check(message(DataType::Bytes, &[1 << 20]), Err("larger than"));
        let long = TensorProto { string_val: vec![vec![b'a'; 1024].into()], ..message(DataType::Bytes, &[1000]) };
        check(long, Err("the last string repeats"));
        check(TensorProto { dtype: 8, ..message(DataType::F32, &[1]) }, Err("dtype 8 is none that is served"));
        check(TensorProto { dtype: 0, ..message(DataType::F32, &[1]) }, Err("DT_FLOAT"));
    }

    proptest! {
        #[test]
        fn tensors_survive_the_message(tensor in any_tensor()) {
            let wire = encode(&tensor).unwrap().encode_to_vec();
            let back = decode(TensorProto::decode(&wire[..]).unwrap(), BYTES_MAX).unwrap();
            prop_assert_eq!((back.dtype(), back.shape(), back.data()), (tensor.dtype(), tensor.shape(), tensor.data()));
        }

        #[test]
        fn content_is_the_same_as_values(tensor in any_tensor()) {
            if tensor.dtype() != DataType::Bytes {
                let shape = encode(&tensor).unwrap().tensor_shape;
                let dtype = wire_type(tensor.dtype()).0;
                let content = TensorProto { dtype, tensor_shape: shape, tensor_content: tensor.data().clone(), ..TensorProto::default() };
                let back = decode(content, BYTES_MAX).unwrap();
                prop_assert_eq!(back.data(), tensor.data());
            }
        }

        #[test]
        fn no_message_is_too_strange(wire: Vec<u8>) {
            if let Ok(message) = TensorProto::decode(&wire[..]) {
                let _ = decode(message, BYTES_MAX);
            }
        }
    }
}
