//! Whether a request is held back for company: a rule of what is expected to come and what runs cost. See
//! docs/decisions/008-holding-back.md.
//!
//! Pure: whoever asks brings the time along.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::costs::Curve;

/// No request is held longer than this unless its model's settings say so.
pub(crate) const HOLD_MAX: Duration = Duration::from_millis(5);
/// Bursts to have seen before anything is expected of the next.
const BURSTS_MIN: u32 = 8;
/// Weight of the newest burst in the running means.
const NEWEST: f64 = 0.05;
/// What is expected is uncertain, so waiting has to spare this share of the latency.
const WORTHWHILE: f64 = 0.15;
/// Fewer items are not waited for: they may as well not come.
const MORE_MIN: f64 = 0.5;
/// The last of a burst is waited for at most so many times as long as it usually takes.
const PATIENCE: f64 = 2.0;

/// How the requests of a model come: how many follow the first of a burst, and within what time. Learnt and read under
/// the scheduler's lock, so this one is never waited for.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    burst: Option<Burst>,
    /// Bursts that are over.
    bursts: u32,
    /// Items that follow the first request of a burst, on average over all bursts.
    followers: f64,
    /// Time from the first to the last request of a burst in seconds, on average over those in which any followed.
    span_s: f64,
    /// Bursts in which any followed.
    spans: u32,
}

/// The burst that goes on.
#[derive(Clone, Copy, Debug)]
struct Burst {
    first: Instant,
    last: Instant,
    /// Items that followed so far.
    followers: u64,
}

/// What is expected of the burst that goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Expected {
    /// When it began.
    pub(crate) first: Instant,
    /// Items that should still follow.
    pub(crate) more: f64,
    /// Items a second.
    pub(crate) rate: f64,
    /// How long after its first request the last may be waited for.
    pub(crate) window: Duration,
}

impl Arrivals {
    /// A request of `items` came at `now`. What comes within `horizon` of the first belongs to one burst.
    pub(crate) fn arrived(&self, now: Instant, items: u64, horizon: Duration) {
        let seen = &mut *self.lock();
        match &mut seen.burst {
            Some(burst) if now.saturating_duration_since(burst.first) <= horizon => {
                burst.followers += items;
                burst.last = burst.last.max(now);
            }
            burst => {
                let over = burst.replace(Burst { first: now, last: now, followers: 0 });
                if let Some(over) = over {
                    seen.learn(&over);
                }
            }
        }
    }

    /// What is expected to follow, once there is something to go by.
    pub(crate) fn expected(&self) -> Option<Expected> {
        let seen = self.lock();
        let burst = seen.burst?;
        (seen.spans >= BURSTS_MIN && seen.span_s > 0.0).then(|| Expected {
            first: burst.first,
            more: seen.followers - burst.followers as f64,
            rate: seen.followers / seen.span_s,
            window: Duration::from_secs_f64((PATIENCE * seen.span_s).min(HOLD_MAX.as_secs_f64())),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        // Only sums and means change under the lock, so a poisoned one still holds them.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn learn(&mut self, over: &Burst) {
        self.bursts = self.bursts.saturating_add(1);
        learn(&mut self.followers, self.bursts, over.followers as f64);
        if over.followers > 0 {
            self.spans = self.spans.saturating_add(1);
            learn(&mut self.span_s, self.spans, over.last.saturating_duration_since(over.first).as_secs_f64());
        }
    }
}

/// Takes the `count`th `value` into a running mean: the plain mean at first, then one that forgets.
fn learn(mean: &mut f64, count: u32, value: f64) {
    *mean += (value - *mean) * NEWEST.max(1.0 / f64::from(count));
}

/// How far apart requests may be to belong to one burst: waiting longer than a run takes cannot pay.
pub(crate) fn horizon(curve: &Curve) -> Duration {
    let run_s = curve.run_s(1).unwrap_or_default();
    Duration::from_secs_f64(run_s.min(HOLD_MAX.as_secs_f64()))
}

/// Until when `waiting` items, the oldest of which came at `oldest`, should wait for those that are `expected`; `None`
/// when they should run now on one of `idle` lanes. Batches hold at most `size_max` items.
pub(crate) fn until(
    expected: &Expected,
    (waiting, oldest): (u64, Instant),
    now: Instant,
    idle: u64,
    (curve, size_max): (&Curve, u64),
) -> Option<Instant> {
    // Whoever waited for a lane already has had this time to gather company.
    let end = expected.first.min(oldest) + expected.window;
    let wait_s = end.checked_duration_since(now).filter(|wait| !wait.is_zero())?.as_secs_f64();
    let room = size_max.saturating_sub(waiting) as f64;
    let more = expected.more.min(expected.rate * wait_s).min(room);
    (more > MORE_MIN && pays(waiting as f64, more, wait_s, idle.max(1) as f64, curve)?).then_some(end)
}

/// Whether `waiting` items and `more` that come are answered sooner, all together, when they wait `wait_s` for each other.
///
/// Running now, what waits is done after its own run; of those that come, each finds another lane that is idle, or waits
/// for this run to end and is run with the others. Waiting, all are run together, spread over the lanes that are idle.
fn pays(waiting: f64, more: f64, wait_s: f64, idle: f64, curve: &Curve) -> Option<bool> {
    let run_s = |items: f64| curve.run_s((items / idle).ceil().max(1.0) as u64);
    let elsewhere = more.min(idle - 1.0);
    let late = more - elsewhere;
    let first_s = run_s(waiting)?;
    let now_s = waiting * first_s + elsewhere * curve.run_s(1)? + late * (first_s + run_s(late)?);
    let held_s = (waiting + more) * (wait_s + run_s(waiting + more)?);
    Some(held_s < now_s * (1.0 - WORTHWHILE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::costs::Costs;

    /// Runs that cost 2 ms and 0.1 ms an item.
    fn curve(each_us: u64, items_us: u64) -> Curve {
        let costs = Costs::default();
        for items in [1, 2, 4, 8, 16] {
            costs.learn(items, Duration::from_micros(each_us + items * items_us));
        }
        costs.curve()
    }

    #[test]
    fn waiting_pays_for_bursts_of_runs_that_cost_much_by_themselves() {
        let now = Instant::now();
        let us = Duration::from_micros;
        let burst = Expected { first: now, more: 7.0, rate: 35_000.0, window: us(400) };
        for (what, expected, waiting, idle, size_max, curve, want_us) in [
            ("a burst and one lane", burst, 1, 1, 16, curve(2000, 100), Some(400)),
            ("lanes for all of them", burst, 1, 8, 16, curve(2000, 100), None),
            ("runs that cost by the item", burst, 1, 1, 16, curve(0, 2000), None),
            ("runs shorter than the wait", burst, 1, 1, 16, curve(100, 10), None),
            ("all have come", Expected { more: 0.0, ..burst }, 8, 1, 16, curve(2000, 100), None),
            ("no room", burst, 16, 1, 16, curve(2000, 100), None),
            (
                "one a run, as in light traffic",
                Expected { more: 1.0, rate: 500.0, window: us(2000), ..burst },
                1,
                1,
                16,
                curve(2000, 100),
                None,
            ),
            (
                "too late",
                Expected { first: now.checked_sub(us(400)).unwrap(), ..burst },
                1,
                1,
                16,
                curve(2000, 100),
                None,
            ),
            ("nothing known of runs", burst, 1, 1, 16, Curve::default(), None),
        ] {
            let until = until(&expected, (waiting, now), now, idle, (&curve, size_max));
            assert_eq!(until.map(|until| until - now), want_us.map(us), "{what}");
        }
        let waited = (1, now.checked_sub(us(1000)).unwrap());
        assert_eq!(until(&burst, waited, now, 1, (&curve(2000, 100), 16)), None, "waited for a lane already");
    }

    #[test]
    fn bursts_are_learnt_from_when_requests_come() {
        let (arrivals, begin) = (Arrivals::default(), Instant::now());
        let ms = Duration::from_millis;
        for burst in 0..9 {
            assert_eq!(arrivals.expected(), None);
            for follower in 0..4 {
                arrivals.arrived(begin + ms(100 * burst + follower), 1, ms(4));
            }
        }
        let expected = arrivals.expected().unwrap();
        assert_eq!((expected.first, expected.more.round()), (begin + ms(800), 0.0));
        assert_eq!((expected.rate.round(), expected.window), (1000.0, HOLD_MAX));
        arrivals.arrived(begin + ms(900), 1, ms(4));
        assert_eq!(arrivals.expected().unwrap().more.round(), 3.0);
    }
}
