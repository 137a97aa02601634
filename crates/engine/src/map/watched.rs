//! Maps of files that are somebody else's, who may write them in place: what is read of such a map is then no longer what
//! was mapped. The system says when a file was written last, and says so before the first new byte can be read; whoever
//! has read looks at that afterwards, which is one call to the system a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::Stamp;

/// By the address of their first byte. Added to by whoever maps a file, looked up by whoever binds weights.
static WATCHED: Mutex<BTreeMap<usize, Weak<Watch>>> = Mutex::new(BTreeMap::new());

/// A file that is mapped, as it was then.
pub(crate) struct Watch {
    path: PathBuf,
    stamp: Stamp,
    start: usize,
}

impl Watch {
    /// The file at `path`, which was `stamp` when it was mapped at `map`.
    pub(super) fn begin(path: &Path, stamp: Stamp, map: &[u8]) -> Arc<Self> {
        let watch = Arc::new(Self { path: path.to_owned(), stamp, start: map.as_ptr().addr() });
        WATCHED.lock().unwrap_or_else(PoisonError::into_inner).insert(watch.start, Arc::downgrade(&watch));
        watch
    }

    /// The file, as it was called when it was mapped.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file may have been written since it was mapped. One that has another in its place by now, or none, is
    /// what it was: nobody finds it any more to write it.
    pub(crate) fn is_written(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|metadata| {
            let now = Stamp::of(&metadata);
            (now.device, now.inode) == (self.stamp.device, self.stamp.inode) && now != self.stamp
        })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        // By now another map may begin at its address.
        if watched.get(&self.start).is_some_and(|watch| watch.strong_count() == 0) {
            watched.remove(&self.start);
        }
    }
}

/// The watched file that `bytes` are mapped from, if they are. They have to be borrowed from a live map.
pub(crate) fn of(bytes: &[u8]) -> Option<Arc<Watch>> {
    let address = bytes.as_ptr().addr();
    let watched = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
    let (&start, watch) = watched.range(..=address).next_back()?;
    let watch = watch.upgrade()?;
    let len = usize::try_from(watch.stamp.len_bytes).ok()?;
    (address < start + len).then_some(watch)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    use super::super::Map;
    use super::*;

    #[test]
    fn a_file_is_written_when_its_own_bytes_may_be_others() {
        type Change = fn(&Path);
        let changes: [(&str, Change, bool); 6] = [
            ("nothing", |_| {}, false),
            ("read", |path| assert_eq!(fs::read(path).unwrap().len(), 5000), false),
            (
                "as many other bytes, and its time as it was",
                |path| {
                    let before = fs::metadata(path).unwrap().modified().unwrap();
                    fs::write(path, [2; 5000]).unwrap();
                    File::options().write(true).open(path).unwrap().set_modified(before).unwrap();
                },
                true,
            ),
            ("cut", |path| File::options().write(true).open(path).unwrap().set_len(100).unwrap(), true),
            (
                "another in its place",
                |path| {
                    let other = path.with_extension("new");
                    fs::write(&other, [3; 5000]).unwrap();
                    fs::rename(other, path).unwrap();
                },
                false,
            ),
            ("gone", |path| fs::remove_file(path).unwrap(), false),
        ];
        for (what, change, written) in changes {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("file");
            fs::write(&path, [1; 5000]).unwrap();
            // Times are those of the last tick of the kernel's clock.
            let before = fs::metadata(&path).unwrap().modified().unwrap();
            while SystemTime::now().duration_since(before).unwrap_or_default() < Duration::from_millis(20) {}
            let map = Map::open_watched(&path).unwrap();
            let bytes = map.bytes();
            change(&path);
            assert_eq!(of(&bytes[4999..]).unwrap().is_written(), written, "{what}");
            assert_eq!(map.is_written(), written, "{what}");
            assert!(of(&[1; 10]).is_none() && !Map::open(Path::new("/proc/self/exe")).unwrap().is_written());
            drop((map, bytes));
            assert!(
                WATCHED.lock().unwrap().values().all(|watch| watch.upgrade().is_none_or(|watch| watch.path != path))
            );
        }
    }
}
