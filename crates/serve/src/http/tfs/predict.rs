//! A predict request's body, by rows or by columns, to named tensors; and the outputs back in the same form.

use engine::{Error, Result, Signature, Tensor, TensorSpec};

use super::json::{Cursor, Kind};
use super::tensor::{BASE64_KEY, Builder};
use super::write::Elements;
use crate::tfs::{alias, check_signature, resolve};

/// Which way round a request is, and so its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `instances`, a list with an entry for each item of the batch; answered by `predictions`.
    Rows,
    /// `inputs`, whole tensors; answered by `outputs`.
    Columns,
}

impl Form {
    fn key(self) -> &'static str {
        match self {
            Form::Rows => "instances",
            Form::Columns => "inputs",
        }
    }
}

/// The tensors in `body` under the model's own names. Members of the request that nothing here knows are skipped.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the place and the reason.
pub(super) fn decode(signature: &Signature, body: &[u8], depth_max: usize) -> Result<(Form, Vec<(String, Tensor)>)> {
    let mut cursor = Cursor::new(body, depth_max);
    let mut read = None;
    cursor.object(0, |cursor, key| {
        let form = match key.as_str() {
            "signature_name" => return check_signature(&cursor.string()?),
            "instances" => Form::Rows,
            "inputs" => Form::Columns,
            _ => return cursor.skip(1),
        };
        if read.is_some() {
            return Err(one_of());
        }
        let mut columns = Columns::new(&signature.inputs);
        let within = |error: Error| error.context(form.key());
        match form {
            Form::Rows => columns.rows(cursor),
            Form::Columns => columns.columns(cursor),
        }
        .and_then(|()| columns.finish())
        .map(|tensors| read = Some((form, tensors)))
        .map_err(within)
    })?;
    cursor.end()?;
    read.ok_or_else(one_of)
}

pub(super) fn one_of() -> Error {
    Error::invalid("a predict request has exactly one of instances (a list of rows) and inputs (whole tensors)")
}

/// The model's inputs as they fill.
struct Columns<'a> {
    specs: &'a [TensorSpec],
    builders: Vec<Builder>,
    /// How many values each has been given.
    given: Vec<usize>,
}

impl<'a> Columns<'a> {
    fn new(specs: &'a [TensorSpec]) -> Self {
        let builders = specs.iter().map(|spec| Builder::new(spec.dtype)).collect();
        Self { specs, builders, given: vec![0; specs.len()] }
    }

    fn rows(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        let mut rows = 0;
        cursor.list(1, |cursor| {
            rows += 1;
            self.entry(cursor, 1, 2, rows).map_err(|error| error.context(format_args!("row {}", rows - 1)))
        })?;
        if rows == 0 {
            return Err(Error::invalid("the list is empty; give at least one row"));
        }
        self.builders.iter_mut().try_for_each(|builder| builder.close(0, rows))
    }

    fn columns(&mut self, cursor: &mut Cursor<'_>) -> Result<()> {
        self.entry(cursor, 0, 1, 1)
    }

    /// A value for the only input or an object with one for each, at `depth` of the tensors; after it each has been
    /// given `want`.
    fn entry(&mut self, cursor: &mut Cursor<'_>, depth: usize, around: usize, want: usize) -> Result<()> {
        if cursor.kind()? == Kind::Object && !self.is_bytes(cursor) {
            cursor.object(around, |cursor, name| {
                let spec = resolve(self.specs, "input", &name)?;
                self.value(cursor, spec, depth, around + 1)
            })?;
        } else {
            let [only] = self.specs else {
                return Err(Error::invalid(format!(
                    "the model has {} inputs, so this must be an object with a value for each",
                    self.specs.len()
                )));
            };
            self.value(cursor, only, depth, around)?;
        }
        let wrong = self.given.iter().zip(self.specs).find(|&(&given, _)| given != want);
        let Some((&given, spec)) = wrong else { return Ok(()) };
        let (name, how) = (alias(self.specs, &spec.name), if given < want { "is missing" } else { "is given twice" });
        Err(Error::invalid(format!("input '{name}' {how}")))
    }

    fn value(&mut self, cursor: &mut Cursor<'_>, spec: &TensorSpec, depth: usize, around: usize) -> Result<()> {
        // A reference into `specs`, so it is found.
        let index = self.specs.iter().position(|known| std::ptr::eq(known, spec)).unwrap_or_default();
        self.given[index] += 1;
        let name = alias(self.specs, &spec.name);
        let read = self.builders[index].value(cursor, depth, around);
        read.map_err(|error| error.context(format_args!("input '{name}'")))
    }

    /// Whether the object that is next is the bytes of the only input.
    fn is_bytes(&self, cursor: &Cursor<'_>) -> bool {
        let mut ahead = *cursor;
        let strings = matches!(self.specs, [only] if only.dtype == engine::DataType::Bytes);
        strings && ahead.eat(b'{') && ahead.string().is_ok_and(|key| key == BASE64_KEY)
    }

    fn finish(self) -> Result<Vec<(String, Tensor)>> {
        let finished = self.specs.iter().zip(self.builders).map(|(spec, builder)| {
            let name = alias(self.specs, &spec.name);
            let tensor = builder.finish().map_err(|error| error.context(format_args!("input '{name}'")))?;
            Ok((spec.name.clone(), tensor))
        });
        finished.collect()
    }
}

/// The answer with `outputs`, which go by alias.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when rows were asked for and the outputs have no such.
pub(super) fn encode(form: Form, outputs: &[(String, Tensor)]) -> Result<Vec<u8>> {
    let elements = outputs.iter().map(|(name, tensor)| Ok((name.as_str(), Elements::new(name, tensor)?)));
    let elements: Vec<(&str, Elements<'_>)> = elements.collect::<Result<_>>()?;
    match form {
        Form::Rows => rows(outputs, &elements),
        Form::Columns => {
            let mut out = br#"{"outputs":"#.to_vec();
            entry(&mut out, &elements, Elements::write)?;
            out.push(b'}');
            Ok(out)
        }
    }
}

fn rows(outputs: &[(String, Tensor)], elements: &[(&str, Elements<'_>)]) -> Result<Vec<u8>> {
    let first = |(_, tensor): &(String, Tensor)| tensor.shape().first().copied();
    let count = outputs.first().and_then(first);
    let Some(count) = count.filter(|_| outputs.iter().all(|output| first(output) == count)) else {
        let shapes: Vec<_> = outputs.iter().map(|(name, tensor)| format!("'{name}' {:?}", tensor.shape())).collect();
        return Err(Error::invalid(format!(
            "the outputs are no rows, for their first dimensions differ: {}; ask with inputs instead of instances",
            shapes.join(", ")
        )));
    };
    let mut out = br#"{"predictions":["#.to_vec();
    for row in 0..count {
        if row > 0 {
            out.push(b',');
        }
        entry(&mut out, elements, |elements, out| elements.write_row(row, out))?;
    }
    out.extend_from_slice(b"]}");
    Ok(out)
}

/// What `write` makes of the only output, or an object with what it makes of each.
fn entry<'a>(
    out: &mut Vec<u8>,
    outputs: &[(&str, Elements<'a>)],
    write: impl Fn(&Elements<'a>, &mut Vec<u8>) -> Result<()>,
) -> Result<()> {
    if let [(_, only)] = outputs {
        return write(only, out);
    }
    out.push(b'{');
    for (index, (name, elements)) in outputs.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        super::write::json(out, name)?;
        out.push(b':');
        write(elements, out)?;
    }
    out.push(b'}');
    Ok(())
}

#[cfg(test)]
mod tests {
    use engine::DataType;
    use proptest::prelude::*;

    use super::*;

    fn signature(inputs: &[(&str, DataType)]) -> Signature {
        let spec = |&(name, dtype): &(&str, DataType)| TensorSpec {
            name: name.to_owned(),
            dtype,
            shape: vec![-1],
            any_rank: true,
        };
        Signature { inputs: inputs.iter().map(spec).collect(), outputs: Vec::new() }
    }

    const ONE: &[(&str, DataType)] = &[("x:0", DataType::U8)];
    const TWO: &[(&str, DataType)] = &[("a", DataType::U8), ("b:0", DataType::F32)];
    const WORD: &[(&str, DataType)] = &[("word", DataType::Bytes)];

    #[track_caller]
    fn check(inputs: &[(&str, DataType)], body: &str, form: Form, want: &[(&str, &[usize], &[u8])]) {
        let (got_form, tensors) = decode(&signature(inputs), body.as_bytes(), 16).unwrap();
        let got: Vec<_> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor.shape(), &tensor.data()[..])).collect();
        assert_eq!((got_form, got.as_slice()), (form, want), "{body}");
    }

    #[track_caller]
    fn check_refused(inputs: &[(&str, DataType)], body: &str, says: &str) {
        let error = decode(&signature(inputs), body.as_bytes(), 16).unwrap_err();
        assert_eq!(error.kind, engine::ErrorKind::InvalidInput);
        assert!(error.message.contains(says), "{body}: '{error}' does not say '{says}'");
    }

    #[test]
    fn rows_and_columns() {
        use Form::{Columns, Rows};
        let one = [("x:0", &[2, 1][..], &[1, 2][..])];
        for body in [
            r#"{"instances":[[1],[2]]}"#,
            r#"{"signature_name":"serving_default","instances":[{"x":[1]},{"x:0":[2]}]}"#,
            r#"{"more":{"a":[null]},"instances":[[1],[2]],"signature_name":""}"#,
        ] {
            check(ONE, body, Rows, &one);
        }
        for body in [r#"{"inputs":[[1],[2]]}"#, r#"{"inputs":{"x":[[1],[2]]}}"#] {
            check(ONE, body, Columns, &one);
        }
        check(ONE, r#"{"inputs":3}"#, Columns, &[("x:0", &[], &[3])]);
        let floats = [1.5f32.to_le_bytes(), f32::INFINITY.to_le_bytes()].concat();
        let two = [("a", &[2][..], &[1, 2][..]), ("b:0", &[2, 1], &floats)];
        check(TWO, r#"{"instances":[{"a":1,"b":[1.5]},{"b":[Infinity],"a":2}]}"#, Rows, &two);
        check(TWO, r#"{"inputs":{"b":[[1.5],[Infinity]],"a":[1,2]}}"#, Columns, &two);
        let words = [("word", &[2][..], &b"\x01\0\0\0a\x01\0\0\0b"[..])];
        check(WORD, r#"{"instances":[{"b64":"YQ=="},"b"]}"#, Rows, &words);
        check(WORD, r#"{"instances":[{"word":{"b64":"YQ=="}},{"word":"b"}]}"#, Rows, &words);
        check(WORD, r#"{"inputs":[{"b64":"YQ=="},"b"]}"#, Columns, &words);
        check(WORD, r#"{"inputs":{"word":["a",{"b64":"Yg"}]}}"#, Columns, &words);
    }

    #[test]
    fn what_is_no_request() {
        for (inputs, body, says) in [
            (ONE, "{}", "exactly one of instances"),
            (ONE, r#"{"instances":[1],"inputs":[1]}"#, "exactly one of instances"),
            (ONE, r#"{"instances":[1],"signature_name":"other"}"#, "no signature 'other'"),
            (ONE, r#"{"instances":[]}"#, "instances: the list is empty"),
            (ONE, r#"{"instances":1}"#, "instances: the request is no JSON that is understood: '[' is missing"),
            (ONE, r#"{"instances":[[1],[1,2]]}"#, "instances: row 1: input 'x': the lists are uneven"),
            (ONE, r#"{"instances":[{"y":1}]}"#, "row 0: the model has no input 'y'; it has 'x'"),
            (ONE, r#"{"instances":[{}]}"#, "row 0: input 'x' is missing"),
            (ONE, r#"{"instances":[{"x":1,"x:0":1}]}"#, "row 0: input 'x' is given twice"),
            (ONE, r#"{"instances":[{"b64":"YQ=="}]}"#, "no input 'b64'"),
            (ONE, r#"{"instances":[1,300]}"#, "row 1: input 'x': "),
            (ONE, r#"{"instances":[1]} x"#, "more follows"),
            (ONE, "[1]", "'{' is missing"),
            (ONE, "", "'{' is missing"),
            (ONE, "\u{feff}{}", "'{' is missing"),
            (TWO, r#"{"instances":[{"a":1,"b":1},{"a":1}]}"#, "row 1: input 'b' is missing"),
            (TWO, r#"{"instances":[1]}"#, "the model has 2 inputs"),
            (TWO, r#"{"inputs":{"a":1}}"#, "inputs: input 'b' is missing"),
            (WORD, r#"{"inputs":{"b64":3}}"#, "'\"' is missing"),
        ] {
            check_refused(inputs, body, says);
        }
    }

    #[test]
    fn answers_are_as_they_were_asked() {
        let tensor = |dtype, shape: &[usize], data: &[u8]| {
            Tensor::new(dtype, shape.to_vec(), bytes::Bytes::copy_from_slice(data)).unwrap()
        };
        let bytes = ("a".to_owned(), tensor(DataType::U8, &[2, 2], &[1, 2, 3, 4]));
        let floats: Vec<u8> = [0.1f32, f32::NAN].iter().flat_map(|value| value.to_le_bytes()).collect();
        let floats = ("b".to_owned(), tensor(DataType::F32, &[2], &floats));
        let scalar = ("s".to_owned(), tensor(DataType::F64, &[], &1f64.to_le_bytes()));
        let words = tensor(DataType::Bytes, &[2], b"\x02\0\0\0\"a\x01\0\0\0\xff");
        let words = |name: &str| (name.to_owned(), words.clone());
        for (form, outputs, want) in [
            (Form::Rows, vec![bytes.clone()], r#"{"predictions":[[1,2],[3,4]]}"#),
            (Form::Columns, vec![bytes.clone()], r#"{"outputs":[[1,2],[3,4]]}"#),
            (
                Form::Rows,
                vec![bytes.clone(), floats.clone()],
                r#"{"predictions":[{"a":[1,2],"b":0.1},{"a":[3,4],"b":NaN}]}"#,
            ),
            (Form::Columns, vec![floats, scalar.clone()], r#"{"outputs":{"b":[0.1,NaN],"s":1.0}}"#),
            (Form::Columns, vec![scalar.clone()], r#"{"outputs":1.0}"#),
            (Form::Columns, vec![words("w")], r#"{"outputs":["\"a",{"b64":"/w=="}]}"#),
            (Form::Rows, vec![words("w_bytes")], r#"{"predictions":[{"b64":"ImE="},{"b64":"/w=="}]}"#),
            (Form::Columns, vec![("e".to_owned(), tensor(DataType::U8, &[2, 0], &[]))], r#"{"outputs":[[],[]]}"#),
            (Form::Columns, vec![("e".to_owned(), tensor(DataType::Bool, &[1, 1], &[1]))], r#"{"outputs":[[true]]}"#),
        ] {
            let got = encode(form, &outputs).unwrap();
            assert_eq!(str::from_utf8(&got).unwrap(), want);
        }
        for outputs in [vec![scalar.clone()], vec![bytes, scalar], vec![]] {
            let error = encode(Form::Rows, &outputs).unwrap_err();
            assert!(error.message.contains("ask with inputs"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(body: Vec<u8>, tail in r#"[\[\]{}:,"0-9.ab64xNI -]{0,32}"#) {
            let _ = decode(&signature(TWO), &body, 16);
            for inputs in [ONE, TWO, WORD] {
                for key in ["instances", "inputs"] {
                    let _ = decode(&signature(inputs), format!("{{\"{key}\":{tail}}}").as_bytes(), 16);
                }
            }
        }
    }
}
