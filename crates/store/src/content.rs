//! What a store names by its content: the folders, what the names are hashes of, and how files get there.

use std::borrow::Cow;
use std::io::Write;
use std::path::{Path, PathBuf};

use engine::map::Map;
use engine::{Error, ErrorKind, Result};

use crate::Store;
use crate::atomic::{self, Written};
use crate::manifest::{Manifest, Weights};
use crate::segment::Layout;
use crate::table::{self, WeightRef};

/// A folder of files that are named by their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// `programs/HASH.onnx`: BLAKE3 of the CPU target, a zero byte and the graph; of a SavedModel or a
    /// TorchScript module, what is served of it.
    Program,
    /// `segments/HASH.seg`: BLAKE3 of its table of contents; see [`crate::segment`].
    Segment,
    /// `weights/HASH.tbl`: BLAKE3 of the table; see [`crate::table`].
    Table,
    /// `files/HASH`: BLAKE3 of whatever comes with a model, a tokenizer for one.
    File,
}

impl Content {
    pub(crate) const ALL: [Self; 4] = [Self::Program, Self::Segment, Self::Table, Self::File];

    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Program => "programs",
            Self::Segment => "segments",
            Self::Table => "weights",
            Self::File => "files",
        }
    }

    pub(crate) fn file_name(self, hash: &str) -> String {
        match self {
            Self::Program => format!("{hash}.onnx"),
            Self::Segment => format!("{hash}.seg"),
            Self::Table => format!("{hash}.tbl"),
            Self::File => hash.to_owned(),
        }
    }

    /// The file of a hash that a manifest gave, relative to the store's root.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when it is no hash: it becomes part of a path.
    pub(crate) fn path(self, hash: &str) -> Result<PathBuf> {
        if !is_hash(hash) {
            return Err(Error::corrupt(format!(
                "the manifest names '{hash}', which is no content hash; pack the model again"
            )));
        }
        Ok(Path::new(self.folder()).join(self.file_name(hash)))
    }

    /// The hash in a file's name, when the file is one of this folder's.
    pub(crate) fn hash_of(self, file_name: &str) -> Option<&str> {
        let hash = file_name.get(..64).filter(|hash| is_hash(hash))?;
        (self.file_name(hash) == file_name).then_some(hash)
    }
}

impl Store {
    pub(crate) fn put_program(&self, program: &[u8], target: &str) -> Result<String> {
        let hash = program_hash(program, target);
        self.put(Content::Program, &hash, |file| file == program, |out| out.write_all(program))?;
        Ok(hash)
    }

    pub(crate) fn put_segment(&self, layout: &Layout<'_>) -> Result<String> {
        let hash = layout.hash();
        self.put(Content::Segment, &hash, |file| layout.is(file), |mut out| layout.write_to(&mut out))?;
        Ok(hash)
    }

    pub(crate) fn put_table(&self, table: &[WeightRef]) -> Result<String> {
        let bytes = table::encode(table)?;
        let hash = blake3::hash(&bytes).to_hex().to_string();
        self.put(Content::Table, &hash, |file| file == bytes, |out| out.write_all(&bytes))?;
        Ok(hash)
    }

    /// `manifest` as it can be written: a table that it holds itself, as format 1 did, becomes a file.
    pub(crate) fn with_tables<'a>(&self, manifest: &'a Manifest) -> Result<Cow<'a, Manifest>> {
        if manifest.forms().all(|(_, weights)| weights.inline.is_none()) {
            return Ok(Cow::Borrowed(manifest));
        }
        let written = manifest.with_weights(|weights| match weights.inline.as_deref() {
            Some(table @ [_, ..]) => Ok(Weights { table: self.put_table(table)?, inline: None, ..weights.clone() }),
            Some([]) | None => Ok(Weights { inline: None, ..weights.clone() }),
        });
        written.map(Cow::Owned)
    }

    pub(crate) fn put_file(&self, bytes: &[u8]) -> Result<String> {
        let hash = blake3::hash(bytes).to_hex().to_string();
        self.put(Content::File, &hash, |file| file == bytes, |out| out.write_all(bytes))?;
        Ok(hash)
    }

    /// Writes a file under its hash, unless it is there already. One that is there and is not what its name says, as
    /// after a disk lost some of it, is replaced: packing again mends a store.
    fn put(
        &self,
        content: Content,
        hash: &str,
        is_whole: impl FnOnce(&[u8]) -> bool,
        fill: impl Fn(&mut dyn Write) -> std::io::Result<()>,
    ) -> Result<()> {
        let (folder, name) = (self.root().join(content.folder()), content.file_name(hash));
        match atomic::create(&folder, &name, |file| fill(file))? {
            Written::New => Ok(()),
            // Not by way of the maps: those keep what was there when it was first looked at.
            Written::Existed => match Map::open(&folder.join(&name)) {
                Ok(map) if is_whole(&map.bytes()) => Ok(()),
                Err(error) if error.kind != ErrorKind::NotFound => Err(error),
                Ok(_) | Err(_) => {
                    tracing::warn!(file = %folder.join(&name).display(), "damaged, and written again");
                    atomic::replace(&folder, &name, |file| fill(file))
                }
            },
        }
    }
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// A program's name: its bytes and what they were laid out for.
pub(crate) fn program_hash(program: &[u8], target: &str) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(target.as_bytes()).update(&[0]).update(program);
    hasher.finalize().to_hex().to_string()
}
