//! Triton's model repository: `NAME/config.pbtxt`, which may be missing, and `NAME/VERSION/model.onnx`, a file or a folder
//! of that name with the file and its external data in it, a SavedModel's folder `NAME/VERSION/model.savedmodel`, or a
//! TorchScript file `NAME/VERSION/model.pt`, whose inputs and outputs are those of the configuration.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use engine::{Error, Result};

use super::config;
use super::listing::{Item, Listed, Listing, Source, Version, digest, items, stamp_of};
use super::settings::{Declared, Settings};
use super::tfs;
use crate::{labels, name, saved_model, torch_script};

/// A model's configuration.
pub(super) const CONFIG: &str = "config.pbtxt";

/// The file of a version, unless the configuration names another.
pub(super) const MODEL: &str = "model.onnx";

/// The folder of a version that is a SavedModel.
const SAVED_MODEL: &str = "model.savedmodel";

/// The file of a version that is a TorchScript module.
const TORCH_SCRIPT: &str = "model.pt";

/// Files by which a version of another runtime is known, and what to call it.
const OTHERS: [(&str, &str); 4] = [
    ("model.plan", "a TensorRT plan"),
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
    let usual = if declared.is_some_and(|declared| declared.is_torch_script) { TORCH_SCRIPT } else { MODEL };
    let file = declared.map(|declared| declared.model_file.as_str()).filter(|file| !file.is_empty()).unwrap_or(usual);
    let policy = declared.and_then(|declared| declared.policy.clone()).unwrap_or_default();
    let beside = stamp_of(inside.iter().filter(|item| !item.is_folder));
    let mut versions = BTreeMap::new();
    for item in inside.iter().filter(|item| item.is_folder) {
        if let Some(number) = number(&item.name) {
            let Found { source, files } = found(&item.path, file, declared)?;
            let stamp = digest([files.as_str(), &beside, instead.unwrap_or_default()]);
            versions.insert(number, Version { source, stamp });
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

/// What lies in a version's folder: where, and the stamp of all of its files.
struct Found {
    source: Source,
    files: String,
}

/// The model in `folder`, which is called `file`, and of which its configuration says `declared`.
fn found(folder: &Path, file: &str, declared: Option<&Declared>) -> Result<Found> {
    let mut inside = items(folder)?;
    // Nobody has to name the file for another runtime to find its own.
    let there = |name: &str| inside.iter().any(|item| item.name == name);
    let file = if file == MODEL && !there(MODEL) && there(TORCH_SCRIPT) { TORCH_SCRIPT } else { file };
    let mut path = folder.join(file);
    if inside.iter().any(|item| item.name == file && item.is_folder) {
        inside = items(&path)?;
        path = path.join(MODEL);
    }
    let saved = folder.join(if file == MODEL { SAVED_MODEL } else { file });
    if inside.iter().all(|item| item.name != MODEL) && saved_model::is_saved_model(&saved) {
        inside = items(&saved)?;
        inside.extend(tfs::beside(&saved)?);
        let files = stamp_of(&inside);
        return Ok(Found { source: Source::file(saved, files.clone()), files });
    }
    let files = stamp_of(&inside);
    let there = |name: &str| inside.iter().any(|item| item.name == name);
    let source = if !path.file_name().and_then(|name| name.to_str()).is_some_and(there) {
        Source::Refused(missing(folder, file, there))
    } else if torch_script::is_torch_script(&path) {
        let signature = declared.map(Declared::signature).unwrap_or_default();
        let stamp = digest([files.as_str(), &format!("{signature:?}")]);
        Source::File { path, stamp, signature }
    } else if declared.is_some_and(|declared| declared.is_torch_script) {
        let named = format!("{}: a TorchScript file is known by its ending; call it {TORCH_SCRIPT}", path.display());
        Source::Refused(Error::unsupported(named))
    } else {
        Source::file(path, files.clone())
    };
    Ok(Found { source, files })
}

fn missing(folder: &Path, file: &str, there: impl Fn(&str) -> bool) -> Error {
    let folder = folder.display();
    match OTHERS.iter().find(|(name, _)| there(name)) {
        Some((_, what)) => Error::unsupported(format!(
            "{folder} holds {what}, and this build runs ONNX, SavedModels and TorchScript; export the model as ONNX and put \
             it there as {file}"
        )),
        None => Error::not_found(format!(
            "{folder} holds no {file}; call the model so, or name it as default_model_filename in {CONFIG}"
        )),
    }
}
