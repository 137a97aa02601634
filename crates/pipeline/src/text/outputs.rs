//! Outputs as numbers, checked against what the task promises.

use std::borrow::Cow;

use engine::{Error, Result, Tensor};

/// What an output of one item holds.
pub(super) struct Values<'a> {
    /// Without the batch.
    pub(super) shape: &'a [usize],
    pub(super) values: Cow<'a, [f32]>,
}

/// The single-precision values of `output`, which is called `name` and is of one item and `rank` dimensions besides.
///
/// # Errors
/// [`Internal`](engine::ErrorKind::Internal) when it is not that.
pub(super) fn values<'a>(output: &'a Tensor, name: &str, rank: usize) -> Result<Values<'a>> {
    let shape = output.shape();
    let values = output.as_f32().map(Cow::Borrowed).or_else(|| {
        // Bytes that were cut out of a batch may lie anywhere.
        let (words, _) = output.data().as_chunks::<4>();
        (output.dtype() == engine::DataType::F32).then(|| words.iter().map(|word| f32::from_le_bytes(*word)).collect())
    });
    match (values, shape) {
        (Some(values), [1, rest @ ..]) if rest.len() == rank => Ok(Values { shape: rest, values }),
        _ => Err(Error::internal(format!(
            "output '{name}' is {} {shape:?}, where the model's task promises FP32 of one item and {rank} dimensions more",
            output.dtype()
        ))),
    }
}

/// The one output, or the outputs, of the only row.
pub(super) fn only_row(rows: Vec<Vec<Tensor>>) -> Result<Vec<Tensor>> {
    let mut rows = rows.into_iter();
    rows.next().filter(|_| rows.next().is_none()).ok_or_else(|| Error::internal("one row has one answer"))
}

/// `scores` as shares of one.
pub(super) fn softmax(scores: &[f32]) -> Vec<f32> {
    let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

/// The indices of the `count` largest of `scores`, largest first; of equal ones the first goes first.
pub(super) fn largest(scores: &[f32], count: usize) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..scores.len()).collect();
    let order = |a: &usize, b: &usize| scores[*b].total_cmp(&scores[*a]).then(a.cmp(b));
    let count = count.min(indices.len());
    if count < indices.len() {
        indices.select_nth_unstable_by(count, order);
        indices.truncate(count);
    }
    indices.sort_unstable_by(order);
    indices
}

#[cfg(test)]
mod tests {
    use engine::DataType;

    use super::*;

    #[test]
    fn outputs_are_what_the_task_promises_or_refused() {
        let tensor = Tensor::from_f32(vec![1, 2], vec![0.5, -1.0]).unwrap();
        let got = values(&tensor, "y", 1).unwrap();
        assert_eq!((got.shape, &got.values[..]), (&[2][..], &[0.5, -1.0][..]));
        let odd = bytes::Bytes::from([&[0][..], &0.5f32.to_le_bytes()].concat()).slice(1..);
        assert_eq!(values(&Tensor::new(DataType::F32, vec![1], odd).unwrap(), "y", 0).unwrap().values[0], 0.5);
        for (tensor, rank) in [
            (tensor.clone(), 0),
            (Tensor::from_f32(vec![2, 1], vec![0.0; 2]).unwrap(), 1),
            (Tensor::new(DataType::U8, vec![1, 1], vec![0].into()).unwrap(), 1),
        ] {
            let error = values(&tensor, "y", rank).err().unwrap();
            assert!(error.message.contains("output 'y'"), "{error}");
        }
    }

    #[test]
    fn the_largest_come_first_and_equals_in_order() {
        assert_eq!(largest(&[0.1, 0.9, 0.9, f32::NEG_INFINITY], 3), [1, 2, 0]);
        assert_eq!(largest(&[0.1], 5), [0]);
        assert_eq!(largest(&[], 5), [0usize; 0]);
        let shares = softmax(&[1000.0, 1000.0]);
        assert_eq!(shares, [0.5, 0.5]);
    }
}
