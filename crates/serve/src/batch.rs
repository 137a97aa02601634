//! Batches: how many requests go together, learnt from what runs cost, and how their tensors are joined and split.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use engine::{Error, Result, Tensor, strings_from_wire};

use crate::wake::WAKE_COST;

/// Sizes are learnt by powers of two: 1, 2, 4, ... up to 128.
const BUCKETS: usize = 8;
/// A larger batch has to save this share of an item's cost, or it only delays whoever is in it.
const WORTHWHILE: f64 = 0.95;
/// After so many decisions against a size it is tried again: traffic and neighbours change.
const RETRY_AFTER: u32 = 512;
/// Weight of the newest run in the running mean.
const NEWEST: f64 = 0.2;

/// What runs of a model cost, by batch size. Lanes write, the scheduler reads; the lock is held for nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Costs(Mutex<[Bucket; BUCKETS]>);

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Running mean of the time of one item, in seconds; 0 is not known.
    item_s: f64,
    /// Decisions against this size since it was last run.
    declined: u32,
}

impl Costs {
    /// A run of `items` took `time`.
    pub(crate) fn learn(&self, items: u64, time: Duration) {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = &mut buckets[bucket_of(items)];
        let item_s = time.as_secs_f64() / items.max(1) as f64;
        bucket.item_s = if bucket.item_s == 0.0 { item_s } else { bucket.item_s + NEWEST * (item_s - bucket.item_s) };
        bucket.declined = 0;
    }

    /// What a run of `items` is likely to take, by the runs of that size or, where there were none, of the next smaller
    /// one; of what never ran, more than it takes to wake a lane.
    pub(crate) fn reckoned(&self, items: u64) -> Duration {
        let buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = buckets[..=bucket_of(items)].iter().rev().map(|bucket| bucket.item_s).find(|&item_s| item_s > 0.0);
        known.map_or(WAKE_COST * 2, |item_s| Duration::from_secs_f64(item_s * items as f64))
    }

    /// The size, at most `max`, past which a batch saves nothing. A size that is not known yet is tried.
    pub(crate) fn worthwhile_size(&self, max: u64) -> u64 {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut size = 1u64;
        while size * 2 <= max && bucket_of(size * 2) < BUCKETS {
            let known = buckets[bucket_of(size)].item_s;
            let next = &mut buckets[bucket_of(size * 2)];
            if next.item_s > 0.0 && next.item_s > known * WORTHWHILE {
                next.declined += 1;
                if next.declined < RETRY_AFTER {
                    break;
                }
                next.item_s = 0.0;
            }
            let unknown = next.item_s == 0.0;
            size *= 2;
            if unknown {
                break;
            }
        }
        size
    }
}

/// The bucket of the largest power of two that is not above `items`.
fn bucket_of(items: u64) -> usize {
    (items.max(1).ilog2() as usize).min(BUCKETS - 1)
}

/// How many of `waiting` items one lane takes when `idle` lanes, itself among them, could: work is shared before it is
/// batched, for a lane that does nothing helps nobody, unless it is over before another lane could be there.
pub(crate) fn take(waiting: u64, idle: u64, costs: &Costs, batching_max: u64) -> u64 {
    if batching_max <= 1 || waiting <= 1 {
        return 1;
    }
    let brief = costs.reckoned(waiting) < WAKE_COST;
    let share = if brief { waiting } else { waiting.div_ceil(idle.max(1)) };
    if share <= 1 { 1 } else { share.min(costs.worthwhile_size(batching_max)).max(1) }
}

/// Joins the same input of several requests along the first dimension. They agree in everything but that.
pub(crate) fn join(parts: &[&Tensor]) -> Result<Tensor> {
    let [first, ..] = parts else { return Err(Error::internal("a batch of nothing")) };
    let mut shape = first.shape().to_vec();
    let items: usize = parts.iter().map(|part| part.shape().first().copied().unwrap_or(0)).sum();
    match shape.first_mut() {
        Some(dim) => *dim = items,
        None => return Err(Error::internal("a scalar cannot be put into a batch")),
    }
    let mut data = Vec::with_capacity(parts.iter().map(|part| part.data().len()).sum());
    for part in parts {
        data.extend_from_slice(part.data());
    }
    Tensor::new(first.dtype(), shape, Bytes::from(data))
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
    use engine::{DataType, strings_to_wire};
    use proptest::prelude::*;

    use super::*;

    /// What the scheduler settles on for a model whose run of `n` items takes `cost(n)` microseconds.
    fn settled(max: u64, cost: impl Fn(u64) -> u64) -> u64 {
        let costs = Costs::default();
        costs.learn(1, Duration::from_micros(cost(1)));
        for _ in 0..20 {
            let size = costs.worthwhile_size(max);
            costs.learn(size, Duration::from_micros(cost(size)));
        }
        costs.worthwhile_size(max)
    }

    #[test]
    fn batches_grow_as_long_as_an_item_gets_cheaper() {
        for (what, max, got, want) in [
            ("overhead only: the larger the better", 32, settled(32, |items| 100 + items), 32),
            ("no gain at all", 32, settled(32, |items| 100 * items), 1),
            ("dearer together", 32, settled(32, |items| 100 * items + items * items), 1),
            ("gains up to eight", 32, settled(32, |items| if items <= 8 { 100 } else { 20 * items }), 8),
            ("never above the model's own limit", 6, settled(6, |items| 100 + items), 4),
        ] {
            assert_eq!(got, want, "{what} (at most {max})");
        }
    }

    #[test]
    fn a_size_that_was_dear_once_is_tried_again() {
        let costs = Costs::default();
        costs.learn(1, Duration::from_micros(100));
        costs.learn(2, Duration::from_micros(1000));
        assert_eq!(costs.worthwhile_size(8), 1);
        assert!((0..RETRY_AFTER).any(|_| costs.worthwhile_size(8) == 2), "never tried again");
        costs.learn(2, Duration::from_micros(1000));
        assert_eq!(costs.worthwhile_size(8), 1);
    }

    #[test]
    fn work_is_shared_among_idle_lanes_before_it_is_batched() {
        let costs = Costs::default();
        for items in [1, 2, 4, 8, 16] {
            costs.learn(items, Duration::from_micros(100));
        }
        for (waiting, idle, max, want) in [
            (1, 2, 32, 1),
            (2, 2, 32, 1),
            (4, 2, 32, 2),
            (100, 1, 16, 16),
            (100, 1, 1, 1),
            (100, 1, 0, 1),
            (3, 8, 32, 1),
        ] {
            assert_eq!(take(waiting, idle, &costs, max), want, "{waiting} waiting, {idle} idle, at most {max}");
        }
        let brief = Costs::default();
        for items in [1, 2, 4, 8, 16] {
            brief.learn(items, Duration::from_micros(2 + items));
        }
        for (waiting, idle, want) in [(1, 2, 1), (2, 2, 2), (8, 4, 8), (64, 2, 16)] {
            assert_eq!(take(waiting, idle, &brief, 16), want, "{waiting} brief ones waiting, {idle} idle");
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
            let whole = join(&parts.iter().collect::<Vec<_>>()).unwrap();
            prop_assert_eq!(whole.shape()[0], items.iter().sum::<usize>());
            prop_assert_eq!(split(&whole, &items).unwrap(), parts);
        }
    }

    #[test]
    fn an_output_that_lost_its_items_is_an_error() {
        let whole = tensor(DataType::F32, 4, 1);
        assert!(split(&whole, &[2, 3]).is_err());
        assert!(join(&[]).is_err());
    }
}
