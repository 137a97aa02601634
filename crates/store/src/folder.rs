//! A store in a folder: `programs/HASH.onnx`, `segments/HASH.seg`, `files/HASH.bin`, `models/NAME/VERSION.json`.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::{Error, Result, Tensor};

use crate::atomic::{self, Written, io_error};
use crate::manifest::{FORMAT, Manifest, ProgramRef};
use crate::name;
use crate::segment::{self, Layout};

/// A store of packs. Cheap to clone; holds no state but its place.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
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
        Ok(Self { root })
    }

    /// The store at `place`, made when it is not there.
    ///
    /// # Errors
    /// As the file system's, naming the place.
    pub fn create(place: &str) -> Result<Self> {
        let root = local(place)?;
        for folder in ["programs", "segments", "files", "models"] {
            let folder = root.join(folder);
            std::fs::create_dir_all(&folder).map_err(|source| io_error(&folder, "cannot be made", &source))?;
        }
        Ok(Self { root })
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
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let mut versions: Vec<u64> =
            read_dir(&folder)?.iter().filter_map(|file| file.strip_suffix(".json")?.parse().ok()).collect();
        versions.sort_unstable();
        Ok(versions)
    }

    /// The manifest of `version` of `model`.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound), [`Corrupt`](engine::ErrorKind::Corrupt) when it is no manifest or
    /// speaks of another model, [`Unsupported`](engine::ErrorKind::Unsupported) when a newer build wrote it.
    pub fn manifest(&self, model: &str, version: u64) -> Result<Manifest> {
        name::check(model)?;
        let path = self.manifest_path(model, version);
        let text = std::fs::read(&path).map_err(|source| io_error(&path, "cannot be read", &source))?;
        let corrupt = |reason: String| Error::corrupt(format!("{}: {reason}; pack the model again", path.display()));
        let format = serde_json::from_slice::<FormatOnly>(&text).map_err(|error| corrupt(error.to_string()))?.format;
        if format > FORMAT {
            return Err(Error::unsupported(format!(
                "{}: manifest format {format} is newer than this build, which reads up to {FORMAT}",
                path.display()
            )));
        }
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|error| corrupt(error.to_string()))?;
        if manifest.name != model || manifest.version != version {
            return Err(corrupt(format!("it describes '{}' version {}", manifest.name, manifest.version)));
        }
        Ok(manifest)
    }

    /// The program that `manifest` names, mapped, and checked against its hash.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound) or [`Corrupt`](engine::ErrorKind::Corrupt), naming the file.
    pub fn program(&self, program: &ProgramRef) -> Result<Bytes> {
        let path = self.content_path("programs", &program.hash, "onnx")?;
        let bytes = engine::map::map_file(&path)?;
        if program_hash(&bytes, &program.target) != program.hash {
            return Err(Error::corrupt(format!(
                "{}: the program's bytes are not those of its hash; pack the model again",
                path.display()
            )));
        }
        Ok(bytes)
    }

    /// The weights of `manifest`, in program order: mapped, not read.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound) for a missing segment, [`Corrupt`](engine::ErrorKind::Corrupt) for a
    /// weight that does not lie in its segment.
    pub fn weights(&self, manifest: &Manifest) -> Result<Vec<Tensor>> {
        let segments = manifest
            .segments
            .iter()
            .map(|hash| engine::map::map_file(&self.content_path("segments", hash, "seg")?))
            .collect::<Result<Vec<_>>>()?;
        manifest
            .weights
            .iter()
            .map(|weight| {
                let segment = usize::try_from(weight.segment).ok().and_then(|index| segments.get(index));
                let segment =
                    segment.ok_or_else(|| Error::corrupt(format!("the manifest has no segment {}", weight.segment)))?;
                segment::tensor(segment, weight)
            })
            .collect::<Result<_>>()
            .map_err(|error| error.context(format!("model '{}' version {}", manifest.name, manifest.version)))
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
        let path = self.content_path("files", hash, "bin")?;
        let bytes = engine::map::map_file(&path)?;
        if blake3::hash(&bytes).to_hex().as_str() != hash {
            return Err(Error::corrupt(format!(
                "{}: the file's bytes are not those of its hash; pack the model again",
                path.display()
            )));
        }
        Ok(bytes)
    }

    /// Writes `bytes` under their hash, unless they are there, and returns it.
    pub(crate) fn put_file(&self, bytes: &[u8]) -> Result<String> {
        let hash = blake3::hash(bytes).to_hex().to_string();
        let folder = self.root.join("files");
        // A store that an earlier build made has no such folder.
        std::fs::create_dir_all(&folder).map_err(|source| io_error(&folder, "cannot be made", &source))?;
        atomic::create(&folder, &format!("{hash}.bin"), |file| std::io::Write::write_all(file, bytes))?;
        Ok(hash)
    }

    pub(crate) fn put_program(&self, program: &[u8], target: &str) -> Result<String> {
        let hash = program_hash(program, target);
        atomic::create(&self.root.join("programs"), &format!("{hash}.onnx"), |file| {
            std::io::Write::write_all(file, program)
        })?;
        Ok(hash)
    }

    pub(crate) fn put_segment(&self, layout: &Layout<'_>) -> Result<String> {
        let hash = layout.hash();
        layout.write(&self.root.join("segments"), &hash)?;
        Ok(hash)
    }

    /// Writes `manifest`, which must be the last thing written of a pack.
    pub(crate) fn put_manifest(&self, manifest: &Manifest) -> Result<Written> {
        let folder = self.root.join("models").join(&manifest.name);
        std::fs::create_dir_all(&folder).map_err(|source| io_error(&folder, "cannot be made", &source))?;
        atomic::create(&folder, &format!("{}.json", manifest.version), |file| {
            serde_json::to_writer(file, manifest).map_err(std::io::Error::from)
        })
    }

    fn manifest_path(&self, model: &str, version: u64) -> PathBuf {
        self.root.join("models").join(model).join(format!("{version}.json"))
    }

    /// The file of a hash that a manifest gave, which is checked to be one: it becomes part of a path.
    fn content_path(&self, folder: &str, hash: &str, ending: &str) -> Result<PathBuf> {
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::corrupt(format!("the manifest names '{hash}', which is no content hash")));
        }
        Ok(self.root.join(folder).join(format!("{hash}.{ending}")))
    }
}

#[derive(serde::Deserialize)]
struct FormatOnly {
    format: u32,
}

/// A program's name: its bytes and what they were laid out for.
fn program_hash(program: &[u8], target: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(target.as_bytes()).update(&[0]).update(program);
    hasher.finalize().to_hex().to_string()
}

fn local(place: &str) -> Result<PathBuf> {
    match place.split_once("://") {
        None => Ok(PathBuf::from(place)),
        Some(("file", path)) => Ok(PathBuf::from(path)),
        Some((scheme, _)) => Err(Error::unsupported(format!(
            "{place}: this build keeps stores in folders and cannot open {scheme}:// yet; give a folder"
        ))),
    }
}

fn read_dir(folder: &Path) -> Result<Vec<String>> {
    let unreadable = |source: std::io::Error| io_error(folder, "cannot be read", &source);
    std::fs::read_dir(folder)
        .map_err(unreadable)?
        .filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose())
        .collect::<std::io::Result<_>>()
        .map_err(unreadable)
}
