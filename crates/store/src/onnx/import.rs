//! From an ONNX file to a program, its weights and its signature.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::onnx::Onnx;
use engine::{Engine, Error, Load, Result, Session, Signature, Tensor};
use prost::Message;

use super::wire::{Model, TensorProto};
use super::{canonical, lift, probe, tensor};
use crate::manifest::{ProgramKind, Source};

/// A graph on its way into the store.
pub(crate) struct Imported {
    pub(crate) signature: Signature,
    pub(crate) program: Bytes,
    pub(crate) kind: ProgramKind,
    /// `portable`, or the CPU that the graph is laid out for.
    pub(crate) target: String,
    pub(crate) why_whole: Option<String>,
    /// The most items of a batch; 0 when items are not known to be apart from each other.
    pub(crate) max_batch_size: u64,
    /// In program order; empty when the graph was kept whole.
    pub(crate) weights: Vec<Tensor>,
}

/// The largest batch that requests are put together to. Past this a batch of small models gains nothing on a core, and
/// one of large models takes memory that nobody planned for.
pub(crate) const BATCH_MAX: u64 = 32;

/// What a program that runs anywhere is said to be laid out for.
pub(crate) const PORTABLE: &str = "portable";

/// Identifies the file at `path` and everything it refers to.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is no ONNX file or refers to what is not there.
pub(crate) fn identify(path: &Path) -> Result<Source> {
    let (bytes, model) = read(path)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes);
    let mut total = bytes.len() as u64;
    for file in external_files(&model) {
        let data = engine::map::map_file(&tensor::beside(folder(path), file)?)?;
        hasher.update(&data);
        total += data.len() as u64;
    }
    Ok(Source { format: "onnx".to_owned(), hash: hasher.finalize().to_hex().to_string(), bytes: total })
}

/// Copies the file at `path` and everything it refers to into `folder`, and returns the copy's path. Whoever changes the
/// original afterwards changes nothing that is mapped here.
///
/// # Errors
/// As [`identify`], and [`Exhausted`](engine::ErrorKind::Exhausted) when the disk is full.
pub(crate) fn snapshot(path: &Path, folder: &Path) -> Result<PathBuf> {
    let copy = |from: &Path, to: &Path| {
        let copied = std::fs::copy(from, to);
        copied.map_err(|source| crate::atomic::io_error(from, "cannot be copied", &source))
    };
    let target = folder.join("model.onnx");
    copy(path, &target)?;
    let (_, model) = read(&target)?;
    for file in external_files(&model) {
        let to = tensor::beside(folder, file)?;
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|source| crate::atomic::io_error(parent, "cannot be made", &source))?;
        }
        copy(&tensor::beside(self::folder(path), file)?, &to)?;
    }
    Ok(target)
}

/// The files with weights that `model` refers to, each once.
fn external_files(model: &Model) -> Vec<&str> {
    let mut files: Vec<&str> = model.graph.iter().flat_map(|graph| &graph.initializer).filter_map(location).collect();
    files.sort_unstable();
    files.dedup();
    files
}

/// Optimises the file at `path` for this CPU, lifts its weights and checks that the answers stay the same; a graph
/// for which that cannot be done is kept whole, with the reason.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) or [`Unsupported`](engine::ErrorKind::Unsupported) when the
/// runtime cannot run it at all.
pub(crate) fn import(engine: &Onnx, path: &Path) -> Result<Imported> {
    let mut plain = engine.session_from_file(path)?;
    let signature = plain.signature().clone();
    match lifted(engine, path, plain.as_mut())? {
        Ok(imported) => Ok(imported),
        Err(why) => {
            let (bytes, model) = read(path)?;
            if model.graph.iter().flat_map(|graph| &graph.initializer).any(|tensor| location(tensor).is_some()) {
                return Err(Error::unsupported(format!(
                    "it cannot be lifted ({why}), and a graph kept whole must be one file; save it without external \
                     data"
                )));
            }
            let none = engine.bind(Vec::new())?;
            let apart = probe::items_are_apart(plain.as_mut(), none.as_ref());
            Ok(Imported {
                signature,
                max_batch_size: if apart { BATCH_MAX } else { 0 },
                program: bytes,
                kind: ProgramKind::Whole,
                target: PORTABLE.to_owned(),
                why_whole: Some(why),
                weights: Vec::new(),
            })
        }
    }
}

/// The inner error is the reason to keep the graph whole.
fn lifted(engine: &Onnx, path: &Path, plain: &mut dyn Session) -> Result<std::result::Result<Imported, String>> {
    const TENSORS: &str = "tensors";
    let scratch = tempfile::tempdir().map_err(|source| Error::internal(format!("no temporary folder: {source}")))?;
    let graph = scratch.path().join("graph.onnx");
    if let Err(refusal) = engine.optimise(path, &graph, TENSORS) {
        // The runtime does not tell a graph that it will not write from a disk that takes no more.
        room_in(scratch.path())?;
        return Ok(Err(refusal.message));
    }
    let (_, model) = read(&graph)?;
    let mut lifted = match lift::lift(model) {
        Ok(lifted) => lifted,
        Err(why) => return Ok(Err(why)),
    };
    for kept in lifted.program.graph.iter_mut().flat_map(|graph| &mut graph.initializer) {
        inline(kept, scratch.path())?;
    }
    let weights =
        lifted.weights.iter().map(|weight| tensor::read(weight, scratch.path())).collect::<Result<Vec<_>>>()?;
    canonical::rename(&mut lifted.program);
    let program = Bytes::from(lifted.program.encode_to_vec());

    let mut session = match engine.session(&program, weights.len(), Load::AsIs) {
        Ok(session) => session,
        Err(refusal) => return Ok(Err(refusal.message)),
    };
    let signature = plain.signature().clone();
    if !same_signature(&signature, session.signature()) {
        return Ok(Err("optimising it changed its inputs or outputs".to_owned()));
    }
    // Bytes from a mapped scratch file need not be aligned as a segment's are.
    let bound = engine.bind(weights.iter().map(aligned_copy).collect::<Result<_>>()?)?;
    let none = engine.bind(Vec::new())?;
    if let Err(why) = probe::same_answers(plain, session.as_mut(), bound.as_ref(), none.as_ref()) {
        return Ok(Err(why));
    }
    let apart = probe::items_are_apart(session.as_mut(), bound.as_ref());
    let max_batch_size = if apart { BATCH_MAX } else { 0 };
    let target = if lifted.blocked_layout { engine::cpu::target() } else { PORTABLE.to_owned() };
    Ok(Ok(Imported { signature, program, kind: ProgramKind::Lifted, target, why_whole: None, max_batch_size, weights }))
}

/// Whether `folder` takes as much as the smallest graph.
///
/// # Errors
/// [`Exhausted`](engine::ErrorKind::Exhausted) when its disk is full.
fn room_in(folder: &Path) -> Result<()> {
    let path = folder.join("room");
    std::fs::write(&path, [0u8; 64 << 10])
        .map_err(|source| crate::atomic::io_error(&path, "cannot be written", &source))
}

/// Only the names may differ: the program's are canonical.
fn same_signature(plain: &Signature, lifted: &Signature) -> bool {
    let same = |plain: &[engine::TensorSpec], lifted: &[engine::TensorSpec]| {
        plain.len() == lifted.len() && plain.iter().zip(lifted).all(|(a, b)| a.dtype == b.dtype)
    };
    same(&plain.inputs, &lifted.inputs) && same(&plain.outputs, &lifted.outputs)
}

/// A constant that stays in the program carries its own numbers there.
fn inline(proto: &mut TensorProto, folder: &Path) -> Result<()> {
    if location(proto).is_some() {
        let read = tensor::read(proto, folder)?;
        proto.raw_data = Some(Bytes::copy_from_slice(read.data()));
        proto.external_data.clear();
        proto.data_location = None;
    }
    Ok(())
}

fn aligned_copy(tensor: &Tensor) -> Result<Tensor> {
    // Vectors of this size come from the allocator at 16-byte boundaries.
    Tensor::new(tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec().into())
}

fn read(path: &Path) -> Result<(Bytes, Model)> {
    let bytes = engine::map::map_file(path)?;
    let model = Model::decode(bytes.clone())
        .ok()
        .filter(|model| model.graph.is_some())
        .ok_or_else(|| Error::invalid("this is no ONNX model; give a file that an ONNX exporter wrote"))?;
    Ok((bytes, model))
}

fn location(tensor: &TensorProto) -> Option<&str> {
    // 1 is EXTERNAL in TensorProto.DataLocation.
    (tensor.data_location == Some(1)).then_some(())?;
    tensor.external_data.iter().find(|entry| entry.key.as_deref() == Some("location"))?.value.as_deref()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
