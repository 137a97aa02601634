//! Pulling: models of a store in a bucket come into one in a folder, resumed where a pull was killed.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::{Error, ErrorKind, Result};
use objects::{Place, Tag};

use super::bucket::{self, Answer, each};
use super::catalog::{self, Entries, Which};
use super::fetch::{Fetch, Need, Unbounded, make_folder};
use super::item::{Item, items};
use super::push::{Pushed, Transfer};
use super::{asked, known};
use crate::atomic::Written;
use crate::{Listed, Manifest, Store};

/// Files that are read at once.
const PARALLEL: usize = 4;
/// Ranges of one of them.
const RANGES: usize = 8;
/// How often a model is fetched before it is given up, when gc is faster each time.
const COMMITS_MAX: usize = 5;

/// Every manifest of the store at `place`, by the catalogue or, without one, by listing them.
///
/// # Errors
/// As the place's.
pub(super) fn manifests(place: &Place) -> Result<Entries> {
    let mut entries = match bucket::root(place, &Tag::default())? {
        Some(Answer::New(root, _)) => {
            let all: Vec<usize> = (0..root.shards.len()).collect();
            let mut entries = bucket::shards(place, &root, &all)?;
            let pending: Vec<Which> = root.pending.keys().filter_map(|key| catalog::which(key)).collect();
            pending.iter().for_each(|which| drop(entries.remove(which)));
            entries.append(&mut bucket::manifests(place, &pending)?);
            entries
        }
        Some(Answer::Same) | None => bucket::listed(place, &Entries::new())?.0,
    };
    entries.retain(|(name, _), _| crate::name::check(name).is_ok());
    Ok(entries)
}

/// Every version of every model of the store at `place`, by name and version.
///
/// # Errors
/// As the place's. A manifest that cannot be read is among what is listed.
pub fn list(place: &Place) -> Result<Vec<Listed>> {
    let listed = manifests(place)?.into_iter().map(|(which, entry)| {
        let url = place.url(&catalog::manifest_key(&which));
        let manifest = known::parse(&which, &entry).map_err(|error| error.context(url));
        Listed { name: which.0, version: which.1, manifest }
    });
    Ok(listed.collect())
}

/// Brings the models at `place` called `names`, as `NAME` or `NAME/VERSION`, or all of them, into `store`.
///
/// # Errors
/// As the place's and the store's; [`NotFound`](ErrorKind::NotFound) for a name that is not there,
/// [`AlreadyExists`](ErrorKind::AlreadyExists) when a version holds something else in the store.
pub fn pull(place: &Place, store: &Store, names: &[String], progress: Transfer<'_>) -> Result<Pushed> {
    store.make_folders()?;
    let mut pulled = Pushed::default();
    let mut manifests = Vec::new();
    for (which, entry) in asked(self::manifests(place)?, names)? {
        let url = place.url(&catalog::manifest_key(&which));
        manifests.push(known::parse(&which, &entry).map_err(|error| error.context(url))?);
    }
    let mut missing: Vec<Item> = Vec::new();
    for manifest in &manifests {
        missing.extend(items(manifest)?.into_iter().filter(|item| !store.root().join(&item.key).exists()));
    }
    missing.sort_unstable();
    missing.dedup();
    // Only of segments is the size known before they are looked at; they are what takes time.
    let (done, all) = (AtomicU64::new(0), missing.iter().filter_map(|item| item.bytes).sum());
    let fetched = Mutex::new((0usize, 0u64));
    let bring = |item: &Item| -> Result<()> {
        let bytes = bring(place, store, item)?;
        let mut fetched = fetched.lock().unwrap_or_else(PoisonError::into_inner);
        *fetched = (fetched.0 + 1, fetched.1 + bytes);
        let of_all = item.bytes.unwrap_or(0);
        progress(done.fetch_add(of_all, Ordering::Relaxed) + of_all, all);
        Ok(())
    };
    progress(0, all);
    each(&missing, PARALLEL, bring)?;
    for manifest in &manifests {
        if commit(place, store, manifest)? {
            pulled.models += 1;
        } else {
            pulled.same += 1;
        }
    }
    (pulled.files, pulled.bytes) = fetched.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(pulled)
}

fn bring(place: &Place, store: &Store, item: &Item) -> Result<u64> {
    make_folder(store.root(), &item.key)?;
    let deadline = Instant::now() + Duration::from_secs(3600);
    let fetch = Fetch { place, root: store.root(), room: &Unbounded, parallel: RANGES, deadline };
    fetch.bring(item, &Need::Whole)
}

/// Makes the model of `manifest`, whose files are there, one of `store`; `false` when it was.
fn commit(place: &Place, store: &Store, manifest: &Manifest) -> Result<bool> {
    let (name, version) = (&manifest.name, manifest.version);
    for _ in 0..COMMITS_MAX {
        match store.commit(manifest)? {
            Some(Written::New) => return Ok(true),
            Some(Written::Existed) => {
                let old = store.manifest(name, version)?;
                if old == *manifest {
                    return Ok(false);
                }
                if old.source != manifest.source {
                    let reason = "is there and holds something else; remove it first";
                    return Err(Error::new(ErrorKind::AlreadyExists, format!("'{name}' version {version} {reason}")));
                }
                if store.supersede(&old, manifest)? {
                    return Ok(true);
                }
            }
            // gc took something before it was relied on.
            None => items(manifest)?.iter().try_for_each(|item| bring(place, store, item).map(drop))?,
        }
    }
    Err(Error::unavailable("gc removes what is pulled before it is used; give gc a longer --grace and try again"))
}
