//! The node's cache of a store elsewhere, where there is one.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;
use store::remote::CacheCounts;

use super::watched::Watched;

/// Knows what the cache did and holds.
pub trait CacheSource: Send + Sync {
    /// The sums; `None` without a cache.
    fn counts(&self) -> Option<CacheCounts>;
}

impl Collector for Watched<dyn CacheSource> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(counts) = self.source().and_then(|source| source.counts()) else { return Ok(()) };
        let help = "Files of models that were wanted: there already, fetched, not what their names say, not to be had.";
        let outcomes =
            [("hit", counts.hits), ("miss", counts.misses), ("corrupt", counts.corrupt), ("failed", counts.failed)];
        let mut family = encoder.encode_descriptor("cache_files", help, None, MetricType::Counter)?;
        for (outcome, count) in outcomes {
            ConstCounter::new(count).encode(family.encode_family(&[("outcome", outcome)])?)?;
        }
        let fetched = ConstCounter::new(counts.fetched_bytes);
        let help = "What was fetched into the cache.";
        fetched.encode(encoder.encode_descriptor("cache_fetched", help, Some(&Unit::Bytes), MetricType::Counter)?)?;
        let seconds = ConstCounter::new(counts.fetch_seconds);
        let help = "The time that fetching took, of all threads.";
        seconds.encode(encoder.encode_descriptor("cache_fetch", help, Some(&Unit::Seconds), MetricType::Counter)?)?;
        let evictions = ConstCounter::new(counts.evictions);
        let help = "Files that gave way to others in the cache.";
        evictions.encode(encoder.encode_descriptor("cache_evictions", help, None, MetricType::Counter)?)?;
        let sizes = [
            ("cache", "What the cache takes on disk.", counts.bytes),
            ("cache_max", "What the cache may take.", counts.bytes_max),
        ];
        for (name, help, bytes) in sizes {
            let gauge = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, Some(&Unit::Bytes), MetricType::Gauge)?)?;
        }
        Ok(())
    }
}
