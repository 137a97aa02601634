//! What is read of a store in a bucket to know its models.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use engine::{Error, ErrorKind, Result};
use objects::{Place, Tag};

use super::catalog::{self, Entries, Entry, MANIFEST_BYTES_MAX, ROOT, ROOT_BYTES_MAX, Root, SHARD_BYTES_MAX, Which};

/// Small objects that are asked for at once.
const PARALLEL: usize = 24;

/// Runs `task` for each of `items`, many at once; the first error ends it.
pub(super) fn each<T: Sync>(items: &[T], parallel: usize, task: impl Fn(&T) -> Result<()> + Sync) -> Result<()> {
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..parallel.min(items.len()) {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = task(item) {
                        next.store(items.len(), Ordering::Relaxed);
                        *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    }
                }
            });
        }
    });
    failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

/// The root, unless it is the one with the tag `known`; `Ok(None)` when there is none.
///
/// # Errors
/// As the place's, and [`Corrupt`](ErrorKind::Corrupt) for one that is none.
pub(super) fn root(place: &Place, known: &Tag) -> Result<Option<Answer>> {
    match place.get_unless(ROOT, ROOT_BYTES_MAX, known) {
        Ok(None) => Ok(Some(Answer::Same)),
        Ok(Some((object, text))) => {
            let root = Root::parse(&text).map_err(|error| error.context(place.url(ROOT)))?;
            Ok(Some(Answer::New(root, object.tag)))
        }
        Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is said of the root.
pub(super) enum Answer {
    /// It is the one that was known.
    Same,
    New(Root, Tag),
}

/// The manifests in the shards `which` of `root`.
///
/// # Errors
/// As the place's; [`Unavailable`](ErrorKind::Unavailable) when a shard went meanwhile, as it does with a root that was
/// replaced long ago.
pub(super) fn shards(place: &Place, root: &Root, which: &[usize]) -> Result<Entries> {
    let hashes: Vec<&String> = which.iter().map(|&at| &root.shards[at]).filter(|hash| !hash.is_empty()).collect();
    let entries = Mutex::new(Entries::new());
    each(&hashes, PARALLEL, |hash| {
        let key = catalog::shard_key(hash);
        let got = place.get(&key, SHARD_BYTES_MAX).map_err(|error| match error.kind {
            ErrorKind::NotFound => {
                Error::unavailable(format!("{error}: the catalogue was replaced meanwhile; try again"))
            }
            _ => error,
        });
        let bytes = got?.1;
        if blake3::hash(&bytes).to_hex().as_str() != **hash {
            let fix = "'packhorse gc' with this store makes it anew";
            return Err(Error::corrupt(format!("{}: its bytes are not those of its hash; {fix}", place.url(&key))));
        }
        let mut read = Entries::new();
        catalog::decode(&bytes, &mut read).map_err(|error| error.context(place.url(&key)))?;
        entries.lock().unwrap_or_else(PoisonError::into_inner).append(&mut read);
        Ok(())
    })?;
    Ok(entries.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The manifests of `which` that are there, read one by one.
///
/// # Errors
/// As the place's. One that is no JSON is left out, and logged.
pub(super) fn manifests(place: &Place, which: &[Which]) -> Result<Entries> {
    let entries = Mutex::new(Entries::new());
    each(which, PARALLEL, |which| {
        let key = catalog::manifest_key(which);
        match place.get(&key, MANIFEST_BYTES_MAX) {
            Ok((object, text)) => match Entry::new(object.tag.etag, &text) {
                Ok(entry) => drop(entries.lock().unwrap_or_else(PoisonError::into_inner).insert(which.clone(), entry)),
                Err(error) => tracing::warn!(manifest = %place.url(&key), %error, "passed over"),
            },
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(())
    })?;
    Ok(entries.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Every manifest that is there: those of `known` whose tags are still the same, and the others, read. The third is how many
/// of `known` were not what is there.
///
/// # Errors
/// As the place's.
pub(super) fn listed(place: &Place, known: &Entries) -> Result<(Entries, usize)> {
    let (mut there, mut new) = (Entries::new(), Vec::new());
    for page in place.list("models/") {
        for object in page?.objects {
            let Some(which) = catalog::which(&object.key) else { continue };
            match known.get(&which).filter(|entry| entry.etag.is_some() && entry.etag == object.tag.etag) {
                Some(entry) => drop(there.insert(which, entry.clone())),
                None => new.push(which),
            }
        }
    }
    let gone = known.keys().filter(|which| !there.contains_key(*which)).count();
    let found = new.iter().filter(|which| !known.contains_key(*which)).count();
    there.append(&mut manifests(place, &new)?);
    Ok((there, gone + found))
}

/// Writes to an upload, and keeps what was wrong.
pub(super) struct Sending<'a> {
    pub(super) send: &'a mut dyn FnMut(&[u8]) -> Result<()>,
    pub(super) failed: Option<Error>,
}

impl std::io::Write for Sending<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match (self.send)(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                let told = std::io::Error::other(error.message.clone());
                self.failed = Some(error);
                Err(told)
            }
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
