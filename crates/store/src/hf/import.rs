//! From a folder to a program and its weights.

use std::collections::BTreeMap;
use std::path::Path;

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
use crate::pointer;
use crate::task::Task;

/// What a manifest calls a folder's format.
pub(crate) const FORMAT: &str = "hugging-face";

/// What tokenisation needs and nothing else reads; kept in the store by content, since thousands of fine-tunes share it.
pub(super) const KEPT_FILES: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"];
/// What decides the graph and what it is for, besides the weights.
const CONFIGURATIONS: [&str; 4] = ["config.json", "modules.json", "1_Pooling/config.json", SPECIAL_TOKENS];

/// How files end that run code when they are read.
const PICKLES: [&str; 3] = ["bin", "pkl", "ckpt"];

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
    let is_exported = || has_onnx() || path.join("onnx/model.onnx").is_file();
    path.join("config.json").is_file() && (checkpoint::has_weights(path) || !is_exported())
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
        Some(ending) if PICKLES.contains(&ending) => Err(pickled()),
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
    // Folders mostly have such a file, and it mostly says nothing.
    let prompts = text::prompt(folder).is_ok_and(|prompt| prompt.is_none());
    let prompts = (!prompts).then_some(&text::PROMPTS);
    let named = CONFIGURATIONS.iter().chain(&KEPT_FILES).chain(prompts);
    let named = named.map(|name| folder.join(name)).filter(|path| path.is_file());
    for path in named.chain(checkpoint::files(folder)?) {
        let bytes = engine::map::map_file(&path)?;
        pointer::refuse(&bytes).map_err(|error| error.context(path.display()))?;
        // Lengths keep the end of one file apart from the beginning of the next.
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
        total += bytes.len() as u64;
    }
    Ok(Source { format: FORMAT.to_owned(), hash: hasher.finalize().to_hex().to_string(), bytes: total })
}

fn no_weights(folder: &Path) -> Error {
    let named = |entry: std::fs::DirEntry| entry.file_name().into_string().ok();
    let mut names: Vec<String> =
        std::fs::read_dir(folder).map_or_else(|_| Vec::new(), |entries| entries.flatten().filter_map(named).collect());
    names.sort_unstable();
    let ends = |name: &&String, endings: &[&str]| {
        Path::new(name).extension().and_then(|ending| ending.to_str()).is_some_and(|ending| endings.contains(&ending))
    };
    if names.iter().any(|name| name.starts_with("adapter_")) {
        return Error::unsupported(
            "the folder holds an adapter, which is no model without its base; merge the two (peft's merge_and_unload) and \
             give what save_pretrained makes of that",
        );
    }
    if names.iter().any(|name| ends(&name, &PICKLES) && name != "training_args.bin") {
        return pickled();
    }
    let other = names.iter().find(|name| ends(name, &["safetensors", "h5", "msgpack", "gguf"]));
    let instead = other.map_or_else(String::new, |other| {
        format!(", but {other}; save_pretrained(..., safe_serialization=True) writes what is needed")
    });
    Error::not_found(format!("the folder holds neither model.safetensors nor model.safetensors.index.json{instead}"))
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
    let askew = program.wanted.iter().filter(|wanted| checkpoint.is_askew(wanted)).count();
    let notes = notes(&origins, askew, &files);
    let imported = match asked {
        None => runnable(engine, program, weights, origins)?,
        Some(asked) => {
            let (imported, accuracy) = in_eight_bits(engine, &config, &checkpoint, (program, weights), asked)?;
            files.push(accuracy.file()?);
            imported
        }
    };
    let notes: Vec<String> = if asked.is_some() { Vec::new() } else { notes };
    let notes = notes.into_iter().chain(unknown_token(&files, config.vocabulary)).collect();
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

fn notes(origins: &[Option<Origin>], askew: usize, files: &[(String, Bytes)]) -> Vec<String> {
    let mut notes = Vec::new();
    if askew > 0 {
        notes.push(format!(
            "{askew} weights do not start at a multiple of a number's size in their file and are stored; \
             save_pretrained of today's libraries writes files that can be mapped"
        ));
    }
    let converted = origins.iter().filter(|origin| origin.is_none()).count() - askew;
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

/// The first token that the tokenizer adds and the model, which knows so many, does not: texts with it are refused by the model.
fn unknown_token(files: &[(String, Bytes)], vocabulary: usize) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Tokenizer {
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    #[derive(serde::Deserialize)]
    struct Added {
        id: u64,
        content: String,
    }
    let (_, bytes) = files.iter().find(|(name, _)| name == KEPT_FILES[0])?;
    // What is wrong with the file is told by who reads all of it.
    let tokenizer: Tokenizer = serde_json::from_slice(bytes).ok()?;
    let unknown = tokenizer.added_tokens.iter().find(|added| added.id >= vocabulary as u64)?;
    Some(format!(
        "tokenizer.json gives '{}' the number {}, and the model knows {vocabulary} tokens from 0 on: texts with it fail",
        unknown.content, unknown.id
    ))
}
