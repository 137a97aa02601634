//! How long it takes to make a packed model ready, and what it costs, beside a plain session of the same file.

use std::collections::BTreeMap;
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
        ProgramKind::Whole | ProgramKind::SavedModel | ProgramKind::TorchScript => Load::Optimise,
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

/// What making all models of a store ready takes.
#[derive(Clone, Debug, Serialize)]
pub struct AllReady {
    /// The newest versions of all models.
    pub models: usize,
    /// Reading every manifest.
    pub list_ms: f64,
    /// Mapping the segments and pointing at the weights of one, the sessions of programs being there: the median.
    pub ready_ms_p50: f64,
    /// The 99th of a hundred.
    pub ready_ms_p99: f64,
    /// All of them, one after the other.
    pub all_ms: f64,
    /// Private memory that all of them keep, without the sessions, in bytes.
    pub private_bytes: u64,
    /// Private memory of the whole process at the end, in bytes.
    pub process_bytes: u64,
}

/// Makes every model of `store` ready, in the order of their names, holding all of them.
///
/// Call it in a process that has done nothing else, as [`readiness`].
///
/// # Errors
/// The store's or the runtime's own.
pub fn all_ready(store: &Store, onnx: &Onnx) -> Result<AllReady> {
    let started = Instant::now();
    let listed = store.list()?;
    let list = started.elapsed();
    let mut newest = BTreeMap::new();
    for listed in listed {
        newest.insert(listed.name, listed.manifest?.on(&engine::cpu::target())?);
    }
    let mut sessions = BTreeMap::new();
    for manifest in newest.values().filter(|manifest| manifest.program.kind == ProgramKind::Lifted) {
        if !sessions.contains_key(&manifest.program.hash) {
            let program = store.program(&manifest.program)?;
            let session = onnx.session(&program, manifest.weights.len(), Load::AsIs)?;
            sessions.insert(manifest.program.hash.clone(), session);
        }
    }
    let before = private_bytes();
    let (mut held, mut took) = (Vec::with_capacity(newest.len()), Vec::with_capacity(newest.len()));
    for manifest in newest.values() {
        let started = Instant::now();
        held.push(onnx.bind(store.weights(manifest)?)?);
        took.push(started.elapsed());
    }
    let process_bytes = private_bytes();
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let all_ms = took.iter().copied().map(ms).sum();
    took.sort_unstable();
    let quantile = |percent: usize| took.get(took.len() * percent / 100).copied().map_or(0.0, ms);
    let figures = AllReady {
        models: newest.len(),
        list_ms: ms(list),
        ready_ms_p50: quantile(50),
        ready_ms_p99: quantile(99),
        all_ms,
        private_bytes: process_bytes.saturating_sub(before),
        process_bytes,
    };
    drop((held, sessions));
    Ok(figures)
}
