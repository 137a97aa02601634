//! Whether protection is wanted, and what to do about it next: plain values, and the time as an argument.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between two tasks of a queue that has more, nothing is taken away and put up again: whoever is asked counts requests.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// The longest that a worker which ends tries to take its protection away.
pub(super) const CLOSING_MAX: Duration = Duration::from_secs(8);
/// Between two tries; the longer, the more of them failed.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The tasks that are held.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Until when each is, if nothing more is heard of it.
    held: BTreeMap<u64, Instant>,
    ids: u64,
    /// Until when it is worth to wait for the next.
    lingers: Option<Instant>,
    closed: Option<Instant>,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) on: bool,
    /// When something else is, though nothing happens.
    pub(super) until: Option<Instant>,
    /// When the worker ended.
    pub(super) closed: Option<Instant>,
}

impl Work {
    pub(super) fn begin(&mut self, until: Instant) -> u64 {
        self.ids += 1;
        self.held.insert(self.ids, until);
        self.ids
    }

    pub(super) fn renew(&mut self, id: u64, until: Instant) {
        if let Some(held) = self.held.get_mut(&id) {
            *held = until;
        }
    }

    pub(super) fn end(&mut self, id: u64, now: Instant) {
        let was_held = self.held.remove(&id).is_some_and(|until| until > now);
        if was_held && self.held.is_empty() {
            self.lingers = Some(now + LINGER);
        }
    }

    /// The worker ends, whatever it still holds.
    pub(super) fn close(&mut self, now: Instant) {
        self.closed.get_or_insert(now);
    }

    pub(super) fn wanted(&self, now: Instant) -> Wanted {
        let until = self.held.values().copied().chain(self.lingers).max().filter(|&until| until > now);
        let until = until.filter(|_| self.closed.is_none());
        Wanted { on: until.is_some(), until, closed: self.closed }
    }
}

/// What is known of one shield.
#[derive(Debug, Default)]
pub(super) struct Post {
    /// `None` where it may be either: an earlier process may have left it, or a change of it failed.
    is_on: Option<bool>,
    failures: u32,
    /// What failed last, and when it is tried again.
    failed: Option<(bool, Instant)>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Hold it up, or take it away.
    Set(bool),
    /// Nothing, until then or until something happens.
    Wait(Option<Instant>),
    /// Nothing any more; `left` when it may still be up.
    End { left: bool },
}

impl Post {
    pub(super) fn next(&self, wanted: Wanted, now: Instant) -> Step {
        let given_up = wanted.closed.is_some_and(|closed| now >= closed + CLOSING_MAX);
        match self.failed {
            _ if self.is_on == Some(wanted.on) => match wanted.closed {
                Some(_) => Step::End { left: false },
                None => Step::Wait(wanted.until),
            },
            _ if given_up => Step::End { left: true },
            Some((on, again)) if on == wanted.on && now < again => {
                let end = wanted.closed.map(|closed| closed + CLOSING_MAX);
                Step::Wait([Some(again), wanted.until, end].into_iter().flatten().min())
            }
            _ => Step::Set(wanted.on),
        }
    }

    /// What came of [`Step::Set`]. `chance` spreads the tries of many workers that failed together.
    pub(super) fn did(&mut self, on: bool, well: bool, now: Instant, chance: u64) {
        if well {
            *self = Self { is_on: Some(on), ..Self::default() };
            return;
        }
        let pause = PAUSES.0.saturating_mul(1 << self.failures.min(16)).min(PAUSES.1);
        // From a half of it to the whole.
        let pause = pause.mul_f64(0.5 + (chance % 1024) as f64 / 2048.0);
        *self = Self { is_on: None, failures: self.failures.saturating_add(1), failed: Some((on, now + pause)) };
    }

    /// How many tries have failed since one did not.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays events in virtual time on a shield that fails as often as it is told, and says when it was set to what.
    struct Play {
        start: Instant,
        now: Instant,
        work: Work,
        post: Post,
        fails: u32,
        set: Vec<(u64, bool)>,
    }

    impl Play {
        fn new(fails: u32) -> Self {
            let start = Instant::now();
            let mut play =
                Self { start, now: start, work: Work::default(), post: Post::default(), fails, set: Vec::new() };
            play.act();
            play
        }

        /// Does what is due, and says until when there is nothing to do.
        fn act(&mut self) -> Option<Instant> {
            loop {
                match self.post.next(self.work.wanted(self.now), self.now) {
                    Step::Set(on) => {
                        self.set.push(((self.now - self.start).as_secs(), on));
                        self.post.did(on, self.fails == 0, self.now, u64::MAX);
                        self.fails = self.fails.saturating_sub(1);
                    }
                    Step::Wait(until) => return until,
                    Step::End { .. } => return None,
                }
            }
        }

        fn at(&mut self, second: u64) -> &mut Work {
            let end = self.start + Duration::from_secs(second);
            while let Some(next) = self.act().filter(|&next| next < end) {
                assert!(next > self.now, "nothing would be done for ever");
                self.now = next;
            }
            self.now = end;
            &mut self.work
        }

        fn time(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }
    }

    #[test]
    fn it_is_held_while_busy_and_only_then() {
        let mut play = Play::new(0);
        let (until, end) = (play.time(130), play.time(110));
        let one = play.at(100).begin(until);
        play.at(110).end(one, end);
        // The next came at once: nothing is taken away in between.
        let (until, end) = (play.time(200), play.time(120));
        let (two, three) = (play.at(111).begin(until), play.work.begin(until));
        play.at(120).end(two, end);
        let end = play.time(121);
        play.at(121).end(three, end);
        play.at(1000);
        assert_eq!(play.set, [(0, false), (100, true), (123, false)]);
    }

    #[test]
    fn a_lease_of_which_nothing_is_heard_protects_no_longer() {
        let mut play = Play::new(0);
        let until = play.time(30);
        let one = play.at(0).begin(until);
        let until = play.time(40);
        play.at(10).renew(one, until);
        // It was heard of again, but late.
        let until = play.time(90);
        play.at(60).renew(one, until);
        let end = play.time(100);
        play.at(100).end(one, end);
        play.at(1000);
        assert_eq!(play.set, [(0, false), (0, true), (40, false), (60, true), (90, false)]);
    }

    #[test]
    fn what_fails_is_tried_again_ever_later_and_what_changed_at_once() {
        let mut play = Play::new(5);
        let until = play.time(600);
        let one = play.at(20).begin(until);
        play.act();
        let end = play.time(25);
        play.at(25).end(one, end);
        play.at(1000);
        // Four failed before the task came; the first try for it failed, too, as the fifth, and it ended before the next.
        let times: Vec<u64> = play.set.iter().map(|&(time, _)| time).collect();
        assert_eq!(times, [0, 0, 2, 6, 14, 20, 27], "{:?}", play.set);
        assert_eq!(play.set.last(), Some(&(27, false)));
        assert!(play.set[5].1);
    }

    #[test]
    fn the_end_waits_for_it_to_be_taken_away_and_not_for_ever() {
        for (fails, left) in [(0, false), (2, false), (u32::MAX, true)] {
            let mut play = Play::new(0);
            let until = play.time(600);
            play.at(10).begin(until);
            play.act();
            play.fails = fails;
            let end = play.time(20);
            play.at(20).close(end);
            let last = loop {
                match play.act() {
                    Some(next) => play.now = next,
                    None => break play.post.next(play.work.wanted(play.now), play.now),
                }
            };
            assert_eq!(last, Step::End { left });
            assert!(play.now - end <= CLOSING_MAX);
            assert_eq!(play.set[2], (20, false), "{:?}", play.set);
        }
    }
}
