//! From a folder to a program and its weights.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::onnx::Onnx;
use engine::{Engine, Error, Load, Result, Tensor};
use prost::Message;

use super::checkpoint::{self, Checkpoint};
use super::config::Config;
use super::graph::{Wanted, signed};
use super::program::Program;
use super::text::{self, SPECIAL_TOKENS};
use crate::accuracy::Accuracy;
use crate::manifest::{Manifest, PORTABLE, ProgramKind, Source};
use crate::onnx::apart::items_are_apart;
use crate::onnx::compile::Parts;
use crate::onnx::fit::{self, Asked};
use crate::onnx::import::{self, BATCH_MAX, Compiled, Imported};
use crate::onnx::lift::Weight;
use crate::onnx::made::Made;
use crate::onnx::probe;
use crate::onnx::tensor::datatype_number;
use crate::onnx::wire::TensorProto;
use crate::place::Origin;
use crate::task::Task;

/// What a manifest calls a folder's format.
pub(crate) const FORMAT: &str = "hugging-face";

/// What tokenisation needs and nothing else reads; kept in the store by content, since thousands of fine-tunes share it.
pub(super) const KEPT_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"];
/// What decides the graph and what it is for, besides the weights.
const CONFIGURATIONS: [&str; 4] = ["config.json", "modules.json", "1_Pooling/config.json", SPECIAL_TOKENS];

/// A folder on its way into the store.
pub(crate) struct Folder {
    pub(crate) imported: Imported,
    pub(crate) task: Option<Task>,
    pub(crate) labels: BTreeMap<u32, String>,
    /// Files to keep beside the model: name and bytes.
    pub(crate) files: Vec<(String, Bytes)>,
}

/// Whether `path` is a folder to be packed as one model: one with a `config.json` and weights, or at least no ONNX files.
pub(crate) fn is_checkpoint(path: &Path) -> bool {
    let has_onnx = || {
        std::fs::read_dir(path).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.path().extension().is_some_and(|ending| ending == "onnx"))
        })
    };
    path.join("config.json").is_file() && (checkpoint::has_weights(path) || !has_onnx())
}

/// Refuses files of weights that are no folder, and those that run code when they are read.
///
/// # Errors
/// [`Unsupported`](engine::ErrorKind::Unsupported) with the way to convert it.
pub(crate) fn refuse_other_formats(path: &Path) -> Result<()> {
    match path.extension().and_then(|ending| ending.to_str()) {
        Some("safetensors") => Err(Error::unsupported(
            "weights alone say nothing of the graph; give the folder that holds them and config.json",
        )),
        Some("bin" | "pkl" | "ckpt") => Err(pickled()),
        _ => Ok(()),
    }
}

fn pickled() -> Error {
    Error::unsupported(
        "weights in a pickle run code when they are read, and none is run; convert them once where you trust them: \
         python -c \"from transformers import AutoModel as M; M.from_pretrained('FOLDER').save_pretrained('NEW', \
         safe_serialization=True)\", with AutoModelForQuestionAnswering or the like for a model with a head",
    )
}

/// Identifies everything in `folder` that a pack is made from.
///
/// # Errors
/// [`Unsupported`](engine::ErrorKind::Unsupported) when the weights are a pickle, [`NotFound`](engine::ErrorKind::NotFound)
/// when there are none.
pub(crate) fn identify(folder: &Path) -> Result<Source> {
    if !checkpoint::has_weights(folder) {
        return Err(no_weights(folder));
    }
    let mut hasher = blake3::Hasher::new();
    let mut total = 0;
    let named = CONFIGURATIONS.iter().chain(&KEPT_FILES).map(|name| folder.join(name)).filter(|path| path.is_file());
    for path in named.chain(checkpoint::files(folder)?) {
        let bytes = engine::map::map_file(&path)?;
        // Lengths keep the end of one file apart from the beginning of the next.
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
        total += bytes.len() as u64;
    }
    Ok(Source { format: FORMAT.to_owned(), hash: hasher.finalize().to_hex().to_string(), bytes: total })
}

fn no_weights(folder: &Path) -> Error {
    let pickle = |path: PathBuf| refuse_other_formats(&path).err().filter(|_| !path.ends_with("training_args.bin"));
    let found =
        std::fs::read_dir(folder).ok().and_then(|mut entries| entries.find_map(|entry| pickle(entry.ok()?.path())));
    found.unwrap_or_else(|| Error::not_found("the folder holds neither model.safetensors nor its index"))
}

/// Generates the program of `folder` and finds its weights.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) or [`Unsupported`](engine::ErrorKind::Unsupported), naming the file
/// and the field or tensor.
pub(crate) fn import(engine: &Onnx, folder: &Path, asked: Option<&Asked<'_>>) -> Result<Folder> {
    let config = Config::read(folder)?;
    let checkpoint = Checkpoint::open(folder, config.family.prefix())?;
    let program = Program::of(&config, &|name| checkpoint.precision(name));
    let (weights, origins): (Vec<Tensor>, Vec<Option<Origin>>) =
        program.wanted.iter().map(|wanted| checkpoint.tensor(wanted)).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let mut files = kept_files(folder)?;
    let notes = notes(&origins, &files);
    let imported = match asked {
        None => runnable(engine, program, weights, origins)?,
        Some(asked) => {
            let (imported, accuracy) = in_eight_bits(engine, &config, &checkpoint, (program, weights), asked)?;
            files.push(accuracy.file()?);
            imported
        }
    };
    let notes = if asked.is_some() { Vec::new() } else { notes };
    let imported = Imported { notes, ..imported };
    Ok(Folder { imported, task: text::task(folder, &config)?, labels: config.labels, files })
}

/// The program with its weights, once it has run with them.
fn runnable(engine: &Onnx, program: Program, weights: Vec<Tensor>, origins: Vec<Option<Origin>>) -> Result<Imported> {
    let bytes = Bytes::from(program.model.encode_to_vec());
    let session = engine.session(&bytes, weights.len(), Load::AsIs)?;
    let bound = engine.bind(weights.clone())?;
    probe::runs(session.as_ref(), bound.as_ref())?;
    let apart = items_are_apart(session.as_ref(), bound.as_ref());
    let form = Compiled {
        program: bytes,
        kind: ProgramKind::Lifted,
        target: PORTABLE.to_owned(),
        why_whole: None,
        weights,
        origins,
    };
    let max_batch_size = if apart { BATCH_MAX } else { 0 };
    Ok(Imported { signature: program.signature, max_batch_size, per_cpu: false, forms: vec![form], notes: Vec::new() })
}

/// The model in eight bits, as far as its answers stay near those of `float`, its program and weights as they are.
fn in_eight_bits(
    engine: &Onnx,
    config: &Config,
    checkpoint: &Checkpoint,
    (float, weights): (Program, Vec<Tensor>),
    asked: &Asked<'_>,
) -> Result<(Imported, Accuracy)> {
    let session = engine.session(&float.model.encode_to_vec(), weights.len(), Load::AsIs)?;
    let bound = engine.bind(weights)?;
    let all: Vec<usize> = (0..float.signature.outputs.len()).collect();
    let mut original = |run: &[Tensor]| session.run(bound.as_ref(), run, &all);
    let (model, wanted) = Program::plain(config);
    let weights = wanted.iter().map(|wanted| weight(checkpoint, wanted)).collect::<Result<_>>()?;
    let parts = Parts { model, weights, folder: None };
    let (built, accuracy) = fit::fit(engine, &parts, &float.signature, &mut original, asked)?;
    Ok((import::eight_bits(built, float.signature), accuracy))
}

/// What `wanted` describes, as if an exporter had written it.
fn weight(checkpoint: &Checkpoint, wanted: &Wanted) -> Result<Weight> {
    let (tensor, _) = checkpoint.tensor(wanted)?;
    let tensor = TensorProto {
        name: wanted.names.first().cloned(),
        data_type: Some(datatype_number(tensor.dtype())),
        dims: tensor.shape().iter().map(|&size| signed(size)).collect(),
        raw_data: Some(tensor.data().clone()),
        ..TensorProto::default()
    };
    Ok(Weight { tensor, made: Made::AsIs })
}

/// Whether `files`, and no other tokenizer, came with the model of `manifest`.
pub(crate) fn came_with(manifest: &Manifest, files: &[(String, Bytes)]) -> bool {
    KEPT_FILES.iter().all(|kept| {
        let given = files.iter().find(|(name, _)| name == kept);
        let given = given.map(|(_, bytes)| blake3::hash(bytes).to_hex().to_string());
        manifest.files.get(*kept) == given.as_ref()
    })
}

pub(super) fn kept_files(folder: &Path) -> Result<Vec<(String, Bytes)>> {
    let there = KEPT_FILES.iter().filter(|name| folder.join(name).is_file());
    there.map(|name| Ok(((*name).to_owned(), engine::map::map_file(&folder.join(name))?))).collect()
}

fn notes(origins: &[Option<Origin>], files: &[(String, Bytes)]) -> Vec<String> {
    let mut notes = Vec::new();
    let converted = origins.iter().filter(|origin| origin.is_none()).count();
    if converted > 0 {
        notes.push(format!(
            "{converted} weights were in half precision and are stored as FP32, twice as large; tables of embeddings stay"
        ));
    }
    if !files.iter().any(|(name, _)| name == KEPT_FILES[0]) {
        notes.push("there is no tokenizer.json: the model takes token ids, and only those".to_owned());
    }
    notes
}
