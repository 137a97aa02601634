//! What a worker is told before it begins, and whom it tells what it does.

use std::time::Duration;

use crate::cost::Cost;
use crate::job::Checkpoint;
use crate::policy::{Patience, Verdict};
use crate::result::Summary;
use crate::segment::Lengths;
use crate::task::Task;

/// A worker's times and limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a task stays hidden after its worker's last sign of life; extended at a third of it.
    pub visibility: Duration,
    /// Between two looks into an empty queue.
    pub poll: Duration,
    /// The longest wait for a sign of life of the decoder, or for room in the model's queue.
    pub stall_limit: Duration,
    /// Before a serving worker tries a failed place or queue again.
    pub mend_wait: Duration,
    /// When a failing task is given up.
    pub patience: Patience,
    /// Videos worked at once. More than a few only help where each of them is short.
    pub videos_max: usize,
    /// How a video is cut.
    pub lengths: Lengths,
    /// When what is done of a segment is made durable.
    pub checkpoint: Checkpoint,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            visibility: Duration::from_secs(30),
            poll: Duration::from_millis(500),
            stall_limit: Duration::from_secs(30),
            mend_wait: Duration::from_secs(30),
            patience: Patience::default(),
            videos_max: 2,
            lengths: Lengths::default(),
            checkpoint: Checkpoint::default(),
        }
    }
}

/// When a worker is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// When it is asked to stop.
    Serve,
    /// When every task in the queue has ended, those of other workers included.
    DrainOnce,
    /// After one delivery, or at once when no task is visible.
    OneJob,
}

/// What a worker did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tasks with a durable result.
    pub completed: u64,
    /// Tasks that went to the dead letters.
    pub dead: u64,
    /// Deliveries that were given back.
    pub released: u64,
    /// Deliveries that another worker took over.
    pub lost: u64,
}

/// Is told what happens, for progress bars and logs, from any thread; every method does nothing unless it is written.
pub trait Observer: Sync {
    /// A task was received; `delivery` counts from 1.
    fn started(&self, _task: &Task, _delivery: u32) {}

    /// `frames` of `declared` were looked at.
    fn progress(&self, _task: &Task, _frames: u64, _declared: Option<u64>) {}

    /// The result is durable and the task acknowledged; what it took is told unless an earlier delivery finished it.
    fn finished(&self, _task: &Task, _summary: &Summary, _cost: Option<&Cost>) {}

    /// The task has no result.
    fn failed(&self, _task: &Task, _verdict: &Verdict) {}

    /// The queue itself gave up what it calls `id`, which may be anything.
    fn discarded(&self, _id: &str, _reason: &str) {}
}
