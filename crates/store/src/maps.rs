//! Which files this process has mapped: one map each, however many models lie in it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use engine::map::Map;
use engine::{Error, Result};

/// The maps that somebody still has a view of.
#[derive(Default)]
pub(crate) struct Maps(Mutex<Known>);

#[derive(Default)]
struct Known {
    by_path: HashMap<PathBuf, Weak<Map>>,
    /// Entries are looked through when there are this many, so that dead ones never outnumber the others.
    swept_at: usize,
}

impl Maps {
    /// The file at `path`, mapped once.
    ///
    /// # Errors
    /// As [`Map::open`].
    pub(crate) fn open(&self, path: &Path) -> Result<Bytes> {
        self.open_if(path, |_| Ok(()))
    }

    /// The file at `path`, whose map must pass `check`; one that was mapped earlier and does not is mapped again.
    ///
    /// # Errors
    /// As [`Map::open`], and the check's own.
    pub(crate) fn open_if(&self, path: &Path, check: impl Fn(&Map) -> Result<()>) -> Result<Bytes> {
        Ok(self.map_if(path, check)?.bytes())
    }

    /// As [`open_if`](Self::open_if), of a file that others may write: once it was, it is mapped again.
    ///
    /// # Errors
    /// As [`open_if`](Self::open_if).
    pub(crate) fn open_watched_if(&self, path: &Path, check: impl Fn(&Map) -> Result<()>) -> Result<Bytes> {
        Ok(self.map_as(path, check, Map::open_watched)?.bytes())
    }

    /// As [`open_if`](Self::open_if); the map itself.
    ///
    /// # Errors
    /// As [`open_if`](Self::open_if).
    pub(crate) fn map_if(&self, path: &Path, check: impl Fn(&Map) -> Result<()>) -> Result<Arc<Map>> {
        self.map_as(path, check, Map::open)
    }

    fn map_as(
        &self,
        path: &Path,
        check: impl Fn(&Map) -> Result<()>,
        open: impl Fn(&Path) -> Result<Arc<Map>>,
    ) -> Result<Arc<Map>> {
        // Held while a file is mapped, which takes microseconds, so that nobody maps it twice.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(map) = known.by_path.get(path).and_then(Weak::upgrade)
            && !map.is_torn()
            && !map.is_written()
            && check(&map).is_ok()
        {
            return Ok(map);
        }
        let map = open(path)?;
        check(&map).map_err(|error: Error| error.context(path.display()))?;
        if known.by_path.len() >= known.swept_at {
            known.by_path.retain(|_, map| map.strong_count() > 0);
            known.swept_at = (2 * known.by_path.len()).max(64);
        }
        known.by_path.insert(path.to_owned(), Arc::downgrade(&map));
        Ok(map)
    }

    /// The map of the file at `path`, when there is one.
    pub(crate) fn known(&self, path: &Path) -> Option<Arc<Map>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_path.get(path).and_then(Weak::upgrade)
    }

    /// As [`len`](Self::len), with files that are mapped no more and not yet forgotten.
    pub(crate) fn len_at_most(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).by_path.len()
    }

    /// How many files are mapped.
    pub(crate) fn len(&self) -> usize {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.by_path.values().filter(|map| map.strong_count() > 0).count()
    }
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Maps({})", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_mapped_once_as_long_as_somebody_views_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |index: usize| folder.path().join(index.to_string());
        (0..200).for_each(|index| std::fs::write(path(index), [1, 2, 3]).unwrap());
        let maps = Maps::default();
        let first = maps.open(&path(0)).unwrap();
        let second = maps.open(&path(0)).unwrap().slice(1..);
        assert_eq!((first[1..].as_ptr(), maps.len()), (second.as_ptr(), 1));
        // It goes on when the file is gone, and so does whoever comes after.
        std::fs::remove_file(path(0)).unwrap();
        assert_eq!(maps.open(&path(0)).unwrap(), first);
        drop((first, second));
        assert_eq!(maps.len(), 0);
        assert!(maps.open(&path(0)).is_err());
        let held: Vec<_> = (1..200).map(|index| maps.open(&path(index)).unwrap()).collect();
        assert_eq!(maps.len(), held.len());
        drop(held);
        (1..200).for_each(|index| drop(maps.open(&path(index)).unwrap()));
        assert!(maps.0.lock().unwrap().by_path.len() < 200 && maps.len() == 0);
    }

    #[test]
    fn a_file_that_no_longer_passes_is_mapped_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        let long =
            |bytes: u64| move |map: &Map| if map.len_bytes() == bytes { Ok(()) } else { Err(Error::corrupt("other")) };
        let maps = Maps::default();
        std::fs::write(&path, [1]).unwrap();
        let old = maps.open_if(&path, long(1)).unwrap();
        std::fs::write(folder.path().join("b"), [2, 3]).unwrap();
        std::fs::rename(folder.path().join("b"), &path).unwrap();
        assert_eq!(maps.open_if(&path, long(2)).unwrap()[..], [2, 3]);
        assert_eq!(old[..], [1]);
        assert!(maps.open_if(&path, long(1)).unwrap_err().message.contains("other"));
    }
}
