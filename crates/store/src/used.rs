//! Marking files as used, which is what gc goes by.

use std::path::Path;

use engine::Result;

use crate::atomic::io_error;
use crate::{Manifest, Store};

impl Store {
    /// Marks every file that `manifest` names as used just now, which is what gc goes by; `false` when one is missing.
    pub(crate) fn touch(&self, manifest: &Manifest) -> Result<bool> {
        for file in manifest.content()? {
            if !mark(&self.root().join(file))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// As [`touch`](Self::touch), of a manifest that goes: what is missing, or no name, has nothing to lose.
    pub(crate) fn spare(&self, manifest: &Manifest) -> Result<()> {
        manifest.named().flatten().try_for_each(|file| mark(&self.root().join(file)).map(drop))
    }
}

/// Marks the file at `path` as used just now; `false` when there is none.
fn mark(path: &Path) -> Result<bool> {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    match utimensat(CWD, path, &Timestamps { last_access: now, last_modification: now }, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(source) => Err(io_error(path, "cannot be marked as used", &source.into())),
    }
}
