//! What git leaves in place of a large file until somebody fetches it.

use std::io::Read;
use std::path::Path;

use engine::{Error, Result};

/// How such a file begins (<https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>).
const BEGINNING: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Refuses `bytes` when they are no model but the word where to fetch one.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) with the way to fetch it.
pub(crate) fn refuse(bytes: &[u8]) -> Result<()> {
    if bytes.starts_with(BEGINNING) {
        return Err(Error::invalid("only git's pointer to this file is here; 'git lfs pull' fetches the file itself"));
    }
    Ok(())
}

/// As [`refuse`], of the file at `path`, if it is one that can be read.
///
/// # Errors
/// As [`refuse`].
pub(crate) fn refuse_file(path: &Path) -> Result<()> {
    let mut start = [0; BEGINNING.len()];
    // Whatever else is wrong with it is for those to say who read all of it.
    let read = path.is_file() && std::fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok();
    if read { refuse(&start) } else { Ok(()) }
}
