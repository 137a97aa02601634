//! The inputs that two forms of a model are compared on.

use std::collections::HashMap;
use std::path::Path;

use engine::{DataType, Error, Result, Signature, Tensor, TensorSpec};
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::Value;

use crate::atomic::io_error;
use crate::onnx::probe;

/// By input: how many rows the table has in which it is looked up.
pub(crate) type Vocabularies = HashMap<String, i64>;

/// Inputs in the order of a signature, one list a run.
pub(crate) struct Samples {
    /// Where they came from, for a person.
    pub(crate) origin: String,
    pub(crate) runs: Vec<Vec<Tensor>>,
}

/// More runs say nothing new.
const RUNS_MAX: usize = 256;
/// No file of samples is larger.
const FILE_BYTES_MAX: u64 = 1 << 30;
/// Sizes tried for dimensions that vary; a model that takes only what it was made for refuses the others.
const SIZES: [usize; 8] = [8, 16, 32, 64, 128, 224, 256, 320];
/// Made-up runs are as many, over the sizes that a model takes.
const MADE_UP: usize = 8;

impl Samples {
    /// Those in the file at `path`: `.jsonl` with an object a line, an input's name to its numbers in nested lists; or
    /// `.safetensors` with a tensor for each input, all of it one run.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming file, line and input.
    pub(crate) fn read(path: &Path, signature: &Signature) -> Result<Self> {
        let unreadable = |source: std::io::Error| io_error(path, "cannot be read", &source);
        if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
            return Err(Error::invalid(format!("{}: it is too large for samples", path.display())));
        }
        let bytes = std::fs::read(path).map_err(unreadable)?;
        let runs = match path.extension().and_then(|ending| ending.to_str()) {
            Some("jsonl") => lines(&bytes, signature),
            Some("safetensors") => tensors(&bytes, signature).map(|run| vec![run]),
            _ => Err(Error::invalid("samples are read from .jsonl and .safetensors files")),
        };
        let runs = runs.map_err(|error| error.context(path.display()))?;
        if runs.is_empty() || runs.len() > RUNS_MAX {
            return Err(Error::invalid(format!("{}: {} samples are not 1 to {RUNS_MAX}", path.display(), runs.len())));
        }
        Ok(Self { origin: path.display().to_string(), runs })
    }

    /// Made-up ones of several sizes that `takes` accepts. Whole numbers are rows of the table that they are looked up in,
    /// or ones, as in a mask.
    ///
    /// # Errors
    /// [`Unsupported`](engine::ErrorKind::Unsupported) when it accepts none.
    pub(crate) fn made_up(
        signature: &Signature,
        vocabularies: &Vocabularies,
        mut takes: impl FnMut(&[Tensor]) -> bool,
    ) -> Result<Self> {
        let mut runs = Vec::new();
        let mut seed = 1;
        for round in 0..MADE_UP {
            for size in SIZES {
                seed += 1;
                let run = signature.inputs.iter().enumerate().map(|(index, spec)| {
                    let seed = seed * 31 + index as u64;
                    match vocabularies.get(&spec.name) {
                        Some(&rows) => drawn(spec, size, seed, u64::try_from(rows).unwrap_or(1)),
                        None if spec.dtype == DataType::F32 => probe::made_up_tensor(spec, 1, size, seed),
                        None => drawn(spec, size, seed, 0),
                    }
                });
                let run = run.collect::<Result<Vec<_>>>()?;
                if runs.len() < MADE_UP && takes(&run) {
                    runs.push(run);
                }
            }
            if runs.len() == MADE_UP || (round == 0 && runs.is_empty()) {
                break;
            }
        }
        if runs.is_empty() {
            return Err(Error::unsupported("it takes no made-up inputs; give some with --calibration"));
        }
        Ok(Self { origin: "made up".to_owned(), runs })
    }
}

/// A tensor of whole numbers below `below`, or of ones when that is zero.
fn drawn(spec: &TensorSpec, size: usize, seed: u64, below: u64) -> Result<Tensor> {
    let (Some(width), false) = (spec.dtype.size_bytes(), spec.dtype == DataType::Bytes) else {
        return probe::made_up_tensor(spec, 1, size, seed);
    };
    if !matches!(spec.dtype, DataType::I64 | DataType::I32 | DataType::U32 | DataType::U64) {
        return probe::made_up_tensor(spec, 1, size, seed);
    }
    let dim = |(axis, &dim): (usize, &i64)| usize::try_from(dim).unwrap_or(if axis == 0 { 1 } else { size });
    let shape: Vec<usize> = spec.shape.iter().enumerate().map(dim).collect();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        // Xorshift (Marsaglia, 2003): any spread of values will do, as long as it is the same every time.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33).checked_rem(below).unwrap_or(1)
    };
    let count = engine::element_count(&shape)?;
    let bytes: Vec<u8> = (0..count).flat_map(|_| next().to_le_bytes().into_iter().take(width)).collect();
    Tensor::new(spec.dtype, shape, bytes.into())
}

fn lines(bytes: &[u8], signature: &Signature) -> Result<Vec<Vec<Tensor>>> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::invalid("it is no text"))?;
    let mut runs = Vec::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let run = || {
            let value: Value = serde_json::from_str(line).map_err(|error| Error::invalid(error.to_string()))?;
            signature.inputs.iter().map(|spec| nested(spec, value.get(&spec.name))).collect::<Result<Vec<_>>>()
        };
        runs.push(run().map_err(|error| error.context(format!("line {}", at + 1)))?);
    }
    Ok(runs)
}

/// The nested lists of numbers in `value` as a tensor for `spec`.
fn nested(spec: &TensorSpec, value: Option<&Value>) -> Result<Tensor> {
    let wrong = |reason: &str| Error::invalid(format!("input '{}': {reason}", spec.name));
    let value = value.ok_or_else(|| wrong("it is missing"))?;
    let (mut shape, mut inner) = (Vec::new(), value);
    while let Value::Array(items) = inner {
        shape.push(items.len());
        let Some(first) = items.first() else { break };
        inner = first;
    }
    let mut bytes = Vec::new();
    flatten(value, &shape, &mut |number| {
        match spec.dtype {
            DataType::F32 => bytes.extend((number.as_f64()? as f32).to_le_bytes()),
            DataType::F64 => bytes.extend(number.as_f64()?.to_le_bytes()),
            DataType::I64 => bytes.extend(number.as_i64()?.to_le_bytes()),
            DataType::I32 => bytes.extend(i32::try_from(number.as_i64()?).ok()?.to_le_bytes()),
            DataType::U8 => bytes.push(u8::try_from(number.as_u64()?).ok()?),
            DataType::Bool => bytes.push(number.as_bool()?.into()),
            _ => return None,
        }
        Some(())
    })
    .ok_or_else(|| wrong(&format!("it holds something else than {} numbers in even lists", spec.dtype)))?;
    Tensor::new(spec.dtype, shape, bytes.into()).map_err(|error| wrong(&error.message))
}

/// Calls `put` with every number of `value`, whose lists have the lengths in `shape`.
fn flatten(value: &Value, shape: &[usize], put: &mut dyn FnMut(&Value) -> Option<()>) -> Option<()> {
    let Some((&len, inner)) = shape.split_first() else { return put(value) };
    let items = value.as_array().filter(|items| items.len() == len)?;
    items.iter().try_for_each(|item| flatten(item, inner, put))
}

fn tensors(bytes: &[u8], signature: &Signature) -> Result<Vec<Tensor>> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| Error::invalid(error.to_string()))?;
    let of = |spec: &TensorSpec| {
        let view = file.tensor(&spec.name);
        let view = view.map_err(|_| Error::invalid(format!("input '{}' is missing", spec.name)))?;
        let dtype = match view.dtype() {
            Dtype::F32 => DataType::F32,
            Dtype::F64 => DataType::F64,
            Dtype::I64 => DataType::I64,
            Dtype::I32 => DataType::I32,
            Dtype::U8 => DataType::U8,
            Dtype::BOOL => DataType::Bool,
            Dtype::F16 => DataType::F16,
            Dtype::BF16 => DataType::Bf16,
            other => return Err(Error::unsupported(format!("input '{}' is of type {other:?}", spec.name))),
        };
        if dtype != spec.dtype {
            return Err(Error::invalid(format!(
                "input '{}' is {dtype}, and the model takes {}",
                spec.name, spec.dtype
            )));
        }
        Tensor::new(dtype, view.shape().to_vec(), view.data().to_vec().into())
    };
    signature.inputs.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> Signature {
        let spec =
            |name: &str, dtype| TensorSpec { name: name.to_owned(), dtype, shape: vec![-1, -1], any_rank: false };
        Signature { inputs: vec![spec("ids", DataType::I64), spec("x", DataType::F32)], outputs: Vec::new() }
    }

    #[test]
    fn samples_are_read_or_refused_by_line_and_input() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.jsonl");
        let good = r#"{"ids": [[1, 2, 3]], "x": [[0.5], [1]]}"#;
        for (text, says) in [
            (format!("{good}\n\n{good}\n"), None),
            (String::new(), Some("0 samples")),
            (format!("{good}\n{{"), Some("line 2")),
            (r#"{"ids": [[1]]}"#.to_owned(), Some("'x': it is missing")),
            (r#"{"ids": [[1, 2], [3]], "x": [[1]]}"#.to_owned(), Some("'ids'")),
            (r#"{"ids": [["a"]], "x": [[1]]}"#.to_owned(), Some("'ids'")),
        ] {
            std::fs::write(&path, &text).unwrap();
            match (Samples::read(&path, &signature()), says) {
                (Ok(samples), None) => {
                    assert_eq!(samples.runs.len(), 2);
                    assert_eq!(samples.runs[0][0].shape(), [1, 3]);
                    assert_eq!(samples.runs[0][1].as_f32().unwrap(), [0.5, 1.0]);
                }
                (Err(error), Some(says)) => assert!(error.message.contains(says), "{text}: {error}"),
                (got, _) => panic!("{text}: {:?}", got.map(|samples| samples.runs)),
            }
        }
        let other = folder.path().join("s.npz");
        std::fs::write(&other, "").unwrap();
        assert!(Samples::read(&other, &signature()).is_err());
    }

    #[test]
    fn made_up_ids_are_rows_of_their_table() {
        let vocabularies = Vocabularies::from([("ids".to_owned(), 5)]);
        let samples = Samples::made_up(&signature(), &vocabularies, |run| run[0].shape()[1] <= 32).unwrap();
        assert_eq!(samples.runs.len(), MADE_UP);
        let ids = samples.runs.iter().flat_map(|run| run[0].data().chunks(8));
        let ids: Vec<i64> = ids.map(|id| i64::from_le_bytes(id.try_into().unwrap())).collect();
        assert!(ids.iter().all(|id| (0..5).contains(id)) && (0..5).all(|id| ids.contains(&id)));
        assert!(Samples::made_up(&signature(), &vocabularies, |_| false).is_err());
    }
}
