//! Nested JSON lists to a tensor whose datatype is known and whose shape follows from the nesting, in one pass.

use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use engine::{DataType, Error, Result, Tensor};
use half::{bf16, f16};

use super::json::{Cursor, Kind};

/// Base64 with or without its padding, as TensorFlow Serving takes it.
pub(super) const BASE64: GeneralPurpose = {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&STANDARD, config)
};

/// The key of an object that stands for bytes.
pub(super) const BASE64_KEY: &str = "b64";

/// Elements and their nesting, as far as they have come.
#[derive(Debug)]
pub(super) struct Builder {
    dtype: DataType,
    data: Vec<u8>,
    /// By depth: what the lists there hold; known when the first of them ends.
    dims: Vec<Option<usize>>,
    /// The depth of elements; known from the first.
    rank: Option<usize>,
}

impl Builder {
    pub(super) fn new(dtype: DataType) -> Self {
        Self { dtype, data: Vec::new(), dims: Vec::new(), rank: None }
    }

    /// The value at `cursor` as what is at `depth` in the tensor; `around` counts the lists and objects of the text.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the element or the nesting.
    pub(super) fn value(&mut self, cursor: &mut Cursor<'_>, depth: usize, around: usize) -> Result<()> {
        match self.dtype {
            DataType::Bool => self.nested(cursor, depth, around, &no_number, &|cursor, data| {
                let word = if cursor.kind()? == Kind::Word { cursor.word()? } else { "" };
                match word {
                    "true" => data.push(1),
                    "false" => data.push(0),
                    _ => return Err(cursor.wrong("a BOOL is true or false")),
                }
                Ok(())
            }),
            DataType::U8 => self.integers(cursor, depth, around, u8::to_le_bytes),
            DataType::U16 => self.integers(cursor, depth, around, u16::to_le_bytes),
            DataType::U32 => self.integers(cursor, depth, around, u32::to_le_bytes),
            DataType::U64 => self.integers(cursor, depth, around, u64::to_le_bytes),
            DataType::I8 => self.integers(cursor, depth, around, i8::to_le_bytes),
            DataType::I16 => self.integers(cursor, depth, around, i16::to_le_bytes),
            DataType::I32 => self.integers(cursor, depth, around, i32::to_le_bytes),
            DataType::I64 => self.integers(cursor, depth, around, i64::to_le_bytes),
            DataType::F32 => {
                self.floats(cursor, depth, around, |value: f32| (value.to_le_bytes(), value.is_infinite()))
            }
            DataType::F64 => {
                self.floats(cursor, depth, around, |value: f64| (value.to_le_bytes(), value.is_infinite()))
            }
            DataType::F16 => self.floats(cursor, depth, around, |value: f64| {
                let value = f16::from_f64(value);
                (value.to_le_bytes(), value.is_infinite())
            }),
            DataType::Bf16 => self.floats(cursor, depth, around, |value: f64| {
                let value = bf16::from_f64(value);
                (value.to_le_bytes(), value.is_infinite())
            }),
            DataType::Bytes => self
                .nested(cursor, depth, around, &no_number, &|cursor, data| push_string(data, &bytes(cursor, around)?)),
        }
    }

    /// A list of `held` values at `depth` has ended.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when another list at that depth held more or fewer.
    pub(super) fn close(&mut self, depth: usize, held: usize) -> Result<()> {
        if self.dims.len() <= depth {
            self.dims.resize(depth + 1, None);
        }
        match self.dims[depth] {
            None => self.dims[depth] = Some(held),
            Some(known) if known == held => {}
            Some(known) => {
                return Err(Error::invalid(format!(
                    "the lists are uneven: one at depth {} holds {held} values, another {known}",
                    depth + 1
                )));
            }
        }
        Ok(())
    }

    /// The tensor.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub(super) fn finish(self) -> Result<Tensor> {
        let shape = self.dims.iter().map(|dim| dim.unwrap_or_default()).collect();
        Tensor::new(self.dtype, shape, Bytes::from(self.data))
    }

    fn integers<T: FromStr + TryFrom<u64>, const N: usize>(
        &mut self,
        cursor: &mut Cursor<'_>,
        depth: usize,
        around: usize,
        bytes: fn(T) -> [u8; N],
    ) -> Result<()> {
        let dtype = self.dtype;
        let small = |value| T::try_from(value).ok().map(bytes);
        self.nested(cursor, depth, around, &small, &|cursor, data| {
            let before = *cursor;
            let value = cursor.number()?.parse().ok();
            let value = value.ok_or_else(|| before.wrong(&format!("{dtype} cannot hold the number")))?;
            data.extend_from_slice(&bytes(value));
            Ok(())
        })
    }

    /// Parsed as `T`, the width of the tensor where that has one: by way of a wider type some would round twice.
    fn floats<T: FromStr + From<u16>, const N: usize>(
        &mut self,
        cursor: &mut Cursor<'_>,
        depth: usize,
        around: usize,
        bytes: fn(T) -> ([u8; N], bool),
    ) -> Result<()> {
        let dtype = self.dtype;
        // Every width but those of 16 bits holds these as they are, and those round once.
        let small = |value| {
            let (bytes, infinite) = bytes(T::from(u16::try_from(value).ok()?));
            (!infinite).then_some(bytes)
        };
        self.nested(cursor, depth, around, &small, &|cursor, data| {
            let before = *cursor;
            let text = cursor.number()?;
            // The three words are spelt as Rust's own parser takes them.
            let value = text.parse().ok().map(bytes).filter(|(_, infinite)| !infinite || text.ends_with('y'));
            let (value, _) = value.ok_or_else(|| before.wrong(&format!("{dtype} cannot hold the number")))?;
            data.extend_from_slice(&value);
            Ok(())
        })
    }

    /// The value at `cursor`, whose elements `element` reads; `small` has the bytes of those that are short whole
    /// numbers and may be left to it, which is quicker.
    fn nested<const N: usize>(
        &mut self,
        cursor: &mut Cursor<'_>,
        depth: usize,
        around: usize,
        small: &impl Fn(u64) -> Option<[u8; N]>,
        element: &impl Fn(&mut Cursor<'_>, &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        if cursor.peek() != Some(b'[') {
            self.is_element(cursor, depth)?;
            return element(cursor, &mut self.data);
        }
        if self.rank.is_some_and(|rank| depth >= rank) {
            return Err(uneven(cursor));
        }
        cursor.open_list(around)?;
        let (mut held, ended) = cursor.small_numbers(|value| match small(value) {
            Some(bytes) => {
                self.data.extend_from_slice(&bytes);
                true
            }
            None => false,
        });
        if held > 0 {
            self.is_element(cursor, depth + 1)?;
        }
        if !ended {
            cursor.rest_of_list(held > 0, |cursor| {
                held += 1;
                self.nested(cursor, depth + 1, around + 1, small, element)
            })?;
        }
        self.close(depth, held)
    }

    #[inline]
    fn is_element(&mut self, cursor: &Cursor<'_>, depth: usize) -> Result<()> {
        match self.rank {
            Some(rank) if rank == depth => Ok(()),
            // A list has been where this element is.
            None if self.dims.len() <= depth => {
                self.rank = Some(depth);
                Ok(())
            }
            _ => Err(uneven(cursor)),
        }
    }
}

/// Elements that are no numbers.
fn no_number(_: u64) -> Option<[u8; 0]> {
    None
}

fn uneven(cursor: &Cursor<'_>) -> Error {
    cursor.wrong("the lists are uneven: a value and a list are at the same depth")
}

/// A string's bytes, or those of an object `{"b64": "..."}`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is neither, or no base64.
pub(super) fn bytes(cursor: &mut Cursor<'_>, around: usize) -> Result<Vec<u8>> {
    let before = *cursor;
    match cursor.kind()? {
        Kind::String => Ok(cursor.string()?.into_bytes()),
        Kind::Object => {
            let mut coded = Vec::new();
            cursor.object(around, |cursor, key| {
                coded.push((key, cursor.string()?));
                Ok(())
            })?;
            let [(key, coded)] = coded.as_slice() else {
                return Err(before.wrong(r#"an object that stands for bytes is {"b64": "..."}"#));
            };
            if key != BASE64_KEY {
                return Err(before.wrong(r#"an object that stands for bytes is {"b64": "..."}"#));
            }
            BASE64.decode(coded).map_err(|error| before.wrong(&format!("the base64 is broken ({error})")))
        }
        Kind::List | Kind::Number | Kind::Word => Err(before.wrong("a string is missing")),
    }
}

fn push_string(data: &mut Vec<u8>, string: &[u8]) -> Result<()> {
    super::super::elements::push_string(data, string)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn built(dtype: DataType, text: &str) -> Result<Tensor> {
        let mut cursor = Cursor::new(text.as_bytes(), 16);
        let mut builder = Builder::new(dtype);
        builder.value(&mut cursor, 0, 0)?;
        cursor.end()?;
        builder.finish()
    }

    #[track_caller]
    fn check(dtype: DataType, text: &str, want: std::result::Result<(&[usize], &[u8]), &str>) {
        match (built(dtype, text), want) {
            (Ok(got), Ok(want)) => assert_eq!((got.shape(), &got.data()[..]), want, "{text}"),
            (Err(error), Err(says)) => assert!(error.message.contains(says), "{text}: '{error}' lacks '{says}'"),
            (got, want) => panic!("{text}: got {got:?}, want {want:?}"),
        }
    }

    #[test]
    fn nesting_gives_the_shape() {
        let float = f32::to_le_bytes;
        check(DataType::U8, "7", Ok((&[], &[7])));
        check(DataType::U8, " [ [1,2 ] , [3,\n4]]", Ok((&[2, 2], &[1, 2, 3, 4])));
        check(DataType::U8, "[]", Ok((&[0], &[])));
        check(DataType::U8, "[[],[]]", Ok((&[2, 0], &[])));
        check(DataType::I8, "[-128,127]", Ok((&[2], &[128, 127])));
        check(DataType::U64, "18446744073709551615", Ok((&[], &[255; 8])));
        check(DataType::Bool, "[true,false]", Ok((&[2], &[1, 0])));
        check(DataType::F32, "[1,2.5e0]", Ok((&[2], &[float(1.0), float(2.5)].concat())));
        check(DataType::F32, "-Infinity", Ok((&[], &float(f32::NEG_INFINITY))));
        check(DataType::F16, "[Infinity]", Ok((&[1], &[0, 0x7c])));
        check(DataType::Bf16, "1", Ok((&[], &[0x80, 0x3f])));
        check(
            DataType::Bytes,
            r#"["a",{"b64":"/w=="},{"b64":"/w"}]"#,
            Ok((&[3], b"\x01\0\0\0a\x01\0\0\0\xff\x01\0\0\0\xff")),
        );
        check(DataType::Bytes, r#""\u00e9\n""#, Ok((&[], b"\x03\0\0\0\xc3\xa9\n")));
    }

    #[test]
    fn what_is_no_tensor_is_refused() {
        for (dtype, text, says) in [
            (DataType::U8, "[[1,2],[3]]", "one at depth 2 holds 1 values, another 2"),
            (DataType::U8, "[[1],2]", "uneven"),
            (DataType::U8, "[1,[2]]", "uneven"),
            (DataType::U8, "[[],1]", "uneven"),
            (DataType::U8, "[[[]],[1]]", "uneven"),
            (DataType::U8, "256", "UINT8 cannot hold the number at byte 0, at 256"),
            (DataType::U8, "-1", "UINT8 cannot hold"),
            (DataType::U8, "1.0", "UINT8 cannot hold"),
            (DataType::I32, "NaN", "INT32 cannot hold"),
            (DataType::U8, "[01]", "malformed"),
            (DataType::U8, r#""a""#, "malformed"),
            (DataType::U8, "{}", "malformed"),
            (DataType::U8, "null", "malformed"),
            (DataType::Bool, "1", "a BOOL is true or false"),
            (DataType::Bool, "null", "a BOOL is true or false"),
            (DataType::F32, "1e39", "FP32 cannot hold"),
            (DataType::F64, "-1e400", "FP64 cannot hold"),
            (DataType::F16, "70000", "FP16 cannot hold"),
            (DataType::Bytes, "1", "a string is missing"),
            (DataType::Bytes, r#"{"b64":"*"}"#, "base64 is broken"),
            (DataType::Bytes, r#"{"b65":""}"#, "stands for bytes"),
            (DataType::Bytes, r#"{"b64":"","b":""}"#, "stands for bytes"),
            (DataType::Bytes, "{}", "stands for bytes"),
            (DataType::U8, "[1,2", "']'"),
            (DataType::U8, "[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]", "nested deeper than 16"),
        ] {
            let says = if says == "']'" { "',' is missing" } else { says };
            check(dtype, text, Err(says));
        }
    }

    proptest! {
        #[test]
        fn doubles_come_through_as_they_are(values in prop::collection::vec(prop::num::f64::NORMAL | prop::num::f64::SUBNORMAL | prop::num::f64::ZERO, 1..9)) {
            let text = serde_json::to_string(&values).unwrap();
            let want: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let got = built(DataType::F64, &text).unwrap();
            prop_assert_eq!(&got.data()[..], &want[..]);
        }

        #[test]
        fn singles_and_integers_come_through_as_they_are(float in prop::num::f32::NORMAL, integer: i64) {
            let got = built(DataType::F32, &serde_json::to_string(&float).unwrap()).unwrap();
            prop_assert_eq!(&got.data()[..], &float.to_le_bytes()[..]);
            let got = built(DataType::I64, &integer.to_string()).unwrap();
            prop_assert_eq!(&got.data()[..], &integer.to_le_bytes()[..]);
        }

        #[test]
        fn nothing_is_too_strange(text in r#"[\[\]{}:,"0-9.NaIb64e -]{0,32}"#, dtype in prop::sample::select(&DataType::ALL[..])) {
            if let Ok(tensor) = built(dtype, &text) {
                prop_assert_eq!(tensor.shape().iter().product::<usize>(), tensor.len());
            }
        }
    }
}
