//! Examples, TensorFlow's records of named features, to the model's inputs: one row an example, by feature name.

use std::collections::BTreeMap;

use bytes::Bytes;
use engine::{DataType, Error, Result, Signature, Tensor, TensorSpec, element_count};
use half::{bf16, f16};

use super::names::{infos, resolve};

/// The features of one record, by name.
pub(crate) type Example = BTreeMap<String, Feature>;

/// One feature's values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Feature {
    Strings(Vec<Bytes>),
    Floats(Vec<f32>),
    Integers(Vec<i64>),
}

impl Feature {
    fn len(&self) -> usize {
        match self {
            Feature::Strings(values) => values.len(),
            Feature::Floats(values) => values.len(),
            Feature::Integers(values) => values.len(),
        }
    }
}

/// Gives every example the features of `context` that it does not have itself.
pub(crate) fn merge(examples: &mut [Example], context: &Example) {
    for example in examples {
        for (name, feature) in context {
            if !example.contains_key(name) {
                example.insert(name.clone(), feature.clone());
            }
        }
    }
}

/// The inputs of a model with `signature`: each input's first dimension counts the examples, the others are filled by
/// the feature of its name. Features that no input is called by are left alone, as a parser of examples does.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the example and the feature.
pub(crate) fn tensors(signature: &Signature, examples: &[Example]) -> Result<Vec<(String, Tensor)>> {
    if examples.is_empty() {
        return Err(Error::invalid("there are no examples; give at least one"));
    }
    infos(&signature.inputs)
        .map(|(alias, spec)| {
            let rows = examples.iter().enumerate().map(|(index, example)| {
                let own = example.get(alias).or_else(|| {
                    // Under its other name, when a client keeps the output index.
                    let named = |name: &&String| resolve(std::slice::from_ref(spec), "input", name).is_ok();
                    example.keys().find(named).and_then(|name| example.get(name))
                });
                own.ok_or_else(|| Error::invalid(format!("example {index} has no feature '{alias}'")))
            });
            let rows: Vec<&Feature> = rows.collect::<Result<_>>()?;
            let tensor = tensor(spec, &rows).map_err(|error| error.context(format_args!("feature '{alias}'")))?;
            Ok((spec.name.clone(), tensor))
        })
        .collect()
}

fn tensor(spec: &TensorSpec, rows: &[&Feature]) -> Result<Tensor> {
    let each = rows.first().map_or(0, |row| row.len());
    if let Some((index, row)) = rows.iter().enumerate().find(|(_, row)| row.len() != each) {
        let got = row.len();
        return Err(Error::invalid(format!("example {index} has {got} values where example 0 has {each}")));
    }
    let mut data = Vec::new();
    for (index, row) in rows.iter().enumerate() {
        push(&mut data, spec.dtype, row).map_err(|error| error.context(format_args!("example {index}")))?;
    }
    Tensor::new(spec.dtype, shape(spec, rows.len(), each)?, Bytes::from(data))
}

/// `[rows, ...]` with `each` values a row, in the dimensions that the input has.
fn shape(spec: &TensorSpec, rows: usize, each: usize) -> Result<Vec<usize>> {
    let misfit = || {
        let want = &spec.shape;
        Error::invalid(format!("{each} values an example do not make up the shape {want:?} (-1 is any size)"))
    };
    let inner = match spec.shape.as_slice() {
        _ if spec.any_rank => return Ok(vec![rows, each]),
        [] => return Err(misfit()),
        [_, inner @ ..] => inner,
    };
    let known: Vec<usize> = inner.iter().filter_map(|&dim| usize::try_from(dim).ok()).collect();
    let product = element_count(&known)?;
    let rest = match inner.len() - known.len() {
        0 if product == each => 1,
        1 if product > 0 && each.is_multiple_of(product) => each / product,
        _ => return Err(misfit()),
    };
    let inner = inner.iter().map(|&dim| usize::try_from(dim).unwrap_or(rest));
    Ok(std::iter::once(rows).chain(inner).collect())
}

fn push(data: &mut Vec<u8>, dtype: DataType, feature: &Feature) -> Result<()> {
    match (dtype, feature) {
        (DataType::Bytes, Feature::Strings(strings)) => {
            data.extend(engine::strings_to_wire(strings.iter().map(|string| &**string)));
            Ok(())
        }
        (DataType::F32 | DataType::F64 | DataType::F16 | DataType::Bf16, Feature::Floats(values)) => {
            values.iter().for_each(|&value| push_float(data, dtype, f64::from(value)));
            Ok(())
        }
        (DataType::F32 | DataType::F64 | DataType::F16 | DataType::Bf16, Feature::Integers(values)) => {
            #[allow(clippy::cast_precision_loss, reason = "numbers written without a point stand for floats here")]
            values.iter().for_each(|&value| push_float(data, dtype, value as f64));
            Ok(())
        }
        (_, Feature::Integers(values)) if dtype != DataType::Bytes => {
            values.iter().try_for_each(|&value| push_integer(data, dtype, value))
        }
        (_, feature) => {
            let held = match feature {
                Feature::Strings(_) => "strings",
                Feature::Floats(_) => "floats",
                Feature::Integers(_) => "integers",
            };
            Err(Error::invalid(format!("it holds {held}, but the model's input is {dtype}")))
        }
    }
}

fn push_float(data: &mut Vec<u8>, dtype: DataType, value: f64) {
    match dtype {
        DataType::F64 => data.extend(value.to_le_bytes()),
        DataType::F16 => data.extend(f16::from_f64(value).to_le_bytes()),
        DataType::Bf16 => data.extend(bf16::from_f64(value).to_le_bytes()),
        #[allow(clippy::cast_possible_truncation, reason = "rounded to the width of the tensor")]
        _ => data.extend((value as f32).to_le_bytes()),
    }
}

fn push_integer(data: &mut Vec<u8>, dtype: DataType, value: i64) -> Result<()> {
    fn fit<T: TryFrom<i64>, const N: usize>(value: i64, bytes: fn(T) -> [u8; N]) -> Option<Vec<u8>> {
        T::try_from(value).ok().map(|value| bytes(value).to_vec())
    }
    let bytes = match dtype {
        DataType::Bool => (value == 0 || value == 1).then(|| vec![u8::from(value == 1)]),
        DataType::U8 => fit(value, u8::to_le_bytes),
        DataType::U16 => fit(value, u16::to_le_bytes),
        DataType::U32 => fit(value, u32::to_le_bytes),
        DataType::U64 => fit(value, u64::to_le_bytes),
        DataType::I8 => fit(value, i8::to_le_bytes),
        DataType::I16 => fit(value, i16::to_le_bytes),
        DataType::I32 => fit(value, i32::to_le_bytes),
        DataType::I64 => fit(value, i64::to_le_bytes),
        DataType::F16 | DataType::Bf16 | DataType::F32 | DataType::F64 | DataType::Bytes => None,
    };
    data.extend(bytes.ok_or_else(|| Error::invalid(format!("it holds {value}, which {dtype} cannot hold")))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, dtype: DataType, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec(), any_rank: false }
    }

    #[track_caller]
    fn check(spec: TensorSpec, rows: &[Feature], want: std::result::Result<(&[usize], &[u8]), &str>) {
        let signature = Signature { inputs: vec![spec], outputs: Vec::new() };
        let examples: Vec<Example> = rows.iter().map(|row| Example::from([("x".to_owned(), row.clone())])).collect();
        match (tensors(&signature, &examples), want) {
            (Ok(got), Ok((shape, data))) => {
                assert_eq!((got[0].1.shape(), &got[0].1.data()[..]), (shape, data));
            }
            (Err(error), Err(says)) => assert!(error.message.contains(says), "'{error}' does not say '{says}'"),
            (got, want) => panic!("got {got:?}, want {want:?}"),
        }
    }

    #[test]
    fn features_fill_rows() {
        use Feature::{Floats, Integers, Strings};
        let ints = |values: &[i64]| Integers(values.to_vec());
        let two = [ints(&[1, 2]), ints(&[3, 4])];
        check(spec("x:0", DataType::U8, &[-1, 2]), &two, Ok((&[2, 2], &[1, 2, 3, 4])));
        check(spec("x", DataType::U8, &[-1, 1, -1]), &two, Ok((&[2, 1, 2], &[1, 2, 3, 4])));
        check(spec("x", DataType::I16, &[-1]), &[ints(&[-1])], Ok((&[1], &[255, 255])));
        check(spec("x", DataType::F32, &[-1, 1]), &[ints(&[2])], Ok((&[1, 1], &2f32.to_le_bytes())));
        check(spec("x", DataType::F16, &[-1]), &[Floats(vec![1.5])], Ok((&[1], &[0, 0x3e])));
        let string = Strings(vec![Bytes::from_static(b"a")]);
        check(spec("x", DataType::Bytes, &[-1, 1]), std::slice::from_ref(&string), Ok((&[1, 1], b"\x01\0\0\0a")));
        for (spec, rows, says) in [
            (spec("y", DataType::U8, &[-1]), &two[..], "example 0 has no feature 'y'"),
            (spec("x", DataType::U8, &[-1]), &two, "2 values an example do not make up the shape [-1]"),
            (spec("x", DataType::U8, &[]), &two, "do not make up"),
            (spec("x", DataType::U8, &[-1, -1, -1]), &two, "do not make up"),
            (spec("x", DataType::U8, &[-1, 1]), &[ints(&[256])], "it holds 256, which UINT8 cannot hold"),
            (spec("x", DataType::Bool, &[-1, 1]), &[ints(&[2])], "it holds 2"),
            (spec("x", DataType::U8, &[-1, 1]), &[Floats(vec![1.0])], "it holds floats"),
            (spec("x", DataType::F32, &[-1, 1]), &[string], "it holds strings"),
            (spec("x", DataType::U8, &[-1, -1]), &[ints(&[1]), ints(&[])], "example 1 has 0 values where example 0"),
            (spec("x", DataType::U8, &[-1]), &[], "no examples"),
        ] {
            check(spec, rows, Err(says));
        }
    }

    #[test]
    fn an_example_keeps_its_own_over_the_context() {
        let feature = |value| Feature::Integers(vec![value]);
        let mut examples = [Example::from([("a".to_owned(), feature(1))]), Example::new()];
        merge(&mut examples, &Example::from([("a".to_owned(), feature(2))]));
        assert_eq!((&examples[0]["a"], &examples[1]["a"]), (&feature(1), &feature(2)));
    }
}
