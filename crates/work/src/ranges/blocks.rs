//! Which blocks of a video are here, which are to come next, and which give way: decided, and nothing done.

use std::collections::BTreeMap;
use std::ops::Range;

/// A video comes in blocks of so many bytes; the last is shorter.
pub(super) const BLOCK_BYTES: u64 = 1 << 20;
/// Blocks that are fetched in one request at most, when they are fetched ahead of being asked for.
const RUN_MAX: usize = 8;
/// Blocks that are fetched ahead of somebody who reads on and on.
const AHEAD_MAX: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Absent,
    Coming,
    /// And when it was last used, by `clock`.
    Here(u64),
}

/// Somebody who reads.
#[derive(Clone, Copy, Debug, Default)]
struct Reader {
    at: usize,
    /// So many blocks behind that one will be asked for next, going by what was asked for until now.
    ahead: usize,
}

/// The blocks of one video.
#[derive(Debug)]
pub(super) struct Blocks {
    bytes: u64,
    blocks: Vec<Block>,
    /// How many may be here.
    most: usize,
    here: usize,
    clock: u64,
    readers: BTreeMap<u64, Reader>,
    /// How many wait for each, of those for which anybody waits.
    demanded: BTreeMap<usize, u32>,
    /// How many are reading each at this moment; such a block stays.
    pinned: BTreeMap<usize, u32>,
}

impl Blocks {
    /// Of a video of `bytes`, with `most` blocks at a time; a few more while they are read.
    pub(super) fn new(bytes: u64, most: usize) -> Self {
        let blocks = vec![Block::Absent; usize::try_from(bytes.div_ceil(BLOCK_BYTES)).unwrap_or(usize::MAX)];
        let (readers, demanded, pinned) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { bytes, blocks, most: most.max(1), here: 0, clock: 0, readers, demanded, pinned }
    }

    /// The block in which the byte at `offset` is.
    pub(super) fn of(offset: u64) -> usize {
        usize::try_from(offset / BLOCK_BYTES).unwrap_or(usize::MAX)
    }

    /// Where the blocks in `run` are in the video.
    pub(super) fn span(&self, run: &Range<usize>) -> Range<u64> {
        let at = |block: usize| (block as u64).saturating_mul(BLOCK_BYTES).min(self.bytes);
        at(run.start)..at(run.end)
    }

    pub(super) fn is_here(&self, block: usize) -> bool {
        matches!(self.blocks.get(block), Some(Block::Here(_)))
    }

    /// That `reader` reads `block` now. Whoever reads on gets more and more ahead, whoever jumps begins anew.
    pub(super) fn reads(&mut self, reader: u64, block: usize) {
        let most = (self.most / 4).min(AHEAD_MAX);
        let now = self.readers.entry(reader).or_insert(Reader { at: block, ahead: 0 });
        match block.checked_sub(now.at) {
            Some(0) => {}
            Some(1) => now.ahead = (now.ahead * 2).max(1).min(most),
            _ => now.ahead = 0,
        }
        now.at = block;
    }

    pub(super) fn leaves(&mut self, reader: u64) {
        self.readers.remove(&reader);
    }

    /// That somebody waits for `block`, until [`came`](Self::came).
    pub(super) fn demand(&mut self, block: usize) {
        *self.demanded.entry(block).or_default() += 1;
    }

    /// That somebody waits for it no more.
    pub(super) fn came(&mut self, block: usize) {
        take_one(&mut self.demanded, block);
    }

    /// That `block`, which is here, is read until [`unpin`](Self::unpin).
    pub(super) fn pin(&mut self, block: usize) {
        self.clock += 1;
        if let Some(Block::Here(used)) = self.blocks.get_mut(block) {
            *used = self.clock;
        }
        *self.pinned.entry(block).or_default() += 1;
    }

    pub(super) fn unpin(&mut self, block: usize) {
        take_one(&mut self.pinned, block);
    }

    /// What to fetch next, which is coming from now on: what somebody waits for, else what readers will ask for.
    pub(super) fn next(&mut self) -> Option<Range<usize>> {
        let is_absent = |&block: &usize| self.blocks.get(block) == Some(&Block::Absent);
        let demanded = self.demanded.keys().copied().find(is_absent).map(|block| block..block + 1);
        let run = demanded.or_else(|| self.readers.values().find_map(|reader| self.ahead_of(*reader)))?;
        self.begin(&run);
        Some(run)
    }

    /// What `reader` will ask for, as soon as half of what is ahead of it was read.
    fn ahead_of(&self, Reader { at, ahead }: Reader) -> Option<Range<usize>> {
        let end = (at + 1 + ahead).min(self.blocks.len());
        let is_absent = |&block: &usize| self.blocks[block] == Block::Absent;
        let first = (at + 1..end).find(is_absent).filter(|first| first - at <= ahead.div_ceil(2))?;
        let last = (first..end.min(first + RUN_MAX)).take_while(is_absent).last()?;
        Some(first..last + 1)
    }

    /// That the blocks in `run` are coming.
    pub(super) fn begin(&mut self, run: &Range<usize>) {
        self.blocks[run.clone()].fill(Block::Coming);
    }

    /// That `block` has come. What is returned gives way to it.
    pub(super) fn arrived(&mut self, block: usize) -> Option<usize> {
        self.clock += 1;
        self.here += usize::from(!self.is_here(block));
        self.blocks[block] = Block::Here(self.clock);
        if self.here <= self.most {
            return None;
        }
        let used = |(block, state): (usize, &Block)| match state {
            Block::Here(used) if !self.pinned.contains_key(&block) => Some((*used, block)),
            _ => None,
        };
        let (_, oldest) =
            self.blocks.iter().enumerate().filter_map(used).min().filter(|&(_, oldest)| oldest != block)?;
        self.blocks[oldest] = Block::Absent;
        self.here -= 1;
        Some(oldest)
    }
}

fn take_one(of: &mut BTreeMap<usize, u32>, block: usize) {
    if let Some(count) = of.get_mut(&block) {
        *count -= 1;
        if *count == 0 {
            of.remove(&block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_reads_on_is_read_ahead_of_and_whoever_jumps_is_not() {
        let mut blocks = Blocks::new(1000 * BLOCK_BYTES, 400);
        let mut fetched = 0;
        for block in 0..100 {
            blocks.reads(1, block);
            while let Some(run) = blocks.next() {
                assert!(run.len() <= RUN_MAX && run.end <= block + 1 + AHEAD_MAX, "{run:?} at {block}");
                fetched += run.len();
                run.for_each(|block| assert_eq!(blocks.arrived(block), None));
            }
        }
        assert!((115..=131).contains(&fetched), "{fetched}");
        for block in (200..900).step_by(10) {
            blocks.reads(1, block);
            assert_eq!(blocks.next(), None);
        }
        blocks.demand(150);
        assert_eq!((blocks.next(), blocks.next()), (Some(150..151), None));
    }

    #[test]
    fn the_oldest_give_way_unless_they_are_read() {
        let mut blocks = Blocks::new(10 * BLOCK_BYTES - 5, 3);
        assert_eq!(blocks.span(&(8..10)), 8 * BLOCK_BYTES..10 * BLOCK_BYTES - 5);
        blocks.begin(&(0..10));
        assert_eq!([0, 1, 2].map(|block| blocks.arrived(block)), [None; 3]);
        blocks.pin(0);
        assert_eq!(blocks.arrived(3), Some(1));
        assert_eq!(blocks.arrived(4), Some(2));
        blocks.unpin(0);
        // It was read after the others.
        blocks.pin(3);
        blocks.unpin(3);
        assert_eq!(blocks.arrived(5), Some(0));
        assert_eq!(blocks.arrived(6), Some(4));
        assert!([3, 5, 6].into_iter().all(|block| blocks.is_here(block)) && !blocks.is_here(0));
    }
}
