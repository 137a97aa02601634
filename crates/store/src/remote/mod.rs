//! A store of packs in a bucket, under the same names as in a folder, and a folder of this node with what is used of it.
//!
//! `push` writes there, `pull` reads from there into a store of one's own, and a [`Remote`] serves from there: its models
//! are listed from the catalogue, and what one is made of is fetched when it is first asked for.

mod bucket;
mod cache;
pub(crate) mod catalog;
mod fetch;
mod item;
pub(crate) mod known;
mod partial;
mod pins;
mod plan;
mod publish;
mod pull;
mod push;
mod room;
#[cfg(test)]
mod tests;
mod upkeep;

pub(crate) use fetch::view;
pub(crate) use partial::path_of as part_of;

pub use cache::{CacheBytes, CacheCounts};
pub use pull::{list, pull};
pub use push::{Pushed, Transfer, push};
pub use upkeep::{Removed, collect, remove, verify};

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{Error, ErrorKind, Result};
use objects::{Address, Network, Place};

use crate::manifest::{Manifest, SegmentRef};
use crate::repository::{Listed, Listing, Source, Version, VersionPolicy};
use crate::table::WeightRef;
use crate::{Store, name};
use cache::{Cache, Shared};
use catalog::{Entry, Which};
use fetch::{Fetch, Need};
use item::Item;
use known::Known;
use pins::Pinned;

/// A segment of which a model needs less than half is fetched in part if it is larger than this; a smaller one is not worth
/// the trouble.
const PART_OF_BYTES_MIN: u64 = 64 << 20;
/// Ranges of one file that are read at once.
const PARALLEL: usize = 8;
/// The longest that a file is waited for that another process fetches.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// Whether `place` is one that is reached over a network.
pub fn is_remote(place: &str) -> bool {
    Address::parse(place).is_ok_and(|address| address.as_folder().is_none())
}

/// A store in a bucket, and the folder in which what is used of it is kept. Cheap to clone.
#[derive(Clone)]
pub struct Remote(Arc<Inner>);

struct Inner {
    network: Arc<Network>,
    place: Place,
    cache: Cache,
    /// Which models there are; held while that is looked at again.
    known: Mutex<Known>,
    /// Whether the models were looked at, as well as that went, and nobody has had the list yet.
    fresh: AtomicBool,
    part_of_bytes_min: u64,
}

/// The files that a model is made ready from; they stay in the cache as long as this does.
pub struct Fetched {
    _pinned: Pinned,
}

impl Remote {
    /// The store at `place`, which must have something in it, with a cache in the folder `cache`. When it cannot be reached,
    /// what the cache knows of it has to do.
    ///
    /// # Errors
    /// As the place's; [`NotFound`](ErrorKind::NotFound) when there is no store, with the command that makes one.
    pub fn open(network: &Arc<Network>, place: &str, cache: &Path, bytes_max: CacheBytes) -> Result<Self> {
        let place = network.place(place)?;
        let cache = Cache::open(cache, bytes_max)?;
        let mut known = Known::load(&place, cache.root());
        match known.refresh(&place) {
            Ok(_) if known.is_empty() => {
                let url = place.address();
                let fix = format!("'packhorse push STORE {url}' brings models there");
                return Err(Error::not_found(format!("{url}: there is no model here; {fix}")));
            }
            Ok(_) => {}
            Err(error) if passes(&error) && !known.is_empty() => {
                tracing::warn!(%error, "the store cannot be reached; what was known of it has to do");
            }
            Err(error) => return Err(error),
        }
        let (network, known, fresh) = (Arc::clone(network), Mutex::new(known), AtomicBool::new(true));
        Ok(Self(Arc::new(Inner { network, place, cache, known, fresh, part_of_bytes_min: PART_OF_BYTES_MIN })))
    }

    /// Where it is.
    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// What is fetched of it, as a store without models.
    pub(crate) fn store(&self) -> &Store {
        self.0.cache.store()
    }

    /// Which models there are; looks again unless that was done just now, when it was opened.
    ///
    /// # Errors
    /// As the place's.
    pub(crate) fn list(&self) -> Result<Listing> {
        let mut known = self.known();
        if !self.0.fresh.swap(false, Ordering::Relaxed) {
            known.refresh(&self.0.place)?;
        }
        Ok(listing(known.entries()))
    }

    /// The model called `name`, as it is now, or as it was known to be when the store cannot be reached.
    ///
    /// # Errors
    /// As the place's, and [`InvalidInput`](ErrorKind::InvalidInput) for a name that is none.
    pub(crate) fn model(&self, name: &str) -> Result<Option<Listed>> {
        name::check(name)?;
        let mut known = self.known();
        match known.refresh(&self.0.place) {
            Err(error) if passes(&error) && known.has(name) => {
                tracing::warn!(model = %name, %error, "the store cannot be reached; what was known of it has to do");
            }
            refreshed => refreshed?,
        }
        Ok(listing(known.entries().range((name.to_owned(), 0)..=(name.to_owned(), u64::MAX))).remove(name))
    }

    /// The manifest of `version` of `name`, as it was when the models were last looked at.
    ///
    /// # Errors
    /// As [`Store::manifest`].
    pub(crate) fn manifest(&self, name: &str, version: u64) -> Result<Manifest> {
        self.known().manifest(&self.0.place, name, version)
    }

    /// Has the files of `manifest`'s first form in the cache. Takes as long as the network does; one that is there costs
    /// microseconds. When what models hold leaves no room, `let_go` is asked to have some go that hold so many bytes, and says
    /// whether any did.
    ///
    /// # Errors
    /// As the place's; [`Corrupt`](ErrorKind::Corrupt) for a file that is not what its name says,
    /// [`Exhausted`](ErrorKind::Exhausted) when neither the budget nor the disk has room for it at present, and
    /// [`FailedPrecondition`](ErrorKind::FailedPrecondition) when the budget never has.
    pub fn fetch(&self, manifest: &Manifest, let_go: &(dyn Fn(u64) -> bool + Sync)) -> Result<Fetched> {
        self.fetch_form(manifest, let_go).map_err(|error| {
            // A request for a model whose files have gone is no request for something else.
            let kind = if error.kind == ErrorKind::NotFound { ErrorKind::Unavailable } else { error.kind };
            let (name, version) = (&manifest.name, manifest.version);
            Error { kind, ..error }.context(format!("model '{name}' version {version} cannot be fetched"))
        })
    }

    /// The files of `manifest`'s first form, when all of them are in the cache; nobody is asked for them.
    ///
    /// # Errors
    /// As the file system's, and [`Corrupt`](ErrorKind::Corrupt) for a manifest that names no files.
    pub fn at_hand(&self, manifest: &Manifest) -> Result<Option<Fetched>> {
        let Parts { others, segments } = parts(manifest)?;
        let all: Vec<Item> = others.iter().chain(&segments).cloned().collect();
        let pinned = self.0.cache.hold(&all);
        let is_there = |item: &Item, need: &Need| fetch::is_there(&self.0.cache.root().join(&item.key), need);
        if !others.iter().all(|item| is_there(item, &Need::Whole)) {
            return Ok(None);
        }
        for (at, (item, segment)) in segments.iter().zip(&manifest.weights.segments).enumerate() {
            if !is_there(item, &self.need(manifest, at, segment)?) {
                return Ok(None);
            }
        }
        for item in &all {
            fetch::touch(&self.0.cache.root().join(&item.key));
            self.0.cache.count(&Ok(0));
        }
        Ok(Some(Fetched { _pinned: pinned }))
    }

    fn fetch_form(&self, manifest: &Manifest, let_go: &(dyn Fn(u64) -> bool + Sync)) -> Result<Fetched> {
        let Parts { others, segments } = parts(manifest)?;
        self.fits_alone(manifest)?;
        let weights = &manifest.weights;
        // Held before they are looked for, so that what is there stays there.
        let all: Vec<Item> = others.iter().chain(&segments).cloned().collect();
        let pinned = self.0.cache.hold(&all);
        let room = Shared { cache: &self.0.cache, let_go };
        bucket::each(&others, others.len(), |item| self.bring(item, &Need::Whole, &room))?;
        let needs: Vec<(Item, Need)> = segments
            .into_iter()
            .zip(&weights.segments)
            .enumerate()
            .map(|(at, (item, segment))| Ok((item, self.need(manifest, at, segment)?)))
            .collect::<Result<_>>()?;
        bucket::each(&needs, needs.len(), |(item, need)| self.bring(item, need, &room))?;
        Ok(Fetched { _pinned: pinned })
    }

    /// Whether the model of `manifest` would fit if it had the cache to itself.
    fn fits_alone(&self, manifest: &Manifest) -> Result<()> {
        let of = |segment: &SegmentRef| if self.in_part(segment) { segment.used_bytes } else { segment.bytes };
        let (needed, there) = (manifest.weights.segments.iter().map(of).sum::<u64>(), self.0.cache.bytes_max());
        if needed <= there {
            return Ok(());
        }
        let reason =
            format!("its weights take {needed} bytes, and the cache may have {there} (cache-bytes-max); raise that");
        Err(Error::new(ErrorKind::FailedPrecondition, reason))
    }

    /// Whether a part of `segment` is fetched for a model that needs so little of it.
    fn in_part(&self, segment: &SegmentRef) -> bool {
        segment.bytes >= self.0.part_of_bytes_min && segment.used_bytes.saturating_mul(2) < segment.bytes
    }

    /// What the model of `manifest` needs of its segment number `at`.
    fn need(&self, manifest: &Manifest, at: usize, segment: &SegmentRef) -> Result<Need> {
        if !self.in_part(segment) {
            return Ok(Need::Whole);
        }
        let table = self.store().table(&manifest.weights)?;
        let mine = table.iter().filter(|weight| usize::try_from(weight.segment) == Ok(at));
        mine.map(WeightRef::range).collect::<Result<_>>().map(Need::Some)
    }

    fn bring(&self, item: &Item, need: &Need, room: &Shared<'_>) -> Result<()> {
        let Inner { place, cache, .. } = &*self.0;
        fetch::make_folder(cache.root(), &item.key)?;
        let deadline = Instant::now() + WAIT_MAX;
        let fetch = Fetch { place, root: cache.root(), room, parallel: PARALLEL, deadline };
        let outcome = fetch.bring(item, need);
        cache.count(&outcome);
        outcome.map(drop)
    }

    /// What the cache did and holds.
    pub fn counts(&self) -> CacheCounts {
        self.0.cache.counts()
    }

    /// Whatever waits for the store gives up.
    pub fn stop(&self) {
        self.0.network.stop();
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Remote({})", self.0.place.address())
    }
}

/// What the first form of a manifest is made of.
struct Parts {
    /// Its program, what comes with it, and its table.
    others: Vec<Item>,
    /// As the manifest has them.
    segments: Vec<Item>,
}

fn parts(manifest: &Manifest) -> Result<Parts> {
    let weights = &manifest.weights;
    if weights.segments.iter().any(|segment| segment.external.is_some()) {
        return Err(Error::unsupported("its weights lie in a file of the machine that packed it; push it again"));
    }
    let segments = weights.segments.iter().map(|segment| Item::segment(&segment.hash, segment.bytes));
    let segments = segments.collect::<Result<Vec<_>>>()?;
    let mut others = vec![Item::program(&manifest.program)?];
    for hash in manifest.files.values() {
        others.push(Item::file(hash)?);
    }
    others.extend(Item::table(weights)?);
    Ok(Parts { others, segments })
}

fn listing<'a>(entries: impl IntoIterator<Item = (&'a Which, &'a Entry)>) -> Listing {
    let mut listing = Listing::new();
    for ((name, version), entry) in entries {
        // A manifest that is replaced is another model, though it may answer the same.
        let found = Version { source: Source::Pack, stamp: entry.etag.clone().unwrap_or_default() };
        let listed: &mut Listed = listing.entry(name.clone()).or_default();
        listed.policy = VersionPolicy::All;
        listed.versions.insert(*version, found);
    }
    listing
}

/// Whether another try may go better.
fn passes(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Exhausted | ErrorKind::DeadlineExceeded)
}

/// What is asked for by name: every model when nothing is, else those of `NAME` or `NAME/VERSION`.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound), naming what is not there.
fn asked<T>(there: BTreeMap<Which, T>, names: &[String]) -> Result<BTreeMap<Which, T>> {
    if names.is_empty() {
        return Ok(there);
    }
    let matches = |asked: &str, (name, version): &Which| {
        asked == name || asked.rsplit_once('/').is_some_and(|(of, number)| of == name && number == version.to_string())
    };
    if let Some(missing) = names.iter().find(|asked| !there.keys().any(|which| matches(asked, which))) {
        return Err(Error::not_found(format!(
            "model '{missing}' is not there; 'packhorse models' lists those that are"
        )));
    }
    Ok(there.into_iter().filter(|(which, _)| names.iter().any(|asked| matches(asked, which))).collect())
}
