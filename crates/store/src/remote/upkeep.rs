//! Keeping a store in a bucket: removing models, checking every byte, and removing what no model needs.
//!
//! A bucket has no lock and no clock that two machines share, so what goes is decided in the catalogue's root, which is only
//! ever replaced by whoever read it last. gc condemns what nothing needs, and goes. A later gc, when the grace period is
//! over, dooms what is still condemned and still not needed, and removes it; a push takes what it needs off the list of the
//! condemned, and waits for what is doomed to be gone before it writes it anew.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use engine::{Error, ErrorKind, Result};
use objects::Place;

use super::bucket::{self, each};
use super::catalog::{self, Entries, Entry, Which};
use super::item::{Item, items};
use super::push::Transfer;
use super::{known, publish, pull};
use crate::content::Content;
use crate::segment::{self, Piece};
use crate::upkeep::{Collected, Damage, Garbage, Verified};

/// A gc that takes longer between dooming a file and removing it was stopped in between, and leaves it.
const DOOM_MAX: Duration = Duration::from_secs(600);
/// A push that takes longer between its first word and its last was killed.
const PENDING_MAX: Duration = Duration::from_secs(3600);

/// Versions that were removed.
pub type Removed = Vec<u64>;

/// Removes `version` of `model` from the store at `place`, or all of its versions.
///
/// # Errors
/// As the place's; [`NotFound`](ErrorKind::NotFound) when there is no such model or version.
pub fn remove(place: &Place, model: &str, version: Option<u64>) -> Result<Removed> {
    crate::name::check(model)?;
    let mut going: Vec<Which> = Vec::new();
    for page in place.list_folder(&format!("models/{model}")) {
        going.extend(page?.objects.iter().filter_map(|object| catalog::which(&object.key)));
    }
    going.retain(|(_, known)| version.is_none_or(|version| version == *known));
    going.sort_unstable();
    if going.is_empty() {
        let which = version.map_or_else(String::new, |version| format!(" version {version}"));
        return Err(Error::not_found(format!(
            "model '{model}'{which} is not in the store; 'packhorse models' lists those that are"
        )));
    }
    publish::pend(place, &going)?;
    for which in &going {
        place.delete(&catalog::manifest_key(which))?;
    }
    publish::settle(place, &going.iter().map(|which| (which.clone(), None)).collect::<BTreeMap<_, _>>())?;
    Ok(going.into_iter().map(|(_, version)| version).collect())
}

/// Removes from the store at `place` what no manifest names and an earlier gc found so at least `grace` ago; what is found so
/// for the first time is `young`. Brings the catalogue up to date with the manifests.
///
/// # Errors
/// As the place's; [`Corrupt`](ErrorKind::Corrupt) or [`Unsupported`](ErrorKind::Unsupported) when a manifest cannot be read:
/// then nothing is removed.
pub fn collect(place: &Place, grace: Duration, dry_run: bool) -> Result<Collected> {
    let entries = bucket::listed(place, &pull::manifests(place)?)?.0;
    let needed = needed(&entries)?;
    let now = publish::now_s();
    let mut garbage = BTreeMap::new();
    for content in Content::ALL {
        for page in place.list_folder(content.folder()) {
            for object in page?.objects {
                let file = object.key.rsplit('/').next().unwrap_or_default();
                if content.hash_of(file).is_some() && !needed.contains(&object.key) {
                    garbage.insert(object.key, object.bytes);
                }
            }
        }
    }
    let (root, _) = publish::current(place)?;
    let is_due = |since: u64| since.saturating_add(grace.as_secs()) <= now;
    let due: Vec<&String> =
        garbage.keys().filter(|key| root.condemned.get(*key).is_some_and(|&since| is_due(since))).collect();
    let as_garbage = |key: &String| Garbage { path: key.into(), bytes: garbage.get(key).copied().unwrap_or(0) };
    let young = garbage.len() - due.len();
    if dry_run {
        return Ok(Collected { files: due.into_iter().map(as_garbage).collect(), young });
    }
    let gone = doom(place, &due, now)?;
    let left: Vec<&String> = garbage.keys().filter(|key| !gone.contains(key)).collect();
    tidy(place, &entries, &left, grace)?;
    Ok(Collected { files: gone.iter().map(as_garbage).collect(), young })
}

/// What the manifests in `entries` name.
fn needed(entries: &Entries) -> Result<HashSet<String>> {
    let (mut needed, mut broken) = (HashSet::new(), Vec::new());
    for (which, entry) in entries {
        match known::parse(which, entry).and_then(|manifest| items(&manifest)) {
            Ok(items) => needed.extend(items.into_iter().map(|item| item.key)),
            Err(error) => broken.push(format!("{}: {error}", catalog::manifest_key(which))),
        }
    }
    if broken.is_empty() {
        return Ok(needed);
    }
    Err(Error::corrupt(format!(
        "what these manifests need is not known, so nothing is touched; 'packhorse remove' removes them: {}",
        broken.join("; ")
    )))
}

/// Removes those of `due` that are still condemned when it is their turn, and that nothing has come to need since.
fn doom(place: &Place, due: &[&String], now: u64) -> Result<Vec<String>> {
    if due.is_empty() {
        return Ok(Vec::new());
    }
    let mut doomed = Vec::new();
    publish::change(place, |root| {
        doomed.clear();
        for key in due {
            if root.condemned.remove(*key).is_some() {
                root.doomed.insert((*key).clone(), now);
                doomed.push((*key).clone());
            }
        }
        Ok(())
    })?;
    // From here on a push that needs one of them waits. One that came before has taken it off the list, or is seen now.
    let again = needed(&bucket::listed(place, &pull::manifests(place)?)?.0)?;
    let gone = Mutex::new(Vec::new());
    let started = std::time::Instant::now();
    let removed = each(&doomed, 16, |key| {
        if !again.contains(key) && started.elapsed() < DOOM_MAX {
            place.delete(key)?;
            gone.lock().unwrap_or_else(PoisonError::into_inner).push(key.clone());
        }
        Ok(())
    });
    publish::change(place, |root| {
        root.doomed.retain(|key, _| !doomed.contains(key));
        Ok(())
    })?;
    let mut gone = gone.into_inner().unwrap_or_else(PoisonError::into_inner);
    gone.sort_unstable();
    removed.map(|()| gone)
}

/// Condemns `garbage`, takes over into the catalogue what the manifests say, and removes parts of the catalogue that none
/// names any more.
fn tidy(place: &Place, entries: &Entries, garbage: &[&String], grace: Duration) -> Result<()> {
    let now = publish::now_s();
    let old = |since: &u64, limit: Duration| since.saturating_add(limit.as_secs()) < now;
    let root = publish::change(place, |root| {
        for key in garbage {
            root.condemned.entry((*key).clone()).or_insert(now);
        }
        // What was needed again is condemned no more, nor what is gone.
        root.condemned.retain(|key, _| garbage.binary_search(&key).is_ok());
        root.doomed.retain(|_, since| !old(since, 2 * DOOM_MAX));
        Ok(())
    })?;
    let catalogued = bucket::shards(place, &root, &(0..root.shards.len()).collect::<Vec<_>>())?;
    let mut outcomes: BTreeMap<Which, Option<Entry>> = BTreeMap::new();
    for (which, entry) in entries {
        let known = catalogued.get(which).is_some_and(|known| known.etag == entry.etag);
        let pending = root.pending.get(&catalog::manifest_key(which));
        if !known && pending.is_none() || pending.is_some_and(|since| old(since, PENDING_MAX)) {
            outcomes.insert(which.clone(), Some(entry.clone()));
        }
    }
    for which in catalogued.keys().filter(|which| !entries.contains_key(*which)) {
        if !root.pending.contains_key(&catalog::manifest_key(which)) {
            outcomes.insert(which.clone(), None);
        }
    }
    for (key, since) in &root.pending {
        let which = catalog::which(key).filter(|which| old(since, PENDING_MAX) && !entries.contains_key(which));
        outcomes.extend(which.map(|which| (which, None)));
    }
    publish::settle(place, &outcomes)?;
    let (root, _) = publish::current(place)?;
    let limit = std::time::SystemTime::now().checked_sub(grace.max(PENDING_MAX));
    for page in place.list_folder("catalog") {
        for object in page?.objects {
            let hash = object.key.rsplit('/').next().unwrap_or_default();
            let is_old = object.modified.zip(limit).is_some_and(|(modified, limit)| modified < limit);
            if blake3::Hash::from_hex(hash).is_ok() && is_old && !root.shards.iter().any(|shard| shard == hash) {
                place.delete(&object.key)?;
            }
        }
    }
    Ok(())
}

/// Reads every file that a model of the store at `place` needs, and checks it against its name.
///
/// # Errors
/// As the place's. Damage is what is found, not an error.
pub fn verify(place: &Place, progress: Transfer<'_>) -> Result<Verified> {
    let entries = bucket::listed(place, &Entries::new())?.0;
    let mut damage: Vec<(Which, String)> = Vec::new();
    let mut of: BTreeMap<Item, Vec<Which>> = BTreeMap::new();
    for (which, entry) in &entries {
        match known::parse(which, entry).and_then(|manifest| items(&manifest)) {
            Ok(items) => items.into_iter().for_each(|item| of.entry(item).or_default().push(which.clone())),
            Err(error) => damage.push((which.clone(), error.message)),
        }
    }
    let all: u64 = of.keys().filter_map(|item| item.bytes).sum();
    let (done, bytes, broken) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(Vec::new()));
    progress(0, all);
    each(&of.keys().collect::<Vec<_>>(), 4, |item| {
        match check(place, item) {
            Ok(read) => drop(bytes.fetch_add(read, Ordering::Relaxed)),
            Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Corrupt) => {
                broken.lock().unwrap_or_else(PoisonError::into_inner).push(((*item).clone(), error.message));
            }
            Err(error) => return Err(error),
        }
        let of_all = item.bytes.unwrap_or(0);
        progress(done.fetch_add(of_all, Ordering::Relaxed) + of_all, all);
        Ok(())
    })?;
    for (item, reason) in broken.into_inner().unwrap_or_else(PoisonError::into_inner) {
        damage.extend(of[&item].iter().map(|which| (which.clone(), reason.clone())));
    }
    let mut models = entries.len();
    if !damage.is_empty() {
        // Who was removed meanwhile left files that somebody may have collected.
        let left = bucket::listed(place, &entries)?.0;
        damage.retain(|(which, _)| left.contains_key(which));
        models = entries.keys().filter(|which| left.contains_key(*which)).count();
    }
    damage.sort();
    let url = place.address();
    let damaged = |((name, version), reason): (Which, String)| {
        let fix = format!("'packhorse push STORE {url} {name}/{version} --again' from a store that has it");
        Damage { name, version, reason, fix }
    };
    Ok(Verified {
        models,
        files: of.len(),
        bytes: bytes.into_inner(),
        damage: damage.into_iter().map(damaged).collect(),
    })
}

/// Reads all of `item`; gives its size.
fn check(place: &Place, item: &Item) -> Result<u64> {
    let wrong = || Error::corrupt(format!("{}: its bytes are not those of its hash", place.url(&item.key)));
    let object = place.head(&item.key)?;
    if item.bytes.is_some_and(|bytes| bytes != object.bytes) {
        return Err(wrong());
    }
    let pieces = if item.is_segment() { table_of_contents(place, &object, item)? } else { None };
    let whole = 0..object.bytes;
    let Some(pieces) = pieces else {
        // A file of which no part has a hash of its own is looked at as a whole.
        let bytes = place.read(&object, whole)?;
        return if item.is(&bytes) { Ok(object.bytes) } else { Err(wrong()) };
    };
    let mut checking = Checking { pieces: &pieces, at: 0, hasher: blake3::Hasher::new(), sound: true };
    place.fetch(&object, vec![whole], 1, &mut |offset, bytes| {
        checking.take(offset, &bytes);
        Ok(())
    })?;
    if checking.sound && checking.at == pieces.len() { Ok(object.bytes) } else { Err(wrong()) }
}

fn table_of_contents(place: &Place, object: &objects::Object, item: &Item) -> Result<Option<Vec<Piece>>> {
    const TAIL_BYTES: u64 = 64 << 10;
    let end = object.bytes;
    let mut tail = place.read(object, end.saturating_sub(TAIL_BYTES)..end)?;
    if let Some(len) = segment::trailer_bytes(&tail).filter(|&len| len > tail.len() as u64 && len <= end) {
        tail = place.read(object, end - len..end)?;
    }
    Ok(segment::contents_of(&tail, end, item.hash())?.map(|(pieces, _)| pieces))
}

/// Hashes the pieces of a segment whose bytes come in order.
struct Checking<'a> {
    pieces: &'a [Piece],
    /// The piece that comes next.
    at: usize,
    hasher: blake3::Hasher,
    sound: bool,
}

impl Checking<'_> {
    fn take(&mut self, offset: u64, bytes: &[u8]) {
        let end = offset + bytes.len() as u64;
        while let Some(piece) =
            self.pieces.get(self.at).filter(|piece| piece.offset_bytes < end || piece.len_bytes == 0)
        {
            let piece_end = piece.offset_bytes + piece.len_bytes;
            let (from, to) = (piece.offset_bytes.max(offset), piece_end.min(end));
            let inside = |at: u64| usize::try_from(at - offset).unwrap_or(usize::MAX);
            if from < to {
                self.hasher.update(&bytes[inside(from)..inside(to)]);
            }
            if piece_end > end {
                return;
            }
            self.sound &= self.hasher.finalize() == piece.hash;
            self.hasher.reset();
            self.at += 1;
        }
    }
}
