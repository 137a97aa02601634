//! Compacting: models whose weights lie in segments that are partly dead, in very many segments, or in segments of format 1
//! are placed again, as if they were packed from the store itself. Other manifests of an older format are written anew.
//!
//! New files first, then the manifest in place of the old one, then nothing: gc takes the old files when their time has
//! come. It may end at any point, and doing it again goes on from there.

use std::collections::{HashMap, HashSet};

use engine::Result;

use super::readable;
use crate::manifest::{FORMAT, Weights};
use crate::place::{Origin, Rules, place};
use crate::segment::contents;
use crate::table::size_bytes;
use crate::{Manifest, Store};

/// A segment of which this much is dead is written anew.
const DEAD_PERCENT_MAX: u64 = 25;
/// A model that lies in more files than this is gathered.
const SCATTERED_SEGMENTS_MIN: usize = 5;

/// What compacting did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// Versions of models that lie elsewhere now.
    pub models: usize,
    /// Versions that were removed or changed meanwhile and were left alone.
    pub changed_meanwhile: usize,
    /// The bytes that were written.
    pub stored_bytes: u64,
    /// The bytes of the segments that no model needs any more, which gc frees.
    pub freed_bytes: u64,
}

/// Compacts `store`. With `copy`, weights that lie in files outside the store are copied into it. `progress` is told how
/// many models are done and of how many.
///
/// # Errors
/// As the file system's; [`Corrupt`](engine::ErrorKind::Corrupt) when a manifest or what it needs cannot be read.
pub fn compact(store: &Store, copy: bool, progress: &dyn Fn(usize, usize)) -> Result<Compacted> {
    store.make_folders()?;
    let manifests = readable(store)?;
    let (victims, freed_bytes) = victims(store, &manifests)?;
    let is_ill = |weights: &Weights| {
        let segments = &weights.segments;
        segments.len() >= SCATTERED_SEGMENTS_MIN
            || segments.iter().any(|segment| victims.contains(&segment.hash) || (copy && segment.external.is_some()))
    };
    let moves = |manifest: &&Manifest| manifest.forms().any(|(_, weights)| is_ill(weights));
    let moving: Vec<&Manifest> = manifests.iter().filter(moves).collect();
    let mut done = Compacted { freed_bytes, ..Compacted::default() };
    for (at, manifest) in moving.iter().enumerate() {
        progress(at, moving.len());
        match unless_gone(store, manifest, again(store, manifest, copy, &victims))? {
            Some(Some(stored_bytes)) => {
                done.models += 1;
                done.stored_bytes += stored_bytes;
            }
            Some(None) | None => done.changed_meanwhile += 1,
        }
    }
    progress(moving.len(), moving.len());
    for manifest in manifests.iter().filter(|manifest| manifest.format < FORMAT && !moves(manifest)) {
        store.supersede(manifest, &Manifest { format: FORMAT, ..manifest.clone() })?;
    }
    Ok(done)
}

/// Places the weights of `manifest` anew; gives the bytes that were written, or `None` when it is no longer current.
fn again(store: &Store, manifest: &Manifest, copy: bool, victims: &HashSet<String>) -> Result<Option<u64>> {
    let rules = Rules { segments_max: SCATTERED_SEGMENTS_MIN - 1, avoid: victims };
    let mut stored_bytes = 0;
    let new = manifest.with_weights(|weights| {
        let tensors = store.tensors(weights)?;
        let origins = if copy { Vec::new() } else { origins(store, weights)? };
        let placed = place(store, &tensors, &origins, &rules)?;
        stored_bytes += placed.stored_bytes;
        Ok(placed.weights)
    })?;
    Ok(store.supersede(manifest, &new)?.then_some(stored_bytes))
}

/// `outcome`, or `None` for an error about a model that was removed or changed meanwhile; another names the model.
fn unless_gone<T>(store: &Store, manifest: &Manifest, outcome: Result<T>) -> Result<Option<T>> {
    let is_current = || store.manifest(&manifest.name, manifest.version).is_ok_and(|current| current == *manifest);
    match outcome {
        Err(error) if is_current() => {
            Err(error.context(format!("model '{}' version {}", manifest.name, manifest.version)))
        }
        outcome => Ok(outcome.ok()),
    }
}

/// The segments that are not worth keeping, and their bytes.
fn victims(store: &Store, manifests: &[Manifest]) -> Result<(HashSet<String>, u64)> {
    let mut used: HashMap<&str, HashSet<(u64, u64)>> = HashMap::new();
    let mut files = HashMap::new();
    let forms = manifests.iter().flat_map(|manifest| manifest.forms().map(move |(_, weights)| (manifest, weights)));
    for (manifest, weights) in forms {
        let segments = &weights.segments;
        for weight in unless_gone(store, manifest, store.table(weights))?.unwrap_or_default() {
            if let Some(segment) = segments.get(weight.segment as usize).filter(|segment| segment.external.is_none()) {
                let place = (weight.offset_bytes, size_bytes(weight.dtype, &weight.shape)?);
                used.entry(&segment.hash).or_default().insert(place);
                files.insert(&segment.hash, (segment, manifest));
            }
        }
    }
    let (mut victims, mut freed_bytes) = (HashSet::new(), 0);
    for (hash, (segment, manifest)) in files {
        let Some(bytes) = unless_gone(store, manifest, store.segment(segment))? else { continue };
        let is_victim = contents(&bytes, hash)?.is_none_or(|pieces| {
            let all: u64 = pieces.iter().map(|piece| piece.len_bytes).sum();
            let live: u64 = used[hash.as_str()].iter().map(|place| place.1).sum();
            all.saturating_sub(live).saturating_mul(100) >= all.saturating_mul(DEAD_PERCENT_MAX).max(1)
        });
        if is_victim {
            victims.insert(hash.clone());
            freed_bytes += bytes.len() as u64;
        }
    }
    Ok((victims, freed_bytes))
}

/// For each of `weights` where it lies outside the store, if it does.
fn origins(store: &Store, weights: &Weights) -> Result<Vec<Option<Origin>>> {
    let outside = |weight: &crate::table::WeightRef| {
        let external = weights.segments.get(weight.segment as usize)?.external.as_ref()?;
        Some(Origin { path: external.path.clone(), offset_bytes: weight.offset_bytes })
    };
    Ok(store.table(weights)?.iter().map(outside).collect())
}
