//! Triton's model repository: `NAME/config.pbtxt`, which may be missing, and `NAME/VERSION/model.onnx`, a file or a folder
//! of that name with the file and its external data in it, or a SavedModel's folder `NAME/VERSION/model.savedmodel`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use engine::{Error, Result};

use super::config;
use super::listing::{Item, Listed, Listing, Source, Version, digest, items, stamp_of};
use super::settings::Settings;
use super::tfs;
use crate::{labels, name, saved_model};

/// A model's configuration.
pub(super) const CONFIG: &str = "config.pbtxt";

/// The file of a version, unless the configuration names another.
pub(super) const MODEL: &str = "model.onnx";

/// The folder of a version that is a SavedModel.
const SAVED_MODEL: &str = "model.savedmodel";

/// Files by which a version of another runtime is known, and what to call it.
const OTHERS: [(&str, &str); 5] = [
    ("model.plan", "a TensorRT plan"),
    ("model.pt", "a TorchScript model"),
    ("model.py", "a Python model"),
    ("model.graphdef", "a TensorFlow graph"),
    ("model.xml", "an OpenVINO model"),
];

/// Every model in `root`, by name: its folders.
pub(super) fn list(root: &Path) -> Result<Listing> {
    let folders = items(root)?.into_iter().filter(|item| item.is_folder && name::check(&item.name).is_ok());
    // A folder that went in the meantime is no reason to lose sight of the others.
    Ok(folders.filter_map(|item| model(root, &item.name, None).ok().map(|listed| (item.name, listed))).collect())
}

/// The model called `model` in `root`; `instead` is a configuration that comes before the file's, as JSON.
pub(super) fn model(root: &Path, model: &str, instead: Option<&str>) -> Result<Listed> {
    let folder = root.join(model);
    let inside = items(&folder)?;
    let configured = settings(&folder, model, &inside, instead);
    let (settings, refusal) = match configured {
        Ok(settings) => (settings, None),
        Err(error) => (Settings::default(), Some(error)),
    };
    let declared = settings.declared.as_ref();
    let file = declared.map(|declared| declared.model_file.as_str()).filter(|file| !file.is_empty()).unwrap_or(MODEL);
    let policy = declared.and_then(|declared| declared.policy.clone()).unwrap_or_default();
    let beside = stamp_of(inside.iter().filter(|item| !item.is_folder));
    let mut versions = BTreeMap::new();
    for item in inside.iter().filter(|item| item.is_folder) {
        if let Some(number) = number(&item.name) {
            versions.insert(number, version(&item.path, file, &beside, instead)?);
        }
    }
    let refusal = refusal.or_else(|| {
        versions.is_empty().then(|| {
            Error::invalid(format!("{}: there is no version; put the model into {0}/1/{file}", folder.display()))
        })
    });
    Ok(Listed { versions, policy, settings: Arc::new(settings), labels: BTreeMap::new(), refusal })
}

/// Versions are numbers from 1 without zeros before them; other folders are none.
fn number(name: &str) -> Option<u64> {
    (name.bytes().all(|byte| byte.is_ascii_digit()) && !name.starts_with('0')).then(|| name.parse().ok())?
}

fn settings(folder: &Path, model: &str, inside: &[Item], instead: Option<&str>) -> Result<Settings> {
    let mut settings = match (instead, inside.iter().any(|item| item.name == CONFIG)) {
        (Some(json), _) => config::read_json(model, json).map_err(|error| error.context("the load's config"))?,
        (None, false) => return Ok(Settings::default()),
        (None, true) => {
            let path = folder.join(CONFIG);
            let text = std::fs::read_to_string(&path)
                .map_err(|source| crate::atomic::io_error(&path, "cannot be read", &source))?;
            config::read(model, &text).map_err(|error| error.context(path.display()))?
        }
    };
    // A model has one list of class names; where outputs name several files it is the first output's.
    let file = settings.declared.as_ref().and_then(|declared| {
        let named = |io: &crate::manifest::Io| declared.label_files.get(&io.name).cloned();
        declared.outputs.iter().find_map(named)
    });
    if let Some(file) = file {
        settings.class_names = labels::read(&folder.join(file))?;
    }
    Ok(settings)
}

/// The version in `folder`, whose model is called `file`.
fn version(folder: &Path, file: &str, beside: &str, instead: Option<&str>) -> Result<Version> {
    let mut inside = items(folder)?;
    let mut path = folder.join(file);
    if inside.iter().any(|item| item.name == file && item.is_folder) {
        inside = items(&path)?;
        path = path.join(MODEL);
    }
    // Nobody has to name the file for the other runtime to find its own.
    let saved = folder.join(if file == MODEL { SAVED_MODEL } else { file });
    let is_saved_model = inside.iter().all(|item| item.name != MODEL) && saved_model::is_saved_model(&saved);
    if is_saved_model {
        inside = items(&saved)?;
        inside.extend(tfs::beside(&saved)?);
        path = saved;
    }
    let files = stamp_of(&inside);
    let stamp = digest([files.as_str(), beside, instead.unwrap_or_default()]);
    let there = |name: &str| inside.iter().any(|item| item.name == name);
    let source = if is_saved_model || path.file_name().and_then(|name| name.to_str()).is_some_and(there) {
        Source::File { path, stamp: files }
    } else {
        Source::Refused(missing(folder, file, there))
    };
    Ok(Version { source, stamp })
}

fn missing(folder: &Path, file: &str, there: impl Fn(&str) -> bool) -> Error {
    let folder = folder.display();
    match OTHERS.iter().find(|(name, _)| there(name)) {
        Some((_, what)) => Error::unsupported(format!(
            "{folder} holds {what}, and this build runs ONNX and SavedModels; export the model as ONNX and put it there \
             as {file}"
        )),
        None => Error::not_found(format!("{folder} holds no {file}")),
    }
}
