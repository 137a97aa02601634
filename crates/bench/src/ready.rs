//! How long it takes to make a packed model ready, and what it costs, beside a plain session of the same file.

use std::path::Path;
use std::time::{Duration, Instant};

use engine::onnx::Onnx;
use engine::{Engine, Load, Result};
use serde::{Deserialize, Serialize};
use store::manifest::ProgramKind;
use store::{Manifest, Store};

use crate::process::private_bytes;

/// Two ways to the same answers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Readiness {
    /// Mapping the segments and pointing at the weights, the program's session being there: the median.
    pub ready: Duration,
    /// The 99th of a hundred.
    pub ready_p99: Duration,
    /// Private memory that a ready model keeps, in bytes.
    pub ready_bytes: u64,
    /// Building the program's session, once for all models of an architecture and per lane.
    pub program: Duration,
    /// Building a plain session over the original file.
    pub plain: Duration,
    /// Private memory that a plain session keeps, in bytes.
    pub plain_bytes: u64,
}

/// Makes `manifest`'s model ready `times` over, holding all of them, and then builds a plain session of `file`.
///
/// Call it in a process that has done nothing else: a heap that was used before has memory to give that nobody counts.
///
/// # Errors
/// The store's or the runtime's own.
pub fn readiness(store: &Store, onnx: &Onnx, manifest: &Manifest, file: &Path, times: usize) -> Result<Readiness> {
    let load = match manifest.program.kind {
        ProgramKind::Lifted => Load::AsIs,
        ProgramKind::Whole | ProgramKind::SavedModel => Load::Optimise,
    };
    let started = Instant::now();
    let session = onnx.session(&store.program(&manifest.program)?, manifest.weights.len(), load)?;
    let program = started.elapsed();

    let before = private_bytes();
    let mut held = Vec::with_capacity(times);
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let started = Instant::now();
        held.push(onnx.bind(store.weights(manifest)?)?);
        took.push(started.elapsed());
    }
    let ready_bytes = private_bytes().saturating_sub(before) / times.max(1) as u64;
    drop((held, session));

    let before = private_bytes();
    let started = Instant::now();
    let plain_session = onnx.session_from_file(file)?;
    let plain = started.elapsed();
    let plain_bytes = private_bytes().saturating_sub(before);
    drop(plain_session);

    took.sort_unstable();
    Ok(Readiness {
        ready: took.get(times / 2).copied().unwrap_or_default(),
        ready_p99: took.get(times * 99 / 100).copied().unwrap_or_default(),
        ready_bytes,
        program,
        plain,
        plain_bytes,
    })
}
