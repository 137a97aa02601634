//! Packing: from a file of an exporter to a model in the store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine::onnx::Onnx;
use engine::{Error, ErrorKind, Result};

use crate::atomic::Written;
use crate::manifest::{FORMAT, Io, Manifest, ProgramRef, Source};
use crate::onnx::import;
use crate::segment::Layout;
use crate::task::{self, TaskChoice};
use crate::variant::{PORTABLE, Variant};
use crate::{Store, name};

/// What to pack, and as what.
#[derive(Clone, Debug)]
pub struct Request {
    /// The ONNX file.
    pub path: PathBuf,
    /// The model's name; the file's own without its ending when absent.
    pub name: Option<String>,
    /// The version; the next free one when absent.
    pub version: Option<u64>,
    /// What the tensors mean.
    pub task: Option<TaskChoice>,
    /// Class id to name.
    pub labels: BTreeMap<u32, String>,
    /// Whether to keep a form for any CPU as well, when the quickest one is for this kind alone.
    pub portable: bool,
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
    let source = import::identify(&request.path)?;
    let existing = existing(store, &name)?;
    if let Some(manifest) = same(&existing, request, &source) {
        return Ok(Packed { weight_bytes: weight_bytes(manifest), manifest: manifest.clone(), changed: false });
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

    let imported = import::import(engine, &request.path, request.portable)?;
    let task = request.task.map(|choice| task::recognise(choice, &imported.signature)).transpose()?;
    let mut variants = imported
        .variants
        .into_iter()
        .map(|variant| put_variant(store, variant, imported.why_whole.as_ref()))
        .collect::<Result<Vec<_>>>()?
        .into_iter();
    let first = variants.next().ok_or_else(|| Error::internal("nothing was imported"))?;
    let manifest = Manifest {
        format: FORMAT,
        name,
        version,
        source,
        program: first.program,
        inputs: imported.signature.inputs.iter().map(Io::from_spec).collect(),
        outputs: imported.signature.outputs.iter().map(Io::from_spec).collect(),
        max_batch_size: imported.max_batch_size,
        task,
        labels: request.labels.clone(),
        segments: first.segments,
        weights: first.weights,
        others: variants.collect(),
    };
    match store.put_manifest(&manifest)? {
        Written::New => Ok(Packed { weight_bytes: weight_bytes(&manifest), manifest, changed: true }),
        // Another packer was faster with this version: either it holds the very same, or there is a next one.
        Written::Existed => pack(store, engine, request),
    }
}

fn put_variant(store: &Store, variant: import::Variant, why_whole: Option<&String>) -> Result<Variant> {
    let layout = Layout::of(&variant.weights)?;
    let segments = if variant.weights.is_empty() { Vec::new() } else { vec![store.put_segment(&layout)?] };
    let hash = store.put_program(&variant.program, &variant.target)?;
    let program = ProgramRef { hash, kind: variant.kind, target: variant.target, why_whole: why_whole.cloned() };
    Ok(Variant { program, segments, weights: layout.weights })
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
    let here = engine::cpu::target();
    existing.iter().rev().find(|manifest| {
        manifest.source == *source
            && request.version.is_none_or(|version| version == manifest.version)
            && manifest.labels == request.labels
            && manifest.task.as_ref().map(task::choice) == request.task
            && manifest.targets().any(|target| target == PORTABLE || target == here && !request.portable)
    })
}

fn name_of(path: &Path) -> Result<String> {
    path.file_stem()
        .and_then(|stem| stem.to_str())
        .map(str::to_owned)
        .ok_or_else(|| Error::invalid("no name can be made of this path; give --name"))
}
