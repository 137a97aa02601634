//! What one look at a repository finds: plain values, of files' names, sizes and times, and of configurations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{Error, Result};

use super::settings::Settings;
use crate::torch_script::Declared;

/// Every model of a repository, by name.
pub type Listing = BTreeMap<String, Listed>;

/// One model of a repository.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    /// Every version that is there, whether it is wanted or not.
    pub versions: BTreeMap<u64, Version>,
    /// Which of them are wanted.
    pub policy: VersionPolicy,
    /// How the model is served.
    pub settings: Arc<Settings>,
    /// Names of versions.
    pub labels: BTreeMap<String, u64>,
    /// Why no version of it is served.
    pub refusal: Option<Error>,
}

/// One version of a model.
#[derive(Clone, Debug)]
pub struct Version {
    /// Where it is, or why it is not served.
    pub source: Source,
    /// Changes with everything that the version is made of: files and configuration. Equal stamps are equal models.
    pub stamp: String,
}

/// Where a version is.
#[derive(Clone, Debug)]
pub enum Source {
    /// In the store of packs.
    Pack,
    /// An ONNX or TorchScript file, or a SavedModel.
    File {
        /// The file, or the SavedModel's folder.
        path: PathBuf,
        /// Of the files alone, so that a change of the configuration does not pack them again; of a TorchScript file with
        /// its signature.
        stamp: String,
        /// What the configuration says of a TorchScript module's inputs and outputs; nothing for others.
        signature: Declared,
    },
    /// It is none that this build can serve, for this reason.
    Refused(Error),
}

impl Source {
    /// One that says itself what it takes and gives.
    pub(super) fn file(path: PathBuf, stamp: String) -> Self {
        Self::File { path, stamp, signature: Declared::default() }
    }
}

/// Which versions of a model are served, of those that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionPolicy {
    /// The newest so many.
    Latest(u32),
    /// Every one.
    All,
    /// Those named.
    Specific(Vec<u64>),
}

impl Default for VersionPolicy {
    /// As Triton and TensorFlow Serving have it.
    fn default() -> Self {
        Self::Latest(1)
    }
}

impl Listed {
    /// The versions that are wanted, ascending.
    pub fn wanted(&self) -> Vec<u64> {
        match &self.policy {
            VersionPolicy::All => self.versions.keys().copied().collect(),
            VersionPolicy::Latest(count) => {
                let count = usize::try_from((*count).max(1)).unwrap_or(usize::MAX);
                self.versions.keys().copied().skip(self.versions.len().saturating_sub(count)).collect()
            }
            VersionPolicy::Specific(wanted) => {
                self.versions.keys().copied().filter(|version| wanted.contains(version)).collect()
            }
        }
    }

    /// That its policy names none of the versions that are there, when that is so.
    pub fn unmet(&self) -> Option<Error> {
        let VersionPolicy::Specific(named) = &self.policy else { return None };
        let list = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let there: Vec<u64> = self.versions.keys().copied().collect();
        let why = || {
            let (named, there) = (list(named), list(&there));
            format!("none of the versions that its policy names ({named}) is there; it has {there}")
        };
        self.wanted().is_empty().then(|| Error::not_found(why()))
    }
}

/// A file or folder as a folder's listing tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) is_folder: bool,
    /// Changes when the file does, as far as its size, time of change and identity tell.
    pub(super) stamp: String,
}

/// What `folder` holds, by name: one listing. Hidden names and those that are no text are passed over.
///
/// # Errors
/// When the folder cannot be read, naming it.
pub(super) fn items(folder: &Path) -> Result<Vec<Item>> {
    use std::os::unix::fs::MetadataExt;

    let unreadable = |source: std::io::Error| crate::atomic::io_error(folder, "cannot be read", &source);
    let mut items = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with('.') {
            continue;
        }
        // Through links, as repositories that are mounted into a container are made of them; one that leads nowhere, or a
        // file that went in the meantime, is not there.
        let Ok(about) = std::fs::metadata(entry.path()) else { continue };
        let stamp = format!("{name} {} {}.{:09} {}", about.len(), about.mtime(), about.mtime_nsec(), about.ino());
        items.push(Item { name, path: entry.path(), is_folder: about.is_dir(), stamp });
    }
    items.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(items)
}

/// The stamp of several files.
pub(super) fn stamp_of<'a>(items: impl IntoIterator<Item = &'a Item>) -> String {
    digest(items.into_iter().map(|item| item.stamp.as_str()))
}

/// One short text that stands for all of `parts`.
pub(super) fn digest<'a>(parts: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_chooses_among_what_is_there() {
        let version = || Version { source: Source::Pack, stamp: String::new() };
        let versions: BTreeMap<u64, Version> = [1, 2, 10].map(|number| (number, version())).into();
        for (policy, want) in [
            (VersionPolicy::default(), &[10][..]),
            (VersionPolicy::Latest(0), &[10]),
            (VersionPolicy::Latest(2), &[2, 10]),
            (VersionPolicy::Latest(u32::MAX), &[1, 2, 10]),
            (VersionPolicy::All, &[1, 2, 10]),
            (VersionPolicy::Specific(vec![10, 1, 7]), &[1, 10]),
            (VersionPolicy::Specific(vec![]), &[]),
        ] {
            let listed = Listed { versions: versions.clone(), policy: policy.clone(), ..Listed::default() };
            assert_eq!(listed.wanted(), want, "{policy:?}");
        }
        let said = |policy| {
            let listed = Listed { versions: versions.clone(), policy, ..Listed::default() };
            listed.unmet().map(|error| error.message)
        };
        assert_eq!(said(VersionPolicy::Specific(vec![7, 10])), None);
        let why = said(VersionPolicy::Specific(vec![7, 8])).unwrap();
        assert_eq!(why, "none of the versions that its policy names (7, 8) is there; it has 1, 2, 10");
    }
}
