//! Packing: from a file of an exporter to a model in the store.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::onnx::Onnx;
use engine::{Error, ErrorKind, Result, Tensor};

use crate::atomic::Written;
use crate::manifest::{FORMAT, Io, Manifest, ProgramRef, Source, Weights};
use crate::onnx::import;
use crate::place::{Rules, SEGMENTS_MAX, place};
use crate::task::{self, TaskChoice};
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
    /// What of them the store did not have: the bytes of the tensors that were written.
    pub stored_bytes: u64,
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
        return Ok(Packed {
            weight_bytes: weight_bytes(manifest),
            stored_bytes: 0,
            manifest: manifest.clone(),
            changed: false,
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

    let mut draft = Draft::import(engine, request, Identity { name, version, source })?;
    for _ in 0..COMMITS_MAX {
        let stored_bytes = draft.put(store)?;
        match store.commit(&draft.manifest)? {
            Some(Written::New) => {
                let manifest = draft.manifest;
                return Ok(Packed { weight_bytes: weight_bytes(&manifest), stored_bytes, manifest, changed: true });
            }
            // Another packer was faster with this version: either it holds the very same, or there is a next one.
            Some(Written::Existed) => return pack_file(store, engine, request),
            None => tracing::info!("gc removed what this pack was about to share; it is stored again"),
        }
    }
    Err(Error::unavailable("gc removes what is packed before it is used; give gc a longer --grace and try again"))
}

/// What a manifest is of.
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) version: u64,
    pub(crate) source: Source,
}

/// A pack whose manifest is written nowhere yet.
pub(crate) struct Draft {
    /// Whole once [`put`](Self::put) has said where the program and the weights are.
    pub(crate) manifest: Manifest,
    program: Bytes,
    weights: Vec<Tensor>,
}

impl Draft {
    /// Imports the file of `request`. Writes nothing.
    ///
    /// # Errors
    /// As [`pack`].
    pub(crate) fn import(engine: &Onnx, request: &Request, identity: Identity) -> Result<Self> {
        let imported = import::import(engine, &request.path)?;
        let task = request.task.map(|choice| task::recognise(choice, &imported.signature)).transpose()?;
        let manifest = Manifest {
            format: FORMAT,
            name: identity.name,
            version: identity.version,
            source: identity.source,
            program: ProgramRef {
                hash: String::new(),
                kind: imported.kind,
                target: imported.target,
                why_whole: imported.why_whole,
            },
            inputs: imported.signature.inputs.iter().map(Io::from_spec).collect(),
            outputs: imported.signature.outputs.iter().map(Io::from_spec).collect(),
            max_batch_size: imported.max_batch_size,
            task,
            labels: request.labels.clone(),
            files: BTreeMap::new(),
            weights: Weights::default(),
        };
        Ok(Self { manifest, program: imported.program, weights: imported.weights })
    }

    /// Writes the program and what `store` does not have of the weights, and returns how many bytes of weights that took.
    ///
    /// # Errors
    /// As [`pack`].
    pub(crate) fn put(&mut self, store: &Store) -> Result<u64> {
        self.manifest.program.hash = store.put_program(&self.program, &self.manifest.program.target)?;
        let rules = Rules { segments_max: SEGMENTS_MAX, avoid: &HashSet::new() };
        let placed = place(store, &self.weights, &[], &rules)?;
        self.manifest.weights = placed.weights;
        Ok(placed.stored_bytes)
    }
}

/// How often a pack is stored before it is given up, when gc is faster each time.
const COMMITS_MAX: usize = 5;

/// The bytes that `manifest`'s weights take.
pub fn weight_bytes(manifest: &Manifest) -> u64 {
    manifest.weights.bytes
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
            && manifest.labels == request.labels
            && manifest.task.as_ref().map(task::choice) == request.task
            && (manifest.program.target == import::PORTABLE || manifest.program.target == engine::cpu::target())
    })
}

fn name_of(path: &Path) -> Result<String> {
    path.file_stem()
        .and_then(|stem| stem.to_str())
        .map(str::to_owned)
        .ok_or_else(|| Error::invalid("no name can be made of this path; give --name"))
}
