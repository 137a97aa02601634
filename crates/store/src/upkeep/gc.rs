//! Collecting what no manifest names.
//!
//! First, without the lock: which files nothing refers to, of those that nobody used within the grace period. Then, with
//! the lock: each is looked at once more, and goes if still nobody used it. A packer marks what it relies on as used and
//! writes its manifest under the same lock, so either gc sees the mark, or the packer sees that the file is gone and
//! stores it again.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use engine::Result;
use rustix::fs::{FlockOperation, flock};

use super::readable;
use crate::Store;
use crate::atomic::{PART, io_error};
use crate::content::Content;
use crate::folder::read_dir;
use crate::lock::Hold;

/// A file that nothing needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Garbage {
    /// Relative to the store.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
}

/// What a collection found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// The files that went, or would go.
    pub files: Vec<Garbage>,
    /// How many files nothing needs that were used within the grace period.
    pub young: usize,
}

/// Files looked at under one hold of the lock, so that packers wait for moments only.
const HELD_FILES_MAX: usize = 256;

/// Removes from `store` what no manifest names and nobody used for `grace`; only tells what that is when `dry_run`.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) or [`Unsupported`](engine::ErrorKind::Unsupported) when a manifest cannot be
/// read: then nothing is removed.
pub fn collect(store: &Store, grace: Duration, dry_run: bool) -> Result<Collected> {
    // Who only looks writes nothing, not even to hear what time it is for the disk.
    let now = if dry_run { SystemTime::now() } else { now(store)? };
    let mut needed = HashSet::new();
    for manifest in readable(store)? {
        needed.extend(manifest.content()?);
    }
    let collected = unneeded(store, &needed, (now, grace), dry_run)?;
    if !dry_run {
        let _held = store.lock(Hold::Alone)?;
        for name in store.names()? {
            // Only an empty one goes.
            let _ = std::fs::remove_dir(store.root().join("models").join(name));
        }
    }
    Ok(collected)
}

/// As [`collect`], of a store whose manifests are elsewhere: they name `needed`, and were read after `now`, which
/// [`now`] told.
pub(crate) fn unneeded(
    store: &Store,
    needed: &HashSet<PathBuf>,
    (now, grace): (SystemTime, Duration),
    dry_run: bool,
) -> Result<Collected> {
    let too_young = |modified: SystemTime| now.checked_sub(grace).is_none_or(|cutoff| modified >= cutoff);
    let mut found = Collected::default();
    for path in candidates(store)?.into_iter().filter(|path| !needed.contains(path)) {
        let Some((bytes, modified)) = look(&store.root().join(&path))? else { continue };
        if too_young(modified) {
            found.young += 1;
        } else {
            found.files.push(Garbage { path, bytes });
        }
    }
    if dry_run {
        return Ok(found);
    }
    let mut gone = Vec::with_capacity(found.files.len());
    for files in found.files.chunks(HELD_FILES_MAX) {
        let _held = store.lock(Hold::Alone)?;
        for file in files {
            let path = store.root().join(&file.path);
            if look(&path)?.is_some_and(|(_, modified)| !too_young(modified)) && is_left(&path) {
                match std::fs::remove_file(&path) {
                    Ok(()) => gone.push(file.clone()),
                    // A part has got its name, or its packer has taken it away itself.
                    Err(source) if source.kind() == std::io::ErrorKind::NotFound => {}
                    Err(source) => return Err(io_error(&path, "cannot be removed", &source)),
                }
            } else {
                found.young += 1;
            }
        }
    }
    Ok(Collected { files: gone, young: found.young })
}

/// The time by the clock that files are stamped with, which may be another machine's; taken while no packer is between
/// its marks and its manifest, so that whoever marked earlier has a manifest that is seen.
pub(crate) fn now(store: &Store) -> Result<SystemTime> {
    let _held = store.lock(Hold::Alone)?;
    let stamp = tempfile::Builder::new().prefix(PART).tempfile_in(store.root());
    let time = stamp.and_then(|stamp| stamp.as_file().metadata()?.modified());
    time.map_err(|source| io_error(store.root(), "cannot be written", &source))
}

/// Every file that gc may remove when nothing needs it, relative to the store. Files that are none of ours stay.
fn candidates(store: &Store) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut look_into = |folder: PathBuf, is_ours: &dyn Fn(&str) -> bool| -> Result<()> {
        let full = store.root().join(&folder);
        let files = match read_dir(&full) {
            // A store of an earlier build has not all of the folders, and models are removed meanwhile.
            Err(_) if !full.is_dir() => return Ok(()),
            files => files?,
        };
        found.extend(files.iter().filter(|file| file.starts_with(PART) || is_ours(file)).map(|file| folder.join(file)));
        Ok(())
    };
    for content in Content::ALL {
        look_into(content.folder().into(), &|file| content.hash_of(file).is_some())?;
    }
    look_into(PathBuf::new(), &|_| false)?;
    for name in store.names()? {
        look_into(Path::new("models").join(name), &|_| false)?;
    }
    Ok(found)
}

/// Size and time of the file at `path`, if it is still there.
fn look(path: &Path) -> Result<Option<(u64, SystemTime)>> {
    match path.symlink_metadata().and_then(|metadata| Ok((metadata.len(), metadata.modified()?))) {
        Ok(seen) => Ok(Some(seen)),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(io_error(path, "cannot be looked at", &source)),
    }
}

/// Whether the file at `path` is a whole one, or a part whose packer is dead: a living one holds a lock on it.
fn is_left(path: &Path) -> bool {
    let is_part = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(PART));
    let locked = || {
        let file = std::fs::File::open(path).ok()?;
        Some(flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK))
    };
    !is_part || locked() == Some(false)
}
