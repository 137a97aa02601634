//! The catalogue: which versions of which models are known, and which of them are served. A plain value; residency
//! replaces it as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::Error;

use crate::model::Model;

/// Who decides which models are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// Everything that is in the store at the start, and nothing else.
    #[default]
    None,
    /// What is in the store, looked at again and again.
    Poll,
    /// What clients ask to be loaded, and nothing else.
    Explicit,
}

/// Where a version of a model stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Requests are taken.
    Ready,
    /// Not served; the reason says why.
    Unavailable,
}

/// A line of the repository's index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The model's name.
    pub name: String,
    /// A version of it.
    pub version: Option<u64>,
    /// Where it stands.
    pub state: ModelState,
    /// Why it is not ready; empty when it is.
    pub reason: String,
}

/// One version in the catalogue.
#[derive(Clone)]
pub(crate) enum Entry {
    Served(Arc<Model>),
    /// Known, and not served for this reason.
    Unserved(Error),
}

/// By name and version.
pub(crate) type Catalog = BTreeMap<String, BTreeMap<u64, Entry>>;

/// The newest version that is served, else the newest of all, whose reason is the answer.
pub(crate) fn newest(versions: &BTreeMap<u64, Entry>) -> Option<&Entry> {
    let served = versions.values().rev().find(|entry| matches!(entry, Entry::Served(_)));
    served.or_else(|| versions.values().next_back())
}

pub(crate) fn unloaded(name: &str) -> Error {
    Error::not_found(format!("model '{name}' is not loaded; ask for it with the repository API's load"))
}
