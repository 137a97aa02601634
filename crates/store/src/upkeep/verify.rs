//! Checking every byte that a model needs against the hash that names it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use engine::map::Map;
use engine::{Error, ErrorKind, Result};

use crate::content::{Content, program_hash};
use crate::manifest::{ProgramRef, SegmentRef, Weights};
use crate::segment::{Piece, contents, is_sound};
use crate::table::size_bytes;
use crate::{Manifest, Store};

/// What is wrong with one version of one model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The model.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// The file and what is wrong with it.
    pub reason: String,
    /// What makes it whole again.
    pub fix: String,
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many versions of models were checked.
    pub models: usize,
    /// How many files they are made of.
    pub files: usize,
    /// The bytes of those.
    pub bytes: u64,
    /// One entry for each version that is not whole.
    pub damage: Vec<Damage>,
}

/// Something that is hashed once, however many models need it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Item {
    Program { hash: String, target: String },
    Segment(String),
    File(String),
    External { path: PathBuf, hash: String },
}

/// Hashes every file that a model of `store` needs, on `threads` threads; `progress` is told the bytes done and of all.
/// Models may be removed and moved meanwhile, and what they left collected.
///
/// # Errors
/// When the store cannot be listed. Damage is what is found, not an error.
pub fn verify(store: &Store, threads: usize, progress: &(dyn Fn(u64, u64) + Sync)) -> Result<Verified> {
    let (mut manifests, mut damage) = (Vec::new(), Vec::new());
    for listed in store.list()? {
        match listed.manifest {
            Ok(manifest) => manifests.push(manifest),
            Err(error) => damage.push(damaged(&listed.name, listed.version, error.message)),
        }
    }
    let mut models = manifests.len() + damage.len();
    let items: Vec<Item> = manifests.iter().flat_map(items_of).collect::<HashSet<_>>().into_iter().collect();
    let sizes: Vec<u64> = items
        .iter()
        .map(|item| item.path(store).ok().and_then(|path| path.metadata().ok()).map_or(0, |metadata| metadata.len()))
        .collect();
    let (bytes, done, next) = (sizes.iter().sum(), AtomicU64::new(0), AtomicUsize::new(0));
    let broken: Mutex<HashMap<&Item, String>> = Mutex::default();
    progress(0, bytes);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((item, size)) = {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    items.get(at).zip(sizes.get(at))
                } {
                    if let Err(error) = item.check(store) {
                        broken.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(item, error.message);
                    }
                    progress(done.fetch_add(*size, Ordering::Relaxed) + size, bytes);
                }
            });
        }
    });
    let broken = broken.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut known = BTreeMap::new();
    for manifest in &manifests {
        let reasons: Vec<&str> =
            items_of(manifest).iter().filter_map(|item| Some(broken.get(item)?.as_str())).collect();
        let reason = match reasons.first() {
            Some(_) => Some(reasons.join("; ")),
            None => {
                let mut each = manifest.forms().map(|(_, weights)| table_is_true(store, weights, &mut known));
                each.find_map(Result::err).map(|error| error.message)
            }
        };
        match reason.map(|reason| still(store, manifest, reason)) {
            None | Some(Still::Whole) => {}
            Some(Still::Damaged(reason)) => damage.push(damaged(&manifest.name, manifest.version, reason)),
            Some(Still::Gone) => models -= 1,
        }
    }
    damage.sort_by(|a, b| (&a.name, a.version).cmp(&(&b.name, b.version)));
    Ok(Verified { models, files: items.len(), bytes, damage })
}

/// What there is to say in the end of a version in which something was found wrong.
enum Still {
    /// For this reason.
    Damaged(String),
    /// It was moved, and is whole where it lies now.
    Whole,
    /// It was removed.
    Gone,
}

/// Looks once more at a version of which `reason` was wrong as its manifest was `checked`.
fn still(store: &Store, checked: &Manifest, mut reason: String) -> Still {
    let mut checked = checked.clone();
    loop {
        match store.manifest(&checked.name, checked.version) {
            Err(error) if error.kind == ErrorKind::NotFound => return Still::Gone,
            Err(error) => return Still::Damaged(error.message),
            Ok(now) if now == checked => return Still::Damaged(reason),
            Ok(now) => match wrong_with(store, &now) {
                None => return Still::Whole,
                Some(error) => (checked, reason) = (now, error.message),
            },
        }
    }
}

/// The first thing that is wrong with what `manifest` needs.
fn wrong_with(store: &Store, manifest: &Manifest) -> Option<Error> {
    let items = items_of(manifest).into_iter().find_map(|item| item.check(store).err());
    let tables = || manifest.forms().find_map(|(_, weights)| table_is_true(store, weights, &mut BTreeMap::new()).err());
    items.or_else(tables)
}

fn damaged(name: &str, version: u64, reason: String) -> Damage {
    let fix = format!("'packhorse remove {name} {version}', then pack it again with --version {version}");
    Damage { name: name.to_owned(), version, reason, fix }
}

fn items_of(manifest: &Manifest) -> Vec<Item> {
    let program = |program: &ProgramRef| Item::Program { hash: program.hash.clone(), target: program.target.clone() };
    let segment = |segment: &SegmentRef| match &segment.external {
        None => Item::Segment(segment.hash.clone()),
        Some(external) => Item::External { path: external.path.clone(), hash: segment.hash.clone() },
    };
    let files = manifest.files.values().map(|hash| Item::File(hash.clone()));
    let form = |(of, weights): (&ProgramRef, &Weights)| -> Vec<Item> {
        std::iter::once(program(of)).chain(weights.segments.iter().map(&segment)).collect()
    };
    manifest.forms().flat_map(form).chain(files).collect()
}

impl Item {
    fn path(&self, store: &Store) -> Result<PathBuf> {
        match self {
            Self::Program { hash, .. } => store.content(Content::Program, hash),
            Self::Segment(hash) => store.content(Content::Segment, hash),
            Self::File(hash) => store.content(Content::File, hash),
            Self::External { path, .. } => Ok(path.clone()),
        }
    }

    fn check(&self, store: &Store) -> Result<()> {
        let path = self.path(store)?;
        let map = Map::open(&path)?;
        let bytes = map.bytes();
        let is_whole = match self {
            Self::Program { hash, target } => program_hash(&bytes, target) == *hash,
            Self::Segment(hash) => is_sound(&bytes, hash),
            Self::File(hash) | Self::External { hash, .. } => blake3::hash(&bytes).to_hex().as_str() == hash,
        };
        let reason = match self {
            Self::External { .. } => "is not the file the model was packed from",
            _ => "its bytes are not those of its hash",
        };
        is_whole.then_some(()).ok_or_else(|| Error::corrupt(format!("{}: {reason}", path.display())))
    }
}

/// That each of `weights` is one whole tensor of its segment; `known` remembers the segments' contents.
fn table_is_true(
    store: &Store,
    weights: &Weights,
    known: &mut BTreeMap<String, Option<HashSet<(u64, u64)>>>,
) -> Result<()> {
    // That the table is what its name says and that every weight lies inside, loading it checks.
    store.tensors(weights)?;
    for segment in weights.segments.iter().filter(|segment| segment.external.is_none()) {
        if !known.contains_key(&segment.hash) {
            let pieces = contents(&store.segment(segment)?, &segment.hash)?;
            let places =
                |pieces: Vec<Piece>| pieces.iter().map(|piece| (piece.offset_bytes, piece.len_bytes)).collect();
            known.insert(segment.hash.clone(), pieces.map(places));
        }
    }
    for weight in store.table(weights)? {
        let Some(segment) = weights.segments.get(weight.segment as usize) else { continue };
        let place = (weight.offset_bytes, size_bytes(weight.dtype, &weight.shape)?);
        // A segment of format 1 does not say what is in it, nor does a file that is not ours.
        if let Some(Some(places)) = known.get(&segment.hash)
            && !places.contains(&place)
        {
            return Err(Error::corrupt(format!(
                "its table of weights puts {} bytes at byte {} of segment {}, where no tensor of that size is",
                place.1, place.0, segment.hash
            )));
        }
    }
    Ok(())
}
