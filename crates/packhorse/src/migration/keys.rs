//! What becomes of each key.

use std::path::Path;

use engine::{Error, Result};

use super::properties::Properties;
use super::{Fate, Key, folder};

pub(super) const MODEL: &str = "huggingface_model_name";
pub(super) const MODEL_CLASS: &str = "huggingface_model_class";
const COUNT: &str = "num_models";
const PORT: &str = "service_port";
const QUIET: &str = "quiet";
/// Packed under so many names at the most; a mistyped number should not fill a disk with manifests.
const COUNT_MAX: usize = 100_000;

/// How many models are served from the one that is named.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is no number of models.
pub(super) fn count(properties: &Properties) -> Result<usize> {
    let Some(text) = properties.get(COUNT) else { return Ok(1) };
    let count = text.parse().ok().filter(|count| (1..=COUNT_MAX).contains(count));
    count.ok_or_else(|| Error::invalid(format!("'{COUNT}' is '{text}', which is no number from 1 to {COUNT_MAX}")))
}

/// The flags of the server that `properties` ask for.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a port that is none.
pub(super) fn flags(properties: &Properties) -> Result<String> {
    let port = properties.get(PORT).unwrap_or("8080");
    let port: u16 = port.parse().map_err(|_| Error::invalid(format!("'{PORT}' is '{port}', which is no port")))?;
    let quiet = if properties.get(QUIET).is_some_and(is_true) { " --log-level warn" } else { "" };
    Ok(format!("--http 0.0.0.0:{port}{quiet}"))
}

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes")
}

/// What becomes of `key`, for the model in `folder`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a value that its key cannot have.
pub(super) fn fate(key: &str, value: &str, folder: &Path) -> Result<Key> {
    let (fate, says) = match key {
        MODEL => (Fate::Kept, format!("packed from {}", folder.display())),
        MODEL_CLASS => (Fate::Kept, "the folder's own config.json says the same".to_owned()),
        "huggingface_tokenizer_class" if folder::has_tokenizer(folder) => {
            (Fate::Replaced, "by the folder's tokenizer.json".to_owned())
        }
        "huggingface_tokenizer_class" => {
            let how = format!(
                "without a tokenizer.json the packs take token ids alone; write one with 'python -c \"from transformers \
                 import AutoTokenizer as T; T.from_pretrained(\\\"{0}\\\").save_pretrained(\\\"{0}\\\")\"' and pack again",
                folder.display()
            );
            (Fate::CannotBe, how)
        }
        COUNT => (Fate::Kept, "model0 and on: names of one pack, whose weights are stored and mapped once".to_owned()),
        PORT => (Fate::Replaced, "by --http of 'packhorse serve'".to_owned()),
        QUIET => (Fate::Replaced, "by --log-level of 'packhorse serve'".to_owned()),
        "postprocess" if is_true(value) => (Fate::Kept, "/predictions answers in words".to_owned()),
        "postprocess" => {
            (Fate::Replaced, "/predictions answers in words; /v2/models/NAME/infer gives the tensors".to_owned())
        }
        "processor" => processor(value)?,
        "sequence_length" => {
            (Fate::NotNeeded, "a text is as long as it is, and one that is too long is read in windows".to_owned())
        }
        "batch_size" => (
            Fate::Replaced,
            "requests share runs as far as that pays; max-batch-size of [model.NAME] bounds it".to_owned(),
        ),
        "pipeline_cores" => (Fate::NotNeeded, "each core that the container has runs models".to_owned()),
        "test" => {
            (Fate::NotNeeded, "a pack is run and compared before it is written; 'packhorse predict' asks it".to_owned())
        }
        "registry" => (Fate::NotNeeded, "models are files in a store, and no image is built for them".to_owned()),
        "region" => {
            (Fate::NotNeeded, "no registry is logged in to; a store in a bucket takes AWS's own settings".to_owned())
        }
        "runtime" => (Fate::NotNeeded, "one process, in whatever container or none".to_owned()),
        "num_servers" => {
            (Fate::NotNeeded, "one server takes all models; more of them are your platform's replicas".to_owned())
        }
        "instance_type" | "namespace" | "app_name" => {
            (Fate::NotNeeded, "your platform's, where the server is started".to_owned())
        }
        "request_frequency" | "num_requests" | "num_test_containers" | "test_instance_type" | "test_namespace" => {
            (Fate::Replaced, "by 'packhorse load', which puts traffic on the server".to_owned())
        }
        _ => (Fate::Unknown, "nothing here reads it; look for what of yours does".to_owned()),
    };
    Ok(Key { key: key.to_owned(), value: value.to_owned(), fate, says })
}

fn processor(value: &str) -> Result<(Fate, String)> {
    Ok(match value {
        "cpu" => (Fate::Kept, "models run on the CPU".to_owned()),
        "graviton" => {
            (Fate::Kept, "models run on the CPU; the packs are for any, but aarch64 was not tested".to_owned())
        }
        "gpu" | "inf1" | "inf2" => (
            Fate::CannotBe,
            "there are no accelerators; models run on the CPU, several times as fast with --precision int8".to_owned(),
        ),
        other => {
            let what = format!("'processor' is '{other}', and not one of cpu, gpu, inf1, inf2 and graviton");
            return Err(Error::invalid(what));
        }
    })
}
