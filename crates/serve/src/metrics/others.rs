//! What others in the process count that are no part of the server, a worker for one.

use std::fmt;
use std::sync::{Arc, OnceLock};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// A metric as it is told: its samples are known when somebody scrapes.
#[derive(Clone, Debug, PartialEq)]
pub struct OtherMetric {
    /// Behind `packhorse_`; a unit comes last.
    pub name: &'static str,
    /// A sentence.
    pub help: &'static str,
    /// Whether it only grows.
    pub is_counter: bool,
    /// The one sample without a label, or several, each with the name and value of its label. They are the program's own
    /// words.
    pub samples: Vec<(Option<(&'static str, &'static str)>, f64)>,
}

/// Knows what somebody else counted.
pub trait OtherSource: Send + Sync {
    /// Every metric, each with the same samples every time.
    fn told(&self) -> Vec<OtherMetric>;
}

/// Looks whenever somebody scrapes.
#[derive(Default)]
pub(super) struct Others {
    /// Set once, by whoever joins the parts.
    source: OnceLock<Arc<dyn OtherSource>>,
}

impl Others {
    pub(super) fn watch(&self, source: Arc<dyn OtherSource>) {
        // The first one stays, as with all sources.
        let _ = self.source.set(source);
    }
}

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Others").finish_non_exhaustive()
    }
}

impl Collector for Others {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for OtherMetric { name, help, is_counter, samples } in self.source.get().iter().flat_map(|source| source.told())
        {
            let kind = if is_counter { MetricType::Counter } else { MetricType::Gauge };
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            if let [(None, value)] = samples[..] {
                sample(is_counter, value, family)?;
                continue;
            }
            for (label, value) in samples {
                let label = label.unwrap_or_default();
                sample(is_counter, value, family.encode_family(&[label])?)?;
            }
        }
        Ok(())
    }
}

fn sample(is_counter: bool, value: f64, encoder: MetricEncoder<'_>) -> fmt::Result {
    match is_counter {
        true => ConstCounter::new(value).encode(encoder),
        false => ConstGauge::new(value).encode(encoder),
    }
}
