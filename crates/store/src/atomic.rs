//! Files that are there whole or not at all: written under another name, made durable, then renamed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use engine::{Error, ErrorKind, Result};

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// The file is new.
    New,
    /// A file of that name was there; it was left alone.
    Existed,
}

/// Writes `folder/name` with what `fill` gives, unless it exists. Durable on return: file and folder are synced.
///
/// # Errors
/// [`Exhausted`](ErrorKind::Exhausted) when the disk is full, [`Internal`](ErrorKind::Internal) otherwise, naming the
/// file; nothing is left behind.
pub(crate) fn create(
    folder: &Path,
    name: &str,
    fill: impl Fn(&mut BufWriter<&File>) -> std::io::Result<()>,
) -> Result<Written> {
    let target = folder.join(name);
    let write = || -> std::io::Result<Written> {
        if target.exists() {
            return Ok(Written::Existed);
        }
        let written = loop {
            // Packers may race for one name: the first to link it wins, the other's bytes go.
            match part(folder, &fill)?.persist_noclobber(&target) {
                Ok(_) => break Written::New,
                Err(lost) if lost.error.kind() == std::io::ErrorKind::AlreadyExists => break Written::Existed,
                Err(taken) if taken.error.kind() == std::io::ErrorKind::NotFound => {}
                Err(failed) => return Err(failed.error),
            }
        };
        File::open(folder)?.sync_all()?;
        Ok(written)
    };
    write().map_err(|source| io_error(&target, "cannot be written", &source))
}

/// Writes `folder/name` with what `fill` gives, in place of what may be there: whoever has that open or mapped keeps it.
/// Durable on return.
///
/// # Errors
/// As [`create`].
pub(crate) fn replace(
    folder: &Path,
    name: &str,
    fill: impl Fn(&mut BufWriter<&File>) -> std::io::Result<()>,
) -> Result<()> {
    let target = folder.join(name);
    let write = || -> std::io::Result<()> {
        loop {
            match part(folder, &fill)?.persist(&target) {
                Ok(_) => return File::open(folder)?.sync_all(),
                Err(taken) if taken.error.kind() == std::io::ErrorKind::NotFound => {}
                Err(failed) => return Err(failed.error),
            }
        }
    };
    write().map_err(|source| io_error(&target, "cannot be written", &source))
}

/// What the name of a file starts with while it is written.
pub(crate) const PART: &str = ".part-";

/// A file in `folder` under a name of its own, whole and durable. It is locked while this process has it, so that the
/// part of a packer that was killed can be told from one that is being written. In the moment before it is locked, a gc
/// without a grace period may take it for the former: then it is gone when it is to get its name, and is written again.
fn part(
    folder: &Path,
    fill: &impl Fn(&mut BufWriter<&File>) -> std::io::Result<()>,
) -> std::io::Result<tempfile::NamedTempFile> {
    // Others than who packs may serve: who may read it is for the umask to say.
    let anybody = std::fs::Permissions::from_mode(0o666);
    let part = tempfile::Builder::new().prefix(PART).permissions(anybody).tempfile_in(folder)?;
    // A file system without locks has gc's grace period alone.
    let _ = rustix::fs::flock(part.as_file(), rustix::fs::FlockOperation::NonBlockingLockExclusive);
    let mut writer = BufWriter::with_capacity(1 << 20, part.as_file());
    fill(&mut writer)?;
    writer.flush()?;
    drop(writer);
    part.as_file().sync_all()?;
    Ok(part)
}

/// `source` as an error of ours about `path`.
pub(crate) fn io_error(path: &Path, what: &str, source: &std::io::Error) -> Error {
    let (kind, fix) = match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            (ErrorKind::Exhausted, "; free space on that disk and try again")
        }
        std::io::ErrorKind::FileTooLarge => {
            (ErrorKind::Exhausted, "; raise the limit on the size of files (ulimit -f)")
        }
        std::io::ErrorKind::NotFound => (ErrorKind::NotFound, ""),
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            (ErrorKind::InvalidInput, "; choose a place that this user may write")
        }
        _ => (ErrorKind::Internal, ""),
    };
    Error::new(kind, format!("{}: {what}: {source}{fix}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_nothing_and_an_existing_file_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let error = create(folder.path(), "a", |file| file.write_all(b"half").and_then(|()| Err(full()))).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Exhausted);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert_eq!(create(folder.path(), "a", |file| file.write_all(b"one")).unwrap(), Written::New);
        assert_eq!(create(folder.path(), "a", |file| file.write_all(b"two")).unwrap(), Written::Existed);
        assert_eq!(std::fs::read(folder.path().join("a")).unwrap(), b"one");
        File::create(folder.path().join("plain")).unwrap();
        let mode = |name: &str| std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode("a"), mode("plain"), "the umask says who may read it");
        std::fs::remove_file(folder.path().join("plain")).unwrap();
        replace(folder.path(), "a", |file| file.write_all(b"three")).unwrap();
        assert_eq!(std::fs::read(folder.path().join("a")).unwrap(), b"three");
        replace(folder.path(), "a", |_| Err(full())).unwrap_err();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
