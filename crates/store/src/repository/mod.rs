//! Repositories: where models come from. A store of packs is one; the layouts of Triton and TensorFlow Serving and plain
//! folders of ONNX files are others, which are packed into a cache as they are first seen.
//!
//! A [`Listing`] is one look: names, versions, where each lies and a stamp of it, without reading a model. What is served
//! always is a pack.

mod cache;
pub(crate) mod config;
mod layout;
mod listing;
mod onnx_folder;
mod prune;
mod settings;
pub(crate) mod text;
mod tfs;
mod triton;

pub use cache::PackCache;
pub use layout::Layout;
pub use listing::{Listed, Listing, Source, Version, VersionPolicy};
pub use prune::Pruned;
pub use settings::{Declared, Settings};

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engine::{Error, Result, Runtimes};

use crate::side_by_side::side_by_side;
use crate::{Manifest, Remote, Store};
use cache::Key;

/// Where models come from.
pub struct Repository {
    layout: Layout,
    /// Where packs are kept of what is none; `None` for a store of packs, which is its own.
    cache: Option<PackCache>,
    /// Makes packs; without it only those that are in the cache are found.
    packer: Option<Arc<Runtimes>>,
}

impl From<Remote> for Repository {
    fn from(remote: Remote) -> Self {
        Self { layout: Layout::Remote(remote), cache: None, packer: None }
    }
}

impl From<Store> for Repository {
    fn from(store: Store) -> Self {
        Self { layout: Layout::Packs(store), cache: None, packer: None }
    }
}

impl Repository {
    /// The repository of this `layout`, which keeps its packs in `cache` and makes them with `packer`.
    pub fn new(layout: Layout, cache: PackCache, packer: Option<Arc<Runtimes>>) -> Self {
        Self { layout, cache: Some(cache), packer }
    }

    /// The store in which the programs and weights of its manifests are.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) when it has no cache, which it is never made without.
    pub fn store(&self) -> Result<&Store> {
        match (&self.layout, &self.cache) {
            (Layout::Packs(store), _) => Ok(store),
            (Layout::Remote(remote), _) => Ok(remote.store()),
            (_, Some(cache)) => Ok(cache.store()),
            (_, None) => Err(Error::internal("a repository without a cache of packs")),
        }
    }

    /// The store elsewhere of which this node keeps what it uses, where that is so.
    pub fn remote(&self) -> Option<&Remote> {
        match &self.layout {
            Layout::Remote(remote) => Some(remote),
            _ => None,
        }
    }

    /// What is there now.
    ///
    /// # Errors
    /// When the place cannot be read.
    pub fn list(&self) -> Result<Listing> {
        self.layout.list()
    }

    /// The model called `name`; `None` when there is none. `config`, the JSON of a model configuration, comes before what
    /// the repository says.
    ///
    /// # Errors
    /// When the place cannot be read, and [`InvalidInput`](engine::ErrorKind::InvalidInput) or
    /// [`Unsupported`](engine::ErrorKind::Unsupported) for the configuration.
    pub fn model(&self, name: &str, config: Option<&str>) -> Result<Option<Listed>> {
        self.layout.model(name, config)
    }

    /// The manifest of `version` of `name`, or why there is none; `None` when the file has yet to be packed.
    pub fn at_hand(&self, name: &str, version: u64, found: &Version) -> Option<Result<Manifest>> {
        match (&found.source, &self.layout) {
            (Source::Pack, Layout::Packs(store)) => Some(store.manifest(name, version)),
            (Source::Pack, Layout::Remote(remote)) => Some(remote.manifest(name, version)),
            (Source::Pack, _) => Some(Err(Error::internal("a pack outside a store of packs"))),
            (Source::Refused(error), _) => Some(Err(error.clone())),
            (Source::File { path, stamp, signature }, _) => {
                let key = Key { name, version, file: path, stamp, signature };
                self.cache.as_ref()?.find(&key).map(Ok)
            }
        }
    }

    /// As [`at_hand`](Self::at_hand), of every version in `listing` that is wanted, by name and version; read by several threads.
    pub fn all_at_hand(&self, listing: &Listing) -> BTreeMap<(String, u64), Option<Result<Manifest>>> {
        let models = listing.iter().filter(|(_, listed)| listed.refusal.is_none());
        let wanted: Vec<_> =
            models.flat_map(|(name, listed)| listed.wanted().into_iter().map(move |version| (name, version))).collect();
        let manifests = side_by_side(&wanted, |&(name, version)| {
            let found = &listing.get(name)?.versions.get(&version)?;
            self.at_hand(name, version, found)
        });
        wanted.into_iter().map(|(name, version)| (name.clone(), version)).zip(manifests).collect()
    }

    /// How often [`upkeep`](Self::upkeep) is due; never where there is no cache of packs.
    pub fn upkeep_every(&self) -> Option<Duration> {
        self.cache.as_ref().map(|_| prune::MARK_EVERY)
    }

    /// Keeps what this repository names and what `served` models are made of in the cache of packs, and removes what no
    /// repository has named for long.
    ///
    /// # Errors
    /// When the repository or the cache cannot be read or written; nothing that is in use is gone then.
    pub fn upkeep(&self, served: &[Arc<Manifest>]) -> Result<Pruned> {
        let Some(cache) = &self.cache else { return Ok(Pruned::default()) };
        let listing = self.list()?;
        let versions =
            listing.iter().flat_map(|(name, listed)| listed.versions.iter().map(move |version| (name, version)));
        let keys = versions.filter_map(|(name, (&version, found))| match &found.source {
            Source::File { path, stamp, signature } => Some(Key { name, version, file: path, stamp, signature }),
            _ => None,
        });
        cache.mark(&keys.collect::<Vec<_>>(), served)?;
        cache.prune()
    }

    /// The manifest of `version` of `name`; packs the file when it was not packed yet, which takes as long as it takes.
    ///
    /// # Errors
    /// Why the version cannot be served, naming the file.
    pub fn manifest(&self, name: &str, version: u64, found: &Version) -> Result<Manifest> {
        if let Some(at_hand) = self.at_hand(name, version, found) {
            return at_hand;
        }
        let (Source::File { path, stamp, signature }, Some(cache), Some(packer)) =
            (&found.source, &self.cache, &self.packer)
        else {
            return Err(Error::internal("nothing is there to make packs with"));
        };
        let unchanged = || {
            let now = self.model(name, None).ok().flatten();
            let now = now.and_then(|listed| listed.versions.get(&version).map(|version| version.source.clone()));
            matches!(now, Some(Source::File { stamp: now, .. }) if now == *stamp)
        };
        cache.pack(packer, &Key { name, version, file: path, stamp, signature }, unchanged)
    }
}
