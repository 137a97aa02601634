//! Where a model's weights go: what the store has is referenced, what a file outside may keep stays there, and the rest
//! becomes one segment.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::map::Stamp;
use engine::{Error, Result, Tensor};

use crate::Store;
use crate::content::Content;
use crate::index::{self, INDEXED_BYTES_MIN};
use crate::manifest::{External, SegmentRef, Weights};
use crate::segment::{Layout, Piece, contents, slice};
use crate::table::WeightRef;

/// Where a weight lies in a file outside the store, which is to be mapped in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The file.
    pub(crate) path: PathBuf,
    /// From its start.
    pub(crate) offset_bytes: u64,
}

/// What a placement may do.
pub(crate) struct Rules<'a> {
    /// The most files a model's weights may lie in. What would exceed it is copied into the model's own segment.
    pub(crate) segments_max: usize,
    /// Segments that are not to be referenced, by name.
    pub(crate) avoid: &'a HashSet<String>,
}

/// What became of a model's weights.
pub(crate) struct Placed {
    /// For the manifest.
    pub(crate) weights: Weights,
    /// The bytes that were not in the store and are now, unless the very same segment was there.
    pub(crate) stored_bytes: u64,
}

/// The most files that a newly packed model's weights lie in.
pub(crate) const SEGMENTS_MAX: usize = 16;
/// A segment that holds less of a model is not worth a map of its own, so that much is copied instead.
const SHARED_BYTES_MIN: u64 = 64 << 10;

/// Places `tensors`, of which those with an origin stay where they are if their numbers are aligned there. Nothing of the
/// store is believed to hold a tensor before its bytes were compared.
///
/// # Errors
/// As the file system's; [`Corrupt`](engine::ErrorKind::Corrupt) for an origin that holds something else.
pub(crate) fn place(
    store: &Store,
    tensors: &[Tensor],
    origins: &[Option<Origin>],
    rules: &Rules<'_>,
) -> Result<Placed> {
    let mut placement = Placement { store, tensors, files: Vec::new(), places: vec![None; tensors.len()] };
    placement.leave_outside(origins, rules.segments_max)?;
    let hashes: Vec<_> = tensors
        .iter()
        .zip(&placement.places)
        .map(|(tensor, place)| place.is_none().then(|| blake3::hash(tensor.data())))
        .collect();
    placement.find_inside(&hashes, rules)?;
    let stored_bytes = placement.store_rest(&hashes)?;
    Ok(Placed { weights: placement.finish()?, stored_bytes })
}

struct Placement<'a> {
    store: &'a Store,
    tensors: &'a [Tensor],
    /// Every file that holds a weight.
    files: Vec<SegmentRef>,
    /// For each tensor the position in `files` and the offset there.
    places: Vec<Option<(usize, u64)>>,
}

impl Placement<'_> {
    fn leave_outside(&mut self, origins: &[Option<Origin>], files_max: usize) -> Result<()> {
        let mut known: BTreeMap<&Path, (usize, Bytes)> = BTreeMap::new();
        for (at, (tensor, origin)) in self.tensors.iter().zip(origins).enumerate() {
            let Some(origin) = origin else { continue };
            let size = tensor.dtype().size_bytes().unwrap_or(1) as u64;
            let room = known.contains_key(&*origin.path) || known.len() + 1 < files_max;
            if !origin.offset_bytes.is_multiple_of(size) || !room {
                continue;
            }
            if !known.contains_key(&*origin.path) {
                let (reference, bytes) = external(self.store, &origin.path)?;
                self.files.push(reference);
                known.insert(&origin.path, (self.files.len() - 1, bytes));
            }
            let (file, bytes) = &known[&*origin.path];
            if slice(bytes, origin.offset_bytes, tensor.data().len() as u64) != Some(tensor.data()) {
                return Err(Error::corrupt(format!(
                    "{}: byte {} is not where this weight lies; was the file written meanwhile?",
                    origin.path.display(),
                    origin.offset_bytes
                )));
            }
            self.places[at] = Some((*file, origin.offset_bytes));
        }
        Ok(())
    }

    /// Takes the segment that holds most of what is left, again and again.
    fn find_inside(&mut self, hashes: &[Option<blake3::Hash>], rules: &Rules<'_>) -> Result<()> {
        let wanted: Vec<(usize, blake3::Hash)> = hashes
            .iter()
            .enumerate()
            .filter(|(at, _)| self.tensors[*at].data().len() as u64 >= INDEXED_BYTES_MIN)
            .filter_map(|(at, hash)| Some((at, (*hash)?)))
            .collect();
        let only: Vec<_> = wanted.iter().map(|(_, hash)| *hash).collect();
        let mut holders: Vec<(String, Vec<usize>)> = index::find(self.store, &only)?
            .into_iter()
            .map(|(name, which)| {
                let name = blake3::Hash::from_bytes(name).to_hex().to_string();
                (name, which.into_iter().map(|at| wanted[at].0).collect())
            })
            .filter(|(name, _)| !rules.avoid.contains(name))
            .collect();
        // One file is kept back for what is nowhere yet.
        while self.files.len() + 1 < rules.segments_max {
            let gain = |which: &[usize]| -> u64 {
                let missing = which.iter().filter(|&&at| self.places[at].is_none());
                missing.map(|&at| self.tensors[at].data().len() as u64).sum()
            };
            // Of equals the first by name, so that the same store gives the same manifest.
            let best =
                holders.iter().enumerate().max_by_key(|(_, (name, which))| (gain(which), std::cmp::Reverse(name)));
            let Some((best, _)) = best.filter(|(_, (_, which))| gain(which) >= SHARED_BYTES_MIN) else { break };
            let (name, _) = holders.swap_remove(best);
            self.take_from(&name, hashes);
        }
        Ok(())
    }

    /// References whatever the segment called `name` has of what is missing, small tensors as well; nothing of one that is
    /// damaged anywhere, so that a model which is packed again is whole whatever became of the old files.
    fn take_from(&mut self, name: &str, hashes: &[Option<blake3::Hash>]) {
        let read = || -> Result<(u64, HashMap<blake3::Hash, Piece>)> {
            let bytes = self.store.map(&self.store.content(Content::Segment, name)?)?;
            let pieces = contents(&bytes, name)?.unwrap_or_default();
            let given: HashMap<_, _> =
                self.tensors.iter().zip(hashes).filter_map(|(tensor, hash)| Some(((*hash)?, tensor.data()))).collect();
            let is_sound = |piece: &Piece| {
                let found = slice(&bytes, piece.offset_bytes, piece.len_bytes);
                match given.get(&piece.hash) {
                    Some(wanted) => found == Some(wanted),
                    None => found.is_some_and(|found| blake3::hash(found) == piece.hash),
                }
            };
            if !pieces.iter().all(is_sound) {
                return Err(Error::corrupt("its bytes are not those of its hash"));
            }
            Ok((bytes.len() as u64, pieces.into_iter().map(|piece| (piece.hash, piece)).collect()))
        };
        let (bytes, pieces) = match read() {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(segment = name, %error, "not shared; 'packhorse verify' tells which models it harms");
                return;
            }
        };
        let file = self.files.len();
        let mut used = false;
        for (at, place) in self.places.iter_mut().enumerate().filter(|(_, place)| place.is_none()) {
            let size = self.tensors[at].dtype().size_bytes().unwrap_or(1) as u64;
            let piece = hashes[at].and_then(|hash| pieces.get(&hash));
            if let Some(piece) = piece.filter(|piece| piece.offset_bytes.is_multiple_of(size)) {
                *place = Some((file, piece.offset_bytes));
                used = true;
            }
        }
        if used {
            self.files.push(SegmentRef { hash: name.to_owned(), bytes, used_bytes: 0, external: None });
        }
    }

    /// Writes what is left into a segment of its own; gives its bytes.
    fn store_rest(&mut self, hashes: &[Option<blake3::Hash>]) -> Result<u64> {
        let mut layout = Layout::default();
        let file = self.files.len();
        for (at, (tensor, hash)) in self.tensors.iter().zip(hashes).enumerate() {
            if let (None, Some(hash)) = (self.places[at], hash) {
                self.places[at] = Some((file, layout.add(*hash, tensor.data())?));
            }
        }
        if layout.is_empty() {
            return Ok(0);
        }
        let hash = self.store.put_segment(&layout)?;
        self.files.push(SegmentRef { hash, bytes: layout.file_bytes(), used_bytes: 0, external: None });
        Ok(layout.stored_bytes())
    }

    fn finish(mut self) -> Result<Weights> {
        if self.tensors.is_empty() {
            return Ok(Weights::default());
        }
        let mut table = Vec::with_capacity(self.tensors.len());
        let mut counted = HashSet::new();
        for (tensor, place) in self.tensors.iter().zip(&self.places) {
            let (file, offset_bytes) = place.ok_or_else(|| Error::internal("a weight was left without a place"))?;
            let segment = u32::try_from(file).map_err(|_| Error::internal("too many segments"))?;
            if counted.insert((file, offset_bytes)) {
                self.files[file].used_bytes += tensor.data().len() as u64;
            }
            table.push(WeightRef { segment, offset_bytes, dtype: tensor.dtype(), shape: tensor.shape().to_vec() });
        }
        Ok(Weights {
            table: self.store.put_table(&table)?,
            count: table.len(),
            bytes: self.tensors.iter().map(|tensor| tensor.data().len() as u64).sum(),
            segments: self.files,
            inline: None,
        })
    }
}

/// The file at `path` as a manifest refers to it, and its bytes.
fn external(store: &Store, path: &Path) -> Result<(SegmentRef, Bytes)> {
    let unreadable = |source: std::io::Error| crate::atomic::io_error(path, "cannot be read", &source);
    let path = std::fs::canonicalize(path).map_err(unreadable)?;
    let metadata = std::fs::metadata(&path).map_err(unreadable)?;
    let Stamp { modified_ns, changed_ns, inode, .. } = Stamp::of(&metadata);
    let external = External { path, modified_ns, changed_ns, inode };
    let mut reference =
        SegmentRef { hash: String::new(), bytes: metadata.len(), used_bytes: 0, external: Some(external) };
    let bytes = store.segment(&reference)?;
    reference.hash = blake3::hash(&bytes).to_hex().to_string();
    Ok((reference, bytes))
}
