//! What became of the requests.

use std::collections::BTreeMap;
use std::time::Duration;

use engine::{Error, Result};
use hdrhistogram::Histogram;

/// Latencies are told apart to three digits, up to a minute.
const DIGITS: u8 = 3;
const LATENCY_MAX_US: u64 = 60_000_000;

/// What became of one request.
#[derive(Debug)]
pub(super) enum Answer {
    Answered,
    /// The server would not take it now.
    Refused {
        /// It said when to come again.
        retry_after: bool,
    },
    /// Anything else, by kind.
    Failed(String),
}

/// What became of one caller's requests, or of all.
pub(super) struct Tally {
    latencies_us: Histogram<u64>,
    refused: u64,
    refused_with_time: u64,
    failed: BTreeMap<String, u64>,
    unsent: u64,
}

/// What a load came to.
#[derive(Debug)]
pub struct Load {
    /// Requests answered: 200 or gRPC's OK.
    pub answered: u64,
    /// Requests that the server would not take: 429 or `RESOURCE_EXHAUSTED`.
    pub refused: u64,
    /// Those of them that said when to come again.
    pub refused_with_time: u64,
    /// All other requests, by what became of them: a status, a connection that was lost, no answer in time.
    pub failed: BTreeMap<String, u64>,
    /// Requests of an open loop that were due and never sent, because every connection was busy.
    pub unsent: u64,
    /// From the first request to the last answer.
    pub wall: Duration,
    /// Of the answered ones, in microseconds; all callers' merged.
    pub latencies_us: Histogram<u64>,
    /// CPU time of the generator, which has one thread for the connections and one for the pace.
    pub generator_cpu: Duration,
}

impl Load {
    /// Answers a second.
    pub fn per_second(&self) -> f64 {
        self.answered as f64 / self.wall.as_secs_f64()
    }

    /// Requests a second that were sent, whatever became of them.
    pub fn sent_per_second(&self) -> f64 {
        (self.answered + self.refused + self.failures()) as f64 / self.wall.as_secs_f64()
    }

    /// Requests that were neither answered nor refused.
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// The latency that this share of the answered requests did not exceed, in milliseconds.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        self.latencies_us.value_at_quantile(share) as f64 / 1e3
    }
}

impl Tally {
    pub(super) fn new() -> Result<Self> {
        let latencies_us = Histogram::new_with_max(LATENCY_MAX_US, DIGITS)
            .map_err(|error| Error::internal(format!("no histogram: {error}")))?;
        Ok(Self { latencies_us, refused: 0, refused_with_time: 0, failed: BTreeMap::new(), unsent: 0 })
    }

    /// A request that ended so, `latency` after it was due.
    pub(super) fn count(&mut self, answer: Answer, latency: Duration) {
        match answer {
            Answer::Answered => {
                let us = u64::try_from(latency.as_micros()).unwrap_or(LATENCY_MAX_US);
                self.latencies_us.saturating_record(us);
            }
            Answer::Refused { retry_after } => {
                self.refused += 1;
                self.refused_with_time += u64::from(retry_after);
            }
            Answer::Failed(kind) => *self.failed.entry(kind).or_default() += 1,
        }
    }

    /// A request that was due and could not be sent.
    pub(super) fn unsent(&mut self) {
        self.unsent += 1;
    }

    /// Adds what another caller came to.
    ///
    /// # Errors
    /// None that can happen: all histograms have the same bounds.
    pub(super) fn add(&mut self, other: &Self) -> Result<()> {
        self.refused += other.refused;
        self.refused_with_time += other.refused_with_time;
        self.unsent += other.unsent;
        for (kind, count) in &other.failed {
            *self.failed.entry(kind.clone()).or_default() += count;
        }
        let added = self.latencies_us.add(&other.latencies_us);
        added.map_err(|error| Error::internal(format!("histograms do not merge: {error}")))
    }

    /// The load that this was.
    pub(super) fn over(self, wall: Duration, generator_cpu: Duration) -> Load {
        let Self { latencies_us, refused, refused_with_time, failed, unsent } = self;
        let answered = latencies_us.len();
        Load { answered, refused, refused_with_time, failed, unsent, wall, latencies_us, generator_cpu }
    }
}
