//! Which models a store in a bucket has, as far as this node knows: from the catalogue, or by listing where there is none,
//! and kept in the cache so that the next start asks only what changed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::{Error, Result};
use objects::{Place, Tag};
use serde::{Deserialize, Serialize};

use super::bucket::{self, Answer};
use super::catalog::{self, Entries, Entry, Root, Which};
use crate::atomic;
use crate::manifest::Manifest;

/// After so long the manifests themselves are listed, whatever the catalogue says: others may have written them without it.
const LIST_AFTER: Duration = Duration::from_secs(600);
/// What is known is written down no more often than this.
const SAVE_AFTER: Duration = Duration::from_secs(60);

/// What is known.
pub(super) struct Known {
    entries: Entries,
    /// The catalogue's root, and its tag; `None` where there is none.
    root: Option<(Root, Tag)>,
    /// When the manifests were listed, or first known from the catalogue.
    listed: Option<Instant>,
    /// Where it is written down.
    file: PathBuf,
    saved: Option<Instant>,
    changed: bool,
}

/// The first line of the file.
#[derive(Serialize, Deserialize)]
struct Head {
    url: String,
    root: Option<Root>,
    etag: Option<String>,
    version: Option<String>,
}

impl Known {
    /// What the cache at `cache` knows of the store at `place`; nothing when that cannot be read.
    pub(super) fn load(place: &Place, cache: &Path) -> Self {
        let url = place.address().to_string();
        let digest = blake3::hash(url.as_bytes()).to_hex();
        let file = cache.join("listings").join(&digest[..32]);
        let read = || {
            let bytes = std::fs::read(&file).ok()?;
            let end = bytes.iter().position(|&byte| byte == b'\n')?;
            let head: Head = serde_json::from_slice(&bytes[..end]).ok().filter(|head: &Head| head.url == url)?;
            let mut entries = Entries::new();
            catalog::decode(&bytes[end + 1..], &mut entries).ok()?;
            Some((head, entries))
        };
        let kept = read();
        let mut known = Self { entries: Entries::new(), root: None, listed: None, file, saved: None, changed: false };
        if let Some((Head { root, etag, version, .. }, entries)) = kept {
            known.root = root.map(|root| (root, Tag { etag, version }));
            known.entries = entries;
        }
        known
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether there is any version of the model called `name`.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.range((name.to_owned(), 0)..).next().is_some_and(|((first, _), _)| first == name)
    }

    pub(super) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Looks again: one request when nothing changed.
    ///
    /// # Errors
    /// As the place's; what was known stays.
    pub(super) fn refresh(&mut self, place: &Place) -> Result<()> {
        let tag = self.root.as_ref().map(|(_, tag)| tag.clone()).unwrap_or_default();
        match bucket::root(place, &tag)? {
            Some(Answer::Same) => {}
            Some(Answer::New(root, tag)) => self.turn_to(place, root, tag)?,
            None => self.root = None,
        }
        if self.root.is_none() || self.listed.is_some_and(|listed| listed.elapsed() > LIST_AFTER) {
            let (entries, differing) = bucket::listed(place, &self.entries)?;
            if differing > 0 && self.root.is_some() {
                tracing::warn!(
                    models = differing,
                    "written without the catalogue; 'packhorse gc' brings that up to date"
                );
            }
            self.changed |= differing > 0 || entries.len() != self.entries.len();
            self.entries = entries;
            self.listed = Some(Instant::now());
        } else {
            self.look_at_pending(place)?;
            self.listed.get_or_insert_with(Instant::now);
        }
        if self.changed && self.saved.is_none_or(|saved| saved.elapsed() > SAVE_AFTER) {
            self.save(place);
        }
        Ok(())
    }

    /// Takes over what `root` says, reading the shards that are others than before.
    fn turn_to(&mut self, place: &Place, root: Root, tag: Tag) -> Result<()> {
        let before = self.root.as_ref().map(|(root, _)| root).filter(|before| before.shards.len() == root.shards.len());
        let is_new = |at: &usize| before.is_none_or(|before| before.shards[*at] != root.shards[*at]);
        let new: Vec<usize> = (0..root.shards.len()).filter(is_new).collect();
        let mut entries = bucket::shards(place, &root, &new)?;
        self.entries.retain(|(name, _), _| !new.contains(&root.shard_of(name)));
        self.entries.append(&mut entries);
        self.changed |= !new.is_empty();
        self.root = Some((root, tag));
        Ok(())
    }

    /// Of what the catalogue cannot tell, the manifests themselves are asked.
    fn look_at_pending(&mut self, place: &Place) -> Result<()> {
        let pending: Vec<Which> =
            self.root.iter().flat_map(|(root, _)| root.pending.keys()).filter_map(|key| catalog::which(key)).collect();
        if pending.is_empty() {
            return Ok(());
        }
        let mut found = bucket::manifests(place, &pending)?;
        for which in &pending {
            let (old, new) = (self.entries.get(which), found.get(which));
            self.changed |= old.map(|entry| &entry.etag) != new.map(|entry| &entry.etag);
            self.entries.remove(which);
        }
        self.entries.append(&mut found);
        Ok(())
    }

    /// The manifest of `version` of `name`.
    ///
    /// # Errors
    /// As [`Store::manifest`](crate::Store::manifest).
    pub(super) fn manifest(&self, place: &Place, name: &str, version: u64) -> Result<Manifest> {
        let which = (name.to_owned(), version);
        let url = place.url(&catalog::manifest_key(&which));
        match self.entries.get(&which) {
            Some(entry) => parse(&which, entry).map_err(|error| error.context(url)),
            None => Err(Error::not_found(format!("{url}: it is not there"))),
        }
    }

    fn save(&mut self, place: &Place) {
        let write = || -> Result<()> {
            let (root, tag) = self.root.clone().unzip();
            let Tag { etag, version } = tag.unwrap_or_default();
            let head = Head { url: place.address().to_string(), root, etag, version };
            let head = serde_json::to_vec(&head).map_err(|error| Error::internal(error.to_string()))?;
            let (_, body) = catalog::encode(self.entries.iter())?;
            let folder = self.file.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder).map_err(|source| atomic::io_error(folder, "cannot be made", &source))?;
            let name = self.file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            atomic::replace(folder, name, |file| {
                file.write_all(&head)?;
                file.write_all(b"\n")?;
                file.write_all(&body)
            })
        };
        match write() {
            Ok(()) => (self.saved, self.changed) = (Some(Instant::now()), false),
            Err(error) => tracing::warn!(%error, "the list of models is not kept for the next start"),
        }
    }
}

/// The manifest in `entry`, which must be of `which`.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) when it is none or speaks of another model,
/// [`Unsupported`](engine::ErrorKind::Unsupported) when a newer build wrote it.
pub(crate) fn parse((name, version): &Which, entry: &Entry) -> Result<Manifest> {
    let manifest = Manifest::parse(entry.manifest.get().as_bytes())?;
    if manifest.name != *name || manifest.version != *version {
        let (name, version) = (&manifest.name, manifest.version);
        return Err(Error::corrupt(format!("it describes '{name}' version {version}; push the model again")));
    }
    Ok(manifest)
}
