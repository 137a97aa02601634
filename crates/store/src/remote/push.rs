//! Pushing: models of a store in a folder go into one in a bucket. What is there already stays; files first, manifests last,
//! so that a model is whole or not there, whoever else pushes, and a push that was killed goes on from there.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use engine::{Error, ErrorKind, Result};
use objects::{Place, Tag, When};

use super::bucket::{self, Sending, each};
use super::catalog::{self, Entry, Which};
use super::item::{Item, items};
use super::{asked, known, publish};
use crate::manifest::{FORMAT, Form, Manifest, ProgramRef, SegmentRef, Weights};
use crate::segment::Layout;
use crate::table::{self, WeightRef};
use crate::{Store, name};

/// Files that are written at once, each of them in up to four parts at once.
const PARALLEL: usize = 4;
/// How often a manifest is written that somebody else writes too.
const TRIES_MAX: usize = 10;
/// Manifests that become visible together.
const BATCH: usize = 500;
/// A file that gc is about to remove is gone, or spared, after this.
const DOOM_MAX: Duration = Duration::from_secs(900);

/// How far a transfer is: bytes done, and bytes of all.
pub type Transfer<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// What a push did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Versions of models that are new there, or replaced.
    pub models: usize,
    /// Those that were there.
    pub same: usize,
    /// Files that were written.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// A file that is to be in the bucket, and where its bytes are.
struct Outgoing {
    item: Item,
    body: Body,
    bytes: u64,
}

enum Body {
    /// In the store, under the item's key.
    File,
    Bytes(Bytes),
    /// Weights that lie outside the store, laid out as a segment of their own.
    Gathered(Vec<(blake3::Hash, Bytes)>),
}

/// Brings the models of `store` called `names`, as `NAME` or `NAME/VERSION`, or all of them, to `place`. With `again`, files
/// that are there are written once more: what was damaged there is whole afterwards.
///
/// # Errors
/// As the place's and the store's; [`NotFound`](ErrorKind::NotFound) for a name that is not in the store,
/// [`AlreadyExists`](ErrorKind::AlreadyExists) when a version holds something else there,
/// [`Corrupt`](ErrorKind::Corrupt) for a file that is damaged in the store.
pub fn push(store: &Store, place: &Place, names: &[String], again: bool, progress: Transfer<'_>) -> Result<Pushed> {
    let listed = store.list()?.into_iter().map(|listed| ((listed.name, listed.version), listed.manifest));
    let mut manifests = Vec::new();
    for (which, manifest) in asked(listed.collect::<BTreeMap<_, _>>(), names)? {
        name::check(&which.0)?;
        manifests.push((which, manifest?));
    }
    let pushing = Pushing { store, place, again, progress, done: AtomicU64::new(0), all: AtomicU64::new(0) };
    let mut pushed = Pushed::default();
    for batch in manifests.chunks(BATCH) {
        pushing.batch(batch, &mut pushed)?;
    }
    Ok(pushed)
}

struct Pushing<'a> {
    store: &'a Store,
    place: &'a Place,
    again: bool,
    progress: Transfer<'a>,
    done: AtomicU64,
    all: AtomicU64,
}

impl Pushing<'_> {
    fn batch(&self, batch: &[(Which, Manifest)], pushed: &mut Pushed) -> Result<()> {
        let mut outgoing: BTreeMap<String, Outgoing> = BTreeMap::new();
        let mut ready: BTreeMap<Which, Manifest> = BTreeMap::new();
        for (which, manifest) in batch {
            let of = |error: Error| error.context(format!("model '{}' version {}", which.0, which.1));
            let (manifest, gathered) = self.inside(manifest).map_err(of)?;
            for file in gathered {
                outgoing.insert(file.item.key.clone(), file);
            }
            for item in items(&manifest).map_err(of)? {
                if !outgoing.contains_key(&item.key) {
                    let file = self.of_store(item).map_err(of)?;
                    outgoing.insert(file.item.key.clone(), file);
                }
            }
            ready.insert(which.clone(), manifest);
        }
        let there = bucket::manifests(self.place, &ready.keys().cloned().collect::<Vec<_>>())?;
        let (mut new, mut same) = (BTreeMap::new(), BTreeMap::new());
        for (which, manifest) in ready {
            let merged = self.merged(&which, &manifest, there.get(&which))?;
            match (there.get(&which), merged) {
                (Some(entry), None) if !self.again => drop(same.insert(which, entry.clone())),
                _ => drop(new.insert(which, manifest)),
            }
        }
        // What is there needs no files of ours; somebody may have been killed before he said that it is.
        let mut needed = HashSet::new();
        for manifest in new.values() {
            needed.extend(items(manifest)?.into_iter().map(|item| item.key));
        }
        outgoing.retain(|key, _| needed.contains(key));
        let written = self.write_files(outgoing.into_values().collect(), pushed)?;
        pushed.models += new.len();
        pushed.same += same.len();
        self.write_manifests(&new, same, &written)
    }

    /// What has to be written so that `manifest` is there as well as `there`; `None` when it is.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) when that is another model.
    fn merged(&self, which: &Which, manifest: &Manifest, there: Option<&Entry>) -> Result<Option<Manifest>> {
        let Some(entry) = there else { return Ok(Some(manifest.clone())) };
        let there = known::parse(which, entry).ok().filter(|there| bare(there) == bare(manifest)).ok_or_else(|| {
            let url = self.place.url(&catalog::manifest_key(which));
            let reason = "it is there and holds something else; pack it as another version, or remove that";
            Error::new(ErrorKind::AlreadyExists, format!("{url}: {reason}"))
        })?;
        let has = |of: &Manifest, program: &ProgramRef| of.forms().any(|(other, _)| other.target == program.target);
        if !self.again && manifest.forms().all(|(program, _)| has(&there, program)) {
            return Ok(None);
        }
        // Forms for other CPUs that somebody else made stay.
        let kept = there.forms().filter(|(program, _)| !has(manifest, program));
        let kept: Vec<Form> =
            kept.map(|(program, weights)| Form { program: program.clone(), weights: weights.clone() }).collect();
        let mut merged = manifest.clone();
        merged.others.extend(kept);
        Ok(Some(merged))
    }

    /// The manifest without files outside the store and without a table of format 1 inside, and what has to be written
    /// instead of them.
    fn inside(&self, manifest: &Manifest) -> Result<(Manifest, Vec<Outgoing>)> {
        let is_outside = |weights: &Weights| {
            weights.inline.is_some() || weights.segments.iter().any(|segment| segment.external.is_some())
        };
        if !manifest.forms().any(|(_, weights)| is_outside(weights)) {
            return Ok((manifest.clone(), Vec::new()));
        }
        let mut outgoing = Vec::new();
        let inside = manifest.with_weights(|weights| {
            if is_outside(weights) { self.gather(weights, &mut outgoing) } else { Ok(weights.clone()) }
        })?;
        Ok((inside, outgoing))
    }

    /// `weights` with those that lie outside the store in a segment of their own.
    fn gather(&self, weights: &Weights, outgoing: &mut Vec<Outgoing>) -> Result<Weights> {
        let tensors = self.store.tensors(weights)?;
        let table = self.store.table(weights)?;
        if table.is_empty() {
            return Ok(Weights { inline: None, ..weights.clone() });
        }
        let outside = |weight: &WeightRef| {
            weights.segments.get(weight.segment as usize).is_none_or(|segment| segment.external.is_some())
        };
        let hashed: Vec<(blake3::Hash, Bytes)> = table
            .iter()
            .zip(&tensors)
            .filter(|(weight, _)| outside(weight))
            .map(|(_, tensor)| (blake3::hash(tensor.data()), tensor.data().clone()))
            .collect();
        let mut layout = Layout::default();
        let offsets = hashed.iter().map(|(hash, bytes)| layout.add(*hash, bytes)).collect::<Result<Vec<u64>>>()?;
        // Those that stay keep their order, and the new one comes last.
        let mut segments: Vec<SegmentRef> =
            weights.segments.iter().filter(|segment| segment.external.is_none()).cloned().collect();
        let mut places = HashMap::new();
        for (at, segment) in weights.segments.iter().enumerate().filter(|(_, segment)| segment.external.is_none()) {
            places.insert(at, segments.iter().position(|kept| kept.hash == segment.hash).unwrap_or_default());
        }
        let last = segments.len();
        let mut offsets = offsets.into_iter();
        let mut moved = Vec::with_capacity(table.len());
        for weight in table {
            let (segment, offset_bytes) = match places.get(&(weight.segment as usize)) {
                Some(&at) => (at, weight.offset_bytes),
                None => (last, offsets.next().ok_or_else(|| Error::internal("a weight was left without a place"))?),
            };
            let segment = u32::try_from(segment).map_err(|_| Error::internal("too many segments"))?;
            moved.push(WeightRef { segment, offset_bytes, ..weight });
        }
        let (hash, bytes, used_bytes) = (layout.hash(), layout.file_bytes(), layout.stored_bytes());
        if !hashed.is_empty() {
            segments.push(SegmentRef { hash: hash.clone(), bytes, used_bytes, external: None });
        }
        let encoded = table::encode(&moved)?;
        let name = blake3::hash(&encoded).to_hex().to_string();
        let weights = Weights { table: name, segments, inline: None, ..weights.clone() };
        drop(layout);
        if !hashed.is_empty() {
            outgoing.push(Outgoing { item: Item::segment(&hash, bytes)?, body: Body::Gathered(hashed), bytes });
        }
        if let Some(item) = Item::table(&weights)? {
            let bytes = encoded.len() as u64;
            outgoing.push(Outgoing { item, body: Body::Bytes(encoded.into()), bytes });
        }
        Ok(weights)
    }

    fn of_store(&self, item: Item) -> Result<Outgoing> {
        let path = self.store.root().join(&item.key);
        let about = std::fs::metadata(&path);
        let bytes = about.map_err(|source| crate::atomic::io_error(&path, "cannot be read", &source))?.len();
        Ok(Outgoing { item, body: Body::File, bytes })
    }

    /// Writes those of `outgoing` that are not there; gives their keys.
    fn write_files(&self, outgoing: Vec<Outgoing>, pushed: &mut Pushed) -> Result<HashSet<String>> {
        self.all.fetch_add(outgoing.iter().map(|file| file.bytes).sum(), Ordering::Relaxed);
        let missing = Mutex::new(Vec::new());
        let looked: Vec<Mutex<Option<Outgoing>>> = outgoing.into_iter().map(|file| Mutex::new(Some(file))).collect();
        each(&looked, 24, |file| {
            let Some(file) = file.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
            let there = match self.place.head(&file.item.key) {
                // One of another size is damaged, whatever it is.
                Ok(object) => object.bytes == file.bytes && !self.again,
                Err(error) if error.kind == ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            if there {
                self.advance(file.bytes);
            } else {
                missing.lock().unwrap_or_else(PoisonError::into_inner).push(file);
            }
            Ok(())
        })?;
        let missing = missing.into_inner().unwrap_or_else(PoisonError::into_inner);
        each(&missing, PARALLEL, |file| self.write_file(file))?;
        pushed.files += missing.len();
        pushed.bytes += missing.iter().map(|file| file.bytes).sum::<u64>();
        Ok(missing.into_iter().map(|file| file.item.key).collect())
    }

    /// Writes one file, checked before and counted after.
    fn write_file(&self, file: &Outgoing) -> Result<()> {
        let key = &file.item.key;
        let mut upload = self.place.upload(key, Some(file.bytes))?;
        let mut send = |bytes: &[u8]| -> Result<()> {
            for piece in bytes.chunks(4 << 20) {
                upload.append(piece)?;
                self.advance(piece.len() as u64);
            }
            Ok(())
        };
        match &file.body {
            Body::File => {
                let bytes = self.store.map(&self.store.root().join(key))?;
                if !file.item.is(&bytes) {
                    let fix = "'packhorse verify' tells which models it harms";
                    return Err(Error::corrupt(format!("{key}: its bytes are not those of its hash; {fix}")));
                }
                send(&bytes)?;
            }
            Body::Bytes(bytes) => send(bytes)?,
            Body::Gathered(tensors) => {
                let mut layout = Layout::default();
                for (hash, bytes) in tensors {
                    layout.add(*hash, bytes)?;
                }
                let mut out = Sending { send: &mut send, failed: None };
                let written = layout.write_to(&mut out);
                let failed = out.failed.take();
                written.map_err(|error| failed.unwrap_or_else(|| Error::internal(error.to_string())))?;
            }
        }
        upload.finish(&When::Always)?;
        let there = self.place.head(key)?.bytes;
        if there != file.bytes {
            let url = self.place.url(key);
            return Err(Error::corrupt(format!("{url}: {there} bytes are there of {}; try again", file.bytes)));
        }
        Ok(())
    }

    fn advance(&self, bytes: u64) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        (self.progress)(done, self.all.load(Ordering::Relaxed));
    }

    /// Makes models visible whose files are there.
    fn write_manifests(
        &self,
        new: &BTreeMap<Which, Manifest>,
        same: catalog::Entries,
        written: &HashSet<String>,
    ) -> Result<()> {
        if !new.is_empty() {
            let mut needed = Vec::new();
            for manifest in new.values() {
                needed.extend(items(manifest)?.into_iter().map(|item| item.key));
            }
            self.rely_on(&needed, written, &new.keys().cloned().collect::<Vec<_>>())?;
        }
        let entries = Mutex::new(same);
        each(&new.iter().collect::<Vec<_>>(), 24, |(which, manifest)| {
            let entry = self.write_manifest(which, manifest)?;
            entries.lock().unwrap_or_else(PoisonError::into_inner).insert((*which).clone(), entry);
            Ok(())
        })?;
        let entries = entries.into_inner().unwrap_or_else(PoisonError::into_inner);
        publish::settle(self.place, &entries.into_iter().map(|(which, entry)| (which, Some(entry))).collect())
    }

    /// Says in the catalogue that models come which need the files `needed`, so that gc leaves those alone, and sees to it
    /// that none of them went before it was said.
    fn rely_on(&self, needed: &[String], written: &HashSet<String>, which: &[Which]) -> Result<()> {
        let since = publish::now_s();
        let deadline = std::time::Instant::now() + DOOM_MAX;
        loop {
            let root = publish::change(self.place, |root| {
                root.pending.extend(which.iter().map(|which| (catalog::manifest_key(which), since)));
                needed.iter().for_each(|key| {
                    root.condemned.remove(key);
                });
                Ok(())
            })?;
            if !needed.iter().any(|key| root.doomed.contains_key(key)) {
                break;
            }
            if std::time::Instant::now() > deadline {
                return Err(Error::unavailable(
                    "gc has been removing files that are needed for a quarter of an hour; try again",
                ));
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        let found: Vec<&String> = needed.iter().filter(|key| !written.contains(*key)).collect();
        each(&found, 24, |key| match self.place.head(key) {
            Err(error) if error.kind == ErrorKind::NotFound => {
                Err(Error::unavailable(format!("{error}: gc removed it meanwhile; push again")))
            }
            found => found.map(drop),
        })
    }

    fn write_manifest(&self, which: &Which, manifest: &Manifest) -> Result<Entry> {
        let key = catalog::manifest_key(which);
        let mut tries = 0;
        loop {
            let there = bucket::manifests(self.place, std::slice::from_ref(which))?.remove(which);
            let merged = match (self.merged(which, manifest, there.as_ref())?, there.clone()) {
                (None, Some(entry)) => return Ok(entry),
                (merged, _) => merged.unwrap_or_else(|| manifest.clone()),
            };
            let text = serde_json::to_vec(&merged).map_err(|error| Error::internal(error.to_string()))?;
            let when = there.map_or(When::Absent, |entry| When::Same(Tag { etag: entry.etag, version: None }));
            match self.place.put(&key, text.clone().into(), &when) {
                // Somebody else pushes it too.
                Err(error) if publish::lost(&error) && tries < TRIES_MAX => tries += 1,
                written => return Entry::new(written?.etag, &text),
            }
        }
    }
}

/// What two packs of one file have in common, however and wherever their programs and weights were laid out.
fn bare(manifest: &Manifest) -> Manifest {
    Manifest {
        format: FORMAT,
        program: ProgramRef::default(),
        weights: Weights::default(),
        others: Vec::new(),
        per_cpu: false,
        padding: None,
        ..manifest.clone()
    }
}
