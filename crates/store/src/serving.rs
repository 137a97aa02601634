//! [`Serving`]: what a model's own configuration says about how its requests are queued and put together.

use serde::{Deserialize, Serialize};

/// How one model is served; what is left out is for the server to decide.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Serving {
    /// The most items of a batch; 0 and 1 never put requests together.
    pub max_batch_size: Option<u64>,
    /// Batch sizes that are run without waiting for more.
    pub preferred_batch_sizes: Vec<u64>,
    /// The longest that a request is held back to fill a batch, in microseconds: 0 never holds one back, nothing leaves
    /// it to the server.
    pub max_queue_delay_us: Option<u64>,
    /// Requests that may wait; one more is refused at once.
    pub queue_capacity: Option<usize>,
    /// The longest that a request waits for a lane, in milliseconds.
    pub queue_time_limit_ms: Option<u64>,
    /// The priority of a request that names none; 1 goes first.
    pub default_priority: Option<u32>,
    /// How many priorities there are.
    pub priority_levels: Option<u32>,
    /// How the model's requests stand against those of other models.
    pub latency_class: Option<LatencyClass>,
}

/// How soon a model's requests are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LatencyClass {
    /// Somebody waits for the answer.
    Interactive,
    /// As soon as it is its turn.
    Standard,
    /// When nobody else wants the lane.
    Background,
}
