//! A tensor's elements as nested JSON in TensorFlow Serving's dialect: `NaN` and the infinities have names, bytes are
//! base64.

use base64::Engine as _;
use engine::{DataType, Error, Result, Tensor, strings_from_wire};
use half::{bf16, f16};
use serde::Serialize;

use super::tensor::{BASE64, BASE64_KEY};

/// What ends the alias of an output whose strings are bytes and no text.
const BYTES_SUFFIX: &str = "_bytes";

/// A tensor, ready to be written element by element.
pub(super) struct Elements<'a> {
    dtype: DataType,
    shape: &'a [usize],
    data: &'a [u8],
    /// The elements when they are strings.
    strings: Vec<&'a [u8]>,
    /// Whether every string goes out as base64; one that is no UTF-8 does in any case.
    binary: bool,
}

impl<'a> Elements<'a> {
    /// `tensor` under its `alias`.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the framing of strings is broken.
    pub(super) fn new(alias: &str, tensor: &'a Tensor) -> Result<Self> {
        let data = tensor.data();
        let strings = match tensor.dtype() {
            DataType::Bytes => strings_from_wire(data)?.collect(),
            _ => Vec::new(),
        };
        let binary = alias.ends_with(BYTES_SUFFIX);
        Ok(Self { dtype: tensor.dtype(), shape: tensor.shape(), data, strings, binary })
    }

    /// Writes the whole.
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<()> {
        self.nested(self.shape, &mut 0, out)
    }

    /// Writes what is at `row` of the first dimension, which there must be.
    pub(super) fn write_row(&self, row: usize, out: &mut Vec<u8>) -> Result<()> {
        let inner = self.shape.get(1..).unwrap_or_default();
        // No product overflows: the tensor that has these elements is in memory, or one of them is zero.
        let each = if inner.contains(&0) { 0 } else { inner.iter().product::<usize>() };
        self.nested(inner, &mut (row * each), out)
    }

    fn nested(&self, shape: &[usize], at: &mut usize, out: &mut Vec<u8>) -> Result<()> {
        let Some((&count, inner)) = shape.split_first() else {
            self.element(*at, out)?;
            *at += 1;
            return Ok(());
        };
        out.push(b'[');
        for index in 0..count {
            if index > 0 {
                out.push(b',');
            }
            self.nested(inner, at, out)?;
        }
        out.push(b']');
        Ok(())
    }

    fn element(&self, at: usize, out: &mut Vec<u8>) -> Result<()> {
        match self.dtype {
            DataType::Bool => json(out, &self.value(at, |[byte]| byte != 0)?),
            DataType::U8 => json(out, &self.value(at, u8::from_le_bytes)?),
            DataType::U16 => json(out, &self.value(at, u16::from_le_bytes)?),
            DataType::U32 => json(out, &self.value(at, u32::from_le_bytes)?),
            DataType::U64 => json(out, &self.value(at, u64::from_le_bytes)?),
            DataType::I8 => json(out, &self.value(at, i8::from_le_bytes)?),
            DataType::I16 => json(out, &self.value(at, i16::from_le_bytes)?),
            DataType::I32 => json(out, &self.value(at, i32::from_le_bytes)?),
            DataType::I64 => json(out, &self.value(at, i64::from_le_bytes)?),
            DataType::F16 => float(out, self.value(at, |bytes| f16::from_le_bytes(bytes).to_f32())?),
            DataType::Bf16 => float(out, self.value(at, |bytes| bf16::from_le_bytes(bytes).to_f32())?),
            DataType::F32 => float(out, self.value(at, f32::from_le_bytes)?),
            DataType::F64 => {
                let value = self.value(at, f64::from_le_bytes)?;
                word(out, value).map_or_else(|| json(out, &value), Ok)
            }
            DataType::Bytes => {
                let string = self.strings.get(at).ok_or_else(cut_off)?;
                match str::from_utf8(string) {
                    Ok(text) if !self.binary => json(out, text),
                    _ => {
                        let coded = BASE64.encode(string);
                        out.extend_from_slice(format!(r#"{{"{BASE64_KEY}":"{coded}"}}"#).as_bytes());
                        Ok(())
                    }
                }
            }
        }
    }

    fn value<T, const N: usize>(&self, at: usize, value: fn([u8; N]) -> T) -> Result<T> {
        let (elements, _) = self.data.as_chunks::<N>();
        elements.get(at).map(|&bytes| value(bytes)).ok_or_else(cut_off)
    }
}

/// A tensor has as many elements as its shape says, so nobody sees this.
fn cut_off() -> Error {
    Error::internal("an output has fewer elements than its shape says")
}

/// Writes `value`.
pub(super) fn json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> Result<()> {
    serde_json::to_writer(out, value).map_err(|error| Error::internal(format!("the answer has no JSON form: {error}")))
}

/// Writes `value`, whatever it is, at single precision.
pub(super) fn float(out: &mut Vec<u8>, value: f32) -> Result<()> {
    word(out, f64::from(value)).map_or_else(|| json(out, &value), Ok)
}

/// Writes the name of a value that has no digits.
fn word(out: &mut Vec<u8>, value: f64) -> Option<()> {
    let word = match value {
        _ if value.is_finite() => return None,
        _ if value.is_nan() => "NaN",
        _ if value > 0.0 => "Infinity",
        _ => "-Infinity",
    };
    out.extend_from_slice(word.as_bytes());
    Some(())
}
