//! Padding: how items of different lengths go into one batch. Nothing in a graph says that it can be done; packing tries
//! it.

use engine::{DataType, Session, Signature, Tensor, TensorSpec, Weights};
use serde::{Deserialize, Serialize};

use crate::onnx::probe;
use crate::task::Text;

/// The dimension that varies with the length of a text: the one after the batch.
pub const AXIS: usize = 1;
/// Lengths that are tried.
const LENGTHS: (usize, usize) = (3, 8);

/// How items of different lengths go into one batch: every input is filled up to the longest item, and outputs are cut
/// back, both along [`AXIS`]. Answers are those of the item alone but for the order of additions, about 1e-6 of their size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Padding {
    /// By input, in graph order: what it is filled up with. All of them are INT64 or INT32.
    pub fill: Vec<i64>,
    /// The input that says which places count, by 1 and 0.
    pub mask: usize,
    /// By output, in graph order: whether it has that dimension and is cut back along it.
    pub cut: Vec<bool>,
}

/// The padding of a model that reads `text`, when `session` was seen to answer the same with it as without.
///
/// `signature` has the names that `text` goes by; a program's own are others.
pub(crate) fn seen(
    session: &dyn Session,
    weights: &dyn Weights,
    signature: &Signature,
    text: &Text,
) -> Option<Padding> {
    let inputs = inputs(text, signature)?;
    let outputs: Vec<usize> = (0..signature.outputs.len()).collect();
    tried(&inputs, |tensors| session.run(weights, &tensors, &outputs).ok())
}

/// What an input takes, and is filled up with.
struct Filled {
    dtype: DataType,
    fill: i64,
    /// Whether it takes token ids, and not ones for a mask or zeros for types.
    ids: bool,
    mask: bool,
}

/// The inputs in graph order; `None` when the model has others than these, or cannot tell what only fills a row up.
fn inputs(text: &Text, signature: &Signature) -> Option<Vec<Filled>> {
    text.mask.as_deref()?;
    let of = |spec: &TensorSpec| {
        let name = Some(spec.name.as_str());
        let (ids, mask) = (name == Some(text.ids.as_str()), name == text.mask.as_deref());
        let known = ids || mask || name == text.types.as_deref();
        let varies = spec.shape == [-1, -1] && !spec.any_rank && matches!(spec.dtype, DataType::I64 | DataType::I32);
        let fill = if ids { text.pad } else { 0 };
        (known && varies).then_some(Filled { dtype: spec.dtype, fill, ids, mask })
    };
    signature.inputs.iter().map(of).collect()
}

/// The padding with which `run` answers the same as without.
fn tried(inputs: &[Filled], mut run: impl FnMut(Vec<Tensor>) -> Option<Vec<Tensor>>) -> Option<Padding> {
    let (short, long) = LENGTHS;
    let alone = run(rows(inputs, &[short])?)?;
    let longer = run(rows(inputs, &[long])?)?;
    let together = run(rows(inputs, &[short, long])?)?;
    let has_axis = |(alone, longer): (&Tensor, &Tensor)| match (alone.shape().get(AXIS), longer.shape().get(AXIS)) {
        (Some(&a), Some(&b)) if (a, b) == (short, long) => Some(true),
        _ if alone.shape() == longer.shape() => Some(false),
        _ => None,
    };
    if alone.iter().any(|output| output.dtype().size_bytes().is_none()) {
        return None;
    }
    let cut: Vec<bool> = alone.iter().zip(&longer).map(has_axis).collect::<Option<_>>()?;
    for (index, &cut) in cut.iter().enumerate() {
        let part = |item, length| part(&together[index], item, cut.then_some(length));
        if !probe::close(&alone[index], &part(0, short)?) || !probe::close(&longer[index], &part(1, long)?) {
            return None;
        }
    }
    let mask = inputs.iter().position(|input| input.mask)?;
    Some(Padding { fill: inputs.iter().map(|input| input.fill).collect(), mask, cut })
}

/// Made-up texts of `lengths`, filled up to the longest. The first tokens of two differ.
fn rows(inputs: &[Filled], lengths: &[usize]) -> Option<Vec<Tensor>> {
    let longest = lengths.iter().copied().max()?;
    let tensor = |input: &Filled| {
        let mut data = Vec::new();
        for &length in lengths {
            for at in 0..longest {
                // Ids so small are in every vocabulary; the one that fills up is not among them.
                let token = [0, 1, 2, 3][(at + length) % 4];
                let token = if token >= input.fill { token + 1 } else { token };
                let value = match at < length {
                    false => input.fill,
                    true if input.ids => token,
                    true => i64::from(input.mask),
                };
                match input.dtype {
                    DataType::I32 => data.extend((value as i32).to_le_bytes()),
                    _ => data.extend(value.to_le_bytes()),
                }
            }
        }
        Tensor::new(input.dtype, vec![lengths.len(), longest], data.into()).ok()
    };
    inputs.iter().map(tensor).collect()
}

/// Item `item` of a batch of two, cut back to `length` where that is given.
fn part(batch: &Tensor, item: usize, length: Option<usize>) -> Option<Tensor> {
    let [2, inner @ ..] = batch.shape() else { return None };
    let bytes = batch.data().len() / 2;
    let mut shape = [&[1], inner].concat();
    let mut data = batch.data().slice(item * bytes..(item + 1) * bytes);
    if let Some(length) = length {
        let whole = shape[AXIS];
        data = data.slice(..data.len() / whole * length);
        shape[AXIS] = length;
    }
    Tensor::new(batch.dtype(), shape, data).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> Vec<Filled> {
        let input = |fill, ids, mask| Filled { dtype: DataType::I64, fill, ids, mask };
        vec![input(0, true, false), input(0, false, true)]
    }

    /// The values of `tensor`, row by row.
    fn values(tensor: &Tensor) -> Vec<Vec<i64>> {
        let values: Vec<i64> = tensor.data().as_chunks().0.iter().map(|word| i64::from_le_bytes(*word)).collect();
        values.chunks(tensor.shape()[1]).map(<[i64]>::to_vec).collect()
    }

    #[test]
    fn only_models_that_do_not_look_at_what_fills_up_are_padded() {
        let sums = |weigh: fn(i64, i64) -> f32| {
            move |inputs: Vec<Tensor>| {
                let (ids, mask) = (values(&inputs[0]), values(&inputs[1]));
                let sum = |(ids, mask): (&Vec<i64>, &Vec<i64>)| {
                    ids.iter().zip(mask).map(|(&id, &mask)| weigh(id, mask)).sum()
                };
                let pooled: Vec<f32> = ids.iter().zip(&mask).map(sum).collect();
                let each: Vec<f32> = ids.iter().flatten().map(|&id| id as f32).collect();
                let (rows, length) = (ids.len(), ids[0].len());
                Some(vec![
                    Tensor::from_f32(vec![rows, 1], pooled).unwrap(),
                    Tensor::from_f32(vec![rows, length], each).unwrap(),
                ])
            }
        };
        let want = Padding { fill: vec![0, 0], mask: 1, cut: vec![false, true] };
        assert_eq!(tried(&filled(), sums(|id, mask| (id * mask) as f32)), Some(want));
        assert_eq!(tried(&filled(), sums(|id, _| (id + 1) as f32)), None, "a sum over what fills up");
        assert_eq!(tried(&filled(), |_| None), None, "a batch that is refused");
    }
}
