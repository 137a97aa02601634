//! A classify or regress request's body to examples, and the results back.

use bytes::Bytes;
use engine::{Error, Result};

use super::json::{Cursor, Kind};
use super::tensor::bytes;
use super::write;
use crate::tfs::{Example, Feature, LabelScore, check_signature, merge};

/// The examples in `body`, each with the features of the context.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the place and the reason.
pub(super) fn decode(body: &[u8], depth_max: usize) -> Result<Vec<Example>> {
    let mut cursor = Cursor::new(body, depth_max);
    let mut examples: Option<Vec<Example>> = None;
    let mut context = Example::new();
    cursor.object(0, |cursor, key| match key.as_str() {
        "signature_name" => check_signature(&cursor.string()?),
        "context" => {
            context = example(cursor, 1).map_err(|error| error.context("context"))?;
            Ok(())
        }
        "examples" => {
            let list = examples.insert(Vec::new());
            cursor.list(1, |cursor| {
                let index = list.len();
                list.push(example(cursor, 2).map_err(|error| error.context(format_args!("example {index}")))?);
                Ok(())
            })
        }
        _ => cursor.skip(1),
    })?;
    cursor.end()?;
    let mut examples = examples.ok_or_else(|| Error::invalid("the request has no examples"))?;
    merge(&mut examples, &context);
    Ok(examples)
}

fn example(cursor: &mut Cursor<'_>, around: usize) -> Result<Example> {
    let mut example = Example::new();
    cursor.object(around, |cursor, name| {
        let feature = feature(cursor, around + 1).map_err(|error| error.context(format_args!("feature '{name}'")))?;
        example.insert(name, feature);
        Ok(())
    })?;
    Ok(example)
}

/// A value or a flat list of values of one kind; whole numbers among others are floats like them.
fn feature(cursor: &mut Cursor<'_>, around: usize) -> Result<Feature> {
    let mut values = Values::default();
    match cursor.kind()? {
        Kind::List => cursor.list(around, |cursor| values.push(cursor, around + 1))?,
        _ => values.push(cursor, around)?,
    }
    let Values { strings, numbers, integers } = values;
    match (strings.is_empty(), numbers.is_empty()) {
        (false, false) => Err(Error::invalid("strings and numbers are mixed")),
        (false, true) => Ok(Feature::Strings(strings)),
        (true, _) => Ok(integers.map_or(Feature::Floats(numbers), Feature::Integers)),
    }
}

struct Values {
    strings: Vec<Bytes>,
    numbers: Vec<f32>,
    /// The numbers, as long as all of them are whole.
    integers: Option<Vec<i64>>,
}

impl Default for Values {
    fn default() -> Self {
        Self { strings: Vec::new(), numbers: Vec::new(), integers: Some(Vec::new()) }
    }
}

impl Values {
    fn push(&mut self, cursor: &mut Cursor<'_>, around: usize) -> Result<()> {
        match cursor.kind()? {
            Kind::String | Kind::Object => self.strings.push(Bytes::from(bytes(cursor, around)?)),
            Kind::Number => {
                let before = *cursor;
                let text = cursor.number()?;
                let number: f32 = text.parse().map_err(|_| before.wrong("a number is malformed"))?;
                if number.is_infinite() && !text.ends_with('y') {
                    return Err(before.wrong("a float cannot hold the number"));
                }
                self.numbers.push(number);
                self.integers = self.integers.take().and_then(|mut integers| {
                    integers.push(text.parse().ok()?);
                    Some(integers)
                });
            }
            Kind::Word => {
                let before = *cursor;
                let value = match cursor.word()? {
                    "true" => 1u8,
                    "false" => 0,
                    _ => return Err(before.wrong("a feature is no null")),
                };
                self.numbers.push(f32::from(value));
                self.integers.iter_mut().for_each(|integers| integers.push(value.into()));
            }
            Kind::List => return Err(cursor.wrong("a feature is a value or a flat list of values")),
        }
        Ok(())
    }
}

/// The answer to classify: a list of `[label, score]` for each example.
pub(super) fn encode_classes(results: &[Vec<LabelScore>]) -> Result<Vec<u8>> {
    encode(results, |out, classes| {
        list(out, classes, |out, (label, score)| {
            out.push(b'[');
            write::json(out, label)?;
            out.push(b',');
            write::float(out, *score)?;
            out.push(b']');
            Ok(())
        })
    })
}

/// The answer to regress: a number for each example.
pub(super) fn encode_numbers(results: &[f32]) -> Result<Vec<u8>> {
    encode(results, |out, &value| write::float(out, value))
}

fn encode<T>(results: &[T], write: impl Fn(&mut Vec<u8>, &T) -> Result<()>) -> Result<Vec<u8>> {
    let mut out = br#"{"results":"#.to_vec();
    list(&mut out, results, write)?;
    out.push(b'}');
    Ok(out)
}

fn list<T>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T) -> Result<()>) -> Result<()> {
    out.push(b'[');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, item)?;
    }
    out.push(b']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn features_have_the_kind_of_their_values() {
        use Feature::{Floats, Integers, Strings};
        for (value, want) in [
            ("1", Integers(vec![1])),
            ("[1,-2]", Integers(vec![1, -2])),
            ("[1,2.5]", Floats(vec![1.0, 2.5])),
            ("[true,false]", Integers(vec![1, 0])),
            ("-Infinity", Floats(vec![f32::NEG_INFINITY])),
            ("99999999999999999999", Floats(vec![1e20])),
            ("[]", Integers(vec![])),
            (r#"["a",{"b64":"/w=="}]"#, Strings(vec![Bytes::from_static(b"a"), Bytes::from_static(b"\xff")])),
        ] {
            let body = format!(r#"{{"context":{{"c":1}},"examples":[{{"x":{value}}},{{"c":2}}]}}"#);
            let examples = decode(body.as_bytes(), 16).unwrap();
            assert_eq!(examples[0]["x"], want);
            assert_eq!([&examples[0]["c"], &examples[1]["c"]], [&Integers(vec![1]), &Integers(vec![2])]);
        }
        for (body, says) in [
            (r#"{"examples":[{"x":[1,"a"]}]}"#, "example 0: feature 'x': strings and numbers are mixed"),
            (r#"{"examples":[{"x":[[1]]}]}"#, "flat list"),
            (r#"{"examples":[{"x":null}]}"#, "no null"),
            (r#"{"examples":[{"x":1e39}]}"#, "cannot hold"),
            (r#"{"examples":[1]}"#, "example 0: "),
            ("{}", "no examples"),
            (r#"{"signature_name":"a"}"#, "no signature 'a'"),
        ] {
            let error = decode(body.as_bytes(), 16).unwrap_err();
            assert!(error.message.contains(says), "{body}: '{error}' does not say '{says}'");
        }
    }

    #[test]
    fn results_are_lists() {
        let classes = encode_classes(&[vec![("a\"".to_owned(), 0.5), ("b".to_owned(), f32::NAN)], vec![]]).unwrap();
        assert_eq!(str::from_utf8(&classes).unwrap(), r#"{"results":[[["a\"",0.5],["b",NaN]],[]]}"#);
        let numbers = encode_numbers(&[1.0, f32::INFINITY]).unwrap();
        assert_eq!(str::from_utf8(&numbers).unwrap(), r#"{"results":[1.0,Infinity]}"#);
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(body: Vec<u8>, tail in r#"[\[\]{}:,"0-9.ab64xNI -]{0,32}"#) {
            let _ = decode(&body, 16);
            let _ = decode(format!(r#"{{"examples":[{{"x":{tail}}}]}}"#).as_bytes(), 16);
        }
    }
}
