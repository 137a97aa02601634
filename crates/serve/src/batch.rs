//! Batches: how many requests go together, and how their tensors are split.

use engine::{Error, Result, Tensor, strings_from_wire};

use crate::costs::Costs;
use crate::wake::WAKE_COST;

/// How many of `waiting` items one lane takes when `idle` lanes, itself among them, could: work is shared before it is
/// batched, for a lane that does nothing helps nobody, unless it is over before another lane could be there. Asks for the
/// size past which a batch saves nothing when there is one to be made.
pub(crate) fn take(waiting: u64, idle: u64, costs: &Costs, worthwhile_size: impl FnOnce() -> u64) -> u64 {
    let brief = costs.curve().reckoned(waiting) < WAKE_COST;
    let share = if brief { waiting } else { waiting.div_ceil(idle.max(1)) };
    if share <= 1 { 1 } else { share.min(worthwhile_size()).max(1) }
}

/// Splits an output of a batch into parts of `items` each; the parts share its bytes.
///
/// # Errors
/// [`Internal`](engine::ErrorKind::Internal) when the first dimension is not the sum of `items`: the model does not
/// keep its items apart after all.
pub(crate) fn split(whole: &Tensor, items: &[usize]) -> Result<Vec<Tensor>> {
    let total: usize = items.iter().sum();
    if whole.shape().first() != Some(&total) {
        return Err(Error::internal(format!("a batch of {total} items gave an output of shape {:?}", whole.shape())));
    }
    let ends = ends(whole, items, total)?;
    let mut start = 0;
    items
        .iter()
        .zip(ends)
        .map(|(&count, end)| {
            let mut shape = whole.shape().to_vec();
            shape[0] = count;
            let data = whole.data().slice(start..end);
            start = end;
            Tensor::new(whole.dtype(), shape, data)
        })
        .collect()
}

/// Where each part ends, in bytes.
fn ends(whole: &Tensor, items: &[usize], total: usize) -> Result<Vec<usize>> {
    let mut end = 0;
    if whole.dtype().size_bytes().is_some() {
        let item_bytes = whole.data().len() / total.max(1);
        return Ok(items.iter().map(|count| (end += count * item_bytes, end).1).collect());
    }
    let strings_of_item = whole.len() / total.max(1);
    let mut lengths = strings_from_wire(whole.data())?.map(|string| size_of::<u32>() + string.len());
    Ok(items
        .iter()
        .map(|count| {
            end += lengths.by_ref().take(count * strings_of_item).sum::<usize>();
            end
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use engine::{DataType, strings_to_wire};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn work_is_shared_among_idle_lanes_before_it_is_batched() {
        let costs = Costs::default();
        for items in [1, 2, 4, 8, 16] {
            costs.learn(items, Duration::from_micros(100));
        }
        for (waiting, idle, max, want) in
            [(1, 2, 32, 1), (2, 2, 32, 1), (4, 2, 32, 2), (100, 1, 16, 16), (100, 1, 1, 1), (3, 8, 32, 1)]
        {
            assert_eq!(
                take(waiting, idle, &costs, || costs.worthwhile_size(max)),
                want,
                "{waiting} waiting, {idle} idle, at most {max}"
            );
        }
        let brief = Costs::default();
        for items in [1, 2, 4, 8, 16] {
            brief.learn(items, Duration::from_micros(2 + items));
        }
        for (waiting, idle, want) in [(1, 2, 1), (2, 2, 2), (8, 4, 8), (64, 2, 16)] {
            assert_eq!(
                take(waiting, idle, &brief, || brief.worthwhile_size(16)),
                want,
                "{waiting} brief ones waiting, {idle} idle"
            );
        }
    }

    fn tensor(dtype: DataType, items: usize, seed: u8) -> Tensor {
        let data: Vec<u8> = match dtype.size_bytes() {
            Some(size) => (0..items * 3 * size).map(|index| (index as u8).wrapping_mul(seed) & 1).collect(),
            None => {
                let strings: Vec<Vec<u8>> = (0..items * 3).map(|index| vec![seed; index % 5]).collect();
                strings_to_wire(strings.iter().map(Vec::as_slice))
            }
        };
        Tensor::new(dtype, vec![items, 3], data.into()).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_joined_comes_apart_again(
            items in proptest::collection::vec(0usize..5, 1..6),
            dtype in proptest::sample::select(DataType::ALL.to_vec()),
        ) {
            let parts: Vec<Tensor> =
                items.iter().zip(1u8..).map(|(&items, seed)| tensor(dtype, items, seed)).collect();
            let whole = Tensor::joined(&parts.iter().collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(whole.shape()[0], items.iter().sum::<usize>());
            prop_assert_eq!(split(&whole, &items).unwrap(), parts);
        }
    }

    #[test]
    fn an_output_that_lost_its_items_is_an_error() {
        let whole = tensor(DataType::F32, 4, 1);
        assert!(split(&whole, &[2, 3]).is_err());
        assert!(Tensor::joined(&[]).is_err());
    }
}
