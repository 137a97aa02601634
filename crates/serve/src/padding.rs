//! Requests of different lengths in one run: their inputs are filled up to the longest, their outputs cut back.

use bytes::Bytes;
use engine::{DataType, Error, Result, Tensor};
use store::padding::{AXIS, Padding};

use crate::job::Job;

/// The tokens of each item of a request with these inputs, when it may be filled up: all inputs are `[items, tokens]`, and
/// each item has a token that counts. Where none does, a model looks at all alike, what fills up among them.
pub(crate) fn length(padding: &Padding, inputs: &[Tensor]) -> Option<usize> {
    let mask = inputs.get(padding.mask)?;
    let &[items, length] = mask.shape() else { return None };
    let alike = inputs.len() == padding.fill.len() && inputs.iter().all(|input| input.shape() == mask.shape());
    if !alike || items == 0 || length == 0 {
        return None;
    }
    let bytes = mask.dtype().size_bytes()? * length;
    let counts = |row: &[u8]| {
        let values = match mask.dtype() {
            DataType::I64 => row.as_chunks().0.iter().map(|value| i64::from_le_bytes(*value)).collect::<Vec<_>>(),
            DataType::I32 => row.as_chunks().0.iter().map(|value| i32::from_le_bytes(*value).into()).collect(),
            _ => return false,
        };
        values.contains(&1) && values.iter().all(|value| matches!(value, 0 | 1))
    };
    mask.data().chunks(bytes).all(counts).then_some(length)
}

/// How the requests of one run are filled up.
pub(crate) struct Filled<'a> {
    padding: &'a Padding,
    /// By request.
    lengths: Vec<usize>,
    longest: usize,
}

impl<'a> Filled<'a> {
    /// `None` when `jobs` are of one length, and go together as they are.
    pub(crate) fn of(padding: Option<&'a Padding>, jobs: &[Job]) -> Option<Self> {
        let lengths: Vec<usize> = jobs.iter().map(|job| job.length).collect::<Option<_>>()?;
        let longest = lengths.iter().copied().max()?;
        let padding = padding.filter(|_| lengths.iter().any(|&length| length < longest))?;
        Some(Self { padding, lengths, longest })
    }

    /// The input `index` of all requests, one after the other: `[items, longest]`.
    pub(crate) fn join(&self, index: usize, parts: &[&Tensor]) -> Result<Tensor> {
        let [first, ..] = parts else { return Err(Error::internal("a batch of nothing")) };
        let fill = self.padding.fill.get(index).copied().unwrap_or_default();
        let fill = match first.dtype() {
            DataType::I32 => i32::try_from(fill).unwrap_or_default().to_le_bytes().to_vec(),
            _ => fill.to_le_bytes().to_vec(),
        };
        let items: usize = parts.iter().map(|part| part.shape()[0]).sum();
        let mut data = Vec::with_capacity(items * self.longest * fill.len());
        for (part, &length) in parts.iter().zip(&self.lengths) {
            for row in part.data().chunks(length * fill.len()) {
                data.extend_from_slice(row);
                (length..self.longest).for_each(|_| data.extend_from_slice(&fill));
            }
        }
        Tensor::new(first.dtype(), vec![items, self.longest], Bytes::from(data))
    }

    /// Output `index` of each request, without what came of filling up.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) when it is not as long as its request was: what was seen of the model when
    /// it was packed does not hold.
    pub(crate) fn cut(&self, index: usize, parts: Vec<Tensor>) -> Result<Vec<Tensor>> {
        if self.padding.cut.get(index) != Some(&true) {
            return Ok(parts);
        }
        parts.into_iter().zip(&self.lengths).map(|(part, &length)| self.cut_back(part, length)).collect()
    }

    fn cut_back(&self, part: Tensor, length: usize) -> Result<Tensor> {
        if part.shape().get(AXIS) != Some(&self.longest) {
            let what = format!("{} tokens gave an output of shape {:?}", self.longest, part.shape());
            return Err(Error::internal(what));
        }
        if length == self.longest {
            return Ok(part);
        }
        let mut shape = part.shape().to_vec();
        shape[AXIS] = length;
        let row_bytes = part.data().len() / shape[0].max(1);
        let kept_bytes = row_bytes / self.longest * length;
        let data = match shape[0] {
            1 => part.data().slice(..kept_bytes),
            _ => part.data().chunks(row_bytes.max(1)).flat_map(|row| &row[..kept_bytes]).copied().collect(),
        };
        Tensor::new(part.dtype(), shape, data)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn padding() -> Padding {
        Padding { fill: vec![7, 0], mask: 1, cut: vec![true, false] }
    }

    fn ints(items: usize, values: &[i64]) -> Tensor {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor::new(DataType::I64, vec![items, values.len() / items.max(1)], bytes.into()).unwrap()
    }

    #[test]
    fn only_items_with_something_that_counts_are_filled_up() {
        let same = |ids: Tensor, mask: Tensor| length(&padding(), &[ids, mask]);
        assert_eq!(same(ints(2, &[5, 6, 5, 6]), ints(2, &[1, 0, 0, 1])), Some(2));
        for (what, ids, mask) in [
            ("nothing counts in the second", ints(2, &[5; 4]), ints(2, &[1, 1, 0, 0])),
            ("a mask that is none", ints(1, &[5, 6]), ints(1, &[1, 2])),
            ("inputs of two lengths", ints(1, &[5, 6, 7]), ints(1, &[1, 1])),
            ("no items", ints(0, &[]), ints(0, &[])),
            ("one dimension", Tensor::new(DataType::I64, vec![1], vec![0; 8].into()).unwrap(), ints(1, &[1])),
        ] {
            assert_eq!(same(ids, mask), None, "{what}");
        }
    }

    proptest! {
        #[test]
        fn what_is_filled_up_is_cut_back(
            jobs in prop::collection::vec((1usize..4, 1usize..9), 2..6),
            inner in 1usize..3,
        ) {
            let padding = padding();
            let lengths: Vec<usize> = jobs.iter().map(|job| job.1).collect();
            let longest = lengths.iter().copied().max().unwrap();
            let filled = Filled { padding: &padding, lengths, longest };
            let items: Vec<usize> = jobs.iter().map(|job| job.0).collect();
            let input = |(&(items, length), seed): (&(usize, usize), i64)| {
                ints(items, &(0..items * length).map(|at| seed * 1000 + i64::try_from(at).unwrap()).collect::<Vec<_>>())
            };
            let inputs: Vec<Tensor> = jobs.iter().zip(10..).map(input).collect();
            let joined = filled.join(0, &inputs.iter().collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(joined.shape(), [items.iter().sum::<usize>(), longest]);
            let sevens = joined.data().as_chunks().0.iter().filter(|value| i64::from_le_bytes(**value) == 7).count();
            let given: usize = jobs.iter().map(|(items, length)| items * length).sum();
            prop_assert_eq!(sevens, joined.len() - given);
            let back = filled.cut(0, crate::batch::split(&joined, &items).unwrap()).unwrap();
            prop_assert_eq!(&back, &inputs);
            // Vectors of `inner` numbers a token.
            let wide = |tensor: &Tensor, length| {
                let data: Vec<u8> = tensor.data().chunks(8).flat_map(|value| value.repeat(inner)).collect();
                Tensor::new(DataType::I64, vec![tensor.shape()[0], length, inner], data.into()).unwrap()
            };
            let back = filled.cut(0, crate::batch::split(&wide(&joined, longest), &items).unwrap()).unwrap();
            let want: Vec<Tensor> = inputs.iter().zip(&jobs).map(|(input, job)| wide(input, job.1)).collect();
            prop_assert_eq!(back, want);
        }
    }

    #[test]
    fn an_output_of_another_length_is_an_error() {
        let padding = padding();
        let filled = Filled { padding: &padding, lengths: vec![2, 3], longest: 3 };
        assert!(filled.cut(0, vec![ints(1, &[1, 2]), ints(1, &[1, 2])]).is_err());
        assert_eq!(filled.cut(1, vec![ints(1, &[1])]).unwrap(), [ints(1, &[1])]);
    }
}
