//! Which lanes sleep, and when one is worth waking.
//!
//! Waking a thread costs its waker and itself several microseconds, as much as many a small model takes to run. So
//! while a lane is about to look for work, requests that it will have run before another could be there are left to it.
//!
//! Pure: it knows no clock and no thread. It reckons with what runs of each model have cost so far, and with a lane that
//! does not come as soon as it should, because something else has its core, no longer than a moment.

use std::time::{Duration, Instant};

/// How long a thread takes from being woken to its first instruction, on a busy machine.
pub(crate) const WAKE_COST: Duration = Duration::from_micros(50);

/// A lane that has not come after so long is not waited for.
const NEAR_MAX: Duration = Duration::from_micros(100);

/// Where each lane is, and how much work waits for them.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// By lane.
    places: Vec<Place>,
    /// Requests that wait; none whenever a lane finds nothing to do.
    waiting: usize,
    /// What they are reckoned to cost.
    cost: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Asleep until it is woken.
    Asleep,
    /// Since then woken, or at work that is over before another lane could be woken; it looks for work in a moment.
    Near(Instant),
    /// At work for longer, or not begun.
    Away,
}

impl Lanes {
    /// So many lanes that have yet to begin.
    pub(crate) fn new(count: usize) -> Self {
        Self { places: vec![Place::Away; count], waiting: 0, cost: Duration::ZERO }
    }

    /// At `now` a request arrived that is reckoned to take `cost`. The lane to wake for it, if any.
    pub(crate) fn arrived(&mut self, now: Instant, cost: Duration) -> Option<usize> {
        self.waiting += 1;
        self.cost = self.cost.saturating_add(cost);
        self.woken(now)
    }

    /// At `now` `lane` took so many `requests`, which are reckoned to take `cost`, and left `more` or nothing. The lane to
    /// wake for the rest, if any.
    pub(crate) fn took(
        &mut self,
        now: Instant,
        lane: usize,
        (requests, cost): (usize, Duration),
        more: bool,
    ) -> Option<usize> {
        self.waiting = self.waiting.saturating_sub(requests);
        self.cost = self.cost.saturating_sub(cost);
        match (more, self.waiting) {
            (false, _) => (self.waiting, self.cost) = (0, Duration::ZERO),
            // Requests that were held back did not arrive here. Nothing is known of those that are left.
            (true, 0) => (self.waiting, self.cost) = (1, WAKE_COST * 2),
            (true, _) => {}
        }
        self.places[lane] = if cost < WAKE_COST { Place::Near(now) } else { Place::Away };
        self.woken(now)
    }

    /// `lane` found nothing to do and sleeps.
    pub(crate) fn slept(&mut self, lane: usize) {
        (self.waiting, self.cost) = (0, Duration::ZERO);
        self.places[lane] = Place::Asleep;
    }

    /// At `now` a lane should look at what is held back: one that sleeps, if any does.
    pub(crate) fn called(&mut self, now: Instant) -> Option<usize> {
        let lane = self.places.iter().position(|&place| place == Place::Asleep)?;
        self.places[lane] = Place::Near(now);
        Some(lane)
    }

    /// At `now` every lane that slept was woken.
    pub(crate) fn all_woken(&mut self, now: Instant) {
        for place in self.places.iter_mut().filter(|place| **place == Place::Asleep) {
            *place = Place::Near(now);
        }
    }

    /// A sleeping lane when what waits is more than those nearby will have done before it comes. The first one, so that
    /// light traffic finds warm caches.
    fn woken(&mut self, now: Instant) -> Option<usize> {
        let is_near =
            |place: &&Place| matches!(place, Place::Near(since) if now.saturating_duration_since(*since) <= NEAR_MAX);
        let near = self.places.iter().filter(is_near).count();
        let served = WAKE_COST.saturating_mul(u32::try_from(near).unwrap_or(u32::MAX));
        if self.waiting == 0 || (near > 0 && self.cost <= served) {
            return None;
        }
        let lane = self.places.iter().position(|&place| place == Place::Asleep)?;
        self.places[lane] = Place::Near(now);
        Some(lane)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHEAP: Duration = Duration::from_micros(10);
    const DEAR: Duration = Duration::from_millis(30);

    /// `lanes` lanes, all asleep.
    fn asleep(lanes: usize) -> Lanes {
        let mut all = Lanes::new(lanes);
        (0..lanes).for_each(|lane| all.slept(lane));
        all
    }

    #[test]
    fn a_lane_is_woken_only_for_what_those_nearby_do_not_have_done_by_then() {
        for (what, costs, want) in [
            ("one cheap request", &[CHEAP][..], &[Some(0)][..]),
            ("a few cheap ones", &[CHEAP; 3], &[Some(0), None, None]),
            ("more than one lane has done in time", &[CHEAP; 6], &[Some(0), None, None, None, None, Some(1)]),
            ("two dear ones", &[DEAR; 2], &[Some(0), Some(1)]),
            ("a cheap one after a dear one", &[DEAR, CHEAP], &[Some(0), Some(1)]),
            ("no lane left to wake", &[DEAR; 4], &[Some(0), Some(1), None, None]),
        ] {
            let (mut lanes, now) = (asleep(2), Instant::now());
            let got: Vec<_> = costs.iter().map(|&cost| lanes.arrived(now, cost)).collect();
            assert_eq!(got, want, "{what}");
        }
    }

    #[test]
    fn a_lane_that_goes_away_calls_another_for_what_it_leaves() {
        let (mut lanes, now) = (asleep(3), Instant::now());
        assert_eq!(lanes.arrived(now, CHEAP), Some(0));
        assert_eq!(lanes.arrived(now, CHEAP), None);
        assert_eq!(lanes.took(now, 0, (1, CHEAP), true), None, "it is back in a moment");
        assert_eq!(lanes.arrived(now, DEAR), Some(1));
        assert_eq!(lanes.took(now, 1, (1, DEAR), false), None, "the first is still near");
        assert_eq!(lanes.arrived(now, CHEAP), None);
        assert_eq!(lanes.took(now, 0, (1, CHEAP), false), None);
        lanes.slept(0);
        assert_eq!(lanes.arrived(now, CHEAP), Some(0), "the first that sleeps");
        assert_eq!(lanes.arrived(now, CHEAP), None);
        assert_eq!(
            lanes.took(now, 0, (1, DEAR), true),
            Some(2),
            "dearer than it was reckoned: the other one must not wait for it"
        );
    }

    #[test]
    fn a_lane_that_does_not_come_is_not_waited_for() {
        let (mut lanes, now) = (asleep(2), Instant::now());
        assert_eq!(lanes.arrived(now, CHEAP), Some(0));
        assert_eq!(lanes.arrived(now + NEAR_MAX, CHEAP), None);
        let later = now + NEAR_MAX * 2;
        assert_eq!(lanes.arrived(later, CHEAP), Some(1), "something else has the first one's core");
        assert_eq!(lanes.took(later, 1, (1, CHEAP), true), None);
        assert_eq!(lanes.arrived(later, CHEAP), None);
    }

    #[test]
    fn whatever_comes_some_lane_is_awake_while_work_waits_and_one_sleeps() {
        let now = Instant::now();
        // Every order of so many arrivals, takings and sleeps of two lanes, by the digits of a number.
        for mut order in 0..4usize.pow(8) {
            let (mut lanes, mut waiting, mut awake, mut away) = (asleep(2), 0usize, [false; 2], [false; 2]);
            for _ in 0..8 {
                let woken = match order % 4 {
                    0 => {
                        waiting += 1;
                        lanes.arrived(now, CHEAP)
                    }
                    1 => {
                        waiting += 1;
                        lanes.arrived(now, DEAR)
                    }
                    lane => {
                        // A lane that is awake takes what there is, whatever it cost, or sleeps.
                        let lane = lane - 2;
                        match (awake[lane], waiting) {
                            (false, _) => None,
                            (true, 0) => {
                                (awake[lane], away[lane]) = (false, false);
                                lanes.slept(lane);
                                None
                            }
                            (true, _) => {
                                waiting -= 1;
                                away[lane] = waiting % 2 == 1;
                                lanes.took(now, lane, (1, if away[lane] { DEAR } else { CHEAP }), waiting > 0)
                            }
                        }
                    }
                };
                if let Some(lane) = woken {
                    assert!(!std::mem::replace(&mut awake[lane], true), "woken twice");
                }
                let near = (0..2).any(|lane| awake[lane] && !away[lane]);
                assert!(
                    waiting == 0 || near || awake == [true; 2],
                    "{waiting} wait while a lane sleeps and none is near"
                );
                order /= 4;
            }
        }
    }
}
