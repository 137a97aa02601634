//! What the thread that reads a decoder spends, and on what.

use std::time::Duration;

use engine::cpu::thread_cpu;

use crate::cost::Spent;

/// The CPU time of the calling thread, lap by lap.
pub(super) struct Clock {
    mark: Duration,
    pub(super) spent: Spent,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self { mark: thread_cpu(), spent: Spent::default() }
    }

    fn lap(&mut self) -> f64 {
        let now = thread_cpu();
        now.saturating_sub(std::mem::replace(&mut self.mark, now)).as_secs_f64()
    }

    pub(super) fn read(&mut self) {
        self.spent.decode_s += self.lap();
    }

    pub(super) fn gated(&mut self) {
        self.spent.gate_s += self.lap();
    }

    pub(super) fn prepared(&mut self) {
        self.spent.prepare_s += self.lap();
    }

    /// What was spent, with what the child took.
    pub(super) fn spent(&mut self, child: Duration) -> Spent {
        self.read();
        Spent { decode_s: self.spent.decode_s + child.as_secs_f64(), ..self.spent }
    }
}
