//! What became of weights on their way from disk.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::{Registry, Unit};

use super::Metrics;

/// What is counted of weights.
#[derive(Debug, Default)]
pub(super) struct WeightCounts {
    read: Counter,
    inspected: Counter,
    damaged: Counter,
}

/// What looking through segments came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inspected {
    /// So many bytes were compared with their hashes.
    Bytes,
    /// So many segments were other than their hashes say.
    Damaged,
}

impl WeightCounts {
    pub(super) fn register(&self, own: &mut Registry) {
        let help = "Weights read from disk before models ran on them";
        own.register_with_unit("weights_read", help, Unit::Bytes, self.read.clone());
        let help = "Weights that were compared with their hashes while they were served";
        own.register_with_unit("weights_inspected", help, Unit::Bytes, self.inspected.clone());
        let help = "Segments of weights that were found damaged while they were served";
        own.register("segments_damaged", help, self.damaged.clone());
    }
}

impl Metrics {
    /// So much of a model's weights was read from disk.
    pub(crate) fn weights_read(&self, bytes: u64) {
        self.weights.read.inc_by(bytes);
    }

    /// Segments were looked through.
    pub(crate) fn inspected(&self, what: Inspected, count: u64) {
        match what {
            Inspected::Bytes => self.weights.inspected.inc_by(count),
            Inspected::Damaged => self.weights.damaged.inc_by(count),
        };
    }
}
