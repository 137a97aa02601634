//! From the packing system's `config.properties` to packs: what each key says becomes something here, or the reason why not.
//!
//! `properties.rs` reads the file, `keys.rs` says what becomes of each key, `folder.rs` finds the model that it names.

mod folder;
mod keys;
mod properties;

use std::path::{Path, PathBuf};

use engine::{Error, Result};
use serde::Serialize;

pub(crate) use folder::Places;
use properties::Properties;

/// What became of one key.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Key {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) fate: Fate,
    /// As what, by what, why, or how else.
    pub(crate) says: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fate {
    /// It means the same here.
    Kept,
    /// Something else does it.
    Replaced,
    /// Nothing has to.
    NotNeeded,
    /// It is not there, and what to do instead.
    CannotBe,
    /// No key of the packing system.
    Unknown,
}

impl std::fmt::Display for Fate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Kept => "kept",
            Self::Replaced => "replaced",
            Self::NotNeeded => "not needed",
            Self::CannotBe => "cannot be",
            Self::Unknown => "not known",
        })
    }
}

/// What a configuration comes to.
#[derive(Debug)]
pub(crate) struct Migration {
    /// Where the model lies that it names.
    pub(crate) folder: PathBuf,
    /// The names under which it is served, as the packing system's clients ask for it.
    pub(crate) names: Vec<String>,
    /// In the order of the file.
    pub(crate) keys: Vec<Key>,
    /// What starts the server with the store of these packs, behind `--store STORE`.
    pub(crate) flags: String,
}

/// What the configuration in `file` comes to; the model that it names is looked for in `places`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the key, for what is no configuration and what cannot be packed;
/// [`NotFound`](engine::ErrorKind::NotFound) for a model that is not on this machine, with the way to get it.
pub(crate) fn read(file: &Path, places: &Places) -> Result<Migration> {
    let text = std::fs::read_to_string(file).map_err(|error| Error::invalid(format!("it cannot be read: {error}")))?;
    let properties = Properties::parse(&text)?;
    let model = properties.get(keys::MODEL).filter(|name| !name.is_empty());
    let model = model.ok_or_else(|| Error::invalid(format!("'{}' is missing: it names no model", keys::MODEL)))?;
    let beside = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = places.find(model, beside)?;
    if let Some(class) = properties.get(keys::MODEL_CLASS) {
        folder::check_class(&folder, class)?;
    }
    let count = keys::count(&properties)?;
    Ok(Migration {
        names: (0..count).map(|index| format!("model{index}")).collect(),
        keys: properties.iter().map(|(key, value)| keys::fate(key, value, &folder)).collect::<Result<_>>()?,
        flags: keys::flags(&properties)?,
        folder,
    })
}

#[cfg(test)]
mod tests;
