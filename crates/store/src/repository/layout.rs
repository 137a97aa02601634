//! [`Layout`]: which kind of repository a place is, told by what lies there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{Error, Result};

use super::listing::{Item, Listed, Listing, Source, Version, VersionPolicy, items};
use super::{config, onnx_folder, tfs, triton};
use crate::folder::local;
use crate::side_by_side::side_by_side;
use crate::{Remote, Store, saved_model};

/// A kind of repository, and its place.
#[derive(Clone, Debug)]
pub enum Layout {
    /// A store of packs.
    Packs(Store),
    /// A store of packs in a bucket.
    Remote(Remote),
    /// Triton's model repository.
    Triton(PathBuf),
    /// TensorFlow Serving's `BASE/NAME/VERSION/`.
    TensorFlowServing(PathBuf),
    /// One model's `BASE/VERSION/`, as TensorFlow Serving has it, and the model's name.
    OneModel(PathBuf, String),
    /// TensorFlow Serving's `models.config`.
    ModelsConfig(PathBuf),
    /// A folder of `.onnx` files, or one of them.
    OnnxFiles(PathBuf),
}

impl Layout {
    /// What is at `place`.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound) when it is none of the layouts, naming them;
    /// [`Unsupported`](engine::ErrorKind::Unsupported) for a URL.
    pub fn of(place: &str) -> Result<Self> {
        let path = local(place)?;
        let nothing = || {
            Error::not_found(format!(
                "{place}: there is no store here; 'packhorse pack MODEL.onnx --store {place}' makes one. A Triton or \
                 TensorFlow Serving repository, a models.config and .onnx files are taken as they are"
            ))
        };
        if path.is_file() {
            return Ok(if tfs::is_onnx(&path) { Self::OnnxFiles(path) } else { Self::ModelsConfig(path) });
        }
        let inside = items(&path).map_err(|_| nothing())?;
        let folder = |name: &str| inside.iter().any(|item| item.name == name && item.is_folder);
        if folder("models") && folder("programs") {
            return Store::open(place).map(Self::Packs);
        }
        if inside.iter().any(|item| !item.is_folder && tfs::is_onnx(&item.path)) {
            return Ok(Self::OnnxFiles(path));
        }
        let folders: Vec<&Item> = inside.iter().filter(|item| item.is_folder).collect();
        let versions: Vec<&Item> = folders.iter().copied().filter(|item| tfs::number(&item.name).is_some()).collect();
        if versions.iter().any(|item| holds_model(&item.path)) {
            let full = std::fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
            let name = full.file_name().and_then(|name| name.to_str()).ok_or_else(nothing)?.to_owned();
            return Ok(Self::OneModel(path, name));
        }
        let mut guess = None;
        for item in folders {
            let Ok(inside) = items(&item.path) else { continue };
            if inside.iter().any(|item| item.name == triton::CONFIG) {
                return Ok(Self::Triton(path));
            }
            let versions = inside.iter().filter(|item| item.is_folder && tfs::number(&item.name).is_some());
            for version in versions {
                // The first folder that tells decides, unless a configuration that only Triton has is found later.
                guess = guess.or_else(|| told_by(&version.path));
            }
        }
        match guess {
            Some(Kind::Triton) => Ok(Self::Triton(path)),
            Some(Kind::TensorFlowServing) => Ok(Self::TensorFlowServing(path)),
            None => Err(nothing()),
        }
    }

    pub(super) fn list(&self) -> Result<Listing> {
        match self {
            Self::Packs(store) => {
                let names = store.names()?;
                let listed = side_by_side(&names, |name| packs(store, name));
                names.into_iter().zip(listed).map(|(name, listed)| Ok((name, listed?))).collect()
            }
            Self::Remote(remote) => remote.list(),
            Self::Triton(root) => triton::list(root),
            Self::TensorFlowServing(base) => tfs::list(base),
            Self::OneModel(base, name) => Ok([(name.clone(), tfs::model(base)?)].into()),
            Self::ModelsConfig(file) => tfs::configured(file),
            Self::OnnxFiles(place) => onnx_folder::list(place),
        }
    }

    pub(super) fn model(&self, name: &str, instead: Option<&str>) -> Result<Option<Listed>> {
        crate::name::check(name)?;
        let mut found = match self {
            Self::Packs(store) => Some(packs(store, name)?).filter(|listed| !listed.versions.is_empty()),
            Self::Remote(remote) => remote.model(name)?,
            Self::Triton(root) if root.join(name).is_dir() => return triton::model(root, name, instead).map(Some),
            Self::TensorFlowServing(base) if base.join(name).is_dir() => Some(tfs::model(&base.join(name))?),
            Self::Triton(_) | Self::TensorFlowServing(_) => None,
            Self::OneModel(..) | Self::ModelsConfig(_) | Self::OnnxFiles(_) => self.list()?.remove(name),
        };
        if let (Some(listed), Some(json)) = (&mut found, instead) {
            let settings = config::read_json(name, json)?;
            if let Some(policy) = settings.declared.as_ref().and_then(|declared| declared.policy.clone()) {
                listed.policy = policy;
            }
            listed.settings = Arc::new(settings);
        }
        Ok(found)
    }
}

/// The versions of `name`, all of which are wanted. A manifest never changes, so no stamp is needed.
fn packs(store: &Store, name: &str) -> Result<Listed> {
    let version = |number| (number, Version { source: Source::Pack, stamp: String::new() });
    let versions = store.versions(name)?.into_iter().map(version).collect();
    Ok(Listed { versions, policy: VersionPolicy::All, ..Listed::default() })
}

enum Kind {
    Triton,
    TensorFlowServing,
}

/// Whose a version's folder is.
fn told_by(version: &Path) -> Option<Kind> {
    let inside = items(version).ok()?;
    if inside.iter().any(|item| item.name == saved_model::FILE) {
        return Some(Kind::TensorFlowServing);
    }
    // Triton's names of models all begin so.
    if inside.iter().any(|item| item.name.starts_with("model.")) {
        return Some(Kind::Triton);
    }
    inside.iter().any(|item| tfs::is_onnx(&item.path)).then_some(Kind::TensorFlowServing)
}

fn holds_model(version: &Path) -> bool {
    told_by(version).is_some()
}
