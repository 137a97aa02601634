//! Packing: from a file of an exporter to a model in the store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::onnx::Onnx;
use engine::{Error, ErrorKind, Result};

use crate::atomic::Written;
use crate::manifest::{FORMAT, Io, Manifest, ProgramRef, Source};
use crate::onnx::import::{self, Imported};
use crate::segment::Layout;
use crate::task::{self, Task, TaskChoice};
use crate::{Store, hf, name};

/// What to pack, and as what.
#[derive(Clone, Debug)]
pub struct Request {
    /// The ONNX file, or the Hugging Face folder.
    pub path: PathBuf,
    /// The model's name; the folder's own, or the file's without its ending, when absent.
    pub name: Option<String>,
    /// The version; the next free one when absent.
    pub version: Option<u64>,
    /// What the tensors mean; a Hugging Face folder says so itself.
    pub task: Option<TaskChoice>,
    /// Class id to name; those of a Hugging Face folder when empty.
    pub labels: BTreeMap<u32, String>,
}

/// What packing did.
#[derive(Debug)]
pub struct Packed {
    /// The model as it now stands in the store.
    pub manifest: Manifest,
    /// Whether anything was written; packing the same thing again writes nothing.
    pub changed: bool,
    /// The weights' bytes, equal tensors counted once each time they are named.
    pub weight_bytes: u64,
    /// What the person who packs should know, a sentence each.
    pub notes: Vec<String>,
}

/// Packs `request` into `store`. The manifest is written last and at once, so a model is either whole or not there.
///
/// # Errors
/// All name the file.
/// [`InvalidInput`](ErrorKind::InvalidInput) for a file that is no model, [`AlreadyExists`](ErrorKind::AlreadyExists)
/// when the version asked for holds something else, [`Exhausted`](ErrorKind::Exhausted) for a full disk.
pub fn pack(store: &Store, engine: &Onnx, request: &Request) -> Result<Packed> {
    pack_file(store, engine, request).map_err(|error| error.context(request.path.display()))
}

fn pack_file(store: &Store, engine: &Onnx, request: &Request) -> Result<Packed> {
    let name = request.name.clone().map_or_else(|| name_of(&request.path), Ok)?;
    name::check(&name)?;
    let source = identify(request)?;
    let existing = existing(store, &name)?;
    if let Some(manifest) = same(&existing, request, &source) {
        return Ok(Packed {
            weight_bytes: weight_bytes(manifest),
            manifest: manifest.clone(),
            changed: false,
            notes: Vec::new(),
        });
    }
    let newest = existing.iter().map(|manifest| manifest.version).max().unwrap_or(0);
    let version = match request.version {
        Some(0) => return Err(Error::invalid("versions start at 1")),
        Some(version) if existing.iter().any(|manifest| manifest.version == version) => {
            return Err(taken(&name, version));
        }
        Some(version) => version,
        None => newest + 1,
    };

    let Found { imported, task, labels, files, notes } = find(engine, request)?;
    let layout = Layout::of(&imported.weights)?;
    let segments = if imported.weights.is_empty() { Vec::new() } else { vec![store.put_segment(&layout)?] };
    let hash = store.put_program(&imported.program, &imported.target)?;
    let manifest = Manifest {
        format: FORMAT,
        name,
        version,
        source,
        program: ProgramRef { hash, kind: imported.kind, target: imported.target, why_whole: imported.why_whole },
        inputs: imported.signature.inputs.iter().map(Io::from_spec).collect(),
        outputs: imported.signature.outputs.iter().map(Io::from_spec).collect(),
        max_batch_size: imported.max_batch_size,
        task,
        labels,
        files: files.iter().map(|(name, bytes)| Ok((name.clone(), store.put_file(bytes)?))).collect::<Result<_>>()?,
        segments,
        weights: layout.weights,
    };
    match store.put_manifest(&manifest)? {
        Written::New => Ok(Packed { weight_bytes: weight_bytes(&manifest), manifest, changed: true, notes }),
        // Another packer was faster with this version: either it holds the very same, or there is a next one.
        Written::Existed => pack(store, engine, request),
    }
}

/// Whether `path` is a Hugging Face folder, which is packed as one model.
pub fn is_checkpoint(path: &Path) -> bool {
    hf::is_checkpoint(path)
}

fn identify(request: &Request) -> Result<Source> {
    hf::refuse_other_formats(&request.path)?;
    if !hf::is_checkpoint(&request.path) {
        return import::identify(&request.path);
    }
    if request.task.is_some() {
        return Err(Error::invalid("its config.json says what the model is for; leave --task out"));
    }
    hf::identify(&request.path)
}

/// A model as its importer found it.
struct Found {
    imported: Imported,
    task: Option<Task>,
    labels: BTreeMap<u32, String>,
    files: Vec<(String, Bytes)>,
    notes: Vec<String>,
}

fn find(engine: &Onnx, request: &Request) -> Result<Found> {
    let asked = request.labels.clone();
    if hf::is_checkpoint(&request.path) {
        let hf::Folder { imported, task, labels, files, notes, .. } = hf::import(engine, &request.path)?;
        let labels = if asked.is_empty() { labels } else { asked };
        return Ok(Found { imported, task, labels, files, notes });
    }
    let imported = import::import(engine, &request.path)?;
    let task = request.task.map(|choice| task::recognise(choice, &imported.signature)).transpose()?;
    Ok(Found { imported, task, labels: asked, files: Vec::new(), notes: Vec::new() })
}

/// The bytes that `manifest`'s weights take.
pub fn weight_bytes(manifest: &Manifest) -> u64 {
    manifest
        .weights
        .iter()
        .map(|weight| {
            let size = crate::manifest::datatype(&weight.datatype).ok().and_then(engine::DataType::size_bytes);
            weight.shape.iter().product::<usize>() as u64 * size.unwrap_or(0) as u64
        })
        .sum()
}

fn taken(name: &str, version: u64) -> Error {
    Error::new(
        ErrorKind::AlreadyExists,
        format!("'{name}' version {version} is there and holds something else; choose another --version"),
    )
}

fn existing(store: &Store, name: &str) -> Result<Vec<Manifest>> {
    store.versions(name)?.into_iter().map(|version| store.manifest(name, version)).collect()
}

/// The version that already is what `request` asks for.
fn same<'a>(existing: &'a [Manifest], request: &Request, source: &Source) -> Option<&'a Manifest> {
    existing.iter().rev().find(|manifest| {
        manifest.source == *source
            && request.version.is_none_or(|version| version == manifest.version)
            && (manifest.labels == request.labels || request.labels.is_empty() && source.format == hf::FORMAT)
            && manifest.task.as_ref().and_then(task::choice) == request.task
            && (manifest.program.target == import::PORTABLE || manifest.program.target == engine::cpu::target())
    })
}

fn name_of(path: &Path) -> Result<String> {
    // A folder's name has no ending, whatever dots are in it.
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.and_then(|stem| stem.to_str())
        .map(str::to_owned)
        .ok_or_else(|| Error::invalid("no name can be made of this path; give --name"))
}
