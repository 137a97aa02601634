//! A folder of this machine as a place: objects are files that appear whole, durable, or not at all.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::{Error, ErrorKind, Result};
use rustix::fs::{FlockOperation, flock};

use crate::fetch::same;
use crate::place::{Ask, Backend, Sink};
use crate::upload::Uploading;
use crate::{Address, Object, Page, Tag, Upload, When, cloud};

/// What the name of a file starts with while it is written.
const PART: &str = ".part-";
/// As much as is read at once.
const PIECE_BYTES: u64 = 4 << 20;

/// A folder.
pub(crate) struct Folder {
    root: PathBuf,
}

impl Folder {
    pub(crate) fn new(address: &Address) -> Self {
        Self { root: PathBuf::from(&address.prefix) }
    }

    /// The file of `key`, whose segments are plain names.
    fn path(&self, key: &str) -> Result<PathBuf> {
        let below = Path::new(key).strip_prefix(&self.root).ok().and_then(Path::to_str).unwrap_or_default();
        let plain = |segment: &str| !segment.is_empty() && !segment.starts_with(PART) && !matches!(segment, "." | "..");
        if below.contains('\0') || !below.split('/').all(plain) || key.ends_with('/') {
            return Err(Error::invalid(format!("{key}: its segments have to be plain names")));
        }
        Ok(self.root.join(below))
    }

    fn gather(&self, object: &Object, range: Range<u64>) -> Result<Bytes> {
        let mut gathered = Vec::new();
        self.fetch(object, vec![range], 1, &mut |_, bytes| {
            gathered.extend_from_slice(&bytes);
            Ok(())
        })?;
        Ok(gathered.into())
    }
}

impl Backend for Folder {
    fn head(&self, key: &str) -> Result<Object> {
        let path = self.path(key)?;
        let about = std::fs::metadata(&path).map_err(|source| fault(&path, &source))?;
        if about.is_dir() {
            return Err(Error::not_found(format!("{key}: it is a folder")));
        }
        Ok(describe(key, &about))
    }

    fn get(&self, key: &str, bytes_max: u64, unless: Option<&Tag>) -> Result<Option<(Object, Bytes)>> {
        let path = self.path(key)?;
        let failed = |source: std::io::Error| fault(&path, &source);
        // One that is replaced meanwhile is read to its end as it was.
        let file = File::open(&path).map_err(failed)?;
        let about = file.metadata().map_err(failed)?;
        if about.is_dir() {
            return Err(Error::not_found(format!("{key}: it is a folder")));
        }
        let object = describe(key, &about);
        if unless.is_some_and(|known| *known == object.tag) {
            return Ok(None);
        }
        if object.bytes > bytes_max {
            return Err(cloud::too_large(key, object.bytes, bytes_max));
        }
        let mut bytes = Vec::with_capacity(usize::try_from(object.bytes).unwrap_or_default());
        (&file).take(object.bytes).read_to_end(&mut bytes).map_err(failed)?;
        // A file that is written to in place is no object; it is found out before its bytes are believed.
        let now = describe(key, &file.metadata().map_err(failed)?);
        same(&object, &now).map_err(|error| error.context(key))?;
        Ok(Some((object, bytes.into())))
    }

    fn peek(&self, key: &str, range: Range<u64>) -> Result<(Object, Bytes)> {
        let object = self.head(key)?;
        if range.end > object.bytes {
            return Err(Error::invalid(format!("{key}: it has no such bytes")));
        }
        let bytes = self.gather(&object, range)?;
        Ok((object, bytes))
    }

    fn fetch(&self, object: &Object, ranges: Vec<Range<u64>>, _: usize, sink: Sink<'_>) -> Result<()> {
        let path = self.path(&object.key)?;
        let failed = |source: std::io::Error| fault(&path, &source);
        let file = File::open(&path).map_err(failed)?;
        // By its name: whoever replaced it meant that the old one is read no more.
        let unchanged = || same(object, &self.head(&object.key)?).map_err(|error| error.context(&object.key));
        unchanged()?;
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let mut piece = vec![0; usize::try_from((range.end - at).min(PIECE_BYTES)).unwrap_or_default()];
                file.read_exact_at(&mut piece, at).map_err(failed)?;
                // A file that is written to in place is no object; it is found out before its bytes are believed.
                unchanged()?;
                let offset = at;
                at += piece.len() as u64;
                sink(offset, piece.into())?;
            }
        }
        Ok(())
    }

    fn page(&self, ask: &Ask) -> Result<(Page, Option<String>)> {
        let mut page = Page::default();
        // The last folder that the prefix names for certain.
        let from = ask.prefix.rfind('/').map_or("", |slash| &ask.prefix[..=slash]);
        let mut folders = vec![from.to_owned()];
        while let Some(folder) = folders.pop() {
            let path = if folder.is_empty() { Path::new(".") } else { Path::new(&folder) };
            let entries = match std::fs::read_dir(path) {
                Err(source) if source.kind() == std::io::ErrorKind::NotFound => continue,
                entries => entries.map_err(|source| fault(path, &source))?,
            };
            for entry in entries {
                let entry = entry.map_err(|source| fault(path, &source))?;
                let Ok(name) = entry.file_name().into_string() else { continue };
                let key = format!("{folder}{name}");
                let on_the_way = ask.prefix.starts_with(&key) || key.starts_with(&ask.prefix);
                // One that went in the meantime is not there.
                let Ok(about) = std::fs::metadata(entry.path()) else { continue };
                if name.starts_with(PART) || !on_the_way {
                } else if !about.is_dir() {
                    page.objects.extend(key.starts_with(&ask.prefix).then(|| describe(&key, &about)));
                } else if ask.folders && key.starts_with(&ask.prefix) {
                    page.folders.push(name);
                } else {
                    folders.push(format!("{key}/"));
                }
            }
        }
        page.objects.retain(|object| ask.after.as_ref().is_none_or(|after| object.key > *after));
        page.objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        page.folders.sort_unstable();
        Ok((page, None))
    }

    fn put(&self, key: &str, bytes: Bytes, when: &When) -> Result<Tag> {
        let mut part = Part::new(self.path(key)?)?;
        part.append(&bytes)?;
        Box::new(part).finish(when)
    }

    fn upload(&self, key: &str, _: Option<u64>) -> Result<Upload> {
        Ok(Upload::new(Part::new(self.path(key)?)?))
    }

    fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            removed => removed.map_err(|source| fault(&path, &source))?,
        }
        // Folders are only there for what is in them; one that is not empty stays.
        let above =
            path.ancestors().skip(1).take_while(|folder| *folder != self.root && folder.starts_with(&self.root));
        let _ = above.map(std::fs::remove_dir).take_while(std::result::Result::is_ok).count();
        Ok(())
    }
}

/// A file that has not got its name yet.
struct Part {
    path: PathBuf,
    folder: PathBuf,
    file: BufWriter<tempfile::NamedTempFile>,
}

impl Part {
    fn new(path: PathBuf) -> Result<Self> {
        let folder = path.parent().map_or_else(PathBuf::new, Path::to_owned);
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        std::fs::create_dir_all(&folder).map_err(|source| fault(&folder, &source))?;
        let file = tempfile::Builder::new()
            .prefix(PART)
            .permissions(std::fs::Permissions::from_mode(0o666))
            .tempfile_in(&folder)
            .map_err(|source| fault(&folder, &source))?;
        Ok(Self { path, folder, file: BufWriter::with_capacity(1 << 20, file) })
    }

    /// Gives the file its name, if `when` holds.
    fn name(file: tempfile::NamedTempFile, path: &Path, folder: &File, when: &When) -> Result<File> {
        let failed = |source: &std::io::Error| fault(path, source);
        // Whoever replaces files here does it one after the other, so that what is compared is what is replaced.
        flock(folder, FlockOperation::LockExclusive).map_err(|source| failed(&source.into()))?;
        match when {
            When::Always => {}
            When::Absent => {
                return file.persist_noclobber(path).map_err(|refused| match refused.error.kind() {
                    std::io::ErrorKind::AlreadyExists => {
                        Error::new(ErrorKind::AlreadyExists, format!("{}: it is there already", path.display()))
                    }
                    _ => failed(&refused.error),
                });
            }
            When::Same(tag) => {
                let is = std::fs::metadata(path).map(|about| describe("", &about).tag);
                if !is.is_ok_and(|is| is == *tag) {
                    let reason = "it is not what it was: it was replaced meanwhile";
                    return Err(Error::new(ErrorKind::FailedPrecondition, format!("{}: {reason}", path.display())));
                }
            }
        }
        file.persist(path).map_err(|refused| failed(&refused.error))
    }
}

impl Uploading for Part {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|source| fault(&self.path, &source))
    }

    fn finish(self: Box<Self>, when: &When) -> Result<Tag> {
        let Self { path, folder, file } = *self;
        let failed = |source: std::io::Error| fault(&path, &source);
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        file.as_file().sync_all().map_err(failed)?;
        let folder = File::open(&folder).map_err(failed)?;
        let file = Self::name(file, &path, &folder, when)?;
        folder.sync_all().map_err(failed)?;
        Ok(describe("", &file.metadata().map_err(failed)?).tag)
    }
}

fn describe(key: &str, about: &std::fs::Metadata) -> Object {
    let etag = format!("\"{:x}-{:x}-{:x}.{:x}\"", about.ino(), about.len(), about.mtime(), about.mtime_nsec());
    Object {
        key: key.to_owned(),
        bytes: about.len(),
        tag: Tag { etag: Some(etag), version: None },
        modified: about.modified().ok(),
    }
}

/// What happened to the file or folder at `path`, and what to do about it.
fn fault(path: &Path, source: &std::io::Error) -> Error {
    use std::io::ErrorKind as Io;
    let (kind, what, fix) = match source.kind() {
        Io::NotFound => (ErrorKind::NotFound, "it is not there", ""),
        Io::StorageFull | Io::QuotaExceeded => {
            (ErrorKind::Exhausted, "the disk is full", "; free space on it and try again")
        }
        Io::PermissionDenied | Io::ReadOnlyFilesystem => {
            (ErrorKind::Forbidden, "this user may not", "; correct its permissions or give another place")
        }
        Io::NotADirectory | Io::IsADirectory | Io::AlreadyExists | Io::InvalidInput => {
            (ErrorKind::InvalidInput, "it cannot be there", "")
        }
        Io::UnexpectedEof => (ErrorKind::FailedPrecondition, "it is shorter than it was", ""),
        _ => (ErrorKind::Unavailable, "it failed", "; check the disk"),
    };
    let detail = if kind == ErrorKind::NotFound { String::new() } else { format!(": {source}{fix}") };
    Error::new(kind, format!("{}: {what}{detail}", path.display()))
}
