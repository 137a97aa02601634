//! What is in memory, and for what. Of models and programs the largest have series of their own; the others together are
//! `_other`.

use std::collections::HashMap;
use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::models::{NAMED_MAX, OTHER};
use super::watched::Watched;
use crate::residency::{MemoryFigures, MemoryKind};

/// Letters of a program's hash that tell it from others.
const HASH_LETTERS: usize = 12;

/// A program in memory.
#[derive(Clone, Copy, Debug)]
pub struct ProgramMemory<'a> {
    /// Its hash.
    pub hash: &'a str,
    /// What its sessions take, in bytes.
    pub bytes: u64,
}

/// Knows what is in memory.
pub trait MemorySource: Send + Sync {
    /// The sums.
    fn figures(&self) -> MemoryFigures;
    /// Calls `each` with the name of every model that has something in memory, and its bytes; once a version.
    fn models(&self, each: &mut dyn FnMut(&str, u64));
    /// How many models have a session of their own beside the one that they share.
    fn hot(&self) -> usize;
    /// Calls `each` with every program that is in memory.
    fn programs(&self, each: &mut dyn FnMut(ProgramMemory<'_>));
}

/// The largest of `all` by name, and the sum of the others.
fn largest(all: HashMap<String, u64>) -> Vec<(String, u64)> {
    let mut rows: Vec<_> = all.into_iter().collect();
    rows.sort_unstable_by(|(one, a), (other, b)| b.cmp(a).then_with(|| one.cmp(other)));
    let rest = rows.iter().skip(NAMED_MAX).map(|(_, bytes)| bytes).sum();
    rows.truncate(NAMED_MAX);
    rows.sort_unstable();
    rows.push((OTHER.to_owned(), rest));
    rows
}

fn gauge(bytes: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX))
}

fn kinds(figures: &MemoryFigures) -> Vec<(&'static str, u64)> {
    let name = |kind: MemoryKind| match kind {
        MemoryKind::Programs => "programs",
        MemoryKind::Whole => "whole",
        MemoryKind::Weights => "weights",
        MemoryKind::Hot => "hot",
    };
    let charged = MemoryKind::ALL.map(|kind| (name(kind), figures.charged_bytes[kind as usize]));
    let rest = [("bodies", figures.bodies_bytes), ("other", figures.other_bytes), ("mapped", figures.mapped_bytes)];
    charged.into_iter().chain(rest).collect()
}

impl Collector for Watched<dyn MemorySource> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(source) = self.source() else { return Ok(()) };
        let figures = source.figures();
        let budget = gauge(figures.limit_bytes);
        let help = "What everything together may take of the memory.";
        budget.encode(encoder.encode_descriptor("memory_budget", help, Some(&Unit::Bytes), budget.metric_type())?)?;
        let help = "What is in memory: sessions of programs, of models kept whole, of hot ones, what pointing at weights takes, bodies of \
                    requests, the rest of the process, and pages of mapped files.";
        let mut family = encoder.encode_descriptor("memory", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        for (kind, bytes) in kinds(&figures) {
            gauge(bytes).encode(family.encode_family(&[("kind", kind)])?)?;
        }
        let (mut models, mut ready) = (HashMap::<String, u64>::new(), 0);
        source.models(&mut |name, bytes| {
            ready += 1;
            match models.get_mut(name) {
                Some(sum) => *sum += bytes,
                None => drop(models.insert(name.to_owned(), bytes)),
            }
        });
        let ready = gauge(ready);
        let help = "Versions of models that are in memory: mapped, or kept whole.";
        ready.encode(encoder.encode_descriptor("models_ready", help, None, ready.metric_type())?)?;
        let hot = gauge(source.hot() as u64);
        let help = "Versions of models that have a session of their own, because they are asked for most.";
        hot.encode(encoder.encode_descriptor("models_hot", help, None, hot.metric_type())?)?;
        let help = "What of a model is in memory of its own: what it takes of the process's, and the weights it has mapped, \
                    whether their pages are there or not. A program that it shares is not in it.";
        let mut family = encoder.encode_descriptor("model_memory", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        for (model, bytes) in largest(models) {
            gauge(bytes).encode(family.encode_family(&[("model", model.as_str())])?)?;
        }
        let mut programs = HashMap::new();
        source.programs(&mut |program| {
            let hash = program.hash.get(..HASH_LETTERS).unwrap_or(program.hash);
            *programs.entry(hash.to_owned()).or_default() += program.bytes;
        });
        let help = "What the sessions of a program take, by the first letters of its hash.";
        let mut family = encoder.encode_descriptor("program_memory", help, Some(&Unit::Bytes), MetricType::Gauge)?;
        for (program, bytes) in largest(programs) {
            gauge(bytes).encode(family.encode_family(&[("program", program.as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_have_names() {
        let all: HashMap<String, u64> = (0..120u64).map(|size| (format!("m{size:03}"), size)).collect();
        let rows = largest(all);
        assert_eq!(
            (rows.len(), rows[0].clone(), rows[49].clone()),
            (51, ("m070".to_owned(), 70), ("m119".to_owned(), 119))
        );
        assert_eq!(rows[50], (OTHER.to_owned(), (0..70).sum()));
        assert_eq!(largest(HashMap::new()), [(OTHER.to_owned(), 0)]);
    }
}
