//! Changing the catalogue: read, changed and put back if nobody else did meanwhile, else all over again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use engine::{Error, ErrorKind, Result};
use objects::{Place, Tag, When};

use super::bucket::{self, Answer};
use super::catalog::{self, Entries, Entry, ROOT, Root, Which};

/// After so long somebody else changes the catalogue all the time.
const PATIENCE: Duration = Duration::from_secs(120);
/// A shard with more models than this has the catalogue split finer.
const SHARD_MODELS_MAX: usize = 4000;

/// Now, in seconds since 1970.
pub(super) fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The root as it is now, and its tag; made from the manifests when there is none.
///
/// # Errors
/// As the place's.
pub(super) fn current(place: &Place) -> Result<(Root, When)> {
    match bucket::root(place, &Tag::default())? {
        Some(Answer::New(root, tag)) => Ok((root, When::Same(tag))),
        Some(Answer::Same) => Err(Error::internal("a root that is the one that nobody knows")),
        None => {
            let (entries, _) = bucket::listed(place, &Entries::new())?;
            let mut root = Root::for_models(entries.len());
            write_shards(place, &mut root, &entries)?;
            Ok((root, When::Absent))
        }
    }
}

/// Has `change` made to the root, however often it takes; gives the root as it was put.
///
/// # Errors
/// As the place's and the change's; [`Unavailable`](ErrorKind::Unavailable) when others change it all the time.
pub(super) fn change(place: &Place, mut change: impl FnMut(&mut Root) -> Result<()>) -> Result<Root> {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(20);
    loop {
        let (mut root, when) = current(place)?;
        let before = root.clone();
        change(&mut root)?;
        if root == before && when != When::Absent {
            return Ok(root);
        }
        match place.put(ROOT, root.encode()?.into(), &when) {
            Ok(_) => return Ok(root),
            Err(error) if !lost(&error) || Instant::now() > deadline => return Err(error),
            Err(error) => tracing::debug!(%error, "the catalogue was changed by somebody else; once more"),
        }
        // Those who met once are not to meet again.
        std::thread::sleep(pause.mul_f64(0.5 + f64::from(now_ns() % 1000) / 1000.0));
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

fn now_ns() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.subsec_nanos())
}

/// Whether somebody else was faster.
pub(super) fn lost(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::FailedPrecondition | ErrorKind::AlreadyExists | ErrorKind::Unavailable)
}

/// Says in the root that it cannot tell of `which`.
///
/// # Errors
/// As [`change`].
pub(super) fn pend(place: &Place, which: &[Which]) -> Result<Root> {
    let since = now_s();
    change(place, |root| {
        root.pending.extend(which.iter().map(|which| (catalog::manifest_key(which), since)));
        Ok(())
    })
}

/// Takes over into the catalogue what became of manifests: those that are there now, and `None` for those that went. They are
/// pending no more.
///
/// # Errors
/// As [`change`].
pub(super) fn settle(place: &Place, outcomes: &BTreeMap<Which, Option<Entry>>) -> Result<()> {
    if outcomes.is_empty() {
        return Ok(());
    }
    let changed = change(place, |root| {
        let mut shards: Vec<usize> = outcomes.keys().map(|(name, _)| root.shard_of(name)).collect();
        shards.sort_unstable();
        shards.dedup();
        let mut entries = bucket::shards(place, root, &shards)?;
        for (which, outcome) in outcomes {
            match outcome {
                Some(entry) => drop(entries.insert(which.clone(), entry.clone())),
                None => drop(entries.remove(which)),
            }
            root.pending.remove(&catalog::manifest_key(which));
        }
        if entries.len() > SHARD_MODELS_MAX * shards.len() {
            let rest: Vec<usize> = (0..root.shards.len()).filter(|shard| !shards.contains(shard)).collect();
            entries.append(&mut bucket::shards(place, root, &rest)?);
            root.shards = Root::for_models(entries.len()).shards;
            return write_shards(place, root, &entries);
        }
        shards.iter().for_each(|&shard| root.shards[shard].clear());
        write_shards(place, root, &entries)
    });
    changed.map(drop)
}

/// Writes the shards that `entries`, all that they hold, make up, and names them in `root`.
pub(super) fn write_shards(place: &Place, root: &mut Root, entries: &Entries) -> Result<()> {
    let mut by_shard: BTreeMap<usize, Vec<(&Which, &Entry)>> = BTreeMap::new();
    for (which, entry) in entries {
        by_shard.entry(root.shard_of(&which.0)).or_default().push((which, entry));
    }
    for (shard, entries) in by_shard {
        let (hash, bytes) = catalog::encode(entries.into_iter())?;
        match place.put(&catalog::shard_key(&hash), bytes.into(), &When::Absent) {
            Err(error) if error.kind != ErrorKind::AlreadyExists => return Err(error),
            // The very same was written before.
            Ok(_) | Err(_) => root.shards[shard] = hash,
        }
    }
    Ok(())
}
