//! From an ONNX file to a program, its weights and its signature.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::onnx::{Layout, Onnx};
use engine::{Engine, Error, Result, Session, Signature, Tensor};
use prost::Message;

use super::apart::items_are_apart;
use super::compile::{Built, Known, Parts};
use super::fit::{self, Asked};
use super::lift::{self, CpuLayout, Lifted};
use super::wire::{Graph, Model};
use super::{linear, probe, resizes, sparse, tensor};
use crate::accuracy::Accuracy;
use crate::manifest::{PORTABLE, ProgramKind, Source};
use crate::place::Origin;
use crate::specimen::OwnSize;

/// A model on its way into the store.
pub(crate) struct Imported {
    pub(crate) signature: Signature,
    /// The most items of a batch; 0 when items are not known to be apart from each other.
    pub(crate) max_batch_size: u64,
    /// Whether the graph holds what CPUs want laid out each in its own way.
    pub(crate) per_cpu: bool,
    /// One for each target that was asked for and has a form of its own; at least one.
    pub(crate) forms: Vec<Compiled>,
    /// What the person who packs should know.
    pub(crate) notes: Vec<String>,
}

/// A program and its weights, stored nowhere yet.
pub(crate) struct Compiled {
    pub(crate) program: Bytes,
    pub(crate) kind: ProgramKind,
    /// [`PORTABLE`], or the CPU that the graph is laid out for.
    pub(crate) target: String,
    pub(crate) why_whole: Option<String>,
    /// In program order; empty when the graph was kept whole.
    pub(crate) weights: Vec<Tensor>,
    /// For each weight where it lies in a file that may be mapped as it is; empty when there is no such file.
    pub(crate) origins: Vec<Option<Origin>>,
}

/// Which forms of a graph are wanted, where CPUs differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Targets {
    /// The quickest here, laid out for CPUs like this.
    Native,
    /// What every CPU computes.
    Portable,
    /// Either, so that every node can serve the model and those like this one do it quickest.
    #[default]
    Both,
}

/// The largest batch that requests are put together to. Past this a batch of small models gains nothing on a core, and
/// one of large models takes memory that nobody planned for.
pub(crate) const BATCH_MAX: u64 = 32;

/// A protobuf message is smaller than this, by its own rules.
const MESSAGE_BYTES_MAX: u64 = 1 << 31;

/// Identifies the file at `path` and everything it refers to.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is no ONNX file or refers to what is not there.
pub(crate) fn identify(path: &Path) -> Result<Source> {
    let (bytes, graph) = read(path).map(|(bytes, model)| (bytes, model.graph.unwrap_or_default()))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes);
    let mut total = bytes.len() as u64;
    for file in files(&graph) {
        let data = engine::map::map_file(&tensor::beside(folder(path), &file)?)?;
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
    for file in files(&model.graph.unwrap_or_default()) {
        let to = tensor::beside(folder, &file)?;
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)
                .map_err(|source| crate::atomic::io_error(parent, "cannot be made", &source))?;
        }
        copy(&tensor::beside(self::folder(path), &file)?, &to)?;
    }
    Ok(target)
}

/// The files that hold numbers of `graph`, each once.
fn files(graph: &Graph) -> Vec<String> {
    let mut files = Vec::new();
    let Ok(()) = graph.each_tensor::<std::convert::Infallible>(&mut |tensor| {
        files.extend(tensor::location(tensor).map(str::to_owned));
        Ok(())
    });
    files.sort_unstable();
    files.dedup();
    files
}

/// Optimises the file at `path` for `targets`, lifts its weights and checks each form by running it: its answers are those
/// of the plain graph. A graph for which that cannot be done is kept whole, with the reason.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) or [`Unsupported`](engine::ErrorKind::Unsupported) when the
/// runtime cannot run it at all, or has no form of it for any CPU and that alone is wanted.
pub(crate) fn import(engine: &Onnx, path: &Path, targets: Targets) -> Result<Imported> {
    let plain = engine.session_from_file(path)?;
    let signature = plain.signature().clone();
    let native = match lifted(engine, path, Layout::Native, plain.as_ref())? {
        Ok(native) => native,
        Err(why) => kept_whole(engine, path, plain.as_ref(), why)?,
    };
    let (mut per_cpu, mut apart) = (native.per_cpu, native.apart);
    let mut notes = Vec::new();
    // Most graphs are the same on every CPU, whichever layout was asked for.
    let forms = if native.form.target == PORTABLE || targets == Targets::Native {
        vec![native.form]
    } else {
        match (lifted(engine, path, Layout::Portable, plain.as_ref())?, targets) {
            (Ok(any), _) => {
                per_cpu |= any.per_cpu;
                apart &= any.apart;
                if targets == Targets::Both { vec![native.form, any.form] } else { vec![any.form] }
            }
            (Err(why), Targets::Portable) => {
                return Err(Error::unsupported(format!("it has no form for any CPU: {why}")));
            }
            (Err(why), _) => {
                notes.push(format!("it runs on CPUs like this one alone, because it has no form for any: {why}"));
                vec![native.form]
            }
        }
    };
    let max_batch_size = if apart { BATCH_MAX } else { 0 };
    Ok(Imported { signature, max_batch_size, per_cpu, forms, notes })
}

/// A form that ran, and what was seen of it.
struct Checked {
    form: Compiled,
    per_cpu: bool,
    /// Whether it treats the items of a batch apart from each other.
    apart: bool,
}

fn kept_whole(engine: &Onnx, path: &Path, plain: &dyn Session, why: String) -> Result<Checked> {
    let none = engine.bind(Vec::new())?;
    let apart = items_are_apart(plain, none.as_ref());
    let program = whole(path).map_err(|error| error.context(format!("it cannot be lifted ({why})")))?;
    let form = Compiled {
        program,
        kind: ProgramKind::Whole,
        target: PORTABLE.to_owned(),
        why_whole: Some(why),
        weights: Vec::new(),
        origins: Vec::new(),
    };
    Ok(Checked { form, per_cpu: false, apart })
}

/// The file at `path` as one message, with the numbers that it keeps in others.
fn whole(path: &Path) -> Result<Bytes> {
    let (bytes, mut model) = read(path)?;
    let graph = model.graph.get_or_insert_default();
    if files(graph).is_empty() {
        return Ok(bytes);
    }
    let mut total = bytes.len() as u64;
    graph.each_tensor_mut(&mut |tensor| {
        tensor::inline(tensor, folder(path))?;
        total += tensor.raw_data.as_ref().map_or(0, |data| data.len() as u64);
        if total < MESSAGE_BYTES_MAX {
            return Ok(());
        }
        Err(Error::unsupported("a graph kept whole must be one file, and with its external data it is over 2 GB"))
    })?;
    Ok(Bytes::from(model.encode_to_vec()))
}

/// Optimises the file at `path` and lifts its weights out. The inner error is the reason to keep the graph whole.
fn take_apart(engine: &Onnx, path: &Path, layout: Layout) -> Result<std::result::Result<(Parts, CpuLayout), String>> {
    const TENSORS: &str = "tensors";
    let scratch = tempfile::tempdir().map_err(|source| Error::internal(format!("no temporary folder: {source}")))?;
    let file = scratch.path().join("graph.onnx");
    if let Err(refusal) = engine.optimise(path, &file, TENSORS, layout) {
        // The runtime does not tell a graph that it will not write from a disk that takes no more.
        room_in(scratch.path())?;
        return Ok(Err(refusal.message));
    }
    let (_, mut model) = read(&file)?;
    if let Err(refusal) = sparse::densify(model.graph.get_or_insert_default(), scratch.path()) {
        return Ok(Err(refusal.message));
    }
    Ok(lift::lift(model)
        .map(|Lifted { program, weights, layout }| (Parts { model: program, weights, folder: Some(scratch) }, layout)))
}

/// A form of the file at `path` that answers as `plain` does. The inner error is the reason to keep the graph whole.
fn lifted(
    engine: &Onnx,
    path: &Path,
    layout: Layout,
    plain: &dyn Session,
) -> Result<std::result::Result<Checked, String>> {
    let (parts, found) = match take_apart(engine, path, layout)? {
        Ok(apart) => apart,
        Err(why) => return Ok(Err(why)),
    };
    let built = parts.build(engine, &mut Known::default(), &|model, weights| linear::rewrite(model, weights))?;
    let Built { program, weights, session, bound, names } = match built {
        Ok(built) => built,
        Err(refusal) => return Ok(Err(refusal)),
    };
    if let Err(why) = same_signature(plain.signature(), session.signature()) {
        return Ok(Err(why));
    }
    let none = engine.bind(Vec::new())?;
    if let Err(why) = probe::same_answers(plain, session.as_ref(), bound.as_ref(), none.as_ref()) {
        return Ok(Err(names.translate(&why)));
    }
    let apart = items_are_apart(session.as_ref(), bound.as_ref());
    let target = if found.blocked { engine::cpu::target() } else { PORTABLE.to_owned() };
    let form = Compiled { program, kind: ProgramKind::Lifted, target, why_whole: None, weights, origins: Vec::new() };
    Ok(Ok(Checked { form, per_cpu: found.per_cpu, apart }))
}

/// As [`import`], its weights in eight bits as far as its answers stay near enough.
///
/// # Errors
/// As [`import`] and [`fit::fit`]; [`Unsupported`](engine::ErrorKind::Unsupported) when its weights cannot be lifted.
pub(crate) fn import_in_eight_bits(engine: &Onnx, path: &Path, asked: &Asked<'_>) -> Result<(Imported, Accuracy)> {
    let plain = engine.session_from_file(path)?;
    let signature = plain.signature().clone();
    let all: Vec<usize> = (0..signature.outputs.len()).collect();
    let none = engine.bind(Vec::new())?;
    // Convolutions stay floats, and what is laid out for a CPU is not worth a form of its own for their sake.
    let (parts, _) = take_apart(engine, path, Layout::Portable)?
        .map_err(|why| Error::unsupported(format!("only lifted weights can be in eight bits: {why}")))?;
    let mut original = |run: &[Tensor]| plain.run(none.as_ref(), run, &all);
    let (built, accuracy) = fit::fit(engine, &parts, &signature, &mut original, asked)?;
    Ok((eight_bits(built, signature), accuracy))
}

/// What was fitted, as it is stored.
pub(crate) fn eight_bits(built: Built, signature: Signature) -> Imported {
    let Built { program, weights, session, bound, .. } = built;
    let apart = items_are_apart(session.as_ref(), bound.as_ref());
    let form = Compiled {
        program,
        kind: ProgramKind::Lifted,
        target: PORTABLE.to_owned(),
        why_whole: None,
        weights,
        origins: Vec::new(),
    };
    let max_batch_size = if apart { BATCH_MAX } else { 0 };
    Imported { signature, max_batch_size, per_cpu: false, forms: vec![form], notes: Vec::new() }
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
fn same_signature(plain: &Signature, lifted: &Signature) -> std::result::Result<(), String> {
    for (side, plain, lifted) in [("input", &plain.inputs, &lifted.inputs), ("output", &plain.outputs, &lifted.outputs)]
    {
        if plain.len() != lifted.len() {
            return Err(format!("optimising it made {} {side}s of {}", lifted.len(), plain.len()));
        }
        if let Some((was, is)) = plain.iter().zip(lifted).find(|(was, is)| was.dtype != is.dtype) {
            return Err(format!("optimising it made {} of its {side} '{}', a {}", is.dtype, was.name, was.dtype));
        }
    }
    Ok(())
}

/// What the file at `path` says of itself without being run: what its exporter wrote beside the graph, by key, and the
/// sizes to which the graph brings pictures.
///
/// # Errors
/// As [`identify`].
pub(crate) fn says(path: &Path) -> Result<(BTreeMap<String, String>, Vec<OwnSize>)> {
    let model = read(path)?.1;
    let own_sizes = model.graph.as_ref().map(resizes::own_sizes).unwrap_or_default();
    let entries = model.metadata_props.into_iter();
    Ok((entries.filter_map(|entry| entry.key.zip(entry.value)).collect(), own_sizes))
}

fn read(path: &Path) -> Result<(Bytes, Model)> {
    let bytes = engine::map::map_file(path)?;
    if bytes.len() as u64 >= MESSAGE_BYTES_MAX {
        return Err(Error::invalid("an ONNX file is smaller than 2 GB; save the model with external data"));
    }
    let model = Model::decode(bytes.clone())
        .ok()
        .filter(|model| model.graph.is_some())
        .ok_or_else(|| Error::invalid("this is no ONNX model; give a file that an ONNX exporter wrote"))?;
    Ok((bytes, model))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
#[path = "import_tests.rs"]
pub(in crate::onnx) mod tests;

#[cfg(test)]
#[path = "inside_tests.rs"]
mod inside_tests;

#[cfg(test)]
#[path = "whole_tests.rs"]
mod whole_tests;

#[cfg(test)]
#[path = "operator_tests.rs"]
mod operator_tests;
