//! Packing: from a file or folder of an exporter to a model in the store.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::{Error, ErrorKind, Result, Runtimes};

use crate::accuracy::TOLERANCE;
use crate::atomic::Written;
use crate::manifest::{FORMAT, Form, Io, Manifest, PORTABLE, ProgramRef, Source, Weights};
use crate::onnx::fit::Asked;
pub use crate::onnx::import::Targets;
use crate::onnx::import::{self, Compiled, Imported};
use crate::place::{Rules, SEGMENTS_MAX, place};
use crate::precision::Precision;
use crate::task::Task;
use crate::torch_script::{self, Declared};
use crate::{Store, hf, name, pointer, saved_model, specimen};

mod mended;
mod there;

use mended::mended;
use there::{existing, same};

/// What to pack, and as what.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The ONNX or TorchScript file, or the folder of a Hugging Face model or a SavedModel.
    pub path: PathBuf,
    /// The model's name; the folder's own, or the file's without its ending, when absent.
    pub name: Option<String>,
    /// The version; the next free one when absent.
    pub version: Option<u64>,
    /// What the tensors mean; a Hugging Face folder says so itself.
    pub task: Option<Task>,
    /// Class id to name; those of a Hugging Face folder when empty.
    pub labels: BTreeMap<u32, String>,
    /// Whether to store weights that could be mapped where they lie, so that the source may go.
    pub copy: bool,
    /// What to keep weights as.
    pub precision: Precision,
    /// For weights in eight bits: the file of inputs that the answers are compared on, `.jsonl` or `.safetensors`; made-up
    /// inputs when absent.
    pub calibration: Option<PathBuf>,
    /// For weights in eight bits: how far an output may be off, as a part of its length;
    /// [`TOLERANCE`](crate::accuracy::TOLERANCE) when absent.
    pub tolerance: Option<f64>,
    /// What a TorchScript module takes and gives, which its file does not say.
    pub signature: Declared,
    /// The tokenizer that comes with the model, and what lies beside it: name and bytes. A Hugging Face folder has its own.
    pub files: Vec<(String, Bytes)>,
    /// Which forms to pack, when the quickest one is for CPUs like this alone.
    pub targets: Targets,
}

/// What packing did.
#[derive(Debug)]
pub struct Packed {
    /// The model as it now stands in the store, with the form first that this node runs.
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
pub fn pack(store: &Store, runtimes: &Runtimes, request: &Request) -> Result<Packed> {
    pack_file(store, runtimes, request).map_err(|error| error.context(request.path.display()))
}

fn pack_file(store: &Store, runtimes: &Runtimes, request: &Request) -> Result<Packed> {
    let name = request.name.clone().map_or_else(|| name_of(&request.path), Ok)?;
    name::check(&name)?;
    let source = identify(request)?;
    let existing = existing(store, &name)?;
    if let Some(manifest) = same(store, &existing, request, &source) {
        if let Some(error) = store.lacks(manifest) {
            tracing::warn!(model = name, version = manifest.version, %error, "packed once more");
            return mended(store, runtimes, request, manifest);
        }
        return match missing(manifest, request.targets) {
            None => unchanged(manifest.clone()),
            Some(targets) => extend(store, runtimes, &Request { targets, ..request.clone() }, manifest),
        };
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

    let mut draft = Draft::import(runtimes, request, Identity { name, version, source })?;
    for _ in 0..COMMITS_MAX {
        let stored_bytes = draft.put(store)?;
        match store.commit(&draft.manifest)? {
            Some(Written::New) => {
                let Draft { manifest, mut notes, .. } = draft;
                notes.extend(outside(&manifest));
                return Ok(Packed { changed: true, stored_bytes, notes, ..unchanged(manifest)? });
            }
            // Another packer was faster with this version: either it holds the very same, or there is a next one.
            Some(Written::Existed) => return pack_file(store, runtimes, request),
            None => tracing::info!("gc removed what this pack was about to share; it is stored again"),
        }
    }
    Err(Error::unavailable("gc removes what is packed before it is used; give gc a longer --grace and try again"))
}

/// Adds to `manifest`'s model the forms that `request` asks for: its file is that model's, and was packed elsewhere, or for
/// other targets.
fn extend(store: &Store, runtimes: &Runtimes, request: &Request, manifest: &Manifest) -> Result<Packed> {
    let Manifest { name, version, source, .. } = manifest.clone();
    let mut draft = Draft::import(runtimes, request, Identity { name, version, source })?;
    let known = |form: &Compiled| manifest.forms().any(|(program, _)| program.target == form.target);
    draft.forms.retain(|form| !known(form));
    if draft.forms.is_empty() {
        return unchanged(manifest.clone());
    }
    if (&draft.manifest.inputs, &draft.manifest.outputs) != (&manifest.inputs, &manifest.outputs) {
        let what = "the runtime here sees other inputs or outputs in it than the one it was packed with; pack it as another \
                    --version";
        return Err(Error::new(ErrorKind::FailedPrecondition, what));
    }
    let stored_bytes = draft.put(store)?;
    let Draft { manifest: added, mut notes, .. } = draft;
    let targets: Vec<_> = added.forms().map(|(program, _)| &program.target[..]).collect();
    notes.push(format!("version {version} was there, and has a form for {} now", targets.join(" and one for ")));
    let first = Form { program: added.program, weights: added.weights };
    let extended = Manifest {
        format: FORMAT,
        max_batch_size: manifest.max_batch_size.min(added.max_batch_size),
        per_cpu: true,
        others: manifest.others.iter().cloned().chain([first]).chain(added.others).collect(),
        ..manifest.clone()
    };
    if !store.supersede(manifest, &extended)? {
        // Another packer, compacting or gc was faster.
        return pack_file(store, runtimes, request);
    }
    Ok(Packed { changed: true, stored_bytes, notes, ..unchanged(extended)? })
}

/// The model of `base` under another name as well: all of its files are shared, and only a manifest is written, unless the very
/// same is there.
///
/// # Errors
/// [`InvalidInput`](ErrorKind::InvalidInput) for a name that is none, [`NotFound`](ErrorKind::NotFound) for a model that is
/// gone, [`Unavailable`](ErrorKind::Unavailable) when gc took its files.
pub fn under(store: &Store, base: &Manifest, name: &str) -> Result<Packed> {
    name::check(name)?;
    let base = store.manifest(&base.name, base.version)?;
    let existing = existing(store, name)?;
    let named = |version| Manifest { name: name.to_owned(), version, ..base.clone() };
    if let Some(known) = existing.iter().find(|known| **known == named(known.version)) {
        return unchanged(known.clone());
    }
    let manifest = named(existing.iter().map(|known| known.version).max().unwrap_or(0) + 1);
    match store.commit(&manifest)? {
        Some(Written::New) => Ok(Packed { changed: true, ..unchanged(manifest)? }),
        // Another packer was faster with this version.
        Some(Written::Existed) => under(store, &base, name),
        None => Err(Error::unavailable(format!("gc took what model '{}' needs; pack it again", base.name))),
    }
}

/// What is said of a model that is in the store as `manifest` says.
fn unchanged(manifest: Manifest) -> Result<Packed> {
    let manifest = manifest.on(&engine::cpu::target())?;
    let weight_bytes = manifest.weights.bytes;
    Ok(Packed { manifest, changed: false, weight_bytes, stored_bytes: 0, notes: Vec::new() })
}

/// Which of `targets` have a form of their own that `manifest` has not.
fn missing(manifest: &Manifest, targets: Targets) -> Option<Targets> {
    let here = engine::cpu::target();
    let has = |target: &str| manifest.forms().any(|(program, _)| program.target == target);
    // Packs of older formats do not say, but one that is laid out for a CPU shows it.
    let per_cpu = manifest.per_cpu || manifest.forms().any(|(program, _)| program.target != PORTABLE);
    let native = targets != Targets::Portable && per_cpu && !has(&here);
    let portable = targets != Targets::Native && !has(PORTABLE);
    match (native, portable) {
        (true, true) => Some(Targets::Both),
        (true, false) => Some(Targets::Native),
        (false, true) => Some(Targets::Portable),
        (false, false) => None,
    }
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
    /// At least one.
    forms: Vec<Compiled>,
    /// Files that come with the model: name and bytes.
    files: Vec<(String, Bytes)>,
    notes: Vec<String>,
}

impl Draft {
    /// Imports what is at the path of `request`. Writes nothing.
    ///
    /// # Errors
    /// As [`pack`].
    pub(crate) fn import(runtimes: &Runtimes, request: &Request, identity: Identity) -> Result<Self> {
        let Found { imported, task, labels, files } = find(runtimes, request)?;
        let Imported { signature, max_batch_size, per_cpu, mut forms, notes } = imported;
        if request.copy {
            forms.iter_mut().for_each(|form| form.origins.clear());
        }
        let text = task.as_ref().and_then(Task::text).filter(|_| max_batch_size > 1);
        let padding = match (text, &forms[..]) {
            (Some(text), [form]) => specimen::padding(runtimes, request, (form, &signature), text)?,
            _ => None,
        };
        let manifest = Manifest {
            format: FORMAT,
            name: identity.name,
            version: identity.version,
            source: identity.source,
            program: ProgramRef::default(),
            inputs: signature.inputs.iter().map(Io::from_spec).collect(),
            outputs: signature.outputs.iter().map(Io::from_spec).collect(),
            max_batch_size,
            padding,
            task,
            labels,
            files: BTreeMap::new(),
            weights: Weights::default(),
            others: Vec::new(),
            precision: request.precision,
            per_cpu,
        };
        Ok(Self { manifest, forms, files, notes })
    }

    /// Writes the programs, the files and what `store` does not have of the weights, and returns how many bytes of weights
    /// that took.
    ///
    /// # Errors
    /// As [`pack`].
    pub(crate) fn put(&mut self, store: &Store) -> Result<u64> {
        let put = |(name, bytes): &(String, Bytes)| Ok((name.clone(), store.put_file(bytes)?));
        self.manifest.files = self.files.iter().map(put).collect::<Result<_>>()?;
        let mut stored_bytes = 0;
        let mut put = |form: &Compiled| -> Result<Form> {
            let hash = store.put_program(&form.program, &form.target)?;
            let rules = Rules { segments_max: SEGMENTS_MAX, avoid: &HashSet::new() };
            // What the form before has stored this one shares.
            let placed = place(store, &form.weights, &form.origins, &rules)?;
            stored_bytes += placed.stored_bytes;
            let (kind, target, why_whole) = (form.kind, form.target.clone(), form.why_whole.clone());
            Ok(Form { program: ProgramRef { hash, kind, target, why_whole }, weights: placed.weights })
        };
        let mut forms = self.forms.iter().map(&mut put).collect::<Result<Vec<_>>>()?.into_iter();
        if let Some(Form { program, weights }) = forms.next() {
            (self.manifest.program, self.manifest.weights) = (program, weights);
        }
        self.manifest.others = forms.collect();
        Ok(stored_bytes)
    }
}

/// How often a pack is stored before it is given up, when gc is faster each time.
const COMMITS_MAX: usize = 5;

/// Whether `path` is a Hugging Face folder, which says itself what it is for.
pub fn is_checkpoint(path: &Path) -> bool {
    hf::is_checkpoint(path)
}

/// Whether `path` is a folder that is packed as one model.
pub fn is_model_folder(path: &Path) -> bool {
    hf::is_checkpoint(path) || saved_model::is_saved_model(path)
}

pub(crate) fn identify(request: &Request) -> Result<Source> {
    pointer::refuse_file(&request.path)?;
    if saved_model::is_saved_model(&request.path) {
        return saved_model::identify(&request.path);
    }
    if torch_script::is_torch_script(&request.path) {
        return torch_script::identify(&request.path, &request.signature);
    }
    hf::refuse_other_formats(&request.path)?;
    if !hf::is_checkpoint(&request.path) {
        return import::identify(&request.path);
    }
    if request.task.is_some() || !request.files.is_empty() {
        return Err(Error::invalid("its config.json says what the model is for; leave --task and --tokenizer out"));
    }
    hf::identify(&request.path)
}

/// A model as its importer found it.
struct Found {
    imported: Imported,
    task: Option<Task>,
    labels: BTreeMap<u32, String>,
    files: Vec<(String, Bytes)>,
}

fn find(runtimes: &Runtimes, request: &Request) -> Result<Found> {
    let asked = (!request.precision.is_float()).then(|| Asked {
        precision: request.precision,
        calibration: request.calibration.as_deref(),
        tolerance: request.tolerance.unwrap_or(TOLERANCE),
    });
    let (engine, given) = (runtimes.onnx(), request.labels.clone());
    if hf::is_checkpoint(&request.path) {
        let hf::Folder { imported, task, labels, files } = hf::import(engine, &request.path, asked.as_ref())?;
        return Ok(Found { imported, task, labels: if given.is_empty() { labels } else { given }, files });
    }
    let (is_torch_script, is_saved_model) =
        (torch_script::is_torch_script(&request.path), saved_model::is_saved_model(&request.path));
    let (imported, mut files) = match asked {
        Some(_) if is_torch_script || is_saved_model => {
            return Err(Error::unsupported("it is loaded whole, and only lifted weights can be in eight bits"));
        }
        Some(asked) => {
            let (imported, accuracy) = import::import_in_eight_bits(engine, &request.path, &asked)?;
            (imported, vec![accuracy.file()?])
        }
        None if is_saved_model => saved_model::import(runtimes, &request.path)?,
        None if is_torch_script => torch_script::import(runtimes, &request.path, &request.signature)?,
        None => (import::import(engine, &request.path, request.targets)?, Vec::new()),
    };
    files.extend(request.files.iter().cloned());
    Ok(Found { imported, task: request.task.clone(), labels: given, files })
}

/// What to say of the files outside the store that `manifest` depends on.
fn outside(manifest: &Manifest) -> Option<String> {
    let segments = manifest.forms().flat_map(|(_, weights)| &weights.segments);
    let files = segments.filter_map(|segment| segment.external.as_ref());
    let files: Vec<String> = files.map(|external| external.path.display().to_string()).collect();
    (!files.is_empty()).then(|| {
        let files = files.join(", ");
        format!("weights are mapped where they lie, so keep what is there or pack with --copy: {files}")
    })
}

fn taken(name: &str, version: u64) -> Error {
    let why = format!("'{name}' version {version} is there and holds something else; choose another --version");
    Error::new(ErrorKind::AlreadyExists, why)
}

/// The name of a model whose packer gave none: its file's or folder's, and for a `model.onnx` that was exported beside its
/// `config.json`, or into a folder `onnx` of it, that folder's, since every export is called `model.onnx`.
///
/// # Errors
/// [`InvalidInput`](ErrorKind::InvalidInput) when the path's last part is no text.
pub fn name_of(path: &Path) -> Result<String> {
    // Of a path that begins here, the folder's name is not in it.
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let exported = whole.parent().filter(|_| whole.ends_with("model.onnx"));
    let above =
        exported.map(|folder| if folder.ends_with("onnx") { folder.parent().unwrap_or(folder) } else { folder });
    let folder = above.filter(|folder| folder.join("config.json").is_file());
    // A folder's name has no ending, whatever dots are in it.
    let name = match folder.and_then(Path::file_name) {
        Some(name) => Some(name),
        None if path.is_dir() => path.file_name(),
        None => path.file_stem(),
    };
    name.and_then(|stem| stem.to_str())
        .map(str::to_owned)
        .ok_or_else(|| Error::invalid("no name can be made of this path; give --name"))
}
