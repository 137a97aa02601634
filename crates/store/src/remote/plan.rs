//! What has to be read of an object so that a file of it is whole, or whole as far as somebody needs it. Pure.

use std::ops::Range;

use crate::segment::Piece;

/// The most that one request reads.
const RANGE_BYTES_MAX: u64 = 8 << 20;
/// What lies between two pieces is read along with them when it is no more than this: less than a request is worth.
const GAP_BYTES_MAX: u64 = 128 << 10;
/// Pieces of a file that has no table of contents.
const EXTENT_BYTES: u64 = 8 << 20;

/// A part of a file that is there or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// What its bytes have to be, where that is known of the part by itself.
    pub(crate) hash: Option<blake3::Hash>,
}

impl Part {
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.len
    }
}

impl From<&Piece> for Part {
    fn from(piece: &Piece) -> Self {
        Self { offset: piece.offset_bytes, len: piece.len_bytes, hash: Some(piece.hash) }
    }
}

/// The parts of a file of `bytes` of which nothing is known.
pub(crate) fn extents(bytes: u64) -> Vec<Part> {
    let starts = (0..bytes).step_by(usize::try_from(EXTENT_BYTES).unwrap_or(usize::MAX));
    starts.map(|offset| Part { offset, len: EXTENT_BYTES.min(bytes - offset), hash: None }).collect()
}

/// Which of `parts`, ascending, `wanted` ranges of a file lie in; `None` when one of them lies in no part.
pub(crate) fn covering(parts: &[Part], wanted: &[Range<u64>]) -> Option<Vec<usize>> {
    let mut found: Vec<usize> = Vec::with_capacity(wanted.len());
    for range in wanted.iter().filter(|range| !range.is_empty()) {
        let after = parts.partition_point(|part| part.end() <= range.start);
        let part = parts.get(after).filter(|part| part.offset <= range.start && range.end <= part.end())?;
        debug_assert!(part.len > 0, "an empty part covers nothing");
        found.push(after);
    }
    found.sort_unstable();
    found.dedup();
    Some(found)
}

/// What is read of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The parts, ascending, that are whole afterwards; those in gaps between parts that are missing are among them.
    pub(crate) parts: Vec<usize>,
    /// What is asked for, ascending; no two touch but where one request would be too large.
    pub(crate) ranges: Vec<Range<u64>>,
}

impl Reading {
    /// The bytes of all ranges.
    pub(crate) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.end - range.start).sum()
    }
}

/// How the parts `missing` of `parts`, both ascending, are read with few requests; `has` says which are there.
pub(crate) fn reading(parts: &[Part], missing: &[usize], has: impl Fn(usize) -> bool) -> Reading {
    let mut reading = Reading::default();
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut last = None;
    for &at in missing.iter().filter(|&&at| parts[at].len > 0) {
        let part = &parts[at];
        match (runs.last_mut(), last) {
            (Some(run), Some(last)) if part.offset <= run.end + GAP_BYTES_MAX => {
                // What lies in between comes along, and is kept where it was missing too.
                reading.parts.extend((last + 1..at).filter(|&between| parts[between].len > 0 && !has(between)));
                run.end = part.end();
            }
            _ => runs.push(part.offset..part.end()),
        }
        reading.parts.push(at);
        last = Some(at);
    }
    for run in runs {
        let mut at = run.start;
        while at < run.end {
            let end = run.end.min(at + RANGE_BYTES_MAX);
            reading.ranges.push(at..end);
            at = end;
        }
    }
    reading
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "what is read is a list of ranges, of which there may be one")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(lens: &[(u64, u64)]) -> Vec<Part> {
        let mut offset = 0;
        let each = lens.iter().map(|&(gap, len)| {
            offset += gap;
            let part = Part { offset, len, hash: None };
            offset += len;
            part
        });
        each.collect()
    }

    #[test]
    fn near_parts_are_read_together_and_far_ones_apart() {
        const KB: u64 = 1 << 10;
        let parts = parts(&[(0, 10), (54, 10), (4000, 8 * KB), (300 * KB, 20 << 20), (0, 5)]);
        let read = |missing: &[usize], has: &[usize]| reading(&parts, missing, |at| has.contains(&at));
        assert_eq!(read(&[], &[]), Reading::default());
        // The second comes along with its neighbours, and is kept if it was missing.
        let end = parts[2].end();
        assert_eq!(read(&[0, 2], &[]), Reading { parts: vec![0, 1, 2], ranges: vec![0..end] });
        assert_eq!(read(&[0, 2], &[1]), Reading { parts: vec![0, 2], ranges: vec![0..end] });
        let far = parts[3].offset;
        let ranges =
            vec![0..10, far..far + (8 << 20), far + (8 << 20)..far + (16 << 20), far + (16 << 20)..parts[4].end()];
        assert_eq!(read(&[0, 3, 4], &[]), Reading { parts: vec![0, 3, 4], ranges });
    }

    #[test]
    fn a_range_lies_in_one_part_or_in_none() {
        let parts = parts(&[(0, 10), (54, 10), (0, 0), (0, 6)]);
        for (wanted, want) in [
            (vec![0..10], Some(vec![0])),
            (vec![64..74, 0..1, 66..70], Some(vec![0, 1])),
            (vec![74..80], Some(vec![3])),
            (vec![5..5], Some(vec![])),
            (vec![9..11], None),
            (vec![20..30], None),
            (vec![79..81], None),
            (vec![64..80], None),
        ] {
            assert_eq!(covering(&parts, &wanted), want, "{wanted:?}");
        }
    }

    #[test]
    fn extents_cover_a_file() {
        assert_eq!(extents(0), []);
        let extents = extents((16 << 20) + 1);
        assert_eq!(extents.iter().map(|part| part.len).collect::<Vec<_>>(), [8 << 20, 8 << 20, 1]);
    }

    proptest! {
        #[test]
        fn what_is_read_holds_what_is_missing(
            lens in prop::collection::vec((0u64..200_000, 0u64..200_000), 0..40),
            missing in prop::collection::vec(any::<bool>(), 40),
            there in prop::collection::vec(any::<bool>(), 40),
        ) {
            let parts = parts(&lens);
            let missing: Vec<usize> = (0..parts.len()).filter(|&at| missing[at]).collect();
            let has = |at: usize| there[at] && !missing.contains(&at);
            let read = reading(&parts, &missing, has);
            prop_assert!(read.ranges.is_sorted_by(|a, b| a.end <= b.start));
            prop_assert!(read.ranges.iter().all(|range| range.end - range.start <= RANGE_BYTES_MAX));
            prop_assert!(read.parts.is_sorted_by(|a, b| a < b));
            prop_assert!(read.parts.iter().all(|&at| !has(at)));
            for at in missing.into_iter().filter(|&at| parts[at].len > 0) {
                prop_assert!(read.parts.contains(&at));
            }
            for &at in &read.parts {
                let covered: u64 = read.ranges.iter().map(|range| {
                    range.end.min(parts[at].end()).saturating_sub(range.start.max(parts[at].offset))
                }).sum();
                prop_assert_eq!(covered, parts[at].len);
            }
        }
    }
}
