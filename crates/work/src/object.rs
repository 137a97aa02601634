//! Where results go: whole objects that appear at once or not at all, and the embedded folder.
//!
//! A key is a path of plain segments, `TASK/results.jsonl`. What is put under a key depends on the task alone, never on
//! who works it: two attempts that race put the same bytes, so that neither has to know of the other. What a writer has
//! not committed yet is nobody's to read; sweeping removes it where its writer died.

mod bucket;

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use engine::{Error, ErrorKind, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};

pub use self::bucket::BucketStore;
use crate::task::{check_segment, nonce};

/// Ends the name of every file that is being written.
const UNFINISHED: &str = ".part";

/// Large enough that a frame's line never costs a system call of its own.
const BUFFER_BYTES: usize = 64 * 1024;

/// The most segments of a key.
const DEPTH_MAX: usize = 4;

/// A place for results.
///
/// An error of kind [`Cancelled`](ErrorKind::Cancelled) means that another attempt has taken over; no other failure
/// has that kind. Every other error is about the place, not about what is put there, and says what to do.
pub trait ObjectStore: Send + Sync {
    /// Puts a whole object that fits into memory under `key`; when this returns, it is durable.
    ///
    /// # Errors
    /// About the place.
    fn put(&self, key: &str, bytes: &[u8], put: Put) -> Result<Stored>;

    /// Begins an object of any size that will be called `key`.
    ///
    /// # Errors
    /// About the place.
    fn create(&self, key: &str) -> Result<Box<dyn ObjectWriter>>;

    /// What is under `key`, if anything.
    ///
    /// # Errors
    /// About the place.
    fn head(&self, key: &str) -> Result<Option<Head>>;

    /// The object's bytes, from its beginning.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) without it.
    fn open(&self, key: &str) -> Result<Box<dyn Read + Send>>;

    /// The keys that begin with `folder` and a slash, in their order as bytes.
    ///
    /// # Errors
    /// About the place.
    fn list(&self, folder: &str) -> Result<Vec<String>>;

    /// Where the object, or the folder, called `key` is, for others: a path or a URL.
    fn url(&self, key: &str) -> String;

    /// Removes the object; that it is not there is as good.
    ///
    /// # Errors
    /// About the place.
    fn delete(&self, key: &str) -> Result<()>;

    /// Removes what writers under `folder` left unfinished. A writer that is still at it cannot commit any more.
    ///
    /// # Errors
    /// About the place.
    fn sweep(&self, folder: &str) -> Result<()>;

    /// The bytes of an object that fits into memory.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) without it.
    fn read(&self, key: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = self.open(key)?.read_to_end(&mut bytes);
        read.map_err(|error| Error::unavailable(format!("object {key} could not be read to its end: {error}")))?;
        Ok(bytes)
    }
}

/// What to do when the key is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// Leave what is there.
    IfAbsent,
    /// Take its place.
    Replace,
}

/// What a put came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The object is there now.
    Now,
    /// An object was there, and is left as it is.
    Before,
}

/// What a place says of an object without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its size.
    pub bytes: u64,
}

/// An object being written; dropped without a commit, it leaves nothing behind.
pub trait ObjectWriter: Send {
    /// Adds bytes at the end.
    ///
    /// # Errors
    /// About the place.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Makes the object durable, then visible under its key.
    ///
    /// # Errors
    /// [`Cancelled`](ErrorKind::Cancelled) when another attempt swept it away, or about the place.
    fn commit(self: Box<Self>, put: Put) -> Result<Stored>;
}

/// That `key` is a path of a few plain segments.
fn check_key(key: &str) -> Result<()> {
    if key.split('/').count() > DEPTH_MAX {
        return Err(Error::invalid(format!("object key {key:?} has more than {DEPTH_MAX} segments")));
    }
    key.split('/').try_for_each(|segment| check_segment("object key", segment))
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
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the key is not a path of a few plain segments.
    pub fn path(&self, key: &str) -> Result<PathBuf> {
        check_key(key)?;
        Ok(self.root.join(key))
    }

    fn fault(&self, error: &io::Error) -> Error {
        explain(&self.root, error)
    }

    fn begin(&self, key: &str) -> Result<Unfinished> {
        let whole = self.path(key)?;
        let folder = whole.parent().unwrap_or(&self.root);
        // The root is made again too: it may have been tidied away between two tasks.
        fs::create_dir_all(folder).map_err(|e| self.fault(&e))?;
        let name = whole.file_name().unwrap_or_default().to_string_lossy();
        let part = folder.join(format!(".{name}.{:016x}{UNFINISHED}", nonce()));
        let file = File::create_new(&part).map_err(|e| self.fault(&e))?;
        let file = Some(BufWriter::with_capacity(BUFFER_BYTES, file));
        Ok(Unfinished { place: self.root.clone(), part, whole, file })
    }
}

impl ObjectStore for FolderStore {
    fn url(&self, key: &str) -> String {
        self.root.join(key).to_string_lossy().into_owned()
    }

    fn put(&self, key: &str, bytes: &[u8], put: Put) -> Result<Stored> {
        let mut file = self.begin(key)?;
        file.append(bytes)?;
        Box::new(file).commit(put)
    }

    fn create(&self, key: &str) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(self.begin(key)?))
    }

    fn head(&self, key: &str) -> Result<Option<Head>> {
        match fs::metadata(self.path(key)?) {
            Ok(metadata) => Ok(Some(Head { bytes: metadata.len() })),
            Err(e) if is_absent(&e) => Ok(None),
            Err(e) => Err(self.fault(&e)),
        }
    }

    fn open(&self, key: &str) -> Result<Box<dyn Read + Send>> {
        let path = self.path(key)?;
        match File::open(&path) {
            Ok(file) => Ok(Box::new(file)),
            Err(e) if is_absent(&e) => Err(Error::not_found(format!("{} does not exist", path.display()))),
            Err(e) => Err(self.fault(&e)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        let mut keys = Vec::new();
        each_file(&self.path(folder)?, folder, &mut |key, _| {
            keys.push(key.to_owned());
            Ok(())
        })
        .map_err(|e| self.fault(&e))?;
        // What is being written has a hidden name, which is no key.
        keys.retain(|key| !key.rsplit('/').next().is_some_and(|name| name.starts_with('.')));
        keys.sort_unstable();
        Ok(keys)
    }

    fn delete(&self, key: &str) -> Result<()> {
        absent_is_fine(fs::remove_file(self.path(key)?)).map_err(|e| self.fault(&e))
    }

    fn sweep(&self, folder: &str) -> Result<()> {
        let path = self.path(folder)?;
        each_file(&path, folder, &mut |key, file| {
            let name = key.rsplit('/').next().unwrap_or_default();
            let unfinished = name.starts_with('.') && name.ends_with(UNFINISHED);
            if unfinished { absent_is_fine(fs::remove_file(file)) } else { Ok(()) }
        })
        .and_then(|()| remove_empty(&path))
        .map_err(|e| self.fault(&e))
    }
}

/// Shows `see` every file below `folder`, which is called `key`; a folder that is not there has none.
fn each_file(folder: &Path, key: &str, see: &mut dyn FnMut(&str, &Path) -> io::Result<()>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(e) if is_absent(&e) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let key = format!("{key}/{}", entry.file_name().to_string_lossy());
        match entry.file_type()?.is_dir() {
            true => each_file(&entry.path(), &key, see)?,
            false => see(&key, &entry.path())?,
        }
    }
    Ok(())
}

/// Removes `folder` and those in it, as far as they hold nothing.
fn remove_empty(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(e) if is_absent(&e) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_empty(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        removed => absent_is_fine(removed),
    }
}

/// A file of a [`FolderStore`] that is being written.
struct Unfinished {
    place: PathBuf,
    part: PathBuf,
    whole: PathBuf,
    /// `None` once the commit began.
    file: Option<BufWriter<File>>,
}

impl Unfinished {
    /// Gives the file its name; whether it has it now.
    fn give_name(&self, put: Put) -> io::Result<Stored> {
        if put == Put::Replace {
            return fs::rename(&self.part, &self.whole).map(|()| Stored::Now);
        }
        let named = match renameat_with(CWD, &self.part, CWD, &self.whole, RenameFlags::NOREPLACE) {
            // Not every file system knows this kind of rename; a second name for the file does as well.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => fs::hard_link(&self.part, &self.whole),
            named => named.map_err(io::Error::from),
        };
        match named {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Stored::Before),
            named => named.map(|()| Stored::Now),
        }
    }

    /// Makes the name durable: a name is once its folder is, and a folder's once the folder above is.
    fn keep_name(&self) -> io::Result<()> {
        let folders = self.whole.ancestors().skip(1).take_while(|folder| folder.starts_with(&self.place));
        folders.into_iter().try_for_each(|folder| File::open(folder)?.sync_all())
    }
}

impl ObjectWriter for Unfinished {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let file = self.file.as_mut().ok_or_else(|| Error::internal("an object is appended to after its commit"))?;
        file.write_all(bytes).map_err(|e| explain(&self.place, &e))
    }

    fn commit(mut self: Box<Self>, put: Put) -> Result<Stored> {
        let Some(file) = self.file.take() else { return Ok(Stored::Before) };
        let write = || {
            file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
            let stored = self.give_name(put)?;
            self.keep_name()?;
            Ok(stored)
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

impl Drop for Unfinished {
    fn drop(&mut self) {
        // After a commit there is no such file, and one that cannot be removed is swept by the next attempt.
        drop(fs::remove_file(&self.part));
    }
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if is_absent(&e) => Ok(()),
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
    fn an_object_appears_whole_at_its_commit() {
        let (_folder, store) = store();
        for text in ["first", "second, which is longer"] {
            let mut writer = store.create("t/results.jsonl").unwrap();
            let before = store.read("t/results.jsonl");
            for byte in text.as_bytes() {
                writer.append(&[*byte]).unwrap();
            }
            assert_eq!(store.read("t/results.jsonl"), before, "what is being written shows");
            assert_eq!(writer.commit(Put::Replace).unwrap(), Stored::Now);
            assert_eq!(store.read("t/results.jsonl").unwrap(), text.as_bytes());
            assert_eq!(names(&store, "t"), ["results.jsonl"]);
        }
        assert_eq!(store.head("t/results.jsonl").unwrap(), Some(Head { bytes: 23 }));
        assert_eq!(store.head("t/summary.json").unwrap(), None);
        assert_eq!(store.read("t/summary.json").unwrap_err().kind, ErrorKind::NotFound);
    }

    #[test]
    fn the_first_stays_where_absence_was_asked_for() {
        let (_folder, store) = store();
        let check = |text: &[u8], put, stored, want: &[u8]| {
            assert_eq!(store.put("t/parts/a", text, put).unwrap(), stored);
            assert_eq!(store.read("t/parts/a").unwrap(), want);
            assert_eq!(names(&store, "t/parts"), ["a"]);
        };
        check(b"one", Put::IfAbsent, Stored::Now, b"one");
        check(b"two", Put::IfAbsent, Stored::Before, b"one");
        check(b"three", Put::Replace, Stored::Now, b"three");
        store.delete("t/parts/a").unwrap();
        store.delete("t/parts/a").unwrap();
        check(b"four", Put::IfAbsent, Stored::Now, b"four");
    }

    #[test]
    fn a_listing_has_whole_objects_of_its_folder_in_order() {
        let (_folder, store) = store();
        for key in ["t/parts/b", "t/parts/a", "t/summary.json", "tt/x", "u/parts/c"] {
            store.put(key, b"", Put::IfAbsent).unwrap();
        }
        let _unfinished = store.create("t/parts/c").unwrap();
        assert_eq!(store.list("t").unwrap(), ["t/parts/a", "t/parts/b", "t/summary.json"]);
        assert_eq!(store.list("t/parts").unwrap(), ["t/parts/a", "t/parts/b"]);
        assert_eq!(store.list("never").unwrap(), [""; 0]);
    }

    #[test]
    fn a_dropped_writer_leaves_nothing() {
        let (_folder, store) = store();
        let mut writer = store.create("t/parts/a").unwrap();
        writer.append(&[b'x'; 3 * BUFFER_BYTES]).unwrap();
        assert_eq!(names(&store, "t/parts").len(), 1);
        drop(writer);
        store.sweep("t").unwrap();
        assert_eq!(names(&store, ""), [""; 0]);
    }

    #[test]
    fn sweeping_ends_what_is_unfinished_and_touches_nothing_else() {
        let (_folder, store) = store();
        let mut dead = store.create("t/parts/a").unwrap();
        dead.append(b"of the dead attempt").unwrap();
        store.put("t/summary.json", b"", Put::Replace).unwrap();
        let other = store.create("u/results.jsonl").unwrap();
        store.sweep("t").unwrap();
        assert_eq!(names(&store, "t"), ["summary.json"]);
        let error = dead.commit(Put::IfAbsent).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
        other.commit(Put::Replace).unwrap();
        store.sweep("t").unwrap();
        store.sweep("never").unwrap();
        assert_eq!(names(&store, "t"), ["summary.json"]);
    }

    #[test]
    fn keys_stay_inside_the_place() {
        let (_folder, store) = store();
        for key in ["", "/etc/passwd", "../a/b", "a/../b", "a/.b", ".a/b", "a/", "a\0/b", "a b/c", "a/b/c/d/e"] {
            let error = store.create(key).map(|_| ()).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidInput, "{key}");
            assert_eq!(store.head(key).unwrap_err().kind, ErrorKind::InvalidInput, "{key}");
            assert_eq!(store.delete(key).unwrap_err().kind, ErrorKind::InvalidInput, "{key}");
        }
        assert_eq!(store.sweep("..").unwrap_err().kind, ErrorKind::InvalidInput);
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
