//! The queue-driven video worker: a task leaves the queue, its video is decoded, every frame is put to a detector,
//! and the detections are durable before the task is acknowledged.
//!
//! Knows no HTTP server and no scheduler: inference is asked for through [`Inference`], so the binary can hand the
//! worker the in-process scheduler or a remote server. Plain threads, no async runtime.

pub mod task;
pub use task::Task;

pub mod body;

pub mod queue;
pub use queue::{SqliteQueue, TaskQueue};

pub mod object;
pub use object::{BucketStore, FolderStore, ObjectStore};

pub mod source;
pub use source::Source;

pub mod sampling;
pub use sampling::Sampling;

pub mod gate;

mod ranges;

pub mod spool;
pub use spool::{LazySpool, Spool};

pub mod media;

pub mod inference;
pub use inference::{Answer, Inference, Pending};

pub mod output;
pub use output::{Form, Sighting};

pub mod result;
pub use result::Summary;

pub mod refusal;
pub use refusal::Refusal;

pub mod reply;
pub use reply::{Outbox, Replies};

pub mod cost;
pub use cost::Cost;

pub mod segment;

pub mod job;

mod judge;

pub mod quality;

pub mod track;

pub mod examine;

pub mod policy;

pub mod notice;
pub use notice::Notice;

pub mod protection;
pub use protection::Protection;

pub mod worker;
pub use worker::{Config, Mode, Observer, Report, Worker};

pub mod stop;
pub use stop::Stop;

#[cfg(test)]
#[path = "../../objects/tests/servers/mod.rs"]
mod servers;
