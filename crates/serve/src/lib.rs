//! The model server as a library: APIs, scheduler, lanes, residency.
//!
//! Data flows one way. An API (`http`, `grpc`) only converts bytes into an [`InferRequest`] and an [`InferResponse`]
//! into bytes; the [`Scheduler`] only decides which request runs next; a lane only runs it; [`Residency`] only knows
//! which models there are and keeps their programs and weights at hand.

mod deadline;
mod infer;
pub use infer::{InferRequest, InferResponse, Origin, Timing};

mod bodies;
pub use bodies::{Bodies, Held};
mod trace;
pub use trace::TraceContext;

mod stats;
pub use stats::{BatchStatistics, Spent, Statistics};

mod model;
pub use model::Model;

mod catalog;
pub use catalog::{Control, IndexEntry, ModelState};
mod residency;
pub use residency::{Budget, LoadOptions, MemoryFigures, MemoryKind, Residency, ResidencyOptions};

mod batch;
mod costs;
mod fair;
mod guest;
mod hold;
mod job;
mod lengths;
mod padding;
mod queue;
mod waiting;
mod wake;
pub use queue::QueueLimits;
mod changes;
mod desk;
pub use desk::{Answers, Ask};
mod lane;
mod reply;
pub use reply::Reply;
mod reshape;
mod scheduler;
pub use scheduler::Scheduler;

mod metrics;
pub use metrics::{
    CacheSource, MemorySource, Metrics, ModelCounts, ModelSource, OtherMetric, OtherSource, ProgramMemory,
};

pub mod people;

mod tfs;

mod triton;
pub use triton::SharedMemory;

mod aside;
mod network;
pub use network::{Connections, Network};
mod streams;

mod listen;
pub use listen::ListenLimits;

pub mod admin;
pub mod grpc;
pub mod http;
pub mod manage;
pub mod untrusted;
pub use manage::{LogLevels, LogSwitch, Management};

#[cfg(test)]
mod fixture;
#[cfg(test)]
mod listeners_tests;
#[cfg(test)]
mod simulation;
