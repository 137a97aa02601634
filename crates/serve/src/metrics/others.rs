//! What others in the process count that are no part of the server, a worker for one.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::watched::Watched;

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

impl Collector for Watched<dyn OtherSource> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for OtherMetric { name, help, is_counter, samples } in self.source().iter().flat_map(|source| source.told()) {
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
