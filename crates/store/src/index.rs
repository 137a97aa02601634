//! Which segments hold a tensor: what their tables of contents say, gathered in one file so that a pack need not open them
//! all.
//!
//! The file `index` is nothing but a cache. It names the segments that it covers; whatever segment it does not cover is
//! asked itself, and when those become many, the file is written anew and put in the old one's place. So nothing has to be
//! written in step with anything: a packer that dies, or two that race, cost the next one a few files to open. What is
//! found here is a hint; [`crate::place`] believes only the tensor's own bytes.
//!
//! Little-endian: eight bytes of magic, the number of segments and of entries (eight bytes each), the segments' names in
//! order (32 bytes each), and the entries in order: the first eight bytes of a tensor's hash and the segment's position
//! (four bytes).

use std::collections::HashMap;
use std::io::Write;

use bytes::Bytes;
use engine::Result;
use engine::map::Map;

use crate::content::Content;
use crate::folder::read_dir;
use crate::segment::{PAGE_BYTES, contents};
use crate::{Store, atomic};

/// The name of a segment.
pub(crate) type Name = [u8; 32];
/// What the index knows of a tensor.
type Prefix = [u8; 8];

/// A smaller tensor is not looked for: a segment that holds only such is not worth a map.
pub(crate) const INDEXED_BYTES_MIN: u64 = PAGE_BYTES;
/// Segments that are asked one by one before the index is written anew; an eighth of those it covers when that is more.
const UNCOVERED_MAX: usize = 64;

const MAGIC: &[u8; 8] = b"PHINDEX1";
const FILE: &str = "index";
const HEADER_BYTES: usize = 24;
const ENTRY_BYTES: usize = 12;

/// For each segment of `store` that seems to hold any of the `wanted` tensors, which of them.
///
/// # Errors
/// When the folder of segments cannot be read. An index that cannot be read or written is done without.
pub(crate) fn find(store: &Store, wanted: &[blake3::Hash]) -> Result<HashMap<Name, Vec<usize>>> {
    let mut present: Vec<Name> = read_dir(&store.root().join(Content::Segment.folder()))?
        .iter()
        .filter_map(|file| Some(*blake3::Hash::from_hex(Content::Segment.hash_of(file)?).ok()?.as_bytes()))
        .collect();
    present.sort_unstable();
    let index = Index::open(store);
    let uncovered: Vec<(Name, Vec<Prefix>)> = present
        .iter()
        .filter(|name| index.segments().binary_search_by(|covered| covered[..].cmp(*name)).is_err())
        .map(|name| (*name, prefixes_of(store, name)))
        .collect();

    let mut found: HashMap<Name, Vec<usize>> = HashMap::new();
    let mut by_prefix: HashMap<Prefix, Vec<usize>> = HashMap::new();
    for (at, hash) in wanted.iter().enumerate() {
        let prefix = prefix(hash);
        by_prefix.entry(prefix).or_default().push(at);
        for segment in index.holders(prefix).filter(|segment| present.binary_search(segment).is_ok()) {
            found.entry(segment).or_default().push(at);
        }
    }
    for (segment, prefixes) in &uncovered {
        for at in prefixes.iter().filter_map(|prefix| by_prefix.get(prefix)).flatten() {
            found.entry(*segment).or_default().push(*at);
        }
    }
    if uncovered.len() > UNCOVERED_MAX.max(index.segments().len() / 8) {
        let entries = index.entries().filter(|(_, segment)| present.binary_search(segment).is_ok());
        let fresh = uncovered.iter().flat_map(|(segment, prefixes)| prefixes.iter().map(|prefix| (*prefix, *segment)));
        if let Err(error) = write(store, &present, entries.chain(fresh).collect()) {
            tracing::warn!(%error, "the index of tensors is not renewed");
        }
    }
    Ok(found)
}

/// The tensors of the segment called `name` that are worth finding; none when it cannot be read, which `verify` tells.
fn prefixes_of(store: &Store, name: &Name) -> Vec<Prefix> {
    let hash = blake3::Hash::from_bytes(*name).to_hex().to_string();
    let read = || {
        let bytes = Map::open(&store.content(Content::Segment, &hash)?)?.bytes();
        contents(&bytes, &hash)
    };
    let pieces = read().ok().flatten().unwrap_or_default();
    pieces.iter().filter(|piece| piece.len_bytes >= INDEXED_BYTES_MIN).map(|piece| prefix(&piece.hash)).collect()
}

fn prefix(hash: &blake3::Hash) -> Prefix {
    let mut prefix = Prefix::default();
    let len = prefix.len();
    prefix.copy_from_slice(&hash.as_bytes()[..len]);
    prefix
}

fn write(store: &Store, present: &[Name], mut entries: Vec<(Prefix, Name)>) -> Result<()> {
    entries.sort_unstable();
    atomic::replace(store.root(), FILE, |file| {
        file.write_all(MAGIC)?;
        file.write_all(&(present.len() as u64).to_le_bytes())?;
        file.write_all(&(entries.len() as u64).to_le_bytes())?;
        present.iter().try_for_each(|name| file.write_all(name))?;
        for (prefix, segment) in &entries {
            let position =
                present.binary_search(segment).ok().and_then(|at| u32::try_from(at).ok()).unwrap_or(u32::MAX);
            file.write_all(prefix)?;
            file.write_all(&position.to_le_bytes())?;
        }
        Ok(())
    })
}

/// The mapped file, which is empty when there is none or it is none.
struct Index {
    file: Bytes,
    segments: usize,
}

impl Index {
    fn open(store: &Store) -> Self {
        let file = Map::open(&store.root().join(FILE)).map(|map| map.bytes()).unwrap_or_default();
        Self::read(&file).unwrap_or(Self { file: Bytes::new(), segments: 0 })
    }

    fn read(file: &Bytes) -> Option<Self> {
        let number = |at: usize| usize::try_from(u64::from_le_bytes(file.get(at..at + 8)?.try_into().ok()?)).ok();
        file.starts_with(MAGIC).then_some(())?;
        let (segments, entries) = (number(8)?, number(16)?);
        let len =
            segments.checked_mul(32)?.checked_add(entries.checked_mul(ENTRY_BYTES)?)?.checked_add(HEADER_BYTES)?;
        (len == file.len()).then(|| Self { file: file.clone(), segments })
    }

    fn segments(&self) -> &[Name] {
        self.file.get(HEADER_BYTES..).map_or(&[], |rest| &rest.as_chunks().0[..self.segments])
    }

    fn raw_entries(&self) -> &[[u8; ENTRY_BYTES]] {
        self.file.get(HEADER_BYTES + 32 * self.segments..).map_or(&[], |rest| rest.as_chunks().0)
    }

    fn entries(&self) -> impl Iterator<Item = (Prefix, Name)> {
        self.raw_entries().iter().filter_map(|&[a, b, c, d, e, f, g, h, position @ ..]| {
            let segment = self.segments().get(u32::from_le_bytes(position) as usize)?;
            Some(([a, b, c, d, e, f, g, h], *segment))
        })
    }

    /// The segments that are said to hold a tensor whose hash starts with `prefix`.
    fn holders(&self, prefix: Prefix) -> impl Iterator<Item = Name> {
        let entries = self.raw_entries();
        let start = entries.partition_point(|entry| entry[..prefix.len()] < prefix[..]);
        entries[start..].iter().take_while(move |entry| entry.starts_with(&prefix)).filter_map(|entry| {
            let position = entry.last_chunk().map_or(u32::MAX, |position| u32::from_le_bytes(*position));
            self.segments().get(position as usize).copied()
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::segment::Layout;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path().to_str().unwrap()).unwrap();
        (folder, store)
    }

    /// A segment of one tensor of its own and one that all have; its name and both hashes.
    fn one(store: &Store, seed: u32) -> (Name, [blake3::Hash; 2]) {
        let tensors = [seed, u32::MAX].map(|value| value.to_le_bytes().repeat(1024));
        let hashes = [0, 1].map(|at| blake3::hash(&tensors[at]));
        let mut layout = Layout::default();
        for (bytes, hash) in tensors.iter().zip(hashes) {
            layout.add(hash, bytes).unwrap();
        }
        let name = blake3::Hash::from_hex(store.put_segment(&layout).unwrap()).unwrap();
        (*name.as_bytes(), hashes)
    }

    #[test]
    fn tensors_are_found_with_and_without_the_file_and_whatever_becomes_of_it() {
        let (_folder, store) = store();
        let file = store.root().join(FILE);
        let mut put: Vec<_> = (0..10).map(|seed| one(&store, seed)).collect();
        let check = |put: &[(Name, [blake3::Hash; 2])], what: &str| {
            for (name, [own, _]) in put {
                assert_eq!(find(&store, &[*own]).unwrap(), HashMap::from([(*name, vec![0])]), "{what}");
            }
            let common = find(&store, &[blake3::hash(b"none"), put[0].1[1]]).unwrap();
            assert_eq!(common.len(), put.len(), "{what}");
            assert!(common.values().all(|which| which == &[1]), "{what}");
        };
        check(&put, "few");
        assert!(!file.exists());
        put.extend((10..100).map(|seed| one(&store, seed)));
        check(&put, "many");
        let written = std::fs::read(&file).unwrap();
        assert_eq!(written.len(), HEADER_BYTES + 100 * 32 + 200 * ENTRY_BYTES);
        put.extend((100..150).map(|seed| one(&store, seed)));
        check(&put, "some that the file does not cover");
        assert_eq!(std::fs::read(&file).unwrap(), written, "these few are asked themselves");
        for (what, bytes) in [("cut", &written[..written.len() / 2]), ("soup", &[9; 5000]), ("empty", b"")] {
            std::fs::remove_file(&file).unwrap();
            std::fs::write(&file, bytes).unwrap();
            check(&put, what);
        }
        for (name, _) in put.drain(..120) {
            let path = store.content(Content::Segment, &blake3::Hash::from_bytes(name).to_hex()).unwrap();
            std::fs::remove_file(path).unwrap();
        }
        check(&put, "most of them gone");
        put.extend((200..300).map(|seed| one(&store, seed)));
        check(&put, "renewed");
        assert_eq!(std::fs::read(&file).unwrap().len(), HEADER_BYTES + 130 * 32 + 260 * ENTRY_BYTES);
    }

    proptest! {
        #[test]
        fn any_file_is_read_without_a_panic(soup in any::<Vec<u8>>(), segments in 0u64..4, entries in 0u64..4) {
            let header = [&MAGIC[..], &segments.to_le_bytes(), &entries.to_le_bytes()].concat();
            let len = HEADER_BYTES + segments as usize * 32 + entries as usize * ENTRY_BYTES;
            let mut whole = [header, soup].concat();
            whole.resize(len, 7);
            for file in [Bytes::from(whole.clone()), Bytes::from(whole[..len / 2].to_vec())] {
                if let Some(index) = Index::read(&file) {
                    index.entries().for_each(drop);
                    index.holders([7; 8]).for_each(drop);
                }
            }
        }
    }
}
