//! A tensor's elements as JSON and back: nested or flat lists, row-major, typed by the tensor's datatype.

use std::str::FromStr;

use bytes::Bytes;
use engine::{DataType, Error, Result, Tensor, element_count, strings_from_wire};
use fast_float2::FastFloat;
use serde::Serialize;

use super::document;

/// The bytes of `text`: one whole JSON value that a parser has accepted, or a list that is made of nothing but brackets and
/// what numbers are written with, and is looked at here for the first time. Flat lists are taken for any
/// shape, nested ones when their nesting is that of `shape`; `depth_max` bounds the nesting whatever the shape says.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the element, its value and what was wanted.
pub(super) fn decode(text: &str, dtype: DataType, shape: &[usize], depth_max: usize) -> Result<Bytes> {
    let lists = Lists { text, dtype, shape, depth_max };
    let data = match dtype {
        DataType::Bool => lists.fixed(|token| match token {
            "true" => Some([1]),
            "false" => Some([0]),
            _ => None,
        }),
        DataType::U8 => lists.integers(u8::to_le_bytes),
        DataType::U16 => lists.integers(u16::to_le_bytes),
        DataType::U32 => lists.integers(u32::to_le_bytes),
        DataType::U64 => lists.integers(u64::to_le_bytes),
        DataType::I8 => lists.integers(i8::to_le_bytes),
        DataType::I16 => lists.integers(i16::to_le_bytes),
        DataType::I32 => lists.integers(i32::to_le_bytes),
        DataType::I64 => lists.integers(i64::to_le_bytes),
        // Parsed at the width of the tensor: by way of a double some values would round twice.
        DataType::F32 => lists.floats(f32::is_finite, f32::to_le_bytes),
        DataType::F64 => lists.floats(f64::is_finite, f64::to_le_bytes),
        DataType::Bytes => lists.strings(),
        DataType::F16 | DataType::Bf16 => Err(Error::invalid(format!(
            "{dtype} has no form in JSON; send it as binary data, with the parameter binary_data_size"
        ))),
    };
    data.map(Bytes::from)
}

/// Writes the elements of `tensor` to `out` as one flat list.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when an element has no form in JSON: ask for binary data.
pub(super) fn encode(tensor: &Tensor, out: &mut Vec<u8>) -> Result<()> {
    let data = tensor.data();
    match tensor.dtype() {
        DataType::Bool => list(out, each(data, |[byte]| byte != 0)),
        DataType::U8 => list(out, each(data, u8::from_le_bytes)),
        DataType::U16 => list(out, each(data, u16::from_le_bytes)),
        DataType::U32 => list(out, each(data, u32::from_le_bytes)),
        DataType::U64 => list(out, each(data, u64::from_le_bytes)),
        DataType::I8 => list(out, each(data, i8::from_le_bytes)),
        DataType::I16 => list(out, each(data, i16::from_le_bytes)),
        DataType::I32 => list(out, each(data, i32::from_le_bytes)),
        DataType::I64 => list(out, each(data, i64::from_le_bytes)),
        DataType::F32 if each(data, f32::from_le_bytes).all(f32::is_finite) => {
            list(out, each(data, f32::from_le_bytes))
        }
        DataType::F64 if each(data, f64::from_le_bytes).all(f64::is_finite) => {
            list(out, each(data, f64::from_le_bytes))
        }
        DataType::F32 => words_among(out, each(data, f32::from_le_bytes).map(|value| (value, f64::from(value)))),
        DataType::F64 => words_among(out, each(data, f64::from_le_bytes).map(|value| (value, value))),
        DataType::F16 | DataType::Bf16 => Err(binary_only(&format!("{} has no form in JSON", tensor.dtype()))),
        DataType::Bytes => {
            let strings: Vec<&str> = strings_from_wire(data)?
                .map(|string| str::from_utf8(string).map_err(|_| binary_only("it holds BYTES that are not UTF-8")))
                .collect::<Result<_>>()?;
            list(out, strings.into_iter())
        }
    }
}

/// About how many bytes [`encode`] writes for `tensor`.
pub(super) fn encoded_bytes_estimate(tensor: &Tensor) -> usize {
    let per_byte = match tensor.dtype() {
        DataType::Bool => 6,
        DataType::U8 | DataType::I8 => 4,
        // A comma, two quotes and no escapes take less than the length in front of the string.
        DataType::Bytes => 1,
        DataType::U16 | DataType::U32 | DataType::U64 | DataType::I16 | DataType::I32 | DataType::I64 => 3,
        DataType::F16 | DataType::Bf16 | DataType::F32 | DataType::F64 => 3,
    };
    tensor.data().len().saturating_mul(per_byte).saturating_add(2)
}

/// Appends `string` as an element of a BYTES tensor.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when its length does not fit the framing's 32 bits.
pub(super) fn push_string(data: &mut Vec<u8>, string: &[u8]) -> Result<()> {
    let length = u32::try_from(string.len())
        .map_err(|_| Error::invalid(format!("a BYTES element of {} bytes is longer than 4 GiB", string.len())))?;
    data.extend_from_slice(&length.to_le_bytes());
    data.extend_from_slice(string);
    Ok(())
}

fn binary_only(reason: &str) -> Error {
    Error::invalid(format!("{reason}; ask for it as binary data, with the parameter binary_data"))
}

fn each<T, const N: usize>(data: &[u8], value: fn([u8; N]) -> T) -> impl Iterator<Item = T> {
    data.as_chunks::<N>().0.iter().map(move |&bytes| value(bytes))
}

fn list<T: Serialize>(out: &mut Vec<u8>, values: impl Iterator<Item = T>) -> Result<()> {
    out.push(b'[');
    for (index, value) in values.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, &value).map_err(|error| Error::internal(error.to_string()))?;
    }
    out.push(b']');
    Ok(())
}

/// As [`list`], with the words that Triton and its clients use for what is no finite number.
fn words_among<T: Serialize>(out: &mut Vec<u8>, values: impl Iterator<Item = (T, f64)>) -> Result<()> {
    out.push(b'[');
    for (index, (value, wide)) in values.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match wide {
            _ if wide.is_nan() => out.extend_from_slice(b"NaN"),
            f64::INFINITY => out.extend_from_slice(b"Infinity"),
            f64::NEG_INFINITY => out.extend_from_slice(b"-Infinity"),
            _ => serde_json::to_writer(&mut *out, &value).map_err(|error| Error::internal(error.to_string()))?,
        }
    }
    out.push(b']');
    Ok(())
}

/// JSON lists that hold the elements of a tensor.
struct Lists<'a> {
    text: &'a str,
    dtype: DataType,
    shape: &'a [usize],
    depth_max: usize,
}

impl<'a> Lists<'a> {
    fn integers<T: FromStr, const N: usize>(&self, bytes: fn(T) -> [u8; N]) -> Result<Vec<u8>> {
        self.fixed(|token| token.parse().ok().filter(|_| begins_as_json(token)).map(bytes))
    }

    fn fixed<const N: usize>(&self, parse: impl Fn(&str) -> Option<[u8; N]>) -> Result<Vec<u8>> {
        self.sized(|text| {
            let token = token(text);
            parse(token).map(|bytes| (bytes, token.len()))
        })
    }

    /// Floats are many and long, so each is read in one go, without its end being looked for first.
    fn floats<T: FastFloat + From<f32>, const N: usize>(
        &self,
        is_finite: fn(T) -> bool,
        bytes: fn(T) -> [u8; N],
    ) -> Result<Vec<u8>> {
        self.sized(|text| match fast_float2::parse_partial::<T, _>(text) {
            Ok((value, length)) if is_finite(value) && begins_as_json(text) => Some((bytes(value), length)),
            _ => {
                let token = token(text);
                document::word(token).map(|(_, value)| (bytes(T::from(value)), token.len()))
            }
        })
    }

    /// Elements of one size, each given by `parse` from the text that begins with it, together with its own length.
    fn sized<const N: usize>(&self, parse: impl Fn(&str) -> Option<([u8; N], usize)>) -> Result<Vec<u8>> {
        let count = element_count(self.shape)?;
        // An element takes two characters at the least, so a shape reserves no more than its text can fill.
        let mut data = Vec::with_capacity(count.min(self.text.len() / 2 + 1) * N);
        self.walk(count, |index, text| {
            let (bytes, length) = parse(text).ok_or_else(|| self.misfit(index, token(text)))?;
            data.extend_from_slice(&bytes);
            Ok(length)
        })?;
        Ok(data)
    }

    fn strings(&self) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        self.walk(element_count(self.shape)?, |index, text| {
            let token = token(text);
            let plain = token.strip_prefix('"').and_then(|token| token.strip_suffix('"'));
            match plain {
                Some(plain) if !plain.contains('\\') => push_string(&mut data, plain.as_bytes())?,
                _ => {
                    let string: String = serde_json::from_str(token).map_err(|_| self.misfit(index, token))?;
                    push_string(&mut data, string.as_bytes())?;
                }
            }
            Ok(token.len())
        })?;
        Ok(data)
    }

    fn misfit(&self, index: usize, token: &str) -> Error {
        let written = document::word(token).map_or(token, |(word, _)| word);
        let shown = &written[..written.floor_char_boundary(40)];
        Error::invalid(format!("element {index} is {shown}, which {} cannot hold", self.dtype))
    }

    /// Gives the text from each element on to `element`, in order, which says how long the element is; checks the
    /// nesting.
    fn walk(&self, count: usize, mut element: impl FnMut(usize, &'a str) -> Result<usize>) -> Result<()> {
        let bytes = self.text.as_bytes();
        let mut nesting = Nesting::default();
        let (mut at, mut seen, mut next) = (0, 0, Next::Value);
        while let Some(&byte) = bytes.get(at) {
            match (byte, next) {
                (b' ' | b'\n' | b'\r' | b'\t', _) => at += 1,
                (b',', Next::Comma) if !nesting.open.is_empty() => (at, next) = (at + 1, Next::Value),
                (b'[', Next::Value | Next::First) => {
                    nesting.open(self)?;
                    (at, next) = (at + 1, Next::First);
                }
                (b']', Next::Comma | Next::First) if !nesting.open.is_empty() => {
                    nesting.close(self)?;
                    (at, next) = (at + 1, Next::Comma);
                }
                (b'{', _) => return Err(Error::invalid("data holds an object; it must be lists of elements")),
                (b',' | b'[' | b']', _) | (_, Next::Comma) => {
                    let shown = self.text[at..].chars().take(40).collect::<String>();
                    return Err(Error::invalid(format!("data is no JSON at its byte {at}, at {shown}")));
                }
                _ => {
                    nesting.element(self)?;
                    let before = seen;
                    // What is true of the first of several elements in a row is true of the others.
                    loop {
                        if seen == count {
                            return Err(self.disagrees("there are more elements"));
                        }
                        at += element(seen, &self.text[at..])?;
                        seen += 1;
                        match bytes.get(at..at + 2) {
                            Some([b',', b'-' | b'0'..=b'9']) => at += 1,
                            Some([b',', b' ']) if matches!(bytes.get(at + 2), Some(b'-' | b'0'..=b'9')) => at += 2,
                            _ => break,
                        }
                    }
                    nesting.more(seen - before - 1);
                    next = Next::Comma;
                }
            }
        }
        if next != Next::Comma || !nesting.open.is_empty() {
            return Err(Error::invalid("data is no JSON: it ends in the middle"));
        }
        if seen < count {
            return Err(self.disagrees(&format!("there are {seen} elements")));
        }
        Ok(())
    }

    fn disagrees(&self, how: &str) -> Error {
        let shape = self.shape;
        Error::invalid(format!(
            "data does not agree with shape {shape:?}: {how}; nest it as the shape says, or not at all"
        ))
    }
}

/// What may come next in a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// A value, or the end of the list.
    First,
    /// A value.
    Value,
    /// A comma, or the end of the list.
    Comma,
}

/// Where a walk through lists is.
#[derive(Default)]
struct Nesting {
    /// How many elements or lists each open list holds so far, outermost first.
    open: Vec<usize>,
    /// Whether the outermost list holds lists; known from the first thing in it.
    nested: Option<bool>,
}

impl Nesting {
    fn open(&mut self, lists: &Lists<'_>) -> Result<()> {
        self.count(true, lists)?;
        self.open.push(0);
        let depth = self.open.len();
        if depth > lists.depth_max {
            return Err(Error::invalid(format!("data is nested deeper than {} lists", lists.depth_max)));
        }
        if self.nested == Some(true) && depth > lists.shape.len() {
            return Err(lists.disagrees(&format!("a list is at depth {depth}")));
        }
        Ok(())
    }

    fn element(&mut self, lists: &Lists<'_>) -> Result<()> {
        self.count(false, lists)?;
        let depth = self.open.len();
        let flat = depth == 1 && self.nested == Some(false);
        if !flat && depth != lists.shape.len() {
            return Err(lists.disagrees(&format!("an element is at depth {depth}")));
        }
        Ok(())
    }

    /// So many elements more, right behind the last.
    fn more(&mut self, elements: usize) {
        if let Some(held) = self.open.last_mut() {
            *held += elements;
        }
    }

    fn close(&mut self, lists: &Lists<'_>) -> Result<()> {
        let held = self.open.pop().unwrap_or_default();
        let depth = self.open.len();
        if self.nested == Some(true) && lists.shape.get(depth) != Some(&held) {
            return Err(lists.disagrees(&format!("a list at depth {} holds {held}", depth + 1)));
        }
        Ok(())
    }

    /// Counts what the innermost open list holds.
    fn count(&mut self, is_list: bool, lists: &Lists<'_>) -> Result<()> {
        let outermost = self.open.len() == 1;
        if outermost && *self.nested.get_or_insert(is_list) != is_list {
            return Err(lists.disagrees("lists and elements are mixed"));
        }
        if let Some(held) = self.open.last_mut() {
            *held += 1;
        }
        Ok(())
    }
}

/// Whether `text`, which begins with a number by any grammar, begins with one by that of JSON: no plus, no zeros in front,
/// and digits on both sides of a point.
#[inline]
fn begins_as_json(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let whole = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let pointless = digits.get(whole) != Some(&b'.') || digits.get(whole + 1).is_some_and(u8::is_ascii_digit);
    whole > 0 && (whole == 1 || digits[0] != b'0') && pointless
}

/// The string, number or word that `text` begins with.
fn token(text: &str) -> &str {
    let bytes = text.as_bytes();
    if bytes.first() != Some(&b'"') {
        let ends = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t');
        return &text[..bytes.iter().position(ends).unwrap_or(bytes.len())];
    }
    let mut at = 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return &text[..=at],
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// `texts` as one list, and what a parser that reads nothing but them makes of each.
    fn check<T: FromStr, const N: usize>(dtype: DataType, texts: &[String], bytes: fn(T) -> [u8; N])
    where
        T::Err: std::fmt::Debug,
    {
        let want: Vec<u8> = texts.iter().flat_map(|text| bytes(text.parse().unwrap())).collect();
        for between in [",", ", ", " ,\n "] {
            let list = format!("[{}]", texts.join(between));
            assert_eq!(decode(&list, dtype, &[texts.len()], 1).unwrap(), want, "{list}");
        }
    }

    proptest! {
        /// Lists that no parser has seen.
        #[test]
        fn what_is_no_json_is_refused(
            pieces in prop::collection::vec(prop::sample::select(&[
                "1", "0", "00", "-0", "-", "+1", ".5", "5.", "0.25", "1e", "1e5", "1E-2", "e5", "1.e5", "1.5.2", ",", ", ", ",,", " ", "[", "]", "[]", "10",
            ][..]), 0..9),
            dtype in prop::sample::select(&[DataType::F32, DataType::F64, DataType::I32, DataType::U8][..]),
        ) {
            let text = format!("[{}]", pieces.concat());
            let value: Option<Vec<f64>> = serde_json::from_str(&text).ok();
            let count = value.as_ref().map_or(0, Vec::len);
            let shapes = (0..6).map(|count| vec![count]).chain([vec![1, 1], vec![2, 1], vec![1, 2], vec![1, 0], vec![2, 0]]);
            for shape in shapes {
                let got = decode(&text, dtype, &shape, 4);
                if got.is_ok() {
                    prop_assert!(serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok(), "{text} is {got:?}");
                }
                if shape == [count] && let Some(value) = &value && dtype == DataType::F64 {
                    let want: Vec<u8> = value.iter().flat_map(|value| value.to_le_bytes()).collect();
                    prop_assert_eq!(&got.unwrap()[..], &want[..], "{}", text);
                }
            }
        }

        #[test]
        fn a_float_is_the_nearest_to_its_text(
            texts in prop::collection::vec("-?(0|[1-9][0-9]{0,20})([.][0-9]{1,25})?([eE][-+]?[0-2]?[0-9])?", 1..9),
        ) {
            let texts: Vec<String> =
                texts.into_iter().filter(|text| text.parse::<f32>().is_ok_and(f32::is_finite)).collect();
            check(DataType::F32, &texts, f32::to_le_bytes);
            check(DataType::F64, &texts, f64::to_le_bytes);
        }
    }
}
