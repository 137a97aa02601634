//! A file that a model is made of, under the same name in every store.

use engine::{Error, Result};

use crate::content::{Content, program_hash};
use crate::manifest::{Manifest, ProgramRef, Weights};
use crate::segment::is_sound;

/// A file of a store, named by its content.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Item {
    /// Relative to the store, slashes between its parts: a path in a folder, a key in a bucket.
    pub(crate) key: String,
    kind: Kind,
    hash: String,
    /// Its size, where that is known.
    pub(crate) bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Program {
        target: String,
    },
    Segment,
    /// A table, or what comes with a model: named by all of its bytes.
    Plain,
}

impl Item {
    fn new(content: Content, kind: Kind, hash: &str, bytes: Option<u64>) -> Result<Self> {
        let key = content.path(hash)?.to_string_lossy().into_owned();
        Ok(Self { key, kind, hash: hash.to_owned(), bytes })
    }

    pub(crate) fn program(program: &ProgramRef) -> Result<Self> {
        Self::new(Content::Program, Kind::Program { target: program.target.clone() }, &program.hash, None)
    }

    pub(crate) fn segment(hash: &str, bytes: u64) -> Result<Self> {
        Self::new(Content::Segment, Kind::Segment, hash, (bytes > 0).then_some(bytes))
    }

    /// The table of `weights`, where it is a file.
    pub(crate) fn table(weights: &Weights) -> Result<Option<Self>> {
        let name = Some(&weights.table).filter(|table| !table.is_empty());
        name.map(|table| Self::new(Content::Table, Kind::Plain, table, None)).transpose()
    }

    pub(crate) fn file(hash: &str) -> Result<Self> {
        Self::new(Content::File, Kind::Plain, hash, None)
    }

    pub(crate) fn hash(&self) -> &str {
        &self.hash
    }

    pub(crate) fn is_segment(&self) -> bool {
        self.kind == Kind::Segment
    }

    /// Whether `bytes` are the file's.
    pub(crate) fn is(&self, bytes: &[u8]) -> bool {
        match &self.kind {
            Kind::Program { target } => program_hash(bytes, target) == self.hash,
            Kind::Segment => is_sound(bytes, &self.hash),
            Kind::Plain => blake3::hash(bytes).to_hex().as_str() == self.hash,
        }
    }
}

/// Every file that `manifest` names, of all of its forms, by key.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) for a name that is no hash,
/// [`FailedPrecondition`](engine::ErrorKind::FailedPrecondition) for a file outside its store.
pub(crate) fn items(manifest: &Manifest) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    for (program, weights) in manifest.forms() {
        items.push(Item::program(program)?);
        items.extend(Item::table(weights)?);
        for segment in &weights.segments {
            if let Some(external) = &segment.external {
                let path = external.path.display();
                let reason = format!(
                    "its weights are in {path}, which is no file of the store; 'packhorse compact --copy' brings it in"
                );
                return Err(Error::new(engine::ErrorKind::FailedPrecondition, reason));
            }
            items.push(Item::segment(&segment.hash, segment.bytes)?);
        }
    }
    for hash in manifest.files.values() {
        items.push(Item::file(hash)?);
    }
    items.sort_unstable();
    items.dedup_by(|a, b| a.key == b.key);
    Ok(items)
}
