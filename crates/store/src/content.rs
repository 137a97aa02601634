//! What a store names by its content: the folders, and what the names are hashes of.

use std::path::{Path, PathBuf};

use engine::{Error, Result};

/// A folder of files that are named by their content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// `programs/HASH.onnx`: BLAKE3 of the CPU target, a zero byte and the graph.
    Program,
    /// `segments/HASH.seg`: BLAKE3 of its table of contents; see [`crate::segment`].
    Segment,
    /// `weights/HASH.tbl`: BLAKE3 of the table; see [`crate::table`].
    Table,
    /// `files/HASH`: BLAKE3 of whatever comes with a model.
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
            return Err(Error::corrupt(format!("the manifest names '{hash}', which is no content hash")));
        }
        Ok(Path::new(self.folder()).join(self.file_name(hash)))
    }

    /// The hash in a file's name, when the file is one of this folder's.
    pub(crate) fn hash_of(self, file_name: &str) -> Option<&str> {
        let hash = file_name.get(..64).filter(|hash| is_hash(hash))?;
        (self.file_name(hash) == file_name).then_some(hash)
    }
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
