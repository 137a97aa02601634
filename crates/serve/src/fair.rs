//! Fair sharing of lanes: start-time fair queueing (Goyal, Vin and Cheng, 1996) over keys that cost what they cost, on
//! two levels: latency classes share the lanes by weight, and the models of a class share its part equally.
//!
//! Pure: it knows no clock and no thread. Each key carries a virtual time that grows with the compute it was given;
//! the key with the least runs next, and one that was idle starts at the present, so that it owes and is owed nothing.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use store::LatencyClass;

/// The classes that have anything to run get lane time in these proportions; see docs/decisions/008-holding-back.md.
const WEIGHTS: [(LatencyClass, u32); 3] =
    [(LatencyClass::Interactive, 16), (LatencyClass::Standard, 4), (LatencyClass::Background, 1)];

/// Which model runs next.
#[derive(Debug, Default)]
pub(crate) struct Fair {
    /// By place in [`WEIGHTS`], so that of equals the more urgent goes first.
    classes: Turns,
    models: [Turns; WEIGHTS.len()],
}

impl Fair {
    /// Lets the model `key` take part in its class; once is enough.
    pub(crate) fn add(&mut self, key: u64, class: LatencyClass) {
        let place = place(class);
        self.models[place].add(key);
        self.classes.add(place as u64);
    }

    /// The model that runs next; it takes part again after the next [`add`](Self::add).
    pub(crate) fn next(&mut self) -> Option<u64> {
        loop {
            let class = self.classes.next()?;
            let models = self.models.get_mut(usize::try_from(class).ok()?)?;
            let key = models.next();
            if !models.is_empty() {
                self.classes.add(class);
            }
            if key.is_some() {
                return key;
            }
        }
    }

    /// Whether nobody takes part.
    pub(crate) fn is_empty(&self) -> bool {
        self.classes.is_empty()
    }

    /// The models of a class that take part, in the order of their turns.
    pub(crate) fn waiting(&self, class: LatencyClass) -> impl Iterator<Item = u64> {
        self.models[place(class)].waiting.iter().map(|&(_, key)| key)
    }

    /// The model `key` has nothing to run any more, and takes no part.
    pub(crate) fn withdraw(&mut self, key: u64, class: LatencyClass) {
        let place = place(class);
        self.models[place].withdraw(key);
        if self.models[place].is_empty() {
            self.classes.withdraw(place as u64);
        }
    }

    /// Charges the model `key` and its class for `cost` of a lane's time.
    pub(crate) fn charge(&mut self, key: u64, class: LatencyClass, cost: Duration) {
        let place = place(class);
        self.models[place].charge(key, cost);
        self.classes.charge(place as u64, cost / WEIGHTS[place].1);
    }

    /// Nothing waits and nothing runs: nobody is ahead of anybody any more.
    pub(crate) fn rest(&mut self) {
        self.classes.rest();
        self.models.iter_mut().for_each(Turns::rest);
    }

    /// Forgets the model `key`, which has nothing left to run, unless it is ahead of others.
    pub(crate) fn forget_if_idle(&mut self, key: u64, class: LatencyClass) {
        self.models[place(class)].forget_if_idle(key);
    }
}

fn place(class: LatencyClass) -> usize {
    WEIGHTS.iter().position(|&(other, _)| other == class).unwrap_or_default()
}

/// Whose turn it is among keys of equal weight.
#[derive(Debug, Default)]
struct Turns {
    /// Runnable keys by virtual time; the key breaks ties.
    waiting: BTreeSet<(Duration, u64)>,
    /// Virtual time of each key that is waiting or was charged since it last was idle.
    times: HashMap<u64, Duration>,
    /// The virtual time of whatever ran last.
    present: Duration,
}

impl Turns {
    /// Lets `key` take part; once is enough.
    fn add(&mut self, key: u64) {
        let time = self.times.entry(key).or_insert(self.present);
        *time = (*time).max(self.present);
        self.waiting.insert((*time, key));
    }

    /// The key that runs next; it takes part again after the next [`add`](Self::add).
    fn next(&mut self) -> Option<u64> {
        let (time, key) = self.waiting.pop_first()?;
        self.present = self.present.max(time);
        Some(key)
    }

    /// `key` takes no part any more.
    fn withdraw(&mut self, key: u64) {
        if let Some(&time) = self.times.get(&key) {
            self.waiting.remove(&(time, key));
        }
    }

    /// Charges `key` for `cost` of a lane's time.
    fn charge(&mut self, key: u64, cost: Duration) {
        let time = self.times.entry(key).or_insert(self.present);
        let charged = time.saturating_add(cost);
        if self.waiting.remove(&(*time, key)) {
            self.waiting.insert((charged, key));
        }
        *time = charged;
    }

    /// Nothing waits and nothing runs: nobody is ahead of anybody any more.
    fn rest(&mut self) {
        self.waiting.clear();
        self.times.clear();
        self.present = Duration::ZERO;
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Forgets `key`, which has nothing left to run and is not ahead of anybody.
    fn forget_if_idle(&mut self, key: u64) {
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
        let mut fair = Turns::default();
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
        let mut fair = Turns::default();
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
        let mut fair = Turns::default();
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
        let mut fair = Turns::default();
        for key in 0..10_000 {
            fair.add(key);
            assert_eq!(fair.next(), Some(key));
            fair.forget_if_idle(key);
        }
        assert!(fair.times.is_empty());
    }

    /// The share of each class in lane time when `models` of each always have runs of `cost_ms` waiting, on `lanes`.
    fn shares(models: [u64; 3], cost_ms: [u64; 3], lanes: usize) -> [f64; 3] {
        let mut fair = Fair::default();
        let of = |key: u64| usize::try_from(key % 3).unwrap();
        for place in 0..3 {
            (0..models[place]).for_each(|model| fair.add(model * 3 + place as u64, WEIGHTS[place].0));
        }
        let mut given = [0.0; 3];
        let mut running = std::collections::BinaryHeap::new();
        let mut now_ms = 0;
        for _ in 0..40_000 {
            while running.len() < lanes
                && let Some(key) = fair.next()
            {
                running.push(std::cmp::Reverse((now_ms + cost_ms[of(key)], key)));
                fair.add(key, WEIGHTS[of(key)].0);
            }
            let Some(std::cmp::Reverse((end_ms, key))) = running.pop() else { break };
            now_ms = end_ms;
            given[of(key)] += cost_ms[of(key)] as f64;
            fair.charge(key, WEIGHTS[of(key)].0, Duration::from_millis(cost_ms[of(key)]));
        }
        let all: f64 = given.iter().sum();
        given.map(|given| given / all)
    }

    #[test]
    fn classes_share_by_weight_however_many_models_they_have_and_whatever_these_cost() {
        let parts = |weights: [f64; 3]| weights.map(|weight| weight / weights.iter().sum::<f64>());
        for (models, cost_ms, lanes, want) in [
            ([1, 1, 1], [10, 10, 10], 1, parts([16.0, 4.0, 1.0])),
            ([1, 20, 300], [10, 10, 10], 1, parts([16.0, 4.0, 1.0])),
            ([1, 1, 1], [3, 10, 50], 1, parts([16.0, 4.0, 1.0])),
            ([5, 5, 5], [10, 20, 30], 4, parts([16.0, 4.0, 1.0])),
            ([1, 0, 100], [10, 10, 10], 2, parts([16.0, 0.0, 1.0])),
            ([0, 3, 3], [10, 10, 10], 1, parts([0.0, 4.0, 1.0])),
            ([0, 0, 3], [10, 10, 10], 1, [0.0, 0.0, 1.0]),
        ] {
            let got = shares(models, cost_ms, lanes);
            let near = got.iter().zip(want).all(|(got, want)| (got - want).abs() < 0.01);
            assert!(near, "{models:?} of {cost_ms:?} ms on {lanes}: {got:?}, not {want:?}");
        }
    }

    #[test]
    fn a_class_that_was_idle_goes_before_lower_ones_at_once() {
        let mut fair = Fair::default();
        for turn in 0..100 {
            fair.add(1, LatencyClass::Standard);
            fair.add(2, LatencyClass::Background);
            let key = fair.next().unwrap();
            let class = if key == 1 { LatencyClass::Standard } else { LatencyClass::Background };
            fair.charge(key, class, Duration::from_millis(10));
            if turn % 10 == 9 {
                fair.add(3, LatencyClass::Interactive);
                assert_eq!(fair.next(), Some(3), "turn {turn}");
                fair.charge(3, LatencyClass::Interactive, Duration::from_millis(10));
            }
        }
    }
}
