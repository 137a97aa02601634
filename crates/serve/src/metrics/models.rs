//! What each model has done. The busiest models have series under their own name; all others together are `_other`.
//!
//! A scraper takes a sum that shrinks for a restart, so no series may shrink when models come, go, or change places
//! between their own series and the common one. Each scrape therefore adds what a version has done since the last one
//! to the series that its model is in at that moment.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::{Add, AddAssign};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::watched::Watched;
use crate::Statistics;

/// Models with series of their own.
pub(super) const NAMED_MAX: usize = 50;

/// The name under which all other models are. A model's own name cannot begin with `_`.
pub(super) const OTHER: &str = "_other";

/// What one version of a model has done since it was loaded; none of it ever shrinks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelCounts {
    /// Requests answered with outputs.
    pub answered: u64,
    /// Requests answered with an error after they were queued.
    pub failed: u64,
    /// Batch items computed.
    pub items: u64,
    /// Runs on a lane.
    pub runs: u64,
    /// Time that requests waited, in nanoseconds.
    pub queue_ns: u64,
    /// Time that requests were computed, in nanoseconds.
    pub compute_ns: u64,
}

impl From<&Statistics> for ModelCounts {
    fn from(statistics: &Statistics) -> Self {
        let compute = [statistics.compute_input, statistics.compute_infer, statistics.compute_output];
        Self {
            answered: statistics.success.count,
            failed: statistics.fail.count,
            items: statistics.inference_count,
            runs: statistics.execution_count,
            queue_ns: statistics.queue.ns,
            compute_ns: compute.iter().fold(0, |sum, spent| sum.saturating_add(spent.ns)),
        }
    }
}

impl ModelCounts {
    fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            answered: with(self.answered, other.answered),
            failed: with(self.failed, other.failed),
            items: with(self.items, other.items),
            runs: with(self.runs, other.runs),
            queue_ns: with(self.queue_ns, other.queue_ns),
            compute_ns: with(self.compute_ns, other.compute_ns),
        }
    }

    fn requests(&self) -> u64 {
        self.answered.saturating_add(self.failed)
    }
}

impl Add for ModelCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }
}

impl AddAssign for ModelCounts {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Knows what every served version of every model has done.
pub trait ModelSource: Send + Sync {
    /// Calls `each` with every version's id, which no other version ever has, its model's name and its counts.
    fn visit(&self, each: &mut dyn FnMut(u64, &str, ModelCounts));

    /// How many versions run in their portable form though there is a quicker one for other CPUs.
    fn fallbacks(&self) -> usize;
}

/// The series of the models, brought up to date by each scrape.
#[derive(Debug, Default)]
pub(super) struct Models {
    source: Watched<dyn ModelSource>,
    /// Held for the length of a scrape, by scrapes alone.
    series: Mutex<Series>,
}

impl Models {
    pub(super) fn watch(&self, source: Arc<dyn ModelSource>) {
        self.source.watch(source);
    }
}

/// What the scrapes so far have told.
#[derive(Debug, Default)]
struct Series {
    /// What each version had done at the last scrape.
    last: HashMap<u64, ModelCounts>,
    named: HashMap<String, ModelCounts>,
    other: ModelCounts,
}

/// One version, as the source tells of it.
struct Seen {
    id: u64,
    /// Index into the names.
    name: usize,
    counts: ModelCounts,
}

impl Series {
    /// Adds what `source` has to tell since the last time.
    fn update(&mut self, source: &dyn ModelSource) {
        let (mut indices, mut names) = (HashMap::<String, usize>::new(), Vec::<(String, u64)>::new());
        let mut seen = Vec::new();
        source.visit(&mut |id, name, counts| {
            let index = indices.get(name).copied().unwrap_or_else(|| {
                indices.insert(name.to_owned(), names.len());
                names.push((name.to_owned(), 0));
                names.len() - 1
            });
            names[index].1 = names[index].1.saturating_add(counts.requests());
            seen.push(Seen { id, name: index, counts });
        });
        let chosen = self.choose(&names);
        self.named.retain(|name, _| indices.get(name).is_some_and(|index| chosen.contains(index)));
        let mut last = HashMap::with_capacity(seen.len());
        for Seen { id, name, counts } in seen {
            let before = self.last.get(&id).copied().unwrap_or_default();
            let since = counts.zip(before, u64::saturating_sub);
            if chosen.contains(&name) {
                *self.named.entry(names[name].0.clone()).or_default() += since;
            } else {
                self.other += since;
            }
            last.insert(id, counts);
        }
        self.last = last;
    }

    /// The busiest of `names`. One that has a series already keeps it until another is busier by a quarter, so that two
    /// of the same rank do not take turns.
    fn choose(&self, names: &[(String, u64)]) -> HashSet<usize> {
        let rank = |index: &usize| {
            let (name, requests) = &names[*index];
            let bonus = if self.named.contains_key(name) { requests / 4 + 1 } else { 0 };
            (std::cmp::Reverse(requests.saturating_add(bonus)), name)
        };
        let mut order: Vec<usize> = (0..names.len()).collect();
        if order.len() > NAMED_MAX {
            order.select_nth_unstable_by(NAMED_MAX, |one, other| rank(one).cmp(&rank(other)));
        }
        order.truncate(NAMED_MAX);
        order.into_iter().collect()
    }
}

impl Collector for Models {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(source) = self.source.source() else { return Ok(()) };
        let mut series = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.update(source.as_ref());
        let served = ConstGauge::new(i64::try_from(series.last.len()).unwrap_or(i64::MAX));
        let help = "Versions of models that are served.";
        served.encode(encoder.encode_descriptor("models", help, None, served.metric_type())?)?;
        let fallbacks = ConstGauge::new(i64::try_from(source.fallbacks()).unwrap_or(i64::MAX));
        let help = "Versions of models that run in their portable form, having a quicker one for other CPUs alone.";
        fallbacks.encode(encoder.encode_descriptor("models_portable", help, None, fallbacks.metric_type())?)?;
        let mut rows: Vec<(&str, ModelCounts)> = series.named.iter().map(|(name, &counts)| (&**name, counts)).collect();
        rows.sort_unstable_by_key(|&(name, _)| name);
        rows.push((OTHER, series.other));
        let requests = "Requests that were queued and answered, with outputs (ok) or with an error (failed).";
        let mut family = encoder.encode_descriptor("model_requests", requests, None, MetricType::Counter)?;
        for &(model, counts) in &rows {
            for (outcome, count) in [("ok", counts.answered), ("failed", counts.failed)] {
                ConstCounter::new(count).encode(family.encode_family(&[("model", model), ("outcome", outcome)])?)?;
            }
        }
        for (name, help, count) in COUNTS {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (model, counts) in &rows {
                ConstCounter::new(count(counts)).encode(family.encode_family(&[("model", *model)])?)?;
            }
        }
        for (name, help, ns) in TIMES {
            let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Counter)?;
            for (model, counts) in &rows {
                let seconds = Duration::from_nanos(ns(counts)).as_secs_f64();
                ConstCounter::new(seconds).encode(family.encode_family(&[("model", *model)])?)?;
            }
        }
        Ok(())
    }
}

/// A family: its name, its help and where its value is.
type Row = (&'static str, &'static str, fn(&ModelCounts) -> u64);

const COUNTS: [Row; 2] = [
    ("model_items", "Batch items computed.", |counts| counts.items),
    ("model_runs", "Runs on a lane; items by runs is the mean batch.", |counts| counts.runs),
];

const TIMES: [Row; 2] = [
    ("model_queue", "Time that requests waited for a lane.", |counts| counts.queue_ns),
    ("model_compute", "Time that requests were computed.", |counts| counts.compute_ns),
];
