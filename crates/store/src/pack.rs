//! Packing: from a file or folder of an exporter to a model in the store.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::onnx::Onnx;
use engine::{Error, ErrorKind, Result, Tensor};

use crate::atomic::Written;
use crate::manifest::{FORMAT, Io, Manifest, ProgramRef, Source, Weights};
use crate::onnx::import::{self, Imported};
use crate::place::{Origin, Rules, SEGMENTS_MAX, place};
use crate::task::{self, Task, TaskChoice};
use crate::{Store, hf, name};

/// What to pack, and as what.
#[derive(Clone, Debug, Default)]
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
    /// Whether to store weights that could be mapped where they lie, so that the source may go.
    pub copy: bool,
    /// Whether to pack a form for any CPU, when the quickest one is for this kind alone.
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
    /// What of them the store did not have: the bytes of the tensors that were written.
    pub stored_bytes: u64,
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
    if let Some(manifest) = same(store, &existing, request, &source) {
        return Ok(Packed {
            weight_bytes: weight_bytes(manifest),
            stored_bytes: 0,
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

    let mut draft = Draft::import(engine, request, Identity { name, version, source })?;
    for _ in 0..COMMITS_MAX {
        let stored_bytes = draft.put(store)?;
        match store.commit(&draft.manifest)? {
            Some(Written::New) => {
                let Draft { manifest, mut notes, .. } = draft;
                notes.extend(outside(&manifest));
                let weight_bytes = weight_bytes(&manifest);
                return Ok(Packed { manifest, changed: true, weight_bytes, stored_bytes, notes });
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
    /// For each weight where it lies and may stay; empty when all are to be stored.
    origins: Vec<Option<Origin>>,
    /// Files that come with the model: name and bytes.
    files: Vec<(String, Bytes)>,
    notes: Vec<String>,
}

impl Draft {
    /// Imports what is at the path of `request`. Writes nothing.
    ///
    /// # Errors
    /// As [`pack`].
    pub(crate) fn import(engine: &Onnx, request: &Request, identity: Identity) -> Result<Self> {
        let Found { imported, mut origins, task, labels, files, notes } = find(engine, request)?;
        if request.copy {
            origins.clear();
        }
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
            labels,
            files: BTreeMap::new(),
            weights: Weights::default(),
        };
        Ok(Self { manifest, program: imported.program, weights: imported.weights, origins, files, notes })
    }

    /// Writes the program, the files and what `store` does not have of the weights, and returns how many bytes of weights that took.
    ///
    /// # Errors
    /// As [`pack`].
    pub(crate) fn put(&mut self, store: &Store) -> Result<u64> {
        self.manifest.program.hash = store.put_program(&self.program, &self.manifest.program.target)?;
        let put = |(name, bytes): &(String, Bytes)| Ok((name.clone(), store.put_file(bytes)?));
        self.manifest.files = self.files.iter().map(put).collect::<Result<_>>()?;
        let rules = Rules { segments_max: SEGMENTS_MAX, avoid: &HashSet::new() };
        let placed = place(store, &self.weights, &self.origins, &rules)?;
        self.manifest.weights = placed.weights;
        Ok(placed.stored_bytes)
    }
}

/// How often a pack is stored before it is given up, when gc is faster each time.
const COMMITS_MAX: usize = 5;

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
    /// For each weight where it lies in a file that may be mapped as it is; empty when there is no such file.
    origins: Vec<Option<Origin>>,
    task: Option<Task>,
    labels: BTreeMap<u32, String>,
    files: Vec<(String, Bytes)>,
    notes: Vec<String>,
}

fn find(engine: &Onnx, request: &Request) -> Result<Found> {
    let asked = request.labels.clone();
    if hf::is_checkpoint(&request.path) {
        let hf::Folder { imported, origins, task, labels, files, notes } = hf::import(engine, &request.path)?;
        let labels = if asked.is_empty() { labels } else { asked };
        return Ok(Found { imported, origins, task, labels, files, notes });
    }
    let imported = import::import(engine, &request.path, request.portable)?;
    let task = request.task.map(|choice| task::recognise(choice, &imported.signature)).transpose()?;
    Ok(Found { imported, origins: Vec::new(), task, labels: asked, files: Vec::new(), notes: Vec::new() })
}

/// What to say of the files outside the store that `manifest` depends on.
fn outside(manifest: &Manifest) -> Option<String> {
    let files = manifest.weights.segments.iter().filter_map(|segment| segment.external.as_ref());
    let files: Vec<String> = files.map(|external| external.path.display().to_string()).collect();
    (!files.is_empty()).then(|| {
        let files = files.join(", ");
        format!("weights are mapped where they lie, so keep what is there or pack with --copy: {files}")
    })
}

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
fn same<'a>(store: &Store, existing: &'a [Manifest], request: &Request, source: &Source) -> Option<&'a Manifest> {
    let here = engine::cpu::target();
    existing.iter().rev().find(|manifest| {
        manifest.source == *source
            && request.version.is_none_or(|version| version == manifest.version)
            && (manifest.labels == request.labels || request.labels.is_empty() && source.format == hf::FORMAT)
            && manifest.task.as_ref().and_then(task::choice) == request.task
            && (manifest.program.target == import::PORTABLE || manifest.program.target == here && !request.portable)
            && outside_is_there(store, manifest, request.copy)
    })
}

/// Whether what `manifest` needs of files outside the store is there, of which a pack with `copy` needs none.
fn outside_is_there(store: &Store, manifest: &Manifest, copy: bool) -> bool {
    let mut outside = manifest.weights.segments.iter().filter(|segment| segment.external.is_some());
    outside.all(|segment| !copy && store.segment(segment).is_ok())
}

/// The name of a model whose packer gave none.
///
/// # Errors
/// [`InvalidInput`](ErrorKind::InvalidInput) when the path's last part is no text.
pub fn name_of(path: &Path) -> Result<String> {
    // A folder's name has no ending, whatever dots are in it.
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.and_then(|stem| stem.to_str())
        .map(str::to_owned)
        .ok_or_else(|| Error::invalid("no name can be made of this path; give --name"))
}
