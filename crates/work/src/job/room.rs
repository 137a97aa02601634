//! What all videos of a worker share: places for frames on their way through the model, and decoders.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Between two looks whether to give up waiting.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// A number of places, each taken by one at a time; dropping a [`Place`] gives it back.
///
/// A condition variable rather than a channel of tokens, so that whoever waits can also be told to stop.
#[derive(Debug)]
pub(super) struct Room {
    /// Changed under the lock alone; no panic can leave it half changed.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    free: usize,
    waiting: usize,
}

impl Room {
    /// A room with `places`, at least one.
    pub(super) fn new(places: usize) -> Self {
        Self { state: Mutex::new(State { free: places.max(1), waiting: 0 }), changed: Condvar::new() }
    }

    /// Waits for a place; `None` when `cancelled` says so first.
    pub(super) fn enter(&self, cancelled: &dyn Fn() -> bool) -> Option<Place<'_>> {
        let mut state = self.lock();
        state.waiting += 1;
        while state.free == 0 {
            // The lock is not held while a stranger is asked.
            drop(state);
            let stop = cancelled();
            state = self.lock();
            if stop {
                state.waiting -= 1;
                return None;
            }
            if state.free == 0 {
                state = self.changed.wait_timeout(state, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        state.waiting -= 1;
        state.free -= 1;
        Some(Place(self))
    }

    /// A place that nobody waits for, if there is one.
    pub(super) fn try_enter(&self) -> Option<Place<'_>> {
        let mut state = self.lock();
        let spare = state.free.checked_sub(1).filter(|&left| left >= state.waiting)?;
        state.free = spare;
        Some(Place(self))
    }

    /// Whether somebody waits.
    pub(super) fn is_wanted(&self) -> bool {
        self.lock().waiting > 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that is taken.
#[derive(Debug)]
pub(super) struct Place<'a>(&'a Room);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lock().free += 1;
        self.0.changed.notify_one();
    }
}

/// What all videos of a worker share.
#[derive(Debug)]
pub struct Shared {
    /// For frames between their submission and their answer, so that memory does not grow with videos or frames.
    pub(super) frames: Room,
    /// For decoding children.
    pub(super) decoders: Room,
}

impl Shared {
    /// For a worker that has `lanes` to keep busy with up to `videos_max` videos.
    pub fn new(lanes: usize, videos_max: usize) -> Self {
        let lanes = lanes.max(1);
        // A lane computes one frame while the next one waits for it, and two more are on their way to and from.
        Self { frames: Room::new(2 * lanes + 2), decoders: Room::new(lanes.max(videos_max)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_persons_at_a_time() {
        let room = Room::new(2);
        let first = room.try_enter().unwrap();
        let _second = room.enter(&|| false).unwrap();
        assert!(room.try_enter().is_none() && room.enter(&|| true).is_none() && !room.is_wanted());
        drop(first);
        assert!(room.try_enter().is_some());
        assert!(room.enter(&|| true).is_some(), "what is free is had without asking");
    }

    #[test]
    fn whoever_waits_comes_before_whoever_only_would() {
        let room = Room::new(1);
        std::thread::scope(|scope| {
            let held = room.try_enter().unwrap();
            let waiter = scope.spawn(|| room.enter(&|| false).is_some());
            while !room.is_wanted() {
                std::thread::yield_now();
            }
            drop(held);
            // Either the waiter has been and gone, or the place is his.
            while room.is_wanted() {
                assert!(room.try_enter().is_none() || !room.is_wanted());
            }
            assert!(waiter.join().unwrap());
        });
        assert!(room.try_enter().is_some());
    }
}
