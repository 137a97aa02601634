//! Large blocks of memory that are used again: pictures, batches, and what runs compute with.
//!
//! Of a model's work few sizes come and go, many times a second and on several threads. The C library's heap splits one
//! to make room for the other, in an arena for each thread, and comes to several times what is in use; given back to the
//! system every time, each page costs a fault. So these blocks are mapped by themselves and lie ready for the next that
//! needs as much (docs/decisions/037).

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use memmap2::MmapMut;

use crate::{Error, ErrorKind, Result, map};

/// What is smaller is the heap's.
pub(crate) const LARGE_BYTES: usize = 256 << 10;
/// Sizes are multiples of this, so that those that are nearly the same are.
const ROUND_BYTES: usize = 64 << 10;
/// A block may be so many times as large as what is asked for: all of it may have been touched.
const LARGER_MAX: usize = 2;
/// A block that nobody took for so long goes back to the system. A batch of a size that did not pay is tried again
/// after some hundred runs; what it takes is better kept until then than mapped again and again.
const IDLE_MAX: Duration = Duration::from_secs(60);

/// Owned by the process, as its heap is.
static POOL: Mutex<Pool> = Mutex::new(Pool::new());

/// Memory of at least [`LARGE_BYTES`], given back when it is dropped. It begins at a page, and what it holds at first is
/// anything.
pub(crate) struct Block {
    /// `None` only while it is dropped.
    memory: Option<MmapMut>,
    len_bytes: usize,
}

impl Block {
    /// One of `len_bytes`.
    ///
    /// # Errors
    /// [`Exhausted`](ErrorKind::Exhausted) when the system has no more.
    pub(crate) fn take(len_bytes: usize) -> Result<Self> {
        let failed = |reason: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Exhausted, format!("no memory for {len_bytes} bytes: {reason}"))
        };
        let size_bytes =
            len_bytes.max(1).checked_next_multiple_of(ROUND_BYTES).ok_or_else(|| failed(&"no address counts them"))?;
        let taken = lock().take(size_bytes);
        let memory = taken.or_else(|too_much| {
            drop(too_much);
            let memory = MmapMut::map_anon(size_bytes).map_err(|source| failed(&source))?;
            lock().lend(memory.len());
            Ok(memory)
        });
        Ok(Self { memory: Some(memory?), len_bytes })
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self.memory.as_deref().map_or(&[], |memory| &memory[..self.len_bytes])
    }
}

impl AsMut<[u8]> for Block {
    fn as_mut(&mut self) -> &mut [u8] {
        self.memory.as_deref_mut().map_or(&mut [], |memory| &mut memory[..self.len_bytes])
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        lock().put(memory, Instant::now());
    }
}

/// `len_bytes` that `write` writes, aligned for any number; it is given what others left there, so it writes all of them.
///
/// # Errors
/// [`Exhausted`](ErrorKind::Exhausted) when there is no memory.
pub fn written(len_bytes: usize, write: impl FnOnce(&mut [u8])) -> Result<Bytes> {
    if len_bytes < LARGE_BYTES {
        return Ok(map::written(len_bytes, write));
    }
    let mut block = Block::take(len_bytes)?;
    write(block.as_mut());
    Ok(Bytes::from_owner(block))
}

/// Gives back to the system what nobody took for long.
pub fn expire() {
    give_back(IDLE_MAX);
}

/// Gives back to the system all that nobody uses.
pub fn release() {
    give_back(Duration::ZERO);
}

fn give_back(idle: Duration) {
    // The lock is not held while the system takes them.
    let expired = lock().expired(Instant::now(), idle);
    drop(expired);
}

/// Bytes of blocks that are in use.
pub(crate) fn lent_bytes() -> usize {
    lock().lent_bytes
}

fn lock() -> MutexGuard<'static, Pool> {
    // Nothing under the lock panics half way.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The blocks that lie ready, and how much is in use.
struct Pool {
    /// Since when each lies there; the longest first.
    spares: VecDeque<(Instant, MmapMut)>,
    spare_bytes: usize,
    lent_bytes: usize,
    /// The most that was lent at once.
    most_bytes: usize,
}

impl Pool {
    const fn new() -> Self {
        Self { spares: VecDeque::new(), spare_bytes: 0, lent_bytes: 0, most_bytes: 0 }
    }

    /// Lends the smallest block that will do; of equals the last that was given back, which may be in a cache still. Where
    /// there is none: what is too much beside a new one, and goes before that is mapped.
    fn take(&mut self, size_bytes: usize) -> std::result::Result<MmapMut, Vec<MmapMut>> {
        let fits = size_bytes..=size_bytes.saturating_mul(LARGER_MAX);
        let places = self.spares.iter().enumerate().rev().filter(|(_, (_, memory))| fits.contains(&memory.len()));
        let place = places.min_by_key(|(_, (_, memory))| memory.len()).map(|(place, _)| place);
        let Some((_, memory)) = place.and_then(|place| self.spares.remove(place)) else {
            let lent_bytes = self.lent_bytes.saturating_add(size_bytes);
            let most_bytes = self.most_bytes.max(lent_bytes);
            let spare_max_bytes = (most_bytes - lent_bytes).saturating_add(most_bytes / 2);
            return Err(self.drain(|pool, _| pool.spare_bytes > spare_max_bytes));
        };
        self.spare_bytes -= memory.len();
        self.lend(memory.len());
        Ok(memory)
    }

    /// That so much more is lent.
    fn lend(&mut self, size_bytes: usize) {
        self.lent_bytes += size_bytes;
        self.most_bytes = self.most_bytes.max(self.lent_bytes);
    }

    fn put(&mut self, memory: MmapMut, now: Instant) {
        self.lent_bytes -= memory.len();
        self.spare_bytes += memory.len();
        self.spares.push_back((now, memory));
    }

    /// What nobody took for `idle`.
    fn expired(&mut self, now: Instant, idle: Duration) -> Vec<MmapMut> {
        self.drain(|_, since| now.saturating_duration_since(since) >= idle)
    }

    /// Takes out what lies there for longest, as long as `goes` says so of the pool and of when it came.
    fn drain(&mut self, goes: impl Fn(&Self, Instant) -> bool) -> Vec<MmapMut> {
        let mut gone = Vec::new();
        while let Some(&(since, _)) = self.spares.front()
            && goes(self, since)
            && let Some((_, memory)) = self.spares.pop_front()
        {
            self.spare_bytes -= memory.len();
            gone.push(memory);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: usize = 1 << 16;

    /// Takes a block of so many units, as [`Block::take`] does; whether it is a new one.
    fn take(pool: &mut Pool, units: usize) -> (MmapMut, bool) {
        let taken = pool.take(units * UNIT).map(|memory| (memory, false));
        taken.unwrap_or_else(|_| {
            pool.lend(units * UNIT);
            (MmapMut::map_anon(units * UNIT).unwrap(), true)
        })
    }

    fn spares(pool: &Pool) -> Vec<usize> {
        assert_eq!(pool.spare_bytes, pool.spares.iter().map(|(_, memory)| memory.len()).sum::<usize>());
        pool.spares.iter().map(|(_, memory)| memory.len() / UNIT).collect()
    }

    #[test]
    fn a_block_that_was_given_back_is_taken_again() {
        for (units, spare) in
            [(17, None), (7, Some(8)), (3, None), (9, Some(16)), (8, Some(8)), (4, Some(8)), (16, Some(16))]
        {
            let (mut pool, now) = (Pool::new(), Instant::now());
            let blocks = [8, 16, 100].map(|units| take(&mut pool, units).0);
            blocks.into_iter().for_each(|memory| pool.put(memory, now));
            let (memory, is_new) = take(&mut pool, units);
            assert_eq!((!is_new).then(|| memory.len() / UNIT), spare, "{units}");
            assert_eq!(pool.lent_bytes, memory.len());
        }
    }

    #[test]
    fn a_steady_state_maps_nothing() {
        let (mut pool, now) = (Pool::new(), Instant::now());
        for round in 0..100 {
            // A pair now and then, which takes twice as much.
            let sizes = if round % 10 == 0 { [42, 162, 426] } else { [21, 162, 213] };
            let blocks = sizes.map(|units| take(&mut pool, units));
            let is_new = blocks.iter().any(|(_, is_new)| *is_new);
            assert!(!is_new || round < 2, "{round}");
            blocks.into_iter().for_each(|(memory, _)| pool.put(memory, now));
        }
    }

    #[test]
    fn what_is_kept_is_bounded_and_not_for_ever() {
        let (mut pool, now) = (Pool::new(), Instant::now());
        // None of these fits in the place of another, and no two of them are in use at once.
        for units in [4, 100, 9, 40, 19] {
            let (memory, is_new) = take(&mut pool, units);
            assert!(is_new);
            pool.put(memory, now);
            assert!(pool.spare_bytes * 2 <= pool.most_bytes * 3);
        }
        assert_eq!(spares(&pool), [9, 40, 19], "what lay there for longest went");
        let (memory, _) = take(&mut pool, 40);
        let later = now + IDLE_MAX;
        pool.put(memory, later);
        assert_eq!((pool.expired(later, IDLE_MAX).len(), spares(&pool)), (2, vec![40]));
        assert_eq!((pool.expired(later, Duration::ZERO).len(), spares(&pool)), (1, vec![]));
        assert_eq!((pool.lent_bytes, pool.most_bytes), (0, 100 * UNIT));
        assert!(pool.take(usize::MAX - UNIT).is_err());
        assert_eq!((pool.lent_bytes, pool.most_bytes), (0, 100 * UNIT), "what could not be mapped was not lent");
    }

    #[test]
    fn bytes_are_what_was_written() {
        for len_bytes in [0, 1, 17, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 3 * LARGE_BYTES + 5] {
            let bytes = written(len_bytes, |bytes| bytes.fill(7)).unwrap();
            assert_eq!((bytes.len(), bytes.iter().all(|&byte| byte == 7)), (len_bytes, true));
            assert!(bytes.as_ptr().addr().is_multiple_of(align_of::<u128>()));
        }
        let error = Block::take(usize::MAX).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Exhausted);
        let error = Block::take(1 << 60).err().unwrap();
        assert_eq!(error.kind, ErrorKind::Exhausted, "{error}");
    }
}
