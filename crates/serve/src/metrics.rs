//! What the server counts, in Prometheus' text form. Bounded: no label has a value that a client can choose.

use std::fmt::Write as _;
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
    lane_busy_seconds: Counter<f64, std::sync::atomic::AtomicU64>,
    loads: Family<Outcome, Counter>,
    load_seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Kind(ErrorKind);

impl EncodeLabelValue for Kind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        encoder.write_str(match self.0 {
            ErrorKind::InvalidInput => "invalid_input",
            ErrorKind::NotFound => "not_found",
            ErrorKind::AlreadyExists => "already_exists",
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

impl Default for Metrics {
    fn default() -> Self {
        // From 50 us to about 26 s, each bucket twice the last: a digit of precision where anybody looks.
        let seconds = || Histogram::new(exponential_buckets(50e-6, 2.0, 20));
        let mut metrics = Self {
            registry: Registry::with_prefix("packhorse"),
            lanes: Gauge::default(),
            queued: Gauge::default(),
            answered: Counter::default(),
            refused: Family::default(),
            queue_seconds: seconds(),
            compute_seconds: seconds(),
            lane_busy_seconds: Counter::default(),
            loads: Family::default(),
            load_seconds: seconds(),
        };
        let registry = &mut metrics.registry;
        registry.register("lanes", "Lanes that compute", metrics.lanes.clone());
        registry.register("requests_queued", "Requests that wait for a lane", metrics.queued.clone());
        registry.register("requests_answered", "Requests answered with outputs", metrics.answered.clone());
        registry.register("requests_refused", "Requests answered with an error", metrics.refused.clone());
        let (queue, compute) = (metrics.queue_seconds.clone(), metrics.compute_seconds.clone());
        registry.register_with_unit("request_queue", "Wait from submission to a lane", Unit::Seconds, queue);
        registry.register_with_unit("request_compute", "Time on a lane", Unit::Seconds, compute);
        let busy = metrics.lane_busy_seconds.clone();
        registry.register_with_unit("lane_busy", "Time that lanes spent computing", Unit::Seconds, busy);
        registry.register("program_loads", "Programs built", metrics.loads.clone());
        let load = metrics.load_seconds.clone();
        registry.register_with_unit("program_load", "Time to build a program's sessions", Unit::Seconds, load);
        metrics
    }
}

impl Metrics {
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

    /// A lane spent `cost` on a request.
    pub(crate) fn answered(&self, outcome: Result<Timing, &engine::Error>, cost: Duration) {
        self.lane_busy_seconds.inc_by(cost.as_secs_f64());
        match outcome {
            Ok(timing) => {
                self.answered.inc();
                self.queue_seconds.observe(timing.queue.as_secs_f64());
                self.compute_seconds.observe(timing.compute.as_secs_f64());
            }
            Err(error) => self.refused(error.kind),
        }
    }

    /// The loader spent `cost` on a program.
    pub(crate) fn loaded(&self, succeeded: bool, cost: Duration) {
        let outcome = if succeeded { "ready" } else { "failed" };
        self.loads.get_or_create(&Outcome { outcome }).inc();
        self.load_seconds.observe(cost.as_secs_f64());
    }
}
