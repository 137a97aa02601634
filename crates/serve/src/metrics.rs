//! What the server counts, in Prometheus' text form. Bounded: no label has a value that a client can choose, and of the
//! models only the busiest have series of their own.

mod cache;
pub use cache::CacheSource;
mod memory;
pub use memory::{MemorySource, ProgramMemory};
mod models;
pub use models::{ModelCounts, ModelSource};
mod others;
pub use others::{OtherMetric, OtherSource};
mod process;
mod watched;
mod weights;
pub(crate) use weights::Inspected;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use engine::ErrorKind;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::Timing;
use models::Models;
use watched::Watched;
use weights::WeightCounts;

/// Counters and histograms of one server. Made once, passed in, never global.
pub struct Metrics {
    registry: Registry,
    /// How many lanes there are.
    pub(crate) lanes: Gauge,
    /// Requests that wait for a lane.
    pub(crate) queued: Gauge,
    answered: Counter,
    refused: Family<Reason, Counter>,
    queue_seconds: Histogram,
    compute_seconds: Histogram,
    batch_items: Histogram,
    shared_runs: Counter,
    shared_requests: Counter,
    lane_busy_seconds: Family<Lane, Counter<f64, AtomicU64>>,
    program_loads: Family<Outcome, Counter>,
    program_load_seconds: Histogram,
    /// Jobs that wait for a thread of the desk, and requests that wait for their model's files before.
    pub(crate) desk_waiting: Gauge,
    desk_wait_seconds: Histogram,
    prepare_seconds: Histogram,
    finish_seconds: Histogram,
    model_loads: Family<Outcome, Counter>,
    model_unloads: Counter,
    cold_start_seconds: Histogram,
    weights: WeightCounts,
    evictions: Family<Gone, Counter>,
    promotions: Family<Became, Counter>,
    models: Arc<Models>,
    memory: Arc<Watched<dyn MemorySource>>,
    cache: Arc<Watched<dyn CacheSource>>,
    others: Arc<Watched<dyn OtherSource>>,
}

/// What was taken out of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Evicted {
    Weights,
    Program,
    Hot,
    Trunk,
}

/// What became of a model that looked hot, or was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Promoted {
    Kept,
    NoGain,
    Differs,
    Unsuited,
    Failed,
    Cooled,
}

impl Promoted {
    const ALL: [Self; 6] = [Self::Kept, Self::NoGain, Self::Differs, Self::Unsuited, Self::Failed, Self::Cooled];
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Became {
    outcome: &'static str,
}

impl From<Promoted> for Became {
    fn from(promoted: Promoted) -> Self {
        let outcome = match promoted {
            Promoted::Kept => "hot",
            Promoted::NoGain => "no_gain",
            Promoted::Differs => "other_answers",
            Promoted::Unsuited => "unsuited",
            Promoted::Failed => "failed",
            Promoted::Cooled => "cooled",
        };
        Self { outcome }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Gone {
    what: &'static str,
}

impl From<Evicted> for Gone {
    fn from(evicted: Evicted) -> Self {
        let what = match evicted {
            Evicted::Weights => "weights",
            Evicted::Program => "program",
            Evicted::Hot => "hot",
            Evicted::Trunk => "trunk",
        };
        Self { what }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Outcome {
    fn of(succeeded: bool) -> Self {
        Self { outcome: if succeeded { "ready" } else { "failed" } }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lane {
    lane: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind(ErrorKind);

/// The reasons that there are from the start, so that the first refusal is seen as a step from zero.
const REASONS: [ErrorKind; 12] = [
    ErrorKind::InvalidInput,
    ErrorKind::NotFound,
    ErrorKind::AlreadyExists,
    ErrorKind::FailedPrecondition,
    ErrorKind::Forbidden,
    ErrorKind::Unsupported,
    ErrorKind::Exhausted,
    ErrorKind::Unavailable,
    ErrorKind::DeadlineExceeded,
    ErrorKind::Cancelled,
    ErrorKind::Corrupt,
    ErrorKind::Internal,
];

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        use std::fmt::Write as _;
        encoder.write_str(match self.0 {
            ErrorKind::InvalidInput => "invalid_input",
            ErrorKind::NotFound => "not_found",
            ErrorKind::AlreadyExists => "already_exists",
            ErrorKind::FailedPrecondition => "failed_precondition",
            ErrorKind::Forbidden => "forbidden",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Exhausted => "exhausted",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::DeadlineExceeded => "deadline_exceeded",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Internal => "internal",
        })
    }
}

/// Six buckets a decade from 10 us to 68 s: a quantile read from them is off by a quarter at the most.
fn seconds() -> Histogram {
    const MANTISSAS: [u32; 6] = [10, 15, 22, 33, 47, 68];
    // Whole tenths of microseconds divide into the shortest decimal fraction, and that is what a scrape shows.
    let bounds = (1..=7).flat_map(|decade| MANTISSAS.map(|mantissa| f64::from(mantissa * 10_u32.pow(decade)) / 1e7));
    Histogram::new(bounds)
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            lanes: Gauge::default(),
            queued: Gauge::default(),
            answered: Counter::default(),
            refused: Family::default(),
            queue_seconds: seconds(),
            compute_seconds: seconds(),
            batch_items: Histogram::new(exponential_buckets(1.0, 2.0, 11)),
            shared_runs: Counter::default(),
            shared_requests: Counter::default(),
            lane_busy_seconds: Family::default(),
            program_loads: Family::default(),
            program_load_seconds: seconds(),
            desk_waiting: Gauge::default(),
            desk_wait_seconds: seconds(),
            prepare_seconds: seconds(),
            finish_seconds: seconds(),
            model_loads: Family::default(),
            model_unloads: Counter::default(),
            cold_start_seconds: seconds(),
            weights: WeightCounts::default(),
            evictions: Family::default(),
            promotions: Family::default(),
            models: Arc::default(),
            memory: Arc::default(),
            cache: Arc::default(),
            others: Arc::default(),
        };
        for outcome in Promoted::ALL {
            drop(metrics.promotions.get_or_create(&outcome.into()));
        }
        for what in [Evicted::Weights, Evicted::Program, Evicted::Hot, Evicted::Trunk] {
            drop(metrics.evictions.get_or_create(&what.into()));
        }
        for reason in REASONS {
            drop(metrics.refused.get_or_create(&Reason { reason: Kind(reason) }));
        }
        for succeeded in [true, false] {
            drop(metrics.program_loads.get_or_create(&Outcome::of(succeeded)));
            drop(metrics.model_loads.get_or_create(&Outcome::of(succeeded)));
        }
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        self.registry.register_collector(Box::new(process::Process));
        let own = self.registry.sub_registry_with_prefix("packhorse");
        own.register("lanes", "Lanes that compute", self.lanes.clone());
        own.register("requests_queued", "Requests that wait for a lane", self.queued.clone());
        own.register("requests_answered", "Requests answered with outputs", self.answered.clone());
        own.register("requests_refused", "Requests answered with an error", self.refused.clone());
        let (queue, compute) = (self.queue_seconds.clone(), self.compute_seconds.clone());
        own.register_with_unit("request_queue", "Wait from submission to a lane", Unit::Seconds, queue);
        own.register_with_unit("request_compute", "Time on a lane, with whatever shared it", Unit::Seconds, compute);
        own.register("batch_items", "Items of the batch in one run on a lane", self.batch_items.clone());
        own.register("shared_runs", "Runs of requests for several models that share a trunk", self.shared_runs.clone());
        own.register("shared_requests", "Requests in such runs", self.shared_requests.clone());
        let busy = self.lane_busy_seconds.clone();
        own.register_with_unit("lane_busy", "Time that a lane spent computing", Unit::Seconds, busy);
        own.register("program_loads", "Programs built", self.program_loads.clone());
        let load = self.program_load_seconds.clone();
        own.register_with_unit("program_load", "Time to build a program's sessions", Unit::Seconds, load);
        own.register("model_loads", "Models loaded or found new in the store", self.model_loads.clone());
        own.register("model_unloads", "Models unloaded or gone from the store", self.model_unloads.clone());
        let cold = self.cold_start_seconds.clone();
        own.register_with_unit("cold_start", "Wait of requests that found their model cold", Unit::Seconds, cold);
        self.weights.register(own);
        let help = "What became of models that looked hot, and of those that were";
        own.register("promotions", help, self.promotions.clone());
        own.register("evictions", "What went because memory was short", self.evictions.clone());
        let tasks = self.desk_waiting.clone();
        own.register(
            "tasks_queued",
            "People's requests that wait for a thread of the desk or for their model's files",
            tasks,
        );
        let (wait, prepare, finish) =
            (self.desk_wait_seconds.clone(), self.prepare_seconds.clone(), self.finish_seconds.clone());
        own.register_with_unit("task_wait", "Wait of people's requests for a thread of the desk", Unit::Seconds, wait);
        own.register_with_unit("task_prepare", "Time to make tensors of what people gave", Unit::Seconds, prepare);
        own.register_with_unit("task_finish", "Time to make answers of outputs", Unit::Seconds, finish);
        own.register_collector(Box::new(Arc::clone(&self.models)));
        own.register_collector(Box::new(Arc::clone(&self.memory)));
        own.register_collector(Box::new(Arc::clone(&self.cache)));
        own.register_collector(Box::new(Arc::clone(&self.others)));
        self
    }

    /// Lets each scrape ask `source` what the models have done. The first source stays.
    pub fn watch_models(&self, source: Arc<dyn ModelSource>) {
        self.models.watch(source);
    }

    /// Lets each scrape ask `source` what is in memory. The first source stays.
    pub fn watch_memory(&self, source: Arc<dyn MemorySource>) {
        self.memory.watch(source);
    }

    /// Lets each scrape ask `source` of the node's cache. The first source stays.
    pub fn watch_cache(&self, source: Arc<dyn CacheSource>) {
        self.cache.watch(source);
    }

    /// Lets each scrape ask `source` what it counted. The first source stays.
    pub fn watch_others(&self, source: Arc<dyn OtherSource>) {
        self.others.watch(source);
    }

    /// The text that a scrape gets.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            // Writing into a string cannot fail; if it ever did, the scraper should see that and not half of it.
            text.clear();
        }
        text
    }

    /// A request was answered with an error of `kind`, without compute.
    pub(crate) fn refused(&self, kind: ErrorKind) {
        self.refused.get_or_create(&Reason { reason: Kind(kind) }).inc();
    }

    /// A request came back from a lane. What it cost is counted by [`ran`](Self::ran), once for all that shared the run.
    pub(crate) fn answered(&self, outcome: Result<Timing, &engine::Error>) {
        match outcome {
            Ok(timing) => {
                self.answered.inc();
                self.queue_seconds.observe(timing.queue.as_secs_f64());
                self.compute_seconds.observe(timing.compute.as_secs_f64());
            }
            Err(error) => self.refused(error.kind),
        }
    }

    /// `lane` spent `cost` on a run of `items`.
    pub(crate) fn ran(&self, lane: usize, items: usize, cost: Duration) {
        self.batch_items.observe(items as f64);
        self.lane_busy_seconds.get_or_create(&Lane { lane }).inc_by(cost.as_secs_f64());
    }

    /// The loader spent `cost` on a program.
    pub(crate) fn loaded(&self, succeeded: bool, cost: Duration) {
        self.program_loads.get_or_create(&Outcome::of(succeeded)).inc();
        self.program_load_seconds.observe(cost.as_secs_f64());
    }

    /// Something waited `wait` for a thread of the desk.
    pub(crate) fn desk_waited(&self, wait: Duration) {
        self.desk_wait_seconds.observe(wait.as_secs_f64());
    }

    /// What people gave was made into tensors in `cost`.
    pub(crate) fn desk_prepared(&self, cost: Duration) {
        self.prepare_seconds.observe(cost.as_secs_f64());
    }

    /// Outputs were made into answers in `cost`.
    pub(crate) fn desk_finished(&self, cost: Duration) {
        self.finish_seconds.observe(cost.as_secs_f64());
    }

    /// A version of a model was asked for by name, or found new in the store, and serves now or does not.
    pub(crate) fn model_loaded(&self, succeeded: bool) {
        self.model_loads.get_or_create(&Outcome::of(succeeded)).inc();
    }

    /// A version of a model serves no more.
    pub(crate) fn model_unloaded(&self) {
        self.model_unloads.inc();
    }

    /// So many requests, for several models, ran through the trunk that these share.
    pub(crate) fn ran_together(&self, requests: usize) {
        self.shared_runs.inc();
        self.shared_requests.inc_by(requests as u64);
    }

    /// Something went because memory was short.
    pub(crate) fn evicted(&self, what: Evicted) {
        self.evictions.get_or_create(&what.into()).inc();
    }

    /// A model that looked hot, or was, became this.
    pub(crate) fn promoted(&self, became: Promoted) {
        self.promotions.get_or_create(&became.into()).inc();
    }

    /// A request waited `wait` for a model that was not in memory.
    pub(crate) fn cold_started(&self, wait: Duration) {
        self.cold_start_seconds.observe(wait.as_secs_f64());
    }
}

#[cfg(test)]
mod tests;
