//! The catalogue: which versions of which models are known, and which of them are served. A plain value; residency
//! replaces it as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use engine::{Error, Result};

use crate::model::Model;

/// Who decides which models are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Control {
    /// Everything that is in the repository at the start, and nothing else.
    #[default]
    None,
    /// What is in the repository, looked at again and again.
    Poll,
    /// What clients ask to be loaded, and nothing else.
    Explicit,
}

/// Where a version of a model stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Requests are taken.
    Ready,
    /// Its file is read for the first time.
    Loading,
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
pub(crate) struct Entry {
    /// What it was made of; see [`store::repository::Version::stamp`].
    pub(crate) stamp: String,
    pub(crate) state: State,
}

/// Where a version stands, and what that takes.
#[derive(Clone)]
pub(crate) enum State {
    Served(Arc<Model>),
    /// Its file is read for the first time; requests come too early.
    Packing,
    /// Known, and not served for this reason.
    Unserved(Error),
}

impl Entry {
    /// The model, when it is served.
    pub(crate) fn served(&self) -> Option<&Arc<Model>> {
        match &self.state {
            State::Served(model) => Some(model),
            State::Packing | State::Unserved(_) => None,
        }
    }
}

impl State {
    /// Whether it is served and stays in memory.
    pub(crate) fn is_pinned(&self) -> bool {
        matches!(self, Self::Served(model) if model.pinned())
    }
}

/// One model in the catalogue.
#[derive(Clone, Default)]
pub(crate) struct Known {
    /// Those that are wanted.
    pub(crate) versions: BTreeMap<u64, Entry>,
    /// Names of versions that the repository has.
    pub(crate) labels: BTreeMap<String, u64>,
    /// What is wrong with the model as a whole.
    pub(crate) refusal: Option<Error>,
}

impl Known {
    /// The newest version that is served, else the newest of all, whose reason is the answer.
    pub(crate) fn newest(&self) -> Option<&Entry> {
        let served = self.versions.values().rev().find(|entry| entry.served().is_some());
        served.or_else(|| self.versions.values().next_back())
    }

    /// The versions that are served, ascending.
    pub(crate) fn served(&self) -> impl Iterator<Item = (u64, &Arc<Model>)> {
        self.versions.iter().filter_map(|(&version, entry)| Some((version, entry.served()?)))
    }

    /// The model called `name` as the answer to a request: the version asked for, or the newest.
    ///
    /// # Errors
    /// Why it is not served, or what there is instead.
    pub(crate) fn model(&self, name: &str, version: Option<u64>) -> Result<Arc<Model>> {
        let entry = match version {
            Some(version) => self.versions.get(&version),
            None => self.newest(),
        };
        match (entry.map(|entry| &entry.state), &self.refusal) {
            (Some(State::Served(model)), _) => Ok(Arc::clone(model)),
            (Some(State::Unserved(error)), _) | (None, Some(error)) => Err(error.clone()),
            (Some(State::Packing), _) => {
                Err(Error::unavailable(format!("model '{name}' is being packed; try again in a moment")))
            }
            (None, None) => {
                let known: Vec<_> = self.versions.keys().map(u64::to_string).collect();
                let version = version.unwrap_or_default();
                Err(Error::not_found(format!("model '{name}' has no version {version}; it has {}", known.join(", "))))
            }
        }
    }
}

/// By name.
pub(crate) type Catalog = BTreeMap<String, Known>;

pub(crate) fn unloaded(name: &str) -> Error {
    Error::not_found(format!("model '{name}' is not loaded; ask for it with the repository API's load"))
}

/// A line a version of the model called `name`; one that is refused as a whole has a line of its own.
pub(crate) fn index(name: &str, known: &Known) -> Vec<IndexEntry> {
    let line = |version, state, reason| IndexEntry { name: name.to_owned(), version, state, reason };
    let of = |(&version, entry): (&u64, &Entry)| match &entry.state {
        State::Served(_) => line(Some(version), ModelState::Ready, String::new()),
        State::Packing => line(Some(version), ModelState::Loading, String::new()),
        State::Unserved(error) => line(Some(version), ModelState::Unavailable, error.message.clone()),
    };
    match (known.versions.is_empty(), &known.refusal) {
        (true, Some(refusal)) => vec![line(None, ModelState::Unavailable, refusal.message.clone())],
        _ => known.versions.iter().map(of).collect(),
    }
}
