//! Where results go: whole objects that appear at once or not at all, and the embedded folder.
//!
//! A key is a folder and a name, `TASK/results.jsonl`. An object is written as a part that carries its attempt's name
//! and nobody reads; committing it makes it durable and gives it its key. Sweeping removes the parts of attempts that
//! died, and by that fences them: an attempt whose part is gone cannot commit any more.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use engine::{Error, ErrorKind, Result};

use crate::task::check_segment;

/// Ends the name of every part.
const PART: &str = ".part";

/// Large enough that a frame's line never costs a system call of its own.
const BUFFER_BYTES: usize = 64 * 1024;

/// A place for results.
///
/// An error of kind [`Cancelled`](ErrorKind::Cancelled) means that another attempt has taken over; no other failure
/// has that kind. Every other error is about the place, not about what is put there, and says what to do.
pub trait ObjectStore: Send + Sync {
    /// Begins an object that will be called `key`; `attempt` is one path segment that no other attempt has.
    ///
    /// # Errors
    /// About the place.
    fn create(&self, key: &str, attempt: &str) -> Result<Box<dyn ObjectWriter>>;

    /// Whether the object is there, whole.
    ///
    /// # Errors
    /// About the place.
    fn exists(&self, key: &str) -> Result<bool>;

    /// The object's bytes.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) without it.
    fn read(&self, key: &str) -> Result<Vec<u8>>;

    /// Removes the parts under `folder` that are not of the attempt `keep`; without one, the folder too if it is empty.
    ///
    /// # Errors
    /// About the place.
    fn sweep(&self, folder: &str, keep: Option<&str>) -> Result<()>;
}

/// An object being written; dropped without a commit, it leaves nothing behind.
pub trait ObjectWriter: Send {
    /// Adds bytes at the end.
    ///
    /// # Errors
    /// About the place.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Makes the object durable, then visible under its key, in place of an older one.
    ///
    /// # Errors
    /// [`Cancelled`](ErrorKind::Cancelled) when another attempt swept the part away, or about the place.
    fn commit(self: Box<Self>) -> Result<()>;
}

/// An [`ObjectStore`] in a folder.
#[derive(Clone, Debug)]
pub struct FolderStore {
    root: PathBuf,
}

impl FolderStore {
    /// Opens the folder `root`, and makes it if it does not exist.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when there is something else, or it may not be made.
    pub fn open(root: &Path) -> Result<Self> {
        let root = std::path::absolute(root).map_err(|_| Error::invalid("the output place is empty: give a folder"))?;
        fs::create_dir_all(&root).map_err(|e| explain(&root, &e))?;
        // So that a folder made just now is still there after a power cut. One that may not be read was there before.
        for above in root.ancestors().skip(1) {
            drop(File::open(above).and_then(|folder| folder.sync_all()));
        }
        Ok(Self { root })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file of the object `key`, whether it is there or not.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the key is not `FOLDER/NAME` of two plain path segments.
    pub fn path(&self, key: &str) -> Result<PathBuf> {
        let (folder, name) = split(key)?;
        Ok(self.root.join(folder).join(name))
    }

    fn fault(&self, error: &io::Error) -> Error {
        explain(&self.root, error)
    }
}

impl ObjectStore for FolderStore {
    fn create(&self, key: &str, attempt: &str) -> Result<Box<dyn ObjectWriter>> {
        let (folder, name) = split(key)?;
        check_segment("attempt", attempt)?;
        let folder = self.root.join(folder);
        // The root is made again too: it may have been tidied away between two tasks.
        fs::create_dir_all(&folder).map_err(|e| self.fault(&e))?;
        let part = folder.join(format!(".{name}.{attempt}{PART}"));
        let file = File::create_new(&part).map_err(|e| self.fault(&e))?;
        let whole = folder.join(name);
        let (place, file) = (self.root.clone(), BufWriter::with_capacity(BUFFER_BYTES, file));
        Ok(Box::new(PartFile { place, part, whole, file: Some(file) }))
    }

    fn exists(&self, key: &str) -> Result<bool> {
        self.path(key)?.try_exists().map_err(|e| self.fault(&e))
    }

    fn read(&self, key: &str) -> Result<Vec<u8>> {
        let path = self.path(key)?;
        fs::read(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::not_found(format!("{} does not exist", path.display())),
            _ => self.fault(&e),
        })
    }

    fn sweep(&self, folder: &str, keep: Option<&str>) -> Result<()> {
        check_segment("folder", folder)?;
        let folder = self.root.join(folder);
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(self.fault(&e)),
        };
        let kept = keep.map(|attempt| format!(".{attempt}{PART}"));
        for entry in entries {
            let entry = entry.map_err(|e| self.fault(&e))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let is_part = name.starts_with('.') && name.ends_with(PART);
            if is_part && !kept.as_ref().is_some_and(|kept| name.ends_with(kept)) {
                absent_is_fine(fs::remove_file(entry.path())).map_err(|e| self.fault(&e))?;
            }
        }
        if keep.is_some() {
            return Ok(());
        }
        match fs::remove_dir(&folder) {
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            removed => absent_is_fine(removed).map_err(|e| self.fault(&e)),
        }
    }
}

/// One part of a [`FolderStore`].
struct PartFile {
    place: PathBuf,
    part: PathBuf,
    whole: PathBuf,
    /// `None` once the commit began.
    file: Option<BufWriter<File>>,
}

impl ObjectWriter for PartFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let file = self.file.as_mut().ok_or_else(|| Error::internal("an object is appended to after its commit"))?;
        file.write_all(bytes).map_err(|e| explain(&self.place, &e))
    }

    fn commit(mut self: Box<Self>) -> Result<()> {
        let Some(file) = self.file.take() else { return Ok(()) };
        let write = || {
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            fs::rename(&self.part, &self.whole)?;
            // A name is durable once its folder is, and a folder's name once the folder above is.
            for folder in [self.whole.parent(), Some(&*self.place)].into_iter().flatten() {
                File::open(folder)?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(|e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => Error::new(
                ErrorKind::Cancelled,
                format!(
                    "the part of {} is gone: another attempt took over, or it was removed by hand",
                    self.whole.display()
                ),
            ),
            _ => explain(&self.place, &e),
        })
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // After a commit there is no such file, and one that cannot be removed is swept by the next attempt.
        drop(fs::remove_file(&self.part));
    }
}

fn split(key: &str) -> Result<(&str, &str)> {
    let Some((folder, name)) = key.split_once('/') else {
        return Err(Error::invalid(format!("object key {key:?} is not FOLDER/NAME")));
    };
    check_segment("object key", folder)?;
    check_segment("object key", name)?;
    Ok((folder, name))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Says what happened to the place and what to do about it.
fn explain(place: &Path, error: &io::Error) -> Error {
    use io::ErrorKind as Io;
    let place = place.display();
    match error.kind() {
        Io::StorageFull | Io::QuotaExceeded => Error::new(
            ErrorKind::Exhausted,
            format!("output place {place} is full ({error}): free some space, then run the same command again"),
        ),
        Io::PermissionDenied | Io::ReadOnlyFilesystem => Error::invalid(format!(
            "output place {place} is not writable ({error}): correct its permissions or give another place"
        )),
        Io::NotADirectory | Io::AlreadyExists | Io::IsADirectory => {
            Error::invalid(format!("output place {place} is not a folder of results ({error}): give another place"))
        }
        _ => Error::unavailable(format!("output place {place} failed ({error}): check the disk that holds it")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, FolderStore) {
        let folder = tempfile::tempdir().unwrap();
        let store = FolderStore::open(&folder.path().join("out/deep")).unwrap();
        (folder, store)
    }

    fn names(store: &FolderStore, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(store.root().join(folder)) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn an_object_appears_whole_at_its_commit_and_replaces_the_one_before() {
        let (_folder, store) = store();
        for text in ["first", "second, which is longer"] {
            let mut writer = store.create("t/results.jsonl", "r1").unwrap();
            let before = store.read("t/results.jsonl");
            for byte in text.as_bytes() {
                writer.append(&[*byte]).unwrap();
            }
            assert_eq!(store.read("t/results.jsonl"), before, "a part shows");
            writer.commit().unwrap();
            assert_eq!(store.read("t/results.jsonl").unwrap(), text.as_bytes());
            assert_eq!(names(&store, "t"), ["results.jsonl"]);
        }
        assert!(store.exists("t/results.jsonl").unwrap() && !store.exists("t/summary.json").unwrap());
        assert_eq!(store.read("t/summary.json").unwrap_err().kind, ErrorKind::NotFound);
    }

    #[test]
    fn a_dropped_writer_leaves_nothing() {
        let (_folder, store) = store();
        let mut writer = store.create("t/results.jsonl", "r1").unwrap();
        writer.append(&[b'x'; 3 * BUFFER_BYTES]).unwrap();
        assert_eq!(names(&store, "t"), [".results.jsonl.r1.part"]);
        drop(writer);
        store.sweep("t", None).unwrap();
        assert_eq!(names(&store, ""), [""; 0]);
    }

    #[test]
    fn sweeping_fences_other_attempts_and_touches_nothing_else() {
        let (_folder, store) = store();
        let mut dead = store.create("t/results.jsonl", "r1").unwrap();
        dead.append(b"of the dead attempt").unwrap();
        let mut live = store.create("t/results.jsonl", "r2").unwrap();
        live.append(b"of the live attempt").unwrap();
        store.create("t/summary.json", "r1").unwrap().commit().unwrap();
        let other = store.create("u/results.jsonl", "r1").unwrap();
        store.sweep("t", Some("r2")).unwrap();
        assert_eq!(names(&store, "t"), [".results.jsonl.r2.part", "summary.json"]);
        let error = dead.commit().unwrap_err();
        assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
        live.commit().unwrap();
        other.commit().unwrap();
        assert_eq!(store.read("t/results.jsonl").unwrap(), b"of the live attempt");
        store.sweep("t", None).unwrap();
        store.sweep("never", None).unwrap();
        assert_eq!(names(&store, "t"), ["results.jsonl", "summary.json"]);
    }

    #[test]
    fn keys_stay_inside_the_place() {
        let (_folder, store) = store();
        for key in ["", "a", "/etc/passwd", "../a/b", "a/../b", "a/b/c", "a/.b", ".a/b", "a/", "a\0/b", "a b/c"] {
            let error = store.create(key, "r1").map(|_| ()).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidInput, "{key}");
            assert_eq!(store.exists(key).unwrap_err().kind, ErrorKind::InvalidInput, "{key}");
        }
        assert_eq!(store.create("a/b", "../r").map(|_| ()).unwrap_err().kind, ErrorKind::InvalidInput);
        assert_eq!(store.sweep("..", None).unwrap_err().kind, ErrorKind::InvalidInput);
    }

    #[test]
    fn a_place_that_fails_is_named_with_the_fix() {
        let check = |raw_os: rustix::io::Errno, kind: ErrorKind, part: &str| {
            let error = explain(Path::new("/results"), &io::Error::from_raw_os_error(raw_os.raw_os_error()));
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains("/results") && error.message.contains(part), "{error}");
        };
        check(rustix::io::Errno::NOSPC, ErrorKind::Exhausted, "free some space");
        check(rustix::io::Errno::DQUOT, ErrorKind::Exhausted, "free some space");
        check(rustix::io::Errno::ROFS, ErrorKind::InvalidInput, "not writable");
        check(rustix::io::Errno::ACCESS, ErrorKind::InvalidInput, "not writable");
        check(rustix::io::Errno::NOTDIR, ErrorKind::InvalidInput, "not a folder");
        check(rustix::io::Errno::IO, ErrorKind::Unavailable, "check the disk");
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(FolderStore::open(file.path()).unwrap_err().kind, ErrorKind::InvalidInput);
    }
}
