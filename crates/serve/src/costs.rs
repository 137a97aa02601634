//! What runs of a model cost, by batch size: learnt by lanes, asked by the scheduler.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::wake::WAKE_COST;

/// Sizes are learnt by powers of two: 1, 2, 4, ... up to 128.
const BUCKETS: usize = 8;
/// A larger batch has to save this share of an item's cost, or it only delays whoever is in it.
const WORTHWHILE: f64 = 0.95;
/// After so many decisions against a size it is tried again: traffic and neighbours change.
const RETRY_AFTER: u32 = 512;
/// Weight of the newest run in the running mean.
const NEWEST: f64 = 0.2;
/// The first runs of a size touch its memory for the first time: of so many the least counts.
const FIRST_RUNS: u32 = 4;
/// What is said to be certain rests on so many runs.
const CERTAIN_RUNS: u32 = 16;
/// A run that takes longer than so many times the mean counts as that: most likely something else had the core.
const OUTLIER: f64 = 4.0;
/// Weight of the newest run in the share of those that took long, and the share up to which the others are relied on.
const NEWEST_LONG: f64 = 0.02;
const LONG_MAX: f64 = 0.05;

/// What runs of a model cost, by batch size. Lanes write, the scheduler reads; the lock is held for nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Costs(Mutex<Curve>);

/// What was learnt up to a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Curve {
    buckets: [Bucket; BUCKETS],
    /// The least time that any run took, in seconds.
    least_s: f64,
    runs: u32,
    /// Running mean of how many runs took longer than waking a lane does.
    long: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Running mean of the time of one item, in seconds; 0 is not known.
    item_s: f64,
    runs: u32,
    /// Decisions against this size since it was last run.
    declined: u32,
}

impl Costs {
    /// A run of `items` took `time`.
    pub(crate) fn learn(&self, items: u64, time: Duration) {
        let curve = &mut *self.lock();
        let time_s = time.as_secs_f64();
        curve.least_s = if curve.runs == 0 { time_s } else { curve.least_s.min(time_s) };
        curve.runs = curve.runs.saturating_add(1);
        curve.long += NEWEST_LONG * (f64::from(u8::from(time >= WAKE_COST)) - curve.long);
        let bucket = &mut curve.buckets[bucket_of(items)];
        let item_s = time_s / items.max(1) as f64;
        bucket.item_s = match bucket.runs {
            _ if bucket.item_s == 0.0 => item_s,
            ..FIRST_RUNS => bucket.item_s.min(item_s),
            _ => bucket.item_s + NEWEST * (item_s.min(OUTLIER * bucket.item_s) - bucket.item_s),
        };
        bucket.runs = bucket.runs.saturating_add(1);
        bucket.declined = 0;
    }

    /// The size, at most `max`, past which a batch saves nothing. A size that is not known yet is tried.
    pub(crate) fn worthwhile_size(&self, max: u64) -> u64 {
        let buckets = &mut self.lock().buckets;
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

    /// What is known now.
    pub(crate) fn curve(&self) -> Curve {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Curve> {
        // Only sums and means change under the lock, so a poisoned one still holds them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Curve {
    /// The expected time of a run of `items`, in seconds; from the nearest size that is known, smaller ones first, and
    /// as if its items cost the same. `None` before the first run.
    pub(crate) fn run_s(&self, items: u64) -> Option<f64> {
        let place = bucket_of(items);
        let (smaller, larger) = self.buckets.split_at(place + 1);
        let known = smaller.iter().rev().chain(larger).find(|bucket| bucket.item_s > 0.0)?;
        Some(known.item_s * items.max(1) as f64)
    }

    /// What a run of `items` is likely to take; of what never ran, more than it takes to wake a lane.
    pub(crate) fn reckoned(&self, items: u64) -> Duration {
        self.run_s(items).map_or(WAKE_COST * 2, Duration::from_secs_f64)
    }

    /// The most items that can be relied on to run in less time than it takes to wake a lane; `None` when not even
    /// `items` can.
    pub(crate) fn brief(&self, items: u64) -> Option<u64> {
        const ITEMS_MAX: u64 = 1 << (BUCKETS - 1);
        if self.runs < CERTAIN_RUNS || self.long > LONG_MAX || self.reckoned(items) >= WAKE_COST {
            return None;
        }
        let doubled = std::iter::successors(Some(items.max(1)), |items| items.checked_mul(2));
        doubled.take_while(|&items| items <= ITEMS_MAX && self.reckoned(items) < WAKE_COST).last().or(Some(items))
    }

    /// As [`Costs::worthwhile_size`], which also counts that it was asked.
    pub(crate) fn worthwhile_size(&self, max: u64) -> u64 {
        Costs(Mutex::new(*self)).worthwhile_size(max)
    }

    /// The time of an item in the best of batches, when it rests on enough runs.
    pub(crate) fn item(&self) -> Option<Duration> {
        let settled = self.buckets.iter().filter(|bucket| bucket.item_s > 0.0 && bucket.runs >= FIRST_RUNS);
        settled.map(|bucket| bucket.item_s).min_by(f64::total_cmp).map(Duration::from_secs_f64)
    }

    /// A time that no run was near to undercut: half of the least that any took; `None` until that rests on enough runs.
    pub(crate) fn never_less(&self) -> Option<Duration> {
        (self.runs >= CERTAIN_RUNS).then(|| Duration::from_secs_f64(self.least_s / 2.0))
    }
}

/// The bucket of the largest power of two that is not above `items`.
fn bucket_of(items: u64) -> usize {
    (items.max(1).ilog2() as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
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
    fn what_a_run_will_cost_is_told_from_the_nearest_size() {
        let costs = Costs::default();
        let run_us = |items| costs.curve().run_s(items).map(|run_s| (run_s * 1e6).round());
        assert_eq!(run_us(1), None);
        costs.learn(4, Duration::from_micros(400));
        assert_eq!((run_us(1), run_us(4), run_us(16)), (Some(100.0), Some(400.0), Some(1600.0)));
        costs.learn(1, Duration::from_micros(250));
        assert_eq!((run_us(1), run_us(2), run_us(5)), (Some(250.0), Some(500.0), Some(500.0)));
    }

    #[test]
    fn what_is_brief_was_so_before_and_nearly_always() {
        let (costs, brief) = (Costs::default(), Duration::from_micros(6));
        for _ in 0..CERTAIN_RUNS {
            assert_eq!(costs.curve().brief(1), None, "too few runs to rely on");
            costs.learn(1, brief);
        }
        assert_eq!((costs.curve().brief(1), costs.curve().brief(3)), (Some(8), Some(6)));
        assert_eq!(costs.curve().brief(16), None, "so many take longer");
        for _ in 0..2 {
            costs.learn(1, Duration::from_millis(5));
        }
        assert!(costs.curve().brief(1).is_some(), "once in a while something else has the core");
        costs.learn(1, Duration::from_millis(5));
        assert_eq!(costs.curve().brief(1), None, "too often");
        for _ in 0..100 {
            costs.learn(1, brief);
        }
        assert_eq!(costs.curve().brief(1), Some(8));
    }

    #[test]
    fn a_slow_first_run_is_forgotten_and_certainty_takes_its_time() {
        let costs = Costs::default();
        costs.learn(1, Duration::from_secs(2));
        for _ in 0..14 {
            assert_eq!(costs.curve().never_less(), None);
            costs.learn(1, Duration::from_millis(10));
        }
        let near =
            |time: Option<Duration>, ms: f64| time.is_some_and(|time| (time.as_secs_f64() * 1e3 - ms).abs() < 1e-6);
        assert!(near(costs.curve().item(), 10.0));
        costs.learn(1, Duration::from_millis(12));
        assert!(near(costs.curve().never_less(), 5.0));
    }
}
