//! How often something is asked for, as far as that says whether it will be asked for again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A request is forgotten over these times, in seconds; the one that speaks for a model counts. The long one knows what
/// is asked for all day, and keeps it when a thousand others are asked for once. The short one sees what has just become
/// busy, and lets go of what has ceased to be.
const SPANS_S: [f64; 2] = [30.0, 600.0];

/// Requests, each counting less the longer ago it was. A plain value.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Popularity {
    /// By span: one for each request, shrunk by its age at `at`.
    weights: [f64; 2],
    /// When the weights were right; `None` before the first request.
    at: Option<Instant>,
}

impl Popularity {
    /// It was asked for `times` times at `now`.
    pub(crate) fn asked(&mut self, times: u64, now: Instant) {
        self.weights = self.weights_at(now).map(|weight| weight + times as f64);
        self.at = Some(now);
    }

    /// Requests a second, at `now`.
    pub(crate) fn rate_hz(&self, now: Instant) -> f64 {
        let rates = self.weights_at(now).into_iter().zip(SPANS_S).map(|(weight, span_s)| weight / span_s);
        rates.fold(0.0, f64::max)
    }

    fn weights_at(&self, now: Instant) -> [f64; 2] {
        let age_s = self.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        let mut weights = self.weights;
        for (weight, span_s) in weights.iter_mut().zip(SPANS_S) {
            *weight *= (-age_s / span_s).exp();
        }
        weights
    }
}

/// The requests of one model: counted by whoever takes them, for next to nothing, and weighed by whoever decides.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Since the process began; never read on the strength of anything else.
    requests: AtomicU64,
    /// How many of them have been weighed, and what they weigh. Locked for nanoseconds.
    weighed: Mutex<(u64, Popularity)>,
}

impl Traffic {
    /// A request came.
    pub(crate) fn asked(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Requests a second. Those that came since the last call count as if they came now, so it is called often.
    pub(crate) fn rate_hz(&self, now: Instant) -> f64 {
        let requests = self.requests();
        // Numbers are whole whatever panicked.
        let (weighed, popularity) = &mut *self.weighed.lock().unwrap_or_else(PoisonError::into_inner);
        let since = requests.saturating_sub(*weighed);
        if since > 0 {
            popularity.asked(since, now);
            *weighed = requests;
        }
        popularity.rate_hz(now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn after(begin: Instant, ms: u64) -> Instant {
        begin + Duration::from_millis(ms)
    }

    #[test]
    fn steady_requests_are_their_own_rate_and_what_ceases_is_forgotten() {
        let begin = Instant::now();
        let mut popularity = Popularity::default();
        assert_eq!(popularity.rate_hz(begin), 0.0);
        // Two a second, for an hour.
        (0..7200).for_each(|at| popularity.asked(1, after(begin, at * 500)));
        let rate_hz = |s: u64| popularity.rate_hz(after(begin, (3600 + s) * 1000));
        assert!((rate_hz(0) - 2.0).abs() < 0.1, "{}", rate_hz(0));
        assert!(rate_hz(60) < 2.0 && rate_hz(60) > 1.5, "a minute of silence says little: {}", rate_hz(60));
        assert!(rate_hz(3600) < 0.01, "{}", rate_hz(3600));
        assert!(rate_hz(3600) > 0.0);
    }

    #[test]
    fn what_has_just_become_busy_is_seen_at_once() {
        let begin = Instant::now();
        let (mut old, mut new) = (Popularity::default(), Popularity::default());
        (0..3600).for_each(|at| old.asked(1, after(begin, at * 1000)));
        (3570..3600).for_each(|at| new.asked(3, after(begin, at * 1000)));
        let now = after(begin, 3_600_000);
        assert!(new.rate_hz(now) > old.rate_hz(now), "{} {}", new.rate_hz(now), old.rate_hz(now));
    }

    #[test]
    fn requests_are_weighed_once() {
        let (traffic, now) = (Traffic::default(), Instant::now());
        (0..60).for_each(|_| traffic.asked());
        assert_eq!(traffic.requests(), 60);
        for _ in 0..3 {
            assert_eq!(traffic.rate_hz(now), 2.0);
        }
    }

    proptest! {
        #[test]
        fn time_alone_only_lowers_a_rate(
            requests in prop::collection::vec((0u64..5, 0u64..100_000), 1..40),
            later_ms in 1u64..1_000_000,
        ) {
            let begin = Instant::now();
            let (mut popularity, mut at_ms) = (Popularity::default(), 0);
            for (times, ms) in requests {
                at_ms += ms;
                popularity.asked(times, after(begin, at_ms));
            }
            let now = popularity.rate_hz(after(begin, at_ms));
            let later = popularity.rate_hz(after(begin, at_ms + later_ms));
            prop_assert!(later <= now && later >= 0.0);
        }
    }
}
