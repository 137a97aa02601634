//! Fair sharing of lanes: start-time fair queueing (Goyal, Vin and Cheng, 1996) over keys that cost what they cost.
//!
//! Pure: it knows no clock and no thread. Each key carries a virtual time that grows with the compute it was given;
//! the key with the least runs next, and one that was idle starts at the present, so that it owes and is owed nothing.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// Which key runs next.
#[derive(Debug, Default)]
pub(crate) struct Fair {
    /// Runnable keys by virtual time; the key breaks ties.
    waiting: BTreeSet<(Duration, u64)>,
    /// Virtual time of each key that is waiting or was charged since it last was idle.
    times: HashMap<u64, Duration>,
    /// The virtual time of whatever ran last.
    present: Duration,
}

impl Fair {
    /// Lets `key` take part; once is enough.
    pub(crate) fn add(&mut self, key: u64) {
        let time = self.times.entry(key).or_insert(self.present);
        *time = (*time).max(self.present);
        self.waiting.insert((*time, key));
    }

    /// The key that runs next; it takes part again after the next [`add`](Self::add).
    pub(crate) fn next(&mut self) -> Option<u64> {
        let (time, key) = self.waiting.pop_first()?;
        self.present = self.present.max(time);
        Some(key)
    }

    /// Charges `key` for `cost` of a lane's time.
    pub(crate) fn charge(&mut self, key: u64, cost: Duration) {
        let time = self.times.entry(key).or_insert(self.present);
        let charged = time.saturating_add(cost);
        if self.waiting.remove(&(*time, key)) {
            self.waiting.insert((charged, key));
        }
        *time = charged;
    }

    /// Nothing waits and nothing runs: nobody is ahead of anybody any more.
    pub(crate) fn rest(&mut self) {
        self.waiting.clear();
        self.times.clear();
        self.present = Duration::ZERO;
    }

    /// Forgets `key`, which has nothing left to run and is not ahead of anybody.
    pub(crate) fn forget_if_idle(&mut self, key: u64) {
        if let Some(&time) = self.times.get(&key)
            && time <= self.present
            && !self.waiting.contains(&(time, key))
        {
            self.times.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `turns` turns over keys that always have work, and counts each key's.
    fn turns(costs_ms: &[u64], turns: usize) -> Vec<usize> {
        let mut fair = Fair::default();
        let mut counts = vec![0; costs_ms.len()];
        for key in 0..costs_ms.len() as u64 {
            fair.add(key);
        }
        for _ in 0..turns {
            let key = fair.next().unwrap();
            counts[usize::try_from(key).unwrap()] += 1;
            fair.charge(key, Duration::from_millis(costs_ms[usize::try_from(key).unwrap()]));
            fair.add(key);
        }
        counts
    }

    #[test]
    fn compute_is_shared_equally_whatever_a_request_costs() {
        for (costs_ms, want) in [(&[10, 10][..], &[50, 50][..]), (&[10, 90], &[90, 10]), (&[5], &[100])] {
            let got = turns(costs_ms, 100);
            assert!(got.iter().zip(want).all(|(got, want)| got.abs_diff(*want) <= 1), "{costs_ms:?}: {got:?}");
        }
    }

    #[test]
    fn a_key_that_was_idle_neither_owes_nor_is_owed() {
        let mut fair = Fair::default();
        fair.add(0);
        for _ in 0..100 {
            let key = fair.next().unwrap();
            fair.charge(key, Duration::from_secs(1));
            fair.add(key);
        }
        fair.add(1);
        let order: Vec<_> = (0..4)
            .map(|_| {
                let key = fair.next().unwrap();
                fair.charge(key, Duration::from_secs(1));
                fair.add(key);
                key
            })
            .collect();
        assert_eq!(order.iter().filter(|&&key| key == 1).count(), 2, "{order:?}");
    }

    #[test]
    fn a_rest_leaves_nothing_behind() {
        let mut fair = Fair::default();
        for key in 0..10_000 {
            fair.add(key);
            assert_eq!(fair.next(), Some(key));
            fair.charge(key, Duration::from_millis(1));
            fair.forget_if_idle(key);
            fair.rest();
        }
        assert!(fair.times.is_empty() && fair.waiting.is_empty());
    }

    #[test]
    fn idle_keys_are_forgotten() {
        let mut fair = Fair::default();
        for key in 0..10_000 {
            fair.add(key);
            assert_eq!(fair.next(), Some(key));
            fair.forget_if_idle(key);
        }
        assert!(fair.times.is_empty());
    }
}
