//! A store in a folder: `models/NAME/VERSION.json`, and what those name by content in `programs`, `segments`, `weights`
//! and `files`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use engine::map::{Advice, Map};
use engine::{Error, ErrorKind, Result, Tensor};

use crate::atomic::{self, Written, io_error};
use crate::content::{Content, program_hash};
use crate::inspect::Inspected;
use crate::lock::{self, Hold, Lock};
use crate::manifest::{Manifest, ProgramRef, SegmentRef, Weights};
use crate::maps::Maps;
use crate::name;
use crate::outside::Outside;
use crate::remote;
use crate::segment;
use crate::side_by_side::side_by_side;
use crate::table::{self, WeightRef};

/// A store of packs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    /// Shared by all clones, so that a process maps each file once.
    pub(crate) maps: Arc<Maps>,
    /// What is known of files that are not the store's own; shared likewise.
    outside: Arc<Outside>,
    /// What `inspect.rs` found in those that are; shared likewise.
    pub(crate) inspected: Arc<Inspected>,
    /// Whether it is what a node keeps of a store elsewhere, where segments may be there in part.
    pub(crate) in_part: bool,
}

/// One version of one model, as a listing finds it.
#[derive(Debug)]
pub struct Listed {
    /// The model's name.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// What the store holds, or why it cannot be read.
    pub manifest: Result<Manifest>,
}

impl Store {
    /// The store at `place`, which must exist.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound) when there is none, with the command that makes one;
    /// [`Unsupported`](engine::ErrorKind::Unsupported) for a URL.
    pub fn open(place: &str) -> Result<Self> {
        let root = local(place)?;
        if !root.join("models").is_dir() {
            return Err(Error::not_found(format!(
                "{place}: there is no store here; 'packhorse pack MODEL.onnx --store {place}' makes one"
            )));
        }
        Ok(Self::at(root))
    }

    /// The store at `place`, made when it is not there.
    ///
    /// # Errors
    /// As the file system's, naming the place.
    pub fn create(place: &str) -> Result<Self> {
        let root = local(place)?;
        if root.is_file() || root.parent().is_some_and(Path::is_file) {
            return Err(Error::invalid(format!(
                "{place}: a file is there, and a store is a folder; give another place"
            )));
        }
        let store = Self::at(root);
        store.make_folders()?;
        Ok(store)
    }

    fn at(root: PathBuf) -> Self {
        Self { root, maps: Arc::default(), outside: Arc::default(), inspected: Arc::default(), in_part: false }
    }

    /// The cache at `place` of a store elsewhere, made when it is not there.
    ///
    /// # Errors
    /// As [`create`](Self::create).
    pub(crate) fn of_cache(place: &str) -> Result<Self> {
        Ok(Self { in_part: true, ..Self::create(place)? })
    }

    /// Makes the folders that are not there, as in a store of an earlier build.
    pub(crate) fn make_folders(&self) -> Result<()> {
        for folder in Content::ALL.map(Content::folder).into_iter().chain(["models"]) {
            let folder = self.root.join(folder);
            std::fs::create_dir_all(&folder).map_err(|source| io_error(&folder, "cannot be made", &source))?;
        }
        Ok(())
    }

    /// Where the store is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The names of all models, sorted.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn names(&self) -> Result<Vec<String>> {
        let models = self.root.join("models");
        let mut names: Vec<_> = read_dir(&models)?.into_iter().filter(|entry| name::check(entry).is_ok()).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// The versions of `model`, ascending; empty when there is no such model.
    ///
    /// # Errors
    /// When the folder cannot be read, or the name is none.
    pub fn versions(&self, model: &str) -> Result<Vec<u64>> {
        name::check(model)?;
        let folder = self.root.join("models").join(model);
        let files = match read_dir(&folder) {
            // It may have been removed since it was listed.
            Err(_) if !folder.is_dir() => return Ok(Vec::new()),
            files => files?,
        };
        let mut versions: Vec<u64> = files.iter().filter_map(|file| file.strip_suffix(".json")?.parse().ok()).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// Every version of every model, by name and version, read by as many threads as there are cores.
    ///
    /// # Errors
    /// When a folder cannot be read. A manifest that cannot be is among what is listed.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let listed = side_by_side(&self.names()?, |name| self.list_one(name));
        Ok(listed.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    fn list_one(&self, name: &str) -> Result<Vec<Listed>> {
        let listed = self.versions(name)?.into_iter().map(|version| {
            let manifest = self.manifest(name, version);
            Listed { name: name.to_owned(), version, manifest }
        });
        // What was removed since the folder was read is not there.
        let gone = |listed: &Listed| matches!(&listed.manifest, Err(error) if error.kind == ErrorKind::NotFound);
        Ok(listed.filter(|listed| !gone(listed)).collect())
    }

    /// The manifest of `version` of `model`.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound), [`Corrupt`](engine::ErrorKind::Corrupt) when it is no manifest or
    /// speaks of another model, [`Unsupported`](engine::ErrorKind::Unsupported) when a newer build wrote it.
    pub fn manifest(&self, model: &str, version: u64) -> Result<Manifest> {
        name::check(model)?;
        Manifest::read(&self.manifest_path(model, version), model, version)
    }

    /// Whether the files that `manifest` names are there; what is in them is checked when they are used.
    pub(crate) fn holds(&self, manifest: &Manifest) -> bool {
        manifest.content().is_ok_and(|files| files.iter().all(|file| self.root.join(file).is_file()))
    }

    /// The program that `manifest` names, mapped, and checked against its hash.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound) or [`Corrupt`](engine::ErrorKind::Corrupt), naming the file.
    pub fn program(&self, program: &ProgramRef) -> Result<Bytes> {
        let path = self.content(Content::Program, &program.hash)?;
        let bytes = self.maps.open(&path).map_err(gone)?;
        if program_hash(&bytes, &program.target) != program.hash {
            return Err(Error::corrupt(format!(
                "{}: the program's bytes are not those of its hash; pack the model again",
                path.display()
            )));
        }
        Ok(bytes)
    }

    /// The weights of `manifest`'s first form, in program order: mapped, not read.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound) for a missing file, [`Corrupt`](engine::ErrorKind::Corrupt) for one
    /// that is not what the manifest says, and for a weight that does not lie in its file.
    pub fn weights(&self, manifest: &Manifest) -> Result<Vec<Tensor>> {
        let of = |error: Error| error.context(format!("model '{}' version {}", manifest.name, manifest.version));
        self.tensors(&manifest.weights).map_err(of)
    }

    /// As [`weights`](Self::weights), of any form.
    pub(crate) fn tensors(&self, weights: &Weights) -> Result<Vec<Tensor>> {
        let table = self.table(weights)?;
        let segment = |(at, segment)| match self.segment(segment) {
            Err(error) if error.kind == ErrorKind::NotFound && self.in_part => self.part_of(segment, &table, at),
            whole => whole,
        };
        let segments = weights.segments.iter().enumerate().map(segment).collect::<Result<Vec<_>>>()?;
        let find = |weight: &WeightRef| {
            let segment = segments.get(weight.segment as usize);
            let segment = segment.ok_or_else(|| {
                Error::corrupt(format!("the manifest has no segment {}; pack the model again", weight.segment))
            })?;
            segment::tensor(segment, weight)
        };
        table.iter().map(find).collect()
    }

    /// Says `advice` about the file that `segment` names, where this process has it mapped.
    pub fn advise(&self, segment: &SegmentRef, advice: Advice) {
        let path = match &segment.external {
            None => self.content(Content::Segment, &segment.hash),
            Some(external) => Ok(external.path.clone()),
        };
        if let Some(map) = path.ok().and_then(|path| self.maps.known(&path)) {
            // The kernel may do otherwise.
            engine::map::advise(&map.bytes(), advice);
        }
    }

    /// How many files this process has mapped through this store and its clones.
    pub fn mapped_files(&self) -> usize {
        self.maps.len()
    }

    /// More than these are not mapped; unlike their number it is known without a count.
    pub fn mapped_files_at_most(&self) -> usize {
        self.maps.len_at_most()
    }

    /// Where each of `weights` lies.
    pub(crate) fn table(&self, weights: &Weights) -> Result<Vec<WeightRef>> {
        if let Some(inline) = &weights.inline {
            return Ok(inline.clone());
        }
        if weights.is_empty() {
            return Ok(Vec::new());
        }
        let path = self.content(Content::Table, &weights.table)?;
        let bytes = std::fs::read(&path).map_err(|source| gone(io_error(&path, "cannot be read", &source)))?;
        let corrupt = |reason: String| Error::corrupt(format!("{}: {reason}; pack the model again", path.display()));
        if blake3::hash(&bytes).to_hex().as_str() != weights.table {
            return Err(corrupt("its bytes are not those of its hash".to_owned()));
        }
        let table = table::decode(&bytes).map_err(|error| corrupt(error.message))?;
        if table.len() != weights.count {
            return Err(corrupt(format!("it has {} weights, the manifest {}", table.len(), weights.count)));
        }
        Ok(table)
    }

    /// The file that `segment` names, mapped, and checked to be as long, and where it is not ours what it was.
    pub(crate) fn segment(&self, segment: &SegmentRef) -> Result<Bytes> {
        let long = |map: &Map| segment.bytes == 0 || map.len_bytes() == segment.bytes;
        match &segment.external {
            None => self
                .maps
                .open_if(&self.content(Content::Segment, &segment.hash)?, |map| {
                    let (is, was) = (map.len_bytes(), segment.bytes);
                    let cut = || Error::corrupt(format!("it has {is} bytes and had {was}; pack the model again"));
                    long(map).then_some(()).ok_or_else(cut)?;
                    self.inspected.believe(&segment.hash, map)
                })
                .map_err(gone),
            Some(external) => self.outside.map(&self.maps, segment, external),
        }
    }

    /// As [`segment`](Self::segment), of one that is there in part: as far as the weights of `table` lie in it, whose segment
    /// number `at` it is.
    fn part_of(&self, segment: &SegmentRef, table: &[WeightRef], at: usize) -> Result<Bytes> {
        let path = self.content(Content::Segment, &segment.hash)?;
        let mine = table.iter().filter(|weight| usize::try_from(weight.segment) == Ok(at));
        let ranges = mine.map(WeightRef::range).collect::<Result<Vec<_>>>()?;
        remote::view(&self.maps, &path, &ranges)
    }

    /// The file at `path`, which may be anywhere, mapped.
    pub(crate) fn map(&self, path: &Path) -> Result<Bytes> {
        self.maps.open(path)
    }

    /// The file that `manifest` calls `name`, mapped, and checked against its hash.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound) when it has none of that name, [`Corrupt`](engine::ErrorKind::Corrupt)
    /// when its bytes are others than were packed.
    pub fn file(&self, manifest: &Manifest, name: &str) -> Result<Bytes> {
        let hash = manifest.files.get(name).ok_or_else(|| {
            Error::not_found(format!("model '{}' version {} has no {name}", manifest.name, manifest.version))
        })?;
        let path = self.content(Content::File, hash)?;
        let bytes = self.maps.open(&path).map_err(gone)?;
        if blake3::hash(&bytes).to_hex().as_str() != hash {
            let reason = "the file's bytes are not those of its hash; pack the model again";
            return Err(Error::corrupt(format!("{}: {reason}", path.display())));
        }
        Ok(bytes)
    }

    /// Where the file of this hash, one that comes with a model, lies.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when it is no hash.
    pub(crate) fn file_path(&self, hash: &str) -> Result<PathBuf> {
        self.content(Content::File, hash)
    }

    /// Writes `manifest`, which is the last thing written of a pack. `None` when gc was faster with something that it
    /// names: then the pack has to be made again.
    pub(crate) fn commit(&self, manifest: &Manifest) -> Result<Option<Written>> {
        let manifest = &*self.with_tables(manifest)?;
        let _held = self.lock(Hold::Shared)?;
        if !self.touch(manifest)? {
            return Ok(None);
        }
        let folder = self.root.join("models").join(&manifest.name);
        std::fs::create_dir_all(&folder).map_err(|source| io_error(&folder, "cannot be made", &source))?;
        let name = format!("{}.json", manifest.version);
        atomic::create(&folder, &name, |file| serde_json::to_writer(file, manifest).map_err(std::io::Error::from))
            .map(Some)
    }

    /// Writes `new` in place of `old`, of the same name and version; `false`, and nothing done, when `old` is no longer
    /// what is there or gc was faster with something that `new` names.
    pub(crate) fn supersede(&self, old: &Manifest, new: &Manifest) -> Result<bool> {
        let new = &*self.with_tables(new)?;
        let _held = self.lock(Hold::Alone)?;
        let current = self.manifest(&old.name, old.version);
        if !current.is_ok_and(|current| current == *old) || !self.touch(new)? {
            return Ok(false);
        }
        // Servers that have read the old manifest find its files for another grace period.
        self.spare(old)?;
        let folder = self.root.join("models").join(&new.name);
        let name = format!("{}.json", new.version);
        atomic::replace(&folder, &name, |file| serde_json::to_writer(file, new).map_err(std::io::Error::from))?;
        Ok(true)
    }

    pub(crate) fn lock(&self, hold: Hold) -> Result<Lock> {
        lock::take(&self.root, hold)
    }

    pub(crate) fn manifest_path(&self, model: &str, version: u64) -> PathBuf {
        self.root.join("models").join(model).join(format!("{version}.json"))
    }

    /// The file that `hash` names in one of the store's folders.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when it is no hash.
    pub(crate) fn content(&self, content: Content, hash: &str) -> Result<PathBuf> {
        Ok(self.root.join(content.path(hash)?))
    }
}

/// What becomes of `error` when a file of the store's own is not there, which somebody is most likely to have removed.
fn gone(error: Error) -> Error {
    let fix =
        "if the model was removed from the store while it was still served, pack it again, or serve what is there now";
    match error.kind {
        ErrorKind::NotFound => Error { message: format!("{}; {fix}", error.message), ..error },
        _ => error,
    }
}

/// `place` as a path.
///
/// # Errors
/// [`Unsupported`](engine::ErrorKind::Unsupported) for a URL that is none of a file.
pub(crate) fn local(place: &str) -> Result<PathBuf> {
    match place.split_once("://") {
        None => Ok(PathBuf::from(place)),
        Some(("file", path)) => Ok(PathBuf::from(path)),
        Some(_) => Err(Error::unsupported(format!(
            "{place}: this is done to a store in a folder; 'packhorse pull {place} FOLDER' and 'packhorse push FOLDER \
             {place}' bring models from there and back"
        ))),
    }
}

pub(crate) fn read_dir(folder: &Path) -> Result<Vec<String>> {
    let unreadable = |source: std::io::Error| io_error(folder, "cannot be read", &source);
    std::fs::read_dir(folder)
        .map_err(unreadable)?
        .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose())
        .collect::<std::io::Result<_>>()
        .map_err(unreadable)
}
