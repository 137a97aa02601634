//! Packs of what repositories of other servers hold, kept between starts: a store without names, and an index from a
//! file's stamp to its manifest, so that a file that did not change is not read again.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{Error, Result, Runtimes};

use super::listing::digest;
use super::prune::{self, Pruned};
use crate::lock::Hold;
use crate::manifest::FORMAT;
use crate::onnx::import;
use crate::pack::{self, Draft, Identity, Request, Targets};
use crate::remote::CacheBytes;
use crate::task::{Detection, Task};
use crate::torch_script::{self, Declared};
use crate::{Manifest, Store, atomic, saved_model};

/// A folder of packs made from other servers' repositories. Several repositories and several processes may share one.
#[derive(Debug)]
pub struct PackCache {
    store: Store,
    index: PathBuf,
    /// What it may take, on disk.
    bytes_max: CacheBytes,
}

impl PackCache {
    /// The cache at `place`, made when it is not there.
    ///
    /// # Errors
    /// As the file system's, naming the place.
    pub fn open(place: &str) -> Result<Self> {
        let store = Store::create(place)?;
        let index = store.root().join("index");
        std::fs::create_dir_all(&index).map_err(|source| atomic::io_error(&index, "cannot be made", &source))?;
        // A folder that can be read and not written would fail at the first model.
        tempfile::tempfile_in(&index).map_err(|source| atomic::io_error(&index, "cannot be written", &source))?;
        Ok(Self { store, index, bytes_max: CacheBytes::Auto })
    }

    /// The same, which takes no more than `bytes_max` when it is [pruned](Self::prune).
    pub fn at_most(self, bytes_max: CacheBytes) -> Self {
        Self { bytes_max, ..self }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        self.store.root()
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The manifest of the file that `key` stands for, if it was packed before and is all there.
    pub(super) fn find(&self, key: &Key<'_>) -> Option<Manifest> {
        // Whoever prunes sees the mark, or was there before, and then there is nothing.
        let _held = self.store.lock(Hold::Shared).ok()?;
        let path = self.path(key);
        let manifest = Manifest::read(&path, key.name, key.version).ok()?;
        prune::mark(&path);
        self.store.holds(&manifest).then_some(manifest)
    }

    /// Marks what the files that `keys` stand for were packed to as named by a repository, and what `served` models are made of
    /// as used, whatever names them.
    ///
    /// # Errors
    /// As the file system's.
    pub(super) fn mark(&self, keys: &[Key<'_>], served: &[Arc<Manifest>]) -> Result<()> {
        let _held = self.store.lock(Hold::Shared)?;
        keys.iter().for_each(|key| prune::mark(&self.path(key)));
        for manifest in served {
            manifest.content()?.iter().for_each(|file| prune::mark(&self.root().join(file)));
        }
        Ok(())
    }

    /// Removes packs that no repository has named for a week; where the cache takes more than it may, also those that nobody
    /// has named for some hours, the longest forgotten first. Then files that no pack needs.
    ///
    /// # Errors
    /// As the file system's.
    pub(super) fn prune(&self) -> Result<Pruned> {
        prune::prune(&self.store, &self.index, self.bytes_max)
    }

    /// Packs the file that `key` stands for. Reads all of it, once, into a copy: whoever changes it meanwhile changes
    /// nothing here, and `unchanged` says afterwards whether the copy is of the file that was asked for.
    ///
    /// # Errors
    /// As [`pack`](crate::pack::pack), and [`Unavailable`](engine::ErrorKind::Unavailable) when the file changed.
    pub(super) fn pack(
        &self,
        runtimes: &Runtimes,
        key: &Key<'_>,
        unchanged: impl FnOnce() -> bool,
    ) -> Result<Manifest> {
        let scratch = tempfile::Builder::new().prefix(".copy-").tempdir_in(self.root());
        let scratch = scratch.map_err(|source| atomic::io_error(self.root(), "cannot be written", &source))?;
        let of = |error: Error| error.context(key.file.display());
        let path = snapshot(key.file, scratch.path()).map_err(of)?;
        if !unchanged() {
            return Err(Error::unavailable(format!("{}: it changed while it was read", key.file.display())));
        }
        // Its key is for this kind of CPU alone.
        let signature = key.signature.clone();
        let request = Request { path, copy: true, targets: Targets::Native, signature, ..Request::default() };
        let source = pack::identify(&request).map_err(of)?;
        let identity = Identity { name: key.name.to_owned(), version: key.version, source };
        let mut draft = Draft::import(runtimes, &request, identity).map_err(of)?;
        draft.put(&self.store).map_err(of)?;
        let mut manifest = draft.manifest;
        // Nobody said what the tensors mean; a detector is known by its signature.
        manifest.task = Detection::by_signature(&manifest.signature()?).map(Task::ObjectDetection);
        self.keep(key, &manifest)?;
        Ok(manifest)
    }

    fn keep(&self, key: &Key<'_>, manifest: &Manifest) -> Result<()> {
        let path = self.path(key);
        // What is there and was not found is broken. Files are never changed, only replaced.
        let _ = std::fs::remove_file(&path);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        atomic::create(&self.index, name, |file| serde_json::to_writer(file, manifest).map_err(std::io::Error::from))?;
        Ok(())
    }

    fn path(&self, key: &Key<'_>) -> PathBuf {
        self.index.join(format!("{}.json", key.digest()))
    }
}

/// Copies the model at `path`, a file or a SavedModel's folder, into `folder`, and returns where the copy is.
fn snapshot(path: &Path, folder: &Path) -> Result<PathBuf> {
    if torch_script::is_torch_script(path) {
        return torch_script::snapshot(path, folder);
    }
    if !path.is_dir() {
        return import::snapshot(path, folder);
    }
    saved_model::snapshot(path, folder)?;
    Ok(folder.to_owned())
}

/// What a pack is known by: the file, as it was, and what is made of it.
pub(super) struct Key<'a> {
    pub(super) name: &'a str,
    pub(super) version: u64,
    pub(super) file: &'a Path,
    pub(super) stamp: &'a str,
    pub(super) signature: &'a Declared,
}

impl Key<'_> {
    fn digest(&self) -> String {
        let place = std::fs::canonicalize(self.file).unwrap_or_else(|_| self.file.to_owned());
        let (version, format) = (self.version.to_string(), FORMAT.to_string());
        // A program laid out for one CPU is none for another, and another build may lay it out in another way.
        let build = env!("CARGO_PKG_VERSION");
        digest([self.name, &version, &place.to_string_lossy(), self.stamp, &engine::cpu::target(), &format, build])
    }
}
