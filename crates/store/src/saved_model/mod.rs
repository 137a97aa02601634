//! TensorFlow SavedModels: a folder with `saved_model.pb` (a graph and its signatures) and `variables/` and `assets/`.
//!
//! The graph keeps its weights in variables, so a SavedModel is packed as it is: its files by their content, and a
//! program that says which files those are and which signature is served. It is loaded whole.

mod forbidden;
mod resizes;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::{DataType, Engine, Error, ErrorKind, Result, Runtimes, SavedModel, Session, TensorSpec};
use prost::Message as _;
use proto::tensorflow::{self as tf, MetaGraphDef, SignatureDef, TensorInfo};
use serde::{Deserialize, Serialize};

use crate::manifest::{Io, Manifest, PORTABLE, ProgramKind, Source};
use crate::onnx::apart::items_are_apart;
use crate::onnx::import::{BATCH_MAX, Compiled, Imported};
use crate::onnx::probe;
use crate::specimen::OwnSize;
use crate::whole::{Place, outlets};
use crate::{Store, atomic};

/// The file that makes a folder a SavedModel.
pub(crate) const FILE: &str = "saved_model.pb";

/// Where the rest of its files lie, below the same folder.
pub(crate) const FOLDERS: [&str; 2] = ["assets", "variables"];

/// The source's format in a manifest.
pub(crate) const FORMAT: &str = "saved-model";

/// Where its files go in a manifest's list, so that they meet no other file's name.
const PREFIX: &str = "saved_model/";

/// The tag of a graph that is there to be served (tensorflow/cc/saved_model/tag_constants.h).
const SERVE: &str = "serve";
/// The signature that is served when nobody says (tensorflow/cc/saved_model/signature_constants.h).
const SERVING_DEFAULT: &str = "serving_default";
/// No signature, but what runs once the variables are restored.
const INIT: &str = "__saved_model_init_op";

/// Larger than any file of a graph: protobuf's own limit.
const GRAPH_BYTES_MAX: u64 = 1 << 31;

/// The program of a SavedModel: which signature is served. Its files are in the manifest's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    /// The signature's name.
    signature: String,
    tags: Vec<String>,
    inputs: Vec<Place>,
    outputs: Vec<Place>,
    /// Each file's hash by its path in the folder, so that two models of one graph and other variables are two programs.
    files: BTreeMap<String, String>,
}

/// Files that come with a model: name in the manifest and bytes.
type Files = Vec<(String, Bytes)>;

/// Whether `path` is a SavedModel's folder.
pub fn is_saved_model(path: &Path) -> bool {
    path.join(FILE).is_file()
}

/// Identifies the SavedModel in `folder` by all of its files.
///
/// # Errors
/// As the file system's, naming the file.
pub(crate) fn identify(folder: &Path) -> Result<Source> {
    let mut hasher = blake3::Hasher::new();
    let mut total = 0;
    for (name, bytes) in files(folder)? {
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_bytes());
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
        total += bytes.len() as u64;
    }
    Ok(Source { format: FORMAT.to_owned(), hash: hasher.finalize().to_hex().to_string(), bytes: total })
}

/// A session of the SavedModel in `folder`, to see what it answers, and the sizes to which its graph brings pictures.
///
/// # Errors
/// As [`import`].
pub(crate) fn session(runtimes: &Runtimes, folder: &Path) -> Result<(Box<dyn Session>, Vec<OwnSize>)> {
    let files = files(folder)?;
    let session = one_session(runtimes, &describe(&files)?.0, folder)?;
    Ok((session, read(&files)?.0.graph_def.as_ref().map(resizes::own_sizes).unwrap_or_default()))
}

fn one_session(runtimes: &Runtimes, description: &Description, folder: &Path) -> Result<Box<dyn Session>> {
    let mut session = description.with(folder, |model| runtimes.saved_model(model, 1))?;
    session.pop().ok_or_else(|| Error::internal("the runtime gave no session"))
}

/// Reads the SavedModel in `folder`, and has it loaded once: so it is known that it can be, and whether its items are
/// apart.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is none, or has no signature that can be served;
/// [`Unsupported`](engine::ErrorKind::Unsupported) when its graph does what no artefact may do, or the runtime refuses it;
/// [`Unavailable`](engine::ErrorKind::Unavailable) when there is no TensorFlow.
pub(crate) fn import(runtimes: &Runtimes, folder: &Path) -> Result<(Imported, Files)> {
    let files = files(folder)?;
    let (description, notes) = describe(&files)?;
    let session = one_session(runtimes, &description, folder)?;
    let program = serde_json::to_vec(&description)
        .map_err(|error| Error::internal(format!("a program does not serialise: {error}")))?;
    let form = Compiled {
        program: program.into(),
        kind: ProgramKind::SavedModel,
        target: PORTABLE.to_owned(),
        why_whole: Some("TensorFlow keeps the weights of a SavedModel in its variables".to_owned()),
        weights: Vec::new(),
        origins: Vec::new(),
    };
    let imported = Imported {
        signature: session.signature().clone(),
        max_batch_size: batch_max(runtimes, session.as_ref())?,
        per_cpu: false,
        forms: vec![form],
        notes,
    };
    Ok((imported, files.into_iter().map(|(name, bytes)| (format!("{PREFIX}{name}"), bytes)).collect()))
}

/// How many items go together. A model may refuse every made-up input, as one that parses its own does; but one whose
/// variables are not there refuses all others as well.
fn batch_max(runtimes: &Runtimes, session: &dyn Session) -> Result<u64> {
    let none = runtimes.bind(Vec::new())?;
    match probe::runs(session, none.as_ref()) {
        Err(error) if error.kind == ErrorKind::FailedPrecondition => return Err(Error::invalid(error.message)),
        Ok(()) | Err(_) => {}
    }
    Ok(if items_are_apart(session, none.as_ref()) { BATCH_MAX } else { 0 })
}

/// Which signature of the SavedModel in `files` is served, and what is to be said of it. Runs nothing.
pub(crate) fn describe(files: &[(String, Bytes)]) -> Result<(Description, Vec<String>)> {
    let (meta, tags) = read(files)?;
    let (name, signature) = default_signature(&meta)?;
    forbidden::check(&meta, signature)?;
    let others: Vec<String> = names(&meta).filter(|other| *other != name).map(|other| format!("'{other}'")).collect();
    let note = format!("of its signatures '{name}' is served, and not {}", others.join(", "));
    let description = Description {
        signature: name.to_owned(),
        tags,
        inputs: places(&signature.inputs)?,
        outputs: places(&signature.outputs)?,
        files: files.iter().map(|(name, bytes)| (name.clone(), blake3::hash(bytes).to_hex().to_string())).collect(),
    };
    Ok((description, (!others.is_empty()).then_some(note).into_iter().collect()))
}

/// The graph in `files` that is there to be served, and its tags.
fn read(files: &[(String, Bytes)]) -> Result<(MetaGraphDef, Vec<String>)> {
    let graph = files.iter().find(|(name, _)| name == FILE).map(|(_, bytes)| bytes.clone());
    let graph = graph.ok_or_else(|| Error::invalid(format!("there is no {FILE}; give the folder that holds one")))?;
    if graph.len() as u64 >= GRAPH_BYTES_MAX {
        return Err(Error::invalid(format!("{FILE} is larger than protobuf allows")));
    }
    let model = tf::SavedModel::decode(graph)
        .map_err(|source| Error::invalid(format!("{FILE} is no SavedModel: {source}; export the model again")))?;
    to_serve(model.meta_graphs)
}

/// Copies the SavedModel in `from` into `to`: whoever changes the original afterwards changes nothing that is read here.
///
/// # Errors
/// As the file system's, naming the file.
pub(crate) fn snapshot(from: &Path, to: &Path) -> Result<()> {
    for (name, path) in paths(from)? {
        let target = to.join(name);
        let copied =
            target.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::copy(&path, &target));
        copied.map_err(|source| atomic::io_error(&path, "cannot be copied", &source))?;
    }
    Ok(())
}

impl Description {
    fn with<T>(&self, folder: &Path, use_it: impl FnOnce(&SavedModel<'_>) -> Result<T>) -> Result<T> {
        let (inputs, outputs) = (outlets(&self.inputs)?, outlets(&self.outputs)?);
        use_it(&SavedModel { folder, tags: &self.tags, inputs: &inputs, outputs: &outputs })
    }
}

impl Store {
    /// Hands `use_it` the SavedModel that `manifest` names, in a folder that is there for as long as the call.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) for bytes that are not those that were packed, and the call's own.
    pub fn with_saved_model<T>(
        &self,
        manifest: &Manifest,
        use_it: impl FnOnce(&SavedModel<'_>) -> Result<T>,
    ) -> Result<T> {
        let program = self.program(&manifest.program)?;
        let corrupt =
            |why: String| Error::corrupt(format!("the program is no SavedModel's: {why}; pack the model again"));
        let description: Description = serde_json::from_slice(&program).map_err(|error| corrupt(error.to_string()))?;
        let scratch = tempfile::Builder::new().prefix("packhorse-saved-model-").tempdir();
        let scratch = scratch.map_err(|source| Error::internal(format!("no temporary folder: {source}")))?;
        for (name, hash) in &description.files {
            let listed = format!("{PREFIX}{name}");
            if manifest.files.get(&listed) != Some(hash) || !is_plain(Path::new(name)) {
                return Err(corrupt(format!("its file '{name}' is not the manifest's")));
            }
            // Read, so that a runtime never sees bytes that nobody checked.
            drop(self.file(manifest, &listed)?);
            link(&self.file_path(hash)?, &scratch.path().join(name))?;
        }
        description.with(scratch.path(), use_it)
    }
}

/// Makes `place` a link to `file`: the runtime reads the store's own bytes.
fn link(file: &Path, place: &Path) -> Result<()> {
    let failed = |source: std::io::Error| atomic::io_error(place, "cannot be made", &source);
    let file = std::path::absolute(file).map_err(failed)?;
    place.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
    std::os::unix::fs::symlink(file, place).map_err(failed)
}

/// Whether every part of `path` goes further down.
fn is_plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// The files of the SavedModel in `folder`, by path within it, mapped.
fn files(folder: &Path) -> Result<Files> {
    paths(folder)?.into_iter().map(|(name, path)| Ok((name, engine::map::map_file(&path)?))).collect()
}

/// The files that belong to the SavedModel in `folder`, by path within it. What lies beside them is none of its.
pub(crate) fn paths(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = vec![(FILE.to_owned(), folder.join(FILE))];
    for part in FOLDERS {
        each_file(&folder.join(part), part, &mut found)?;
    }
    Ok(found)
}

/// Adds every file below `folder`, by name, with its path written after `within`.
fn each_file(folder: &Path, within: &str, found: &mut Vec<(String, PathBuf)>) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let mut names = crate::folder::read_dir(folder)?;
    names.sort_unstable();
    for name in names {
        let (path, within) = (folder.join(&name), format!("{within}/{name}"));
        if path.is_dir() { each_file(&path, &within, found)? } else { found.push((within, path)) }
    }
    Ok(())
}

/// The graph that is there to be served: the one with that tag, or the only one.
fn to_serve(graphs: Vec<MetaGraphDef>) -> Result<(MetaGraphDef, Vec<String>)> {
    let tags = |graph: &MetaGraphDef| graph.meta_info_def.as_ref().map(|info| info.tags.clone()).unwrap_or_default();
    let all: Vec<Vec<String>> = graphs.iter().map(tags).collect();
    let chosen = all.iter().position(|tags| *tags == [SERVE]).or_else(|| (graphs.len() == 1).then_some(0));
    let graph = chosen.and_then(|index| graphs.into_iter().nth(index)).ok_or_else(|| {
        Error::invalid(format!("it has {} graphs and none with the one tag '{SERVE}'; its tags are {all:?}", all.len()))
    })?;
    let tags = tags(&graph);
    Ok((graph, tags))
}

fn names(meta: &MetaGraphDef) -> impl Iterator<Item = &str> {
    let mut names: Vec<&str> = meta.signature_def.keys().map(String::as_str).filter(|name| *name != INIT).collect();
    names.sort_unstable();
    names.into_iter()
}

/// The signature that is served: the one that TensorFlow Serving takes when nobody says, or the only one.
fn default_signature(meta: &MetaGraphDef) -> Result<(&str, &SignatureDef)> {
    let all: Vec<&str> = names(meta).collect();
    let only = if let [only] = all[..] { Some(only) } else { None };
    let chosen = all.iter().copied().find(|name| *name == SERVING_DEFAULT).or(only);
    chosen.and_then(|name| Some((name, meta.signature_def.get(name)?))).ok_or_else(|| {
        Error::invalid(format!(
            "it has no signature '{SERVING_DEFAULT}', only {all:?}; save the model with signatures={{'{SERVING_DEFAULT}': ...}}"
        ))
    })
}

/// By name, as the file has them in no order.
fn places(tensors: &std::collections::HashMap<String, TensorInfo>) -> Result<Vec<Place>> {
    let sorted: BTreeMap<_, _> = tensors.iter().collect();
    sorted.into_iter().map(|(name, info)| place(name, info)).collect()
}

fn place(name: &str, info: &TensorInfo) -> Result<Place> {
    let Some(tf::tensor_info::Encoding::Name(tensor)) = &info.encoding else {
        return Err(Error::unsupported(format!(
            "'{name}' is a sparse or composite tensor, and serving carries dense ones"
        )));
    };
    let dtype = tf::DataType::try_from(info.dtype).ok().and_then(datatype).ok_or_else(|| {
        Error::unsupported(format!("'{name}' has TensorFlow's datatype {}, which no serving API carries", info.dtype))
    })?;
    let shape = info.tensor_shape.as_ref().filter(|shape| !shape.unknown_rank);
    let dims = shape.map_or_else(|| vec![-1], |shape| shape.dim.iter().map(|dim| dim.size.max(-1)).collect());
    let spec = TensorSpec { name: name.to_owned(), dtype, shape: dims, any_rank: shape.is_none() };
    Ok(Place { io: Io::from_spec(&spec), tensor: tensor.clone() })
}

fn datatype(dtype: tf::DataType) -> Option<DataType> {
    Some(match dtype {
        tf::DataType::DtInvalid => return None,
        tf::DataType::DtFloat => DataType::F32,
        tf::DataType::DtDouble => DataType::F64,
        tf::DataType::DtInt32 => DataType::I32,
        tf::DataType::DtUint8 => DataType::U8,
        tf::DataType::DtInt16 => DataType::I16,
        tf::DataType::DtInt8 => DataType::I8,
        tf::DataType::DtString => DataType::Bytes,
        tf::DataType::DtInt64 => DataType::I64,
        tf::DataType::DtBool => DataType::Bool,
        tf::DataType::DtBfloat16 => DataType::Bf16,
        tf::DataType::DtUint16 => DataType::U16,
        tf::DataType::DtHalf => DataType::F16,
        tf::DataType::DtUint32 => DataType::U32,
        tf::DataType::DtUint64 => DataType::U64,
    })
}
