//! Which blocks of a video are here, which are to come next, and which give way: decided, and nothing done.

use std::collections::BTreeMap;
use std::ops::Range;

/// A video comes in blocks of so many bytes; the last is shorter.
pub(crate) const BLOCK_BYTES: u64 = 1 << 20;
/// Of so many where what is wanted of it are single frames.
pub(crate) const SMALL_BLOCK_BYTES: u64 = 128 << 10;
/// Fetched in one request at most, of what is fetched ahead of being asked for.
const RUN_BYTES_MAX: u64 = 8 << 20;
/// Fetched ahead of somebody who reads on and on.
const AHEAD_BYTES_MAX: u64 = 32 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Absent,
    Coming,
    /// And when it was last used, by `clock`.
    Here(u64),
}

/// Somebody who reads.
#[derive(Clone, Debug, Default)]
struct Reader {
    /// The blocks that it will read, in order; without them, one after the other.
    order: Option<Vec<usize>>,
    /// Where it is in them.
    at: usize,
    /// So many behind that one will be asked for next, going by what was asked for until now.
    ahead: usize,
    /// Whether it is to read no more than is still here when the others come to it.
    leads: bool,
}

impl Reader {
    /// Where `block` is in what it reads.
    fn place(&self, block: usize) -> usize {
        self.order.as_ref().map_or(block, |order| order.partition_point(|&other| other < block))
    }

    /// The block that is there in what it reads.
    fn block(&self, place: usize) -> Option<usize> {
        self.order.as_ref().map_or(Some(place), |order| order.get(place).copied())
    }
}

/// The blocks of one video.
#[derive(Debug)]
pub(super) struct Blocks {
    bytes: u64,
    block_bytes: u64,
    blocks: Vec<Block>,
    /// How many may be here.
    most: usize,
    here: usize,
    clock: u64,
    readers: BTreeMap<u64, Reader>,
    /// Whether who leads may go on while nobody follows.
    pub(super) list_is_awaited: bool,
    /// How many wait for each, of those for which anybody waits.
    demanded: BTreeMap<usize, u32>,
    /// How many are reading each at this moment; such a block stays.
    pinned: BTreeMap<usize, u32>,
}

impl Blocks {
    /// Of a video of `bytes`, in blocks of `block_bytes`, with `most` of them at a time; a few more while they are read.
    pub(super) fn new((bytes, block_bytes): (u64, u64), most: usize) -> Self {
        let blocks = vec![Block::Absent; usize::try_from(bytes.div_ceil(block_bytes)).unwrap_or(usize::MAX)];
        let (most, readers, list_is_awaited) = (most.max(1), BTreeMap::new(), true);
        let (demanded, pinned) = (BTreeMap::new(), BTreeMap::new());
        Self { bytes, block_bytes, blocks, most, here: 0, clock: 0, readers, list_is_awaited, demanded, pinned }
    }

    /// The block in which the byte at `offset` is.
    pub(super) fn of(&self, offset: u64) -> usize {
        usize::try_from(offset / self.block_bytes).unwrap_or(usize::MAX)
    }

    /// How many blocks come to `bytes`.
    fn count(&self, bytes: u64) -> usize {
        usize::try_from(bytes / self.block_bytes).unwrap_or(usize::MAX).max(1)
    }

    /// Where the blocks in `run` are in the video.
    pub(super) fn span(&self, run: &Range<usize>) -> Range<u64> {
        let at = |block: usize| (block as u64).saturating_mul(self.block_bytes).min(self.bytes);
        at(run.start)..at(run.end)
    }

    pub(super) fn is_here(&self, block: usize) -> bool {
        matches!(self.blocks.get(block), Some(Block::Here(_)))
    }

    /// That `reader` reads `block` now. Whoever reads on gets more and more ahead, whoever jumps begins anew.
    pub(super) fn reads(&mut self, reader: u64, block: usize) {
        let most = (self.most / 4).min(self.count(AHEAD_BYTES_MAX));
        let now = self.readers.entry(reader).or_insert_with(|| Reader { at: block, ..Reader::default() });
        let place = now.place(block);
        match place.checked_sub(now.at) {
            Some(0) => {}
            Some(1) => now.ahead = (now.ahead * 2).max(1).min(most),
            _ => now.ahead = 0,
        }
        now.at = place;
    }

    /// That `reader` will read everything but `hollows`, which are in order, and nothing of what lies in them.
    pub(super) fn follows(&mut self, reader: u64, hollows: &[Range<u64>]) {
        let mut order: Vec<usize> = Vec::new();
        let mut at = 0;
        for (start, next) in hollows.iter().map(|hollow| (hollow.start, hollow.end)).chain([(self.bytes, self.bytes)]) {
            if at < start {
                let first = self.of(at).max(order.last().map_or(0, |last| last + 1));
                order.extend(first..=self.of(start - 1));
            }
            at = next;
        }
        self.readers.insert(reader, Reader { order: Some(order), ..Reader::default() });
    }

    /// That `reader` reads what others will read after it.
    pub(super) fn leads(&mut self, reader: u64) {
        self.readers.insert(reader, Reader { leads: true, ..Reader::default() });
    }

    /// Whether `reader` may read `block` now, or is to wait until the others have got on. What was used longest ago gives
    /// way, which behind whoever follows is what he used himself: so both together have to be within half of what may be
    /// here, with what is fetched ahead of the first. Where all of the video may be here nothing gives way.
    pub(super) fn may_read(&self, reader: u64, block: usize) -> bool {
        let Some(leader) = self.readers.get(&reader).filter(|reader| reader.leads) else { return true };
        let followers = self.readers.values().filter(|other| !other.leads && other.order.is_none());
        match followers.map(|other| other.at).min() {
            _ if self.most >= self.blocks.len() => true,
            Some(last) => block <= last + (self.most / 4).max(1),
            // Somebody is about to follow.
            None => self.list_is_awaited || block <= leader.at,
        }
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
        let run = demanded.or_else(|| self.readers.values().find_map(|reader| self.ahead_of(reader)))?;
        self.begin(&run);
        Some(run)
    }

    /// What `reader` will ask for, as soon as half of what is ahead of it was read.
    fn ahead_of(&self, reader: &Reader) -> Option<Range<usize>> {
        let is_absent = |&block: &usize| self.blocks.get(block) == Some(&Block::Absent);
        let ahead = (reader.at + 1..reader.at + 1 + reader.ahead).map_while(|place| reader.block(place));
        let (distance, first) = (1..).zip(ahead.clone()).find(|(_, block)| is_absent(block))?;
        if distance > reader.ahead.div_ceil(2) {
            return None;
        }
        let following =
            ahead.skip(distance - 1).zip(first..).take_while(|(block, next)| block == next && is_absent(block));
        let count = following.take(self.count(RUN_BYTES_MAX)).count();
        Some(first..first + count)
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
        let mut blocks = Blocks::new((1000 * BLOCK_BYTES, BLOCK_BYTES), 400);
        let mut fetched = 0;
        for block in 0..100 {
            blocks.reads(1, block);
            while let Some(run) = blocks.next() {
                assert!(run.len() <= 8 && run.end <= block + 1 + 32, "{run:?} at {block}");
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
    fn whoever_reads_some_of_it_is_read_ahead_of_in_that() {
        let mut blocks = Blocks::new((1000 * 100, 100), 400);
        let gap = |from: u64, to: u64| from * 100 + 50..to * 100 + 30;
        // The first block, then parts of every tenth and of the one behind it.
        let hollows: Vec<_> = (0..99).map(|group| gap(group * 10 + u64::from(group > 0), group * 10 + 10)).collect();
        blocks.follows(1, &hollows);
        let wanted: Vec<usize> =
            std::iter::once(0).chain((1..99).flat_map(|group| [group * 10, group * 10 + 1])).chain(990..1000).collect();
        let mut fetched = Vec::new();
        for &block in &wanted {
            blocks.reads(1, block);
            if !blocks.is_here(block) {
                blocks.demand(block);
            }
            while let Some(run) = blocks.next() {
                fetched.extend(run.clone());
                run.for_each(|block| assert_eq!(blocks.arrived(block), None));
            }
            blocks.came(block);
        }
        fetched.sort_unstable();
        assert_eq!(fetched, wanted);
    }

    #[test]
    fn whoever_leads_is_still_followed_by_what_it_read() {
        let mut blocks = Blocks::new((400 * BLOCK_BYTES, BLOCK_BYTES), 40);
        blocks.leads(1);
        // Nobody follows yet.
        assert!(blocks.may_read(1, 30));
        let mut fetched = 0;
        let mut reads = |blocks: &mut Blocks, reader, block| {
            blocks.reads(reader, block);
            if !blocks.is_here(block) {
                blocks.demand(block);
            }
            while let Some(run) = blocks.next() {
                fetched += run.len();
                for block in run {
                    blocks.arrived(block);
                }
            }
            blocks.came(block);
            blocks.pin(block);
            blocks.unpin(block);
        };
        let mut first = 0;
        for last in 0..400 {
            reads(&mut blocks, 2, last);
            while first < 400 && blocks.may_read(1, first) {
                reads(&mut blocks, 1, first);
                first += 1;
            }
            assert!(blocks.may_read(2, 399) && first == 400.min(last + 11), "{first} {last}");
        }
        assert_eq!(fetched, 400);
        blocks.leaves(2);
        assert!(blocks.may_read(1, 399));
        // While somebody is about to follow it stays where it is.
        blocks.list_is_awaited = false;
        blocks.reads(1, 5);
        assert!(blocks.may_read(1, 5) && !blocks.may_read(1, 6));
        blocks.reads(2, 0);
        assert!(blocks.may_read(1, 10) && !blocks.may_read(1, 11));
        // With room for all of it.
        let mut blocks = Blocks::new((400 * BLOCK_BYTES, BLOCK_BYTES), 400);
        blocks.leads(1);
        blocks.reads(2, 0);
        assert!(blocks.may_read(1, 399));
    }

    #[test]
    fn the_oldest_give_way_unless_they_are_read() {
        let mut blocks = Blocks::new((10 * BLOCK_BYTES - 5, BLOCK_BYTES), 3);
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
