//! The task queue: what every implementation promises, and the embedded one.
//!
//! A received task stays in the queue, hidden from others until its lease runs out. Whoever finishes it says so with
//! the lease's receipt; whoever dies says nothing, and the task comes back by itself.

mod fault;
mod sqlite;
mod sqs;

#[cfg(test)]
mod conformance;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use engine::{Error, ErrorKind, Result};

pub use self::sqlite::{Options, SqliteQueue};
pub use self::sqs::{SqsOptions, SqsOutbox, SqsQueue};
use crate::Task;

/// Milliseconds since 1970; an argument everywhere, so that a test can turn it.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The machine's own clock.
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since_1970.as_millis()).unwrap_or(i64::MAX)
    })
}

/// A durable queue of tasks, shared by any number of workers.
///
/// Every call that takes a lease fails with [`Cancelled`](ErrorKind::Cancelled) and changes nothing when the lease is
/// lost, that is, when the task was received again, given back or ended since; no other failure has that kind. Any
/// other error is about the queue itself, and the call may be made again.
///
/// A queue that is a service keeps messages, not tasks: it cannot tell where one is, the same task sent twice is two
/// messages, and a message may be delivered twice. The worker is right all the same, since a delivery of a task whose
/// result is there does nothing.
pub trait TaskQueue: Send + Sync {
    /// Adds a task. Adding the very same task twice is adding it once, where the queue keeps tasks.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) when another task has the same id;
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the task is not valid.
    fn send(&self, task: &Task) -> Result<()>;

    /// Takes the task that has been visible for longest, or one of them, and hides it for `visibility`.
    ///
    /// A body that is no task, and a task received too often without an end, goes to the dead letters instead.
    ///
    /// # Errors
    /// About the queue itself.
    fn receive(&self, visibility: Duration) -> Result<Received>;

    /// Hides the task for `visibility` from now on.
    ///
    /// # Errors
    /// [`Cancelled`](ErrorKind::Cancelled) when the lease is lost.
    fn extend(&self, lease: &Lease, visibility: Duration) -> Result<()>;

    /// Ends the task well. Its result must be durable before.
    ///
    /// # Errors
    /// [`Cancelled`](ErrorKind::Cancelled) when the lease is lost.
    fn complete(&self, lease: &Lease) -> Result<()>;

    /// Gives the task back, visible again after `delay`. With `count_failure` it counts as a failure of the task;
    /// without, the receive is forgotten as well, since the task is not to blame for it.
    ///
    /// # Errors
    /// [`Cancelled`](ErrorKind::Cancelled) when the lease is lost.
    fn release(&self, lease: &Lease, delay: Duration, reason: &str, count_failure: bool) -> Result<()>;

    /// Ends the task badly, for `reason`.
    ///
    /// # Errors
    /// [`Cancelled`](ErrorKind::Cancelled) when the lease is lost.
    fn dead_letter(&self, lease: &Lease, reason: &str) -> Result<()>;

    /// How many tasks are where.
    ///
    /// # Errors
    /// About the queue itself.
    fn depth(&self) -> Result<Depth>;

    /// Whether it keeps tasks, and can tell where each one is.
    fn keeps_tasks(&self) -> bool;

    /// Where the task called `id` is.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when it was never sent; [`Unsupported`](ErrorKind::Unsupported) by a queue that
    /// keeps messages, not tasks.
    fn state(&self, id: &str) -> Result<TaskState>;

    /// Tasks that ended badly, at most `count_max`, in no order.
    ///
    /// # Errors
    /// About the queue itself.
    fn dead_letters(&self, count_max: usize) -> Result<Vec<DeadLetter>>;

    /// Puts tasks that ended badly back, as if they had never been received: those that `wanted` says, by their ids. Says
    /// how many.
    ///
    /// # Errors
    /// About the queue itself; some may be back by then.
    fn redrive(&self, wanted: &dyn Fn(&str) -> bool) -> Result<u64>;
}

/// A task that ended badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// What the queue calls it: the task's id, or a message's where its body is no task.
    pub id: String,
    /// The video, where it is known.
    pub input: Option<String>,
    /// Why, for a person.
    pub reason: String,
}

/// What a call to receive came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// No task is visible.
    Nothing,
    /// A task to be worked.
    Task(Box<Lease>),
    /// A task that went to the dead letters instead; ask again for the next.
    DeadLetter {
        /// Its id, which may be anything, if not we wrote it.
        id: String,
        /// The task, where it is one.
        task: Option<Box<Task>>,
        /// Why.
        reason: String,
    },
}

/// A received task, and the right to end it.
#[derive(Clone, Debug, PartialEq)]
pub struct Lease {
    /// What to do.
    pub task: Task,
    /// One path segment, new at every receive; only the newest is honoured.
    pub receipt: String,
    /// How often the task was received, this time included, except when it was given back unharmed.
    pub receive_count: u32,
    /// How often it was given back as failed.
    pub failures: u32,
}

/// How many tasks are where; a task is in exactly one of the five counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Would be received now.
    pub visible: u64,
    /// Given back, and not due yet.
    pub delayed: u64,
    /// Held by a lease that has not run out.
    pub in_flight: u64,
    /// Ended badly.
    pub dead: u64,
    /// Ended well; 0 where the queue forgets them.
    pub done: u64,
    /// Age of the oldest task that has not ended, since it was sent, where the queue tells.
    pub oldest_age: Option<Duration>,
}

impl Depth {
    /// Whether every task has ended.
    pub fn is_drained(&self) -> bool {
        self.visible == 0 && self.delayed == 0 && self.in_flight == 0
    }
}

/// Where one task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskState {
    /// Which of the five.
    pub phase: Phase,
    /// How often it was given back as failed.
    pub failures: u32,
    /// Why it was given back last, or ended badly.
    pub reason: Option<String>,
}

/// The places a task can be in; see [`Depth`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Would be received now.
    Visible,
    /// Given back, and not due yet.
    Delayed,
    /// Held by a lease that has not run out.
    InFlight,
    /// Ended badly.
    Dead,
    /// Ended well.
    Done,
}

/// The error of a lease that is lost.
pub fn lease_lost(id: &str) -> Error {
    let message = format!("the lease on task {id} is lost: it ran out, and the task was received again or has ended");
    Error::new(ErrorKind::Cancelled, message)
}
