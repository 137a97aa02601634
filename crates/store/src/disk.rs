//! Weights that are on disk alone, read into the page cache in one go.
//!
//! A run comes to its weights page by page, and waits for the disk each time. Telling the kernel to read them (`MADV_WILLNEED`)
//! brings them in pages of the smallest size, and of a tensor no more than its read-ahead; a few threads that read one part
//! each have the disk busy all the time, whatever that read-ahead is.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread;

use engine::map::is_resident;
use engine::{Error, Result};

use crate::atomic::io_error;
use crate::content::Content;
use crate::folder::Store;
use crate::manifest::{Manifest, SegmentRef};
use crate::remote;

/// What is read at once. More is slower where the read-ahead is short, because the pages that are waited for are the last.
const READ_BYTES: u64 = 512 << 10;
/// Threads that read, each with its own part.
const READERS_MAX: u64 = 4;
/// Less is read by one thread less.
const PART_BYTES: u64 = 2 << 20;
/// Weights with less than this between them are read together with it.
const GAP_BYTES: u64 = 64 << 10;

/// A piece of a file, the file by its place in a list.
type Piece = (usize, Range<u64>);

impl Store {
    /// Reads those weights of `manifest`'s first form that `wants` holds of, by their place in the program, and that are not all
    /// in the page cache, and gives how many bytes that was. Ends early when `goes_on` does not hold any more. Keeps nothing
    /// of what it reads.
    ///
    /// # Errors
    /// As [`weights`](Self::weights), and when a file cannot be read.
    pub fn read_in(
        &self,
        manifest: &Manifest,
        wants: impl Fn(usize) -> bool,
        goes_on: impl Fn() -> bool + Sync,
    ) -> Result<u64> {
        let (table, tensors) = (self.table(&manifest.weights)?, self.weights(manifest)?);
        let mut away: Vec<Piece> = Vec::new();
        let weights = table.iter().zip(&tensors).enumerate();
        for (_, (weight, tensor)) in weights.filter(|&(at, _)| wants(at)) {
            if !is_resident(tensor.data()) {
                away.push((weight.segment as usize, weight.range()?));
            }
        }
        let pieces = pieces(away);
        let segments = &manifest.weights.segments;
        let files = segments.iter().map(|segment| self.lies(segment)).collect::<Result<Vec<_>>>()?;
        let bytes = pieces.iter().map(|(_, range)| range.end - range.start).sum::<u64>();
        let readers = bytes.div_ceil(PART_BYTES).clamp(1, READERS_MAX);
        let each = pieces.len().div_ceil(usize::try_from(readers).unwrap_or(1)).max(1);
        thread::scope(|scope| {
            let readers: Vec<_> =
                pieces.chunks(each).map(|part| scope.spawn(|| read(&files, part, &goes_on))).collect();
            let done = |reader: thread::ScopedJoinHandle<'_, Result<u64>>| {
                reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            readers.into_iter().map(done).sum()
        })
    }

    /// The file that `segment` names, as far as it is there.
    fn lies(&self, segment: &SegmentRef) -> Result<PathBuf> {
        if let Some(external) = &segment.external {
            return Ok(external.path.clone());
        }
        let whole = self.content(Content::Segment, &segment.hash)?;
        Ok(if whole.is_file() { whole } else { remote::part_of(&whole) })
    }
}

/// What has all of `away`, in the order in which it lies, in pieces that are read at once.
fn pieces(mut away: Vec<Piece>) -> Vec<Piece> {
    away.sort_unstable_by_key(|(file, range)| (*file, range.start));
    let mut whole: Vec<Piece> = Vec::new();
    for (file, range) in away {
        match whole.last_mut() {
            Some((last, before)) if *last == file && range.start <= before.end.saturating_add(GAP_BYTES) => {
                before.end = before.end.max(range.end);
            }
            _ => whole.push((file, range)),
        }
    }
    let cut = |(file, Range { start, end }): Piece| {
        let starts = std::iter::successors(Some(start), |start| start.checked_add(READ_BYTES));
        starts.take_while(move |start| *start < end).map(move |start| (file, start..end.min(start + READ_BYTES)))
    };
    whole.into_iter().flat_map(cut).collect()
}

/// Reads `pieces` of `files`, as far as these go, one after the other.
fn read(files: &[PathBuf], pieces: &[Piece], goes_on: impl Fn() -> bool) -> Result<u64> {
    let (mut bytes, mut buffer, mut open) = (0, Vec::new(), None);
    for (file, range) in pieces {
        if !goes_on() {
            break;
        }
        let path = files.get(*file).ok_or_else(|| Error::corrupt(format!("the manifest has no segment {file}")))?;
        let failed = |source: std::io::Error| io_error(path, "cannot be read", &source);
        let opened = match open.take() {
            Some((of, opened)) if of == *file => opened,
            // Each reader has a file of its own, for the kernel reads ahead of one reader a file.
            _ => File::open(path).map_err(failed)?,
        };
        buffer.resize(usize::try_from(range.end - range.start).unwrap_or_default(), 0);
        bytes += opened.read_at(&mut buffer, range.start).map_err(failed)? as u64;
        open = Some((*file, opened));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use engine::{DataType, Tensor};
    use proptest::prelude::*;

    use super::*;
    use crate::upkeep::tests::Place;

    /// Has the kernel drop the files of `store`'s segments, which it does where it keeps them on a disk.
    fn chill(store: &Store) {
        for file in std::fs::read_dir(store.root().join("segments")).unwrap() {
            let file = File::open(file.unwrap().path()).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
    }

    fn tensor(seed: u8, len: usize) -> Tensor {
        let bytes: Vec<u8> = (0..len).map(|at| (at / 7) as u8 ^ seed).collect();
        Tensor::new(DataType::U8, vec![len], bytes.into()).unwrap()
    }

    fn is_here(store: &Store, manifest: &Manifest) -> bool {
        store.weights(manifest).unwrap().iter().all(|weight| is_resident(weight.data()))
    }

    #[test]
    fn what_is_on_disk_alone_is_read_and_nothing_else() {
        let place = Place::new();
        // The second shares the first one's large tensor, and has a head of its own.
        let trunk = tensor(1, 9 << 20);
        place.pack("base", &[trunk.clone(), tensor(2, 5000)]);
        let (tuned, _) = place.pack("tuned", &[trunk, tensor(3, 100_000)]);
        chill(&place.store);
        let was_here = is_here(&place.store, &tuned);
        let asked = AtomicUsize::new(0);
        let stops = place.store.read_in(&tuned, |_| true, || asked.fetch_add(1, Ordering::Relaxed) > 100).unwrap();
        assert_eq!(stops, 0, "it was told to stop before the first piece");
        assert_eq!(place.store.read_in(&tuned, |_| false, || true).unwrap(), 0, "nothing was wanted");
        let bytes = place.store.read_in(&tuned, |_| true, || true).unwrap();
        // The kernel reads what lies beside a segment's table of contents along with that. Where files are in memory anyway
        // there is nothing to read.
        let read = if was_here { 0..=0 } else { 9 << 20..=(9 << 20) + 100_000 };
        assert!(read.contains(&bytes), "{bytes} bytes, here before: {was_here}");
        assert!(is_here(&place.store, &tuned));
        assert_eq!(place.store.read_in(&tuned, |_| true, || true).unwrap(), 0, "all of it is there");
    }

    proptest! {
        #[test]
        fn pieces_have_every_byte_that_is_away_once_and_little_else(
            away in prop::collection::vec((0usize..3, 0u64..20_000_000, 1u64..3_000_000), 0..20)
        ) {
            let away: Vec<Piece> = away.into_iter().map(|(file, start, len)| (file, start..start + len)).collect();
            let pieces = pieces(away.clone());
            for (file, range) in &away {
                let inside = pieces.iter().filter(|(of, _)| of == file);
                let shared = inside.map(|(_, piece)| {
                    piece.end.min(range.end).saturating_sub(piece.start.max(range.start))
                });
                prop_assert_eq!(shared.sum::<u64>(), range.end - range.start);
            }
            for (one, other) in pieces.iter().zip(&pieces[1.min(pieces.len())..]) {
                prop_assert!(one.0 < other.0 || one.0 == other.0 && one.1.end <= other.1.start);
            }
            for (_, piece) in &pieces {
                prop_assert!(piece.end - piece.start <= READ_BYTES && !piece.is_empty());
            }
            let (wanted, read) = (
                away.iter().map(|(_, range)| range.end - range.start).sum::<u64>(),
                pieces.iter().map(|(_, range)| range.end - range.start).sum::<u64>(),
            );
            prop_assert!(read <= wanted + GAP_BYTES * away.len() as u64);
        }
    }
}
