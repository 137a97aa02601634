//! How long answers take, as far as was seen lately.

use std::time::Duration;

/// Answers that are remembered.
const KEPT: usize = 256;
/// Fewer say nothing of the slowest twentieth.
const ENOUGH: usize = 40;
/// The slowest twentieth is looked for anew after so many answers.
const EVERY: usize = 16;

/// The latest answers' times.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// A ring, once it is full.
    kept: Vec<Duration>,
    seen: usize,
    p95: Option<Duration>,
}

impl Latencies {
    /// Counts an answer.
    pub fn add(&mut self, took: Duration) {
        match self.kept.len() {
            KEPT => self.kept[self.seen % KEPT] = took,
            _ => self.kept.push(took),
        }
        self.seen += 1;
        if self.kept.len() >= ENOUGH && self.seen.is_multiple_of(EVERY) {
            let mut sorted = self.kept.clone();
            let at = sorted.len() * 95 / 100;
            self.p95 = Some(*sorted.select_nth_unstable(at).1);
        }
    }

    /// What nineteen of twenty answers do not take longer than; `None` until enough were seen.
    pub fn p95(&self) -> Option<Duration> {
        self.p95
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_twentieth_is_learnt_and_forgotten() {
        let mut latencies = Latencies::default();
        let add = |latencies: &mut Latencies, ms: &[u64], times: usize| {
            (0..times).flat_map(|_| ms).for_each(|&ms| latencies.add(Duration::from_millis(ms)));
            latencies.p95().map(|p95| p95.as_millis())
        };
        assert_eq!(add(&mut latencies, &[5], ENOUGH - 1), None);
        let hundred: Vec<u64> = (1..=100).collect();
        let p95 = add(&mut latencies, &hundred, 10).unwrap();
        assert!((90..=100).contains(&p95), "{p95}");
        assert_eq!(add(&mut latencies, &[7], KEPT + EVERY), Some(7));
    }
}
