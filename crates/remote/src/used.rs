//! What calls took, counted.

use std::ops::AddAssign;
use std::time::Duration;

/// What one question took, or many together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Calls that were sent, all of them.
    pub calls: u64,
    /// Those that were sent again because one before had failed.
    pub retries: u64,
    /// Those that were sent beside one that took long.
    pub hedges: u64,
    /// Bytes of the messages whose answers were used.
    pub sent_bytes: u64,
    /// Bytes of those answers.
    pub received_bytes: u64,
    /// From the question to its answer, or until it was given up.
    pub wait: Duration,
}

impl AddAssign for Used {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.retries += other.retries;
        self.hedges += other.hedges;
        self.sent_bytes += other.sent_bytes;
        self.received_bytes += other.received_bytes;
        self.wait += other.wait;
    }
}
