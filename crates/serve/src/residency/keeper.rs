//! The keeper: a thread of low priority that looks what is in memory, and has go what is too much before the kernel takes
//! whatever comes first.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{blocks, memory};

use super::Residency;
use super::room::{Measure, models};
use crate::scheduler::Scheduler;

/// Between two looks, when nobody rings.
const PAUSE: Duration = Duration::from_secs(1);
/// So much of the budget more than there has to be is made free at a time, so that it does not begin again at once.
const MARGIN_SHARE: u64 = 64;
/// Free parts of the heap are given back when looks in a row find so much too much.
const TRIM_EVERY: Duration = Duration::from_secs(10);

/// Wakes the keeper.
#[derive(Debug, Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.heard.notify_one();
    }

    /// Returns when it was rung, or after `pause`.
    fn wait(&self, pause: Duration) {
        let rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut rung, _) =
            self.heard.wait_timeout_while(rung, pause, |rung| !*rung).unwrap_or_else(PoisonError::into_inner);
        *rung = false;
    }
}

/// The life of the keeper.
pub(crate) fn keep(scheduler: &Scheduler) {
    engine::cpu::step_back();
    let residency = scheduler.residency();
    let mut trimmed = Instant::now();
    while !scheduler.is_stopped() {
        residency.bell.wait(PAUSE);
        residency.keep(&mut trimmed);
    }
}

impl Residency {
    /// Wakes the keeper, which may have to leave.
    pub(crate) fn wake_keeper(&self) {
        self.bell.ring();
    }

    fn keep(&self, trimmed: &mut Instant) {
        let now = Instant::now();
        // Requests are weighed at their own time, more or less.
        for model in models(&self.catalog()) {
            model.traffic().rate_hz(now);
        }
        blocks::expire();
        self.look();
        if self.budget.excess_bytes() > 0 {
            // What lies ready goes before what somebody may ask for.
            blocks::release();
            self.look();
        }
        let excess = self.budget.excess_bytes();
        if excess == 0 {
            return;
        }
        self.relieve(excess + self.budget.limit_bytes() / MARGIN_SHARE, Measure::Everything);
        if trimmed.elapsed() >= TRIM_EVERY {
            memory::trim_heap();
            *trimmed = Instant::now();
        }
        self.look();
    }
}
