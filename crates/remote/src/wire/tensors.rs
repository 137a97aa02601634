//! TensorFlow's tensor message, and TensorFlow's names of types.

use bytes::Bytes;
use engine::{DataType, Tensor, element_count};
use proto::tensorflow::tensor_shape_proto::Dim;
use proto::tensorflow::{DataType as Tf, TensorProto, TensorShapeProto};

use super::MESSAGE_BYTES_MAX;
use super::oip::shape;
use crate::failure::Failure;

/// Types that tensors of pictures and detections have, and TensorFlow's names of them.
const TYPES: [(DataType, Tf); 13] = [
    (DataType::Bool, Tf::DtBool),
    (DataType::U8, Tf::DtUint8),
    (DataType::U16, Tf::DtUint16),
    (DataType::U32, Tf::DtUint32),
    (DataType::U64, Tf::DtUint64),
    (DataType::I8, Tf::DtInt8),
    (DataType::I16, Tf::DtInt16),
    (DataType::I32, Tf::DtInt32),
    (DataType::I64, Tf::DtInt64),
    (DataType::F16, Tf::DtHalf),
    (DataType::Bf16, Tf::DtBfloat16),
    (DataType::F32, Tf::DtFloat),
    (DataType::F64, Tf::DtDouble),
];

/// Our name of what TensorFlow calls `number`.
pub(super) fn datatype(tensor: &str, number: i32) -> Result<DataType, Failure> {
    let found = TYPES.into_iter().find(|(_, theirs)| *theirs as i32 == number);
    found
        .map(|(ours, _)| ours)
        .ok_or_else(|| Failure::wrong(format!("its tensor '{tensor}' is of type {number}, which is no number")))
}

/// Our name of what TensorFlow calls `name`.
pub(super) fn datatype_named(tensor: &str, name: &str) -> Result<DataType, Failure> {
    let number = Tf::from_str_name(name).map_or(0, |known| known as i32);
    datatype(tensor, number)
        .map_err(|_| Failure::wrong(format!("its tensor '{tensor}' is of '{name}', which is no number")))
}

/// The message of `tensor`, which shares its bytes.
pub(super) fn encode(tensor: &Tensor) -> TensorProto {
    let number = TYPES.iter().find(|(ours, _)| *ours == tensor.dtype()).map_or(0, |(_, theirs)| *theirs as i32);
    // No dimension of a tensor that is in memory is larger.
    let dim = |&size: &usize| Dim { size: i64::try_from(size).unwrap_or(i64::MAX), name: String::new() };
    TensorProto {
        dtype: number,
        tensor_shape: Some(TensorShapeProto { dim: tensor.shape().iter().map(dim).collect(), unknown_rank: false }),
        tensor_content: tensor.data().clone(),
        ..TensorProto::default()
    }
}

/// The tensor in `message`, of which the elements are its content, or the list of their type. A list that is short goes on
/// with its last value.
pub(super) fn decode(name: &str, message: TensorProto) -> Result<Tensor, Failure> {
    let wrong = |what: &dyn std::fmt::Display| Failure::wrong(format!("its output '{name}': {what}"));
    let dtype = datatype(name, message.dtype)?;
    let dims: Vec<i64> = message.tensor_shape.iter().flat_map(|shape| &shape.dim).map(|dim| dim.size).collect();
    let shape = shape(name, &dims)?;
    let count = element_count(&shape).map_err(|error| wrong(&error))?;
    if count.saturating_mul(dtype.size_bytes().unwrap_or(1)) > MESSAGE_BYTES_MAX {
        return Err(wrong(&format_args!("shape {shape:?} is more than {MESSAGE_BYTES_MAX} bytes")));
    }
    let data = if message.tensor_content.is_empty() {
        let listed = match dtype {
            DataType::F32 => listed(&message.float_val, count, f32::to_le_bytes),
            DataType::F64 => listed(&message.double_val, count, f64::to_le_bytes),
            DataType::I32 => listed(&message.int_val, count, i32::to_le_bytes),
            DataType::I64 => listed(&message.int64_val, count, i64::to_le_bytes),
            // A byte or a half lies in the lower part of a larger number.
            DataType::U8 => listed(&message.int_val, count, |value: i32| [value.to_le_bytes()[0]]),
            DataType::F16 => {
                listed(&message.half_val, count, |value: i32| [value.to_le_bytes()[0], value.to_le_bytes()[1]])
            }
            other => return Err(wrong(&format_args!("came as single elements of {other}"))),
        };
        listed.ok_or_else(|| wrong(&format_args!("shape {shape:?} has other than {count} elements")))?
    } else {
        message.tensor_content
    };
    Tensor::new(dtype, shape, data).map_err(|error| wrong(&error))
}

fn listed<T: Copy, const N: usize>(values: &[T], count: usize, bytes: fn(T) -> [u8; N]) -> Option<Bytes> {
    let last = values.last();
    if values.len() > count || (last.is_none() && count > 0) {
        return None;
    }
    let missing = last.into_iter().cycle().take(count - values.len());
    Some(values.iter().chain(missing).flat_map(|&value| bytes(value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_comes_back_as_it_went() {
        for (dtype, data) in [(DataType::U8, vec![1, 2]), (DataType::F32, vec![0; 8]), (DataType::I64, vec![9; 16])] {
            let tensor = Tensor::new(dtype, vec![1, 2], data.into()).unwrap();
            assert_eq!(decode("y", encode(&tensor)).unwrap(), tensor);
        }
    }

    #[test]
    fn lists_are_read_or_refused() {
        let message = |dims: &[i64], values: &[f32]| TensorProto {
            dtype: Tf::DtFloat as i32,
            tensor_shape: Some(TensorShapeProto {
                dim: dims.iter().map(|&size| Dim { size, name: String::new() }).collect(),
                unknown_rank: false,
            }),
            float_val: values.to_vec(),
            ..TensorProto::default()
        };
        for (dims, values, want) in [
            (&[2][..], &[1.0, 2.0][..], Some(&[1.0, 2.0][..])),
            (&[3], &[1.0, 2.0], Some(&[1.0, 2.0, 2.0])),
            (&[0], &[], Some(&[])),
            (&[], &[4.0], Some(&[4.0])),
            (&[1], &[1.0, 2.0], None),
            (&[2], &[], None),
            (&[-1], &[1.0], None),
            (&[1 << 40], &[1.0], None),
        ] {
            let got = decode("y", message(dims, values));
            assert_eq!(got.as_ref().ok().and_then(Tensor::as_f32), want, "{dims:?} {values:?}: {got:?}");
        }
    }
}
