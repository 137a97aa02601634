//! TensorFlow Serving's layouts: `BASE/NAME/VERSION/`, one model's `BASE/VERSION/`, and a `models.config` that says where
//! each model lies, which of its versions are served and what they are called.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{Error, Result};
use proto::tensorflow::serving::ModelConfig;
use proto::tensorflow::serving::file_system_storage_path_source_config::ServableVersionPolicy;
use proto::tensorflow::serving::file_system_storage_path_source_config::servable_version_policy::PolicyChoice;
use proto::tensorflow::serving::model_server_config::Config;

use super::config::numbers;
use super::listing::{Item, Listed, Listing, Source, Version, VersionPolicy, items, stamp_of};
use super::settings::Settings;
use super::text;
use crate::{name, saved_model};

/// One model: where it lies, and what is said of it.
struct Place {
    base: PathBuf,
    policy: VersionPolicy,
    labels: BTreeMap<String, u64>,
}

/// Every model in the folder `base`, each with a folder of its own.
pub(super) fn list(base: &Path) -> Result<Listing> {
    let folders = items(base)?.into_iter().filter(|item| item.is_folder && name::check(&item.name).is_ok());
    folders.map(|item| Ok((item.name, model(&item.path)?))).collect()
}

/// Every model of the file `config`.
pub(super) fn configured(config: &Path) -> Result<Listing> {
    let listed = |(name, place): (String, Result<Place>)| {
        let listed = match place {
            Ok(place) => listed(&place.base, place.policy, place.labels)?,
            Err(refusal) => Listed { refusal: Some(refusal), ..Listed::default() },
        };
        Ok((name, listed))
    };
    read(config)?.into_iter().map(listed).collect()
}

/// The model whose versions are the folders of `base`.
pub(super) fn model(base: &Path) -> Result<Listed> {
    listed(base, VersionPolicy::default(), BTreeMap::new())
}

/// Versions are folders whose names are numbers.
pub(super) fn number(name: &str) -> Option<u64> {
    (!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.parse().ok())?
}

fn listed(base: &Path, policy: VersionPolicy, labels: BTreeMap<String, u64>) -> Result<Listed> {
    let inside = match items(base) {
        Ok(inside) => inside,
        // One model whose folder is not there yet is no reason not to serve the others.
        Err(error) => return Ok(Listed { refusal: Some(error), ..Listed::default() }),
    };
    let mut versions = BTreeMap::new();
    for item in inside.iter().filter(|item| item.is_folder) {
        if let Some(number) = number(&item.name) {
            versions.insert(number, version(&item.path)?);
        }
    }
    let refusal = versions.is_empty().then(|| {
        Error::not_found(format!("{}: there is no version; put the model into {0}/1/model.onnx", base.display()))
    });
    Ok(Listed { versions, policy, settings: Arc::new(Settings::default()), labels, refusal })
}

/// The version in `folder`: the SavedModel it is, or the one ONNX file in it, which comes first where both are there.
fn version(folder: &Path) -> Result<Version> {
    let mut inside = items(folder)?;
    let is_saved_model = inside.iter().any(|item| item.name == saved_model::FILE);
    if is_saved_model {
        inside.extend(beside(folder)?);
    }
    let onnx: Vec<_> = inside.iter().filter(|item| !item.is_folder && is_onnx(&item.path)).collect();
    let stamp = stamp_of(&inside);
    let chosen = onnx.iter().find(|item| item.name == super::triton::MODEL).or(match onnx.as_slice() {
        [only] => Some(only),
        _ => None,
    });
    let here = folder.display();
    let source = match chosen {
        Some(item) => Source::file(item.path.clone(), stamp.clone()),
        None if onnx.len() > 1 => Source::Refused(Error::invalid(format!(
            "{here} holds {} files that end in .onnx; call the one to serve model.onnx",
            onnx.len()
        ))),
        None if is_saved_model => Source::file(folder.to_owned(), stamp.clone()),
        None => {
            let lacks = format!("{here} holds no {} and no file that ends in .onnx", saved_model::FILE);
            Source::Refused(Error::not_found(lacks))
        }
    };
    Ok(Version { source, stamp })
}

/// What the SavedModel in `folder` is made of besides its graph: an export that changes weights alone changes these.
pub(super) fn beside(folder: &Path) -> Result<Vec<Item>> {
    let mut found = Vec::new();
    for part in saved_model::FOLDERS {
        let part = folder.join(part);
        if part.is_dir() {
            found.extend(items(&part)?);
        }
    }
    Ok(found)
}

/// Whether `path` is called like an ONNX file.
pub(super) fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "onnx")
}

/// Every model of the file `config`, in its order, or why it is none.
fn read(config: &Path) -> Result<Vec<(String, Result<Place>)>> {
    let text =
        std::fs::read_to_string(config).map_err(|source| crate::atomic::io_error(config, "cannot be read", &source))?;
    let of = |error: Error| error.context(config.display());
    let list = match text::server_config(&text).map_err(of)?.config {
        Some(Config::ModelConfigList(list)) => list.config,
        None => Vec::new(),
        Some(Config::CustomModelConfig(_)) => {
            return Err(of(Error::unsupported("custom_model_config is not served; give a model_config_list")));
        }
    };
    let mut models: Vec<(String, Result<Place>)> = Vec::new();
    for model in list {
        name::check(&model.name).map_err(of)?;
        if models.iter().any(|(name, _)| *name == model.name) {
            return Err(of(Error::invalid(format!("model '{}' is there twice", model.name))));
        }
        let beside = config.parent().unwrap_or(Path::new("."));
        models.push((model.name.clone(), place(beside, model)));
    }
    Ok(models)
}

fn place(beside: &Path, model: ModelConfig) -> Result<Place> {
    if model.base_path.is_empty() {
        return Err(Error::invalid("it has no base_path"));
    }
    let base = crate::folder::local(&model.base_path).map_err(|_| {
        let place = &model.base_path;
        let fix = "mount it, or pack what lies there and bring it into a bucket with 'packhorse push'";
        Error::unsupported(format!("its base_path {place} is no folder of this machine; {fix}"))
    })?;
    let base = beside.join(base);
    let policy = model.model_version_policy.map(policy).transpose()?.unwrap_or_default();
    let labels = model.version_labels.into_iter().map(|(label, version)| {
        let number = u64::try_from(version);
        Ok((label, number.map_err(|_| Error::invalid(format!("version {version} of a label is negative")))?))
    });
    Ok(Place { base, policy, labels: labels.collect::<Result<_>>()? })
}

fn policy(policy: ServableVersionPolicy) -> Result<VersionPolicy> {
    Ok(match policy.policy_choice {
        None => VersionPolicy::default(),
        Some(PolicyChoice::All(_)) => VersionPolicy::All,
        Some(PolicyChoice::Latest(latest)) => VersionPolicy::Latest(latest.num_versions),
        Some(PolicyChoice::Specific(specific)) => VersionPolicy::Specific(numbers(&specific.versions)?),
    })
}
