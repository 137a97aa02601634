//! A graph in eight bits that answers near enough to the original: all of it, or all but the weights that hurt most.

use std::collections::HashSet;

use engine::onnx::Onnx;
use engine::{Error, ErrorKind, Result, Signature, Tensor};

use super::compile::{Built, Known, Parts};
use super::quantise::{self, Quantisable};
use super::wire::Model;
use crate::accuracy::{self, Accuracy, Samples, Vocabularies};
use crate::precision::Precision;

/// What is asked of a form in eight bits.
pub(crate) struct Asked<'a> {
    pub(crate) precision: Precision,
    /// The file of samples; made-up ones when absent.
    pub(crate) calibration: Option<&'a std::path::Path>,
    /// The largest relative error of an output.
    pub(crate) tolerance: f64,
}

/// The original: what is run to compare with.
pub(crate) type Original<'a> = dyn FnMut(&[Tensor]) -> Result<Vec<Tensor>> + 'a;

/// Builds `parts` in eight bits, near enough to `original` on the samples.
///
/// # Errors
/// [`FailedPrecondition`](ErrorKind::FailedPrecondition) when it is too far off even with half of its weights as floats,
/// naming the output and the weight that is worst; [`Unsupported`](ErrorKind::Unsupported) when nothing of it can be in
/// eight bits.
pub(crate) fn fit(
    engine: &Onnx,
    parts: &Parts,
    signature: &Signature,
    original: &mut Original<'_>,
    asked: &Asked<'_>,
) -> Result<(Built, Accuracy)> {
    let quantisable = quantise::find(&parts.model, &parts.weights)
        .map_err(|why| Error::unsupported(format!("it cannot be packed in eight bits: {why}")))?;
    let samples = match asked.calibration {
        Some(path) => Samples::read(path, signature)?,
        None => Samples::made_up(signature, &vocabularies(&parts.model, parts), |run| original(run).is_ok())?,
    };
    let want = samples.runs.iter().map(|run| original(run)).collect::<Result<Vec<_>>>()?;
    let mut search = Search { engine, parts, quantisable, asked, signature, samples, want, known: Known::default() };
    let all = search.tried(&HashSet::new())?;
    if all.1.is_near_enough() {
        return Ok(all);
    }
    let ranked = search.ranked()?;
    let mut floats = 1;
    while floats <= ranked.len() / 2 {
        let kept: Vec<String> = ranked.iter().take(floats).map(|(name, _)| name.clone()).collect();
        let (built, accuracy) = search.tried(&kept.iter().cloned().collect())?;
        if accuracy.is_near_enough() {
            return Ok((built, Accuracy { floats: kept, ..accuracy }));
        }
        floats *= 2;
    }
    Err(too_far(&all.1, ranked.first()))
}

fn too_far(accuracy: &Accuracy, worst: Option<&(String, f64)>) -> Error {
    let output = accuracy.worst().map_or_else(String::new, |output| {
        format!("output '{}' is off by {:.3} of its length", output.name, output.relative_error)
    });
    let weight =
        worst.map_or_else(String::new, |(name, off)| format!(", most by the weight '{name}' ({off:.3} alone)"));
    Error::new(
        ErrorKind::FailedPrecondition,
        format!(
            "in eight bits {output}{weight}; {} is the --tolerance, on inputs that were {}. Half of its weights as floats did \
             not mend it; pack it as it is, or try --precision int8-weights",
            accuracy.tolerance, accuracy.inputs
        ),
    )
}

struct Search<'a> {
    engine: &'a Onnx,
    parts: &'a Parts,
    quantisable: Quantisable,
    asked: &'a Asked<'a>,
    signature: &'a Signature,
    samples: Samples,
    /// The original's answers to them.
    want: Vec<Vec<Tensor>>,
    known: Known,
}

impl Search<'_> {
    /// The form with the weights in `floats` left as they are, and how near it is.
    fn tried(&mut self, floats: &HashSet<String>) -> Result<(Built, Accuracy)> {
        let built = self.parts.build(self.engine, &mut self.known, &|model: &mut Model, weights| {
            self.quantisable.rewrite(model, weights, self.asked.precision, floats);
        })?;
        let built =
            built.map_err(|refusal| Error::unsupported(format!("in eight bits the runtime refuses it: {refusal}")))?;
        let all: Vec<usize> = (0..self.signature.outputs.len()).collect();
        let bound = built.bound.clone();
        let got = self.samples.runs.iter().map(|run| built.session.run(bound.as_ref(), run, &all));
        let outputs = accuracy::compare(self.signature, &self.want, &got.collect::<Result<Vec<_>>>()?);
        let (inputs, samples) = (self.samples.origin.clone(), self.samples.runs.len());
        Ok((built, Accuracy { inputs, samples, tolerance: self.asked.tolerance, outputs, floats: Vec::new() }))
    }

    /// The weights by how far the answers are off with each alone in eight bits, the worst first.
    fn ranked(&mut self) -> Result<Vec<(String, f64)>> {
        let names = self.quantisable.names();
        let mut ranked = Vec::with_capacity(names.len());
        for name in &names {
            let others = names.iter().filter(|other| *other != name).cloned().collect();
            let (_, accuracy) = self.tried(&others)?;
            // What is no number is worst of all.
            let off = accuracy.worst().map_or(0.0, |output| output.relative_error);
            ranked.push((name.clone(), if off.is_nan() { f64::INFINITY } else { off }));
        }
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(ranked)
    }
}

/// How many rows the tables have in which inputs are looked up.
fn vocabularies(model: &Model, parts: &Parts) -> Vocabularies {
    let rows = |name: &str| {
        let weight = parts.weights.iter().find(|weight| weight.tensor.name.as_deref() == Some(name))?;
        weight.tensor.dims.first().copied()
    };
    let nodes = model.graph.iter().flat_map(|graph| &graph.node);
    let lookups = nodes.filter(|node| node.operator() == "Gather").filter_map(|node| match &node.input[..] {
        [table, ids] => Some((ids.clone(), rows(table)?)),
        _ => None,
    });
    lookups.collect()
}
