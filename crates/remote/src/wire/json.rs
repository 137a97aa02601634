//! Tensors as nested lists of JSON numbers, the way TensorFlow Serving takes and gives them over REST.

use std::fmt::Write;

use engine::{DataType, Tensor};
use serde_json::Value;

use crate::failure::Failure;

/// Appends the elements of `tensor` as nested lists.
pub(super) fn write(into: &mut String, tensor: &Tensor) -> Result<(), Failure> {
    let data = tensor.data();
    match tensor.dtype() {
        DataType::U8 => nest(into, tensor.shape(), &mut data.iter().copied()),
        DataType::F32 => {
            let floats = || data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            if !floats().all(f32::is_finite) {
                return Err(Failure::wrong("JSON has no word for what is no number"));
            }
            nest(into, tensor.shape(), &mut floats());
        }
        DataType::I32 => {
            let numbers = data.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes));
            nest(into, tensor.shape(), &mut { numbers });
        }
        DataType::I64 => {
            let numbers = data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
            nest(into, tensor.shape(), &mut { numbers });
        }
        other => return Err(Failure::wrong(format!("{other} cannot be sent as JSON; use tfs+grpc:// or grpc://"))),
    }
    Ok(())
}

fn nest<T: std::fmt::Display>(into: &mut String, shape: &[usize], elements: &mut impl Iterator<Item = T>) {
    match shape {
        [] => {
            if let Some(element) = elements.next() {
                // A string takes whatever is written into it.
                let _ = write!(into, "{element}");
            }
        }
        [count, inner @ ..] => {
            into.push('[');
            for at in 0..*count {
                if at > 0 {
                    into.push(',');
                }
                nest(into, inner, elements);
            }
            into.push(']');
        }
    }
}

/// The tensor of `dtype` whose elements are the nested lists in `value`.
pub(super) fn read(name: &str, dtype: DataType, value: &Value) -> Result<Tensor, Failure> {
    let wrong = |what: &str| Failure::wrong(format!("its output '{name}' {what}"));
    let mut shape = Vec::new();
    let mut inner = Some(value);
    while let Some(Value::Array(items)) = inner {
        shape.push(items.len());
        inner = items.first();
    }
    let mut data = Vec::new();
    let mut put = |number: &Value| match dtype {
        DataType::F32 => number.as_f64().map(|value| data.extend((value as f32).to_le_bytes())),
        DataType::I32 => {
            number.as_i64().and_then(|value| i32::try_from(value).ok()).map(|value| data.extend(value.to_le_bytes()))
        }
        DataType::I64 => number.as_i64().map(|value| data.extend(value.to_le_bytes())),
        DataType::U8 => number.as_u64().and_then(|value| u8::try_from(value).ok()).map(|value| data.push(value)),
        _ => None,
    };
    flatten(value, &shape, &mut put).ok_or_else(|| wrong(&format!("is no even list of {dtype}")))?;
    Tensor::new(dtype, shape, data.into()).map_err(|error| wrong(&error.message))
}

fn flatten(value: &Value, shape: &[usize], put: &mut impl FnMut(&Value) -> Option<()>) -> Option<()> {
    match (value, shape) {
        (Value::Array(items), [count, inner @ ..]) if items.len() == *count => {
            items.iter().try_for_each(|item| flatten(item, inner, put))
        }
        (Value::Number(_), []) => put(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_back_as_they_went() {
        let floats = Tensor::from_f32(vec![1, 2, 2], vec![0.1, -2.5e-9, 3.0, f32::MAX]).unwrap();
        let bytes = Tensor::new(DataType::U8, vec![2, 1], vec![0, 255].into()).unwrap();
        let scalar = Tensor::new(DataType::I64, vec![], 7i64.to_le_bytes().to_vec().into()).unwrap();
        for tensor in [floats, bytes, scalar] {
            let mut text = String::new();
            write(&mut text, &tensor).unwrap();
            assert_eq!(read("y", tensor.dtype(), &serde_json::from_str(&text).unwrap()).unwrap(), tensor, "{text}");
        }
        assert!(write(&mut String::new(), &Tensor::from_f32(vec![1], vec![f32::NAN]).unwrap()).is_err());
    }

    #[test]
    fn what_is_no_tensor_is_refused() {
        for (dtype, text) in [
            (DataType::F32, "[[1,2],[3]]"),
            (DataType::F32, "[1,[2]]"),
            (DataType::F32, "[1,null]"),
            (DataType::F32, "\"NaN\""),
            (DataType::U8, "[256]"),
            (DataType::I64, "[1.5]"),
            (DataType::Bool, "[true]"),
        ] {
            let failure = read("y", dtype, &serde_json::from_str(text).unwrap()).unwrap_err();
            assert!(failure.message.contains("'y'"), "{text}: {failure}");
        }
    }
}
