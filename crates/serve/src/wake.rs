//! Which lanes sleep, when one is worth waking, and to whom one is lent meanwhile.
//!
//! Waking a thread costs its waker and itself several microseconds, as much as many a small model takes to run. So
//! while a lane is about to look for work, requests that it will have run before another could be there are left to it.
//! And a thread that brings requests is a guest: what is that brief it runs itself, on a lane that sleeps and is lent to
//! it, before it sleeps in its turn.
//!
//! Who wakes a thread on its own core is often put off that core at once, and then waits for all that a lane computes,
//! with nothing left to do but to go to sleep. So a lane elsewhere is woken before the one on the caller's core.
//!
//! Pure: it knows no clock and no thread. It reckons with what runs of each model have cost so far, and with a lane that
//! does not come as soon as it should, because something else has its core, no longer than a moment.

use std::ops::Range;
use std::time::{Duration, Instant};

/// How long a thread takes from being woken to its first instruction, on a busy machine.
pub(crate) const WAKE_COST: Duration = Duration::from_micros(50);

/// A lane that has not come after so long is not waited for.
const NEAR_MAX: Duration = Duration::from_micros(100);

/// Where each lane is and each guest, and how much work waits for them.
#[derive(Debug)]
pub(crate) struct Lanes {
    /// By lane, and behind the lanes by guest.
    places: Vec<Place>,
    lanes: usize,
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
    /// At work for longer, or not begun; or a guest that has brought nothing.
    Away,
    /// Asleep, while a guest runs something in its place.
    Lent {
        /// It was woken all the same, and has to be once more when it is given back.
        wanted: bool,
    },
}

impl Lanes {
    /// So many lanes that have yet to begin.
    pub(crate) fn new(count: usize) -> Self {
        Self { places: vec![Place::Away; count], lanes: count, waiting: 0, cost: Duration::ZERO }
    }

    /// One more guest; its number.
    pub(crate) fn welcome(&mut self) -> usize {
        self.places.push(Place::Away);
        self.places.len() - 1
    }

    /// At `now` a request arrived that is reckoned to take `cost`, brought by `guest` if it was one, from the core of the
    /// lane `here`. The lane to wake for it, if any.
    pub(crate) fn arrived(
        &mut self,
        now: Instant,
        cost: Duration,
        guest: Option<usize>,
        here: Option<usize>,
    ) -> Option<usize> {
        self.waiting += 1;
        self.cost = self.cost.saturating_add(cost);
        if let Some(guest) = guest.filter(|_| cost < WAKE_COST)
            && !self.is_near(guest, now)
            && self.asleep().is_some()
        {
            self.places[guest] = Place::Near(now);
        }
        self.woken(now, here)
    }

    /// A lane that sleeps, now lent; to be [given back](Self::returned).
    pub(crate) fn lend(&mut self) -> Option<usize> {
        let lane = self.asleep()?;
        self.places[lane] = Place::Lent { wanted: false };
        Some(lane)
    }

    /// Whether `lane`, which woke, is lent. Then it has to sleep again, and is woken when it is given back.
    pub(crate) fn is_lent(&mut self, lane: usize) -> bool {
        let lent = matches!(self.places[lane], Place::Lent { .. });
        if lent {
            self.places[lane] = Place::Lent { wanted: true };
        }
        lent
    }

    /// At `now` `lane`, which was lent, is given back. It is to be woken if it is given here.
    pub(crate) fn returned(&mut self, now: Instant, lane: usize) -> Option<usize> {
        let wanted = self.places[lane] == Place::Lent { wanted: true };
        self.places[lane] = if wanted { Place::Near(now) } else { Place::Asleep };
        wanted.then_some(lane)
    }

    /// At `now` `guest`, on the core of the lane `here`, found nothing that it may run, and there is `more` or nothing. The
    /// lane to wake for that, if any.
    pub(crate) fn passed(&mut self, now: Instant, guest: usize, here: Option<usize>, more: bool) -> Option<usize> {
        self.places[guest] = Place::Away;
        self.settle(more);
        self.woken(now, here)
    }

    /// At `now` a lane or guest, `place`, took so many `requests`, which are reckoned to take `cost`, and left `more` or
    /// nothing. The lane to wake for the rest, if any.
    pub(crate) fn took(
        &mut self,
        now: Instant,
        place: usize,
        (requests, cost): (usize, Duration),
        more: bool,
    ) -> Option<usize> {
        self.waiting = self.waiting.saturating_sub(requests);
        self.cost = self.cost.saturating_sub(cost);
        self.settle(more);
        self.places[place] = if cost < WAKE_COST { Place::Near(now) } else { Place::Away };
        // A lane does not sleep while it takes something, and a guest takes its place.
        self.woken(now, None)
    }

    /// There is `more` to do or nothing.
    fn settle(&mut self, more: bool) {
        match (more, self.waiting) {
            (false, _) => (self.waiting, self.cost) = (0, Duration::ZERO),
            // Requests that were held back did not arrive here. Nothing is known of those that are left.
            (true, 0) => (self.waiting, self.cost) = (1, WAKE_COST * 2),
            (true, _) => {}
        }
    }

    /// `lane` found nothing to do and sleeps.
    pub(crate) fn slept(&mut self, lane: usize) {
        (self.waiting, self.cost) = (0, Duration::ZERO);
        self.places[lane] = Place::Asleep;
    }

    /// At `now` a lane should look at what is held back: one that sleeps, if any does.
    pub(crate) fn called(&mut self, now: Instant) -> Option<usize> {
        let lane = self.asleep()?;
        self.places[lane] = Place::Near(now);
        Some(lane)
    }

    /// At `now` every lane that slept was woken.
    pub(crate) fn all_woken(&mut self, now: Instant) {
        for place in self.places.iter_mut().filter(|place| **place == Place::Asleep) {
            *place = Place::Near(now);
        }
    }

    /// A sleeping lane when what waits is more than those nearby will have begun, or have done, before it comes. Not the
    /// one `here` if another sleeps; of the others the first, so that light traffic finds warm caches.
    fn woken(&mut self, now: Instant, here: Option<usize>) -> Option<usize> {
        let near = |places: Range<usize>| places.filter(|&place| self.is_near(place, now)).count();
        let (lanes, all) = (near(0..self.lanes), near(0..self.places.len()));
        let served = WAKE_COST.saturating_mul(u32::try_from(all).unwrap_or(u32::MAX));
        // Whatever a request takes, a lane that looks for work in a moment takes one; a guest takes what is brief.
        if self.waiting <= lanes || (all > 0 && self.cost <= served) {
            return None;
        }
        let sleeps = |&lane: &usize| self.places[lane] == Place::Asleep;
        let lane = (0..self.lanes).filter(|&lane| Some(lane) != here).find(sleeps).or_else(|| here.filter(sleeps))?;
        self.places[lane] = Place::Near(now);
        Some(lane)
    }

    fn is_near(&self, place: usize, now: Instant) -> bool {
        matches!(self.places[place], Place::Near(since) if now.saturating_duration_since(since) <= NEAR_MAX)
    }

    /// The first lane that sleeps.
    pub(crate) fn asleep(&self) -> Option<usize> {
        self.places[..self.lanes].iter().position(|&place| place == Place::Asleep)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

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
            let got: Vec<_> = costs.iter().map(|&cost| lanes.arrived(now, cost, None, None)).collect();
            assert_eq!(got, want, "{what}");
        }
    }

    #[test]
    fn a_request_wakes_one_lane_whatever_it_takes() {
        let (mut lanes, now) = (asleep(3), Instant::now());
        let guest = lanes.welcome();
        assert_eq!(lanes.arrived(now, DEAR, Some(guest), None), Some(0));
        assert_eq!(lanes.passed(now, guest, None, true), None, "the lane has not come yet, and will");
        assert_eq!(lanes.arrived(now, DEAR, Some(guest), None), Some(1));
        assert_eq!(lanes.passed(now, guest, None, true), None);
        assert_eq!(lanes.took(now, 0, (1, DEAR), true), None, "the second one comes for the rest");
        assert_eq!(lanes.passed(now + NEAR_MAX * 2, guest, None, true), Some(2), "it does not come");
    }

    #[test]
    fn a_lane_on_the_callers_core_is_woken_last() {
        for (here, want) in [
            (None, [Some(0), Some(1), Some(2), None]),
            (Some(0), [Some(1), Some(2), Some(0), None]),
            (Some(1), [Some(0), Some(2), Some(1), None]),
            (Some(2), [Some(0), Some(1), Some(2), None]),
        ] {
            let (mut lanes, now) = (asleep(3), Instant::now());
            assert_eq!([(); 4].map(|()| lanes.arrived(now, DEAR, None, here)), want, "{here:?}");
        }
        let (mut lanes, now) = (asleep(2), Instant::now());
        let guest = lanes.welcome();
        lanes.arrived(now, CHEAP, Some(guest), Some(0));
        assert_eq!(lanes.passed(now, guest, Some(0), true), Some(1), "what it may not run");
    }

    #[test]
    fn a_lane_that_goes_away_calls_another_for_what_it_leaves() {
        let (mut lanes, now) = (asleep(3), Instant::now());
        assert_eq!(lanes.arrived(now, CHEAP, None, None), Some(0));
        assert_eq!(lanes.arrived(now, CHEAP, None, None), None);
        assert_eq!(lanes.took(now, 0, (1, CHEAP), true), None, "it is back in a moment");
        assert_eq!(lanes.arrived(now, DEAR, None, None), Some(1));
        assert_eq!(lanes.took(now, 1, (1, DEAR), false), None, "the first is still near");
        assert_eq!(lanes.arrived(now, CHEAP, None, None), None);
        assert_eq!(lanes.took(now, 0, (1, CHEAP), false), None);
        lanes.slept(0);
        assert_eq!(lanes.arrived(now, CHEAP, None, None), Some(0), "the first that sleeps");
        assert_eq!(lanes.arrived(now, CHEAP, None, None), None);
        assert_eq!(
            lanes.took(now, 0, (1, DEAR), true),
            Some(2),
            "dearer than it was reckoned: the other one must not wait for it"
        );
    }

    #[test]
    fn a_lane_that_does_not_come_is_not_waited_for() {
        let (mut lanes, now) = (asleep(2), Instant::now());
        assert_eq!(lanes.arrived(now, CHEAP, None, None), Some(0));
        assert_eq!(lanes.arrived(now + NEAR_MAX, CHEAP, None, None), None);
        let later = now + NEAR_MAX * 2;
        assert_eq!(lanes.arrived(later, CHEAP, None, None), Some(1), "something else has the first one's core");
        assert_eq!(lanes.took(later, 1, (1, CHEAP), true), None);
        assert_eq!(lanes.arrived(later, CHEAP, None, None), None);
    }

    #[test]
    fn what_a_guest_brings_that_is_brief_is_left_to_it() {
        let (mut lanes, now) = (asleep(2), Instant::now());
        let guest = lanes.welcome();
        assert_eq!(lanes.arrived(now, CHEAP, Some(guest), None), None);
        assert_eq!(lanes.arrived(now, DEAR, Some(guest), None), Some(0), "that is not brief");
        assert_eq!(lanes.lend(), Some(1), "the one that sleeps");
        assert_eq!(lanes.arrived(now, DEAR, None, None), None, "no lane is left to wake");
        assert_eq!(lanes.took(now, guest, (1, CHEAP), true), None);
        assert!(lanes.is_lent(1) && !lanes.is_lent(0));
        assert_eq!(lanes.returned(now, 1), Some(1), "it woke meanwhile");
        assert_eq!((lanes.lend(), lanes.passed(now, guest, None, true)), (None, None), "both are awake");
    }

    #[test]
    fn a_guest_that_does_not_come_is_not_waited_for() {
        let (mut lanes, now) = (asleep(1), Instant::now());
        let guest = lanes.welcome();
        assert_eq!(lanes.arrived(now, CHEAP, Some(guest), None), None);
        assert_eq!(lanes.arrived(now + NEAR_MAX * 2, CHEAP, None, None), Some(0));
    }

    #[test]
    fn with_a_guest_nothing_waits_while_all_sleep_either() {
        let now = Instant::now();
        // Two lanes and a guest; every order of so many events, by the digits of a number.
        for mut order in 0..5usize.pow(7) {
            let (mut lanes, mut awake, mut away) = (asleep(2), [false; 2], [false; 2]);
            let (mut waiting, guest, mut promised) = (VecDeque::new(), lanes.welcome(), false);
            for _ in 0..7 {
                let mut woken = Vec::new();
                match order % 5 {
                    kind @ 0..=1 => {
                        let (cost, by) = if kind == 0 { (CHEAP, Some(guest)) } else { (DEAR, None) };
                        waiting.push_back(cost);
                        promised |= by.is_some();
                        woken.extend(lanes.arrived(now, cost, by, None));
                    }
                    2 if promised => {
                        promised = false;
                        while let Some(lane) = lanes.lend() {
                            if waiting.front() == Some(&CHEAP) {
                                waiting.pop_front();
                                woken.extend(lanes.took(now, guest, (1, CHEAP), !waiting.is_empty()));
                                assert_eq!(lanes.returned(now, lane), None);
                            } else {
                                assert_eq!(lanes.returned(now, lane), None);
                                break;
                            }
                        }
                        woken.extend(lanes.passed(now, guest, None, !waiting.is_empty()));
                    }
                    2 => {}
                    lane => {
                        let lane = lane - 3;
                        match awake[lane].then(|| waiting.pop_front()) {
                            None => {}
                            Some(None) => {
                                (awake[lane], away[lane]) = (false, false);
                                lanes.slept(lane);
                            }
                            Some(Some(cost)) => {
                                away[lane] = cost == DEAR;
                                woken.extend(lanes.took(now, lane, (1, cost), !waiting.is_empty()));
                            }
                        }
                    }
                }
                for lane in woken {
                    assert!(!std::mem::replace(&mut awake[lane], true), "woken twice");
                }
                let near = promised || (0..2).any(|lane| awake[lane] && !away[lane]);
                assert!(waiting.is_empty() || near || awake == [true; 2], "{waiting:?} while a lane sleeps");
                order /= 5;
            }
        }
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
                        lanes.arrived(now, CHEAP, None, None)
                    }
                    1 => {
                        waiting += 1;
                        lanes.arrived(now, DEAR, None, None)
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
