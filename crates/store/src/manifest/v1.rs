//! Manifests of format 1, which held the table of weights and knew segments by name alone.

use std::collections::{BTreeMap, BTreeSet};

use engine::Result;
use serde::Deserialize;

use super::{Io, ProgramRef, SegmentRef, Source, Weights, datatype};
use crate::precision::Precision;
use crate::table::{WeightRef, size_bytes};
use crate::task::Task;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    format: u32,
    name: String,
    version: u64,
    source: Source,
    program: ProgramRef,
    inputs: Vec<Io>,
    outputs: Vec<Io>,
    #[serde(default)]
    max_batch_size: u64,
    #[serde(default)]
    task: Option<Task>,
    #[serde(default)]
    labels: BTreeMap<u32, String>,
    #[serde(default)]
    segments: Vec<String>,
    #[serde(default)]
    weights: Vec<Weight>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weight {
    segment: u32,
    offset_bytes: u64,
    datatype: String,
    shape: Vec<usize>,
    /// BLAKE3 of the tensor, which the segment's own hash covers.
    #[serde(rename = "hash")]
    _hash: String,
}

impl Manifest {
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when a weight is of no known datatype or of a size beyond all memory.
    pub(super) fn into_current(self) -> Result<super::Manifest> {
        let table = self
            .weights
            .into_iter()
            .map(|weight| {
                let Weight { segment, offset_bytes, shape, .. } = weight;
                Ok(WeightRef { segment, offset_bytes, dtype: datatype(&weight.datatype)?, shape })
            })
            .collect::<Result<Vec<_>>>()?;
        Ok(super::Manifest {
            format: self.format,
            name: self.name,
            version: self.version,
            source: self.source,
            program: self.program,
            inputs: self.inputs,
            outputs: self.outputs,
            max_batch_size: self.max_batch_size,
            task: self.task,
            labels: self.labels,
            files: BTreeMap::new(),
            weights: weights(self.segments, table)?,
            others: Vec::new(),
            precision: Precision::Float,
            padding: None,
            per_cpu: false,
        })
    }
}

fn weights(segments: Vec<String>, table: Vec<WeightRef>) -> Result<Weights> {
    let mut bytes = 0u64;
    let mut pieces = BTreeSet::new();
    for weight in &table {
        let size = size_bytes(weight.dtype, &weight.shape)?;
        bytes = bytes.saturating_add(size);
        pieces.insert((weight.segment, weight.offset_bytes, size));
    }
    let used = |index: usize| pieces.iter().filter(|piece| piece.0 as usize == index).map(|piece| piece.2).sum();
    let segments = segments
        .into_iter()
        .enumerate()
        .map(|(index, hash)| SegmentRef { hash, bytes: 0, used_bytes: used(index), external: None })
        .collect();
    Ok(Weights { table: String::new(), count: table.len(), bytes, segments, inline: Some(table) })
}
