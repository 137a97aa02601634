//! A video that is elsewhere, read while it is decoded.
//!
//! It comes in blocks, as they are asked for and a little ahead of that, into a file without a name that goes with this.
//! All who read the video share them: a block is fetched once, as long as there is room for it. Every range is pinned to
//! the content that the video had when it was looked at, so that what is read is of one video or an error. A place that
//! fails must not look like a video that ends, so its error is kept, and whoever hears of an end asks for it first.

mod blocks;
mod fetch;
mod hollow;
mod request;
mod serve;

#[cfg(test)]
pub(crate) mod tests;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use engine::{Error, ErrorKind, Result};
use objects::{Object, Place};
use rustix::fs::{FallocateFlags, fallocate};

use self::blocks::Blocks;
pub(crate) use self::blocks::{BLOCK_BYTES, SMALL_BLOCK_BYTES};
pub(crate) use self::fetch::Fetching;
pub(crate) use self::hollow::{Boxes, boxes};
pub(crate) use self::serve::{Serving, View};

/// The least that a video may take of the spool, unless it is smaller itself: enough for whoever reads it at once.
pub(crate) const ROOM_BYTES_MIN: u64 = 64 << 20;

/// A video that is elsewhere.
pub struct Ranges {
    shown: String,
    place: Place,
    object: Object,
    /// As long as the video, with holes; nobody else knows it.
    file: File,
    state: Mutex<State>,
    /// That a block has come, or is wanted, or that there will be none.
    changed: Condvar,
    readers: AtomicU64,
}

struct State {
    blocks: Blocks,
    /// Why no more blocks come.
    fault: Option<Error>,
    /// The job has ended.
    closed: bool,
}

impl std::fmt::Debug for Ranges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ranges").field("shown", &self.shown).finish_non_exhaustive()
    }
}

impl Ranges {
    /// The video `object` of `place`, in `file`, of which it takes `room_bytes` at most; people call it `shown`. It comes in
    /// blocks of `block_bytes`.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when there is less room than it is long, and the file's disk cannot give
    /// back what is in the middle of it.
    pub(crate) fn new(
        shown: &str,
        (place, object): (Place, Object),
        file: File,
        (room_bytes, block_bytes): (u64, u64),
    ) -> Result<Self> {
        file.set_len(object.bytes).map_err(|error| disk_failed(&error))?;
        let most = usize::try_from(room_bytes.div_ceil(block_bytes)).unwrap_or(usize::MAX);
        if object.bytes > room_bytes {
            punch(&file, &(0..block_bytes)).map_err(|error| {
                Error::invalid(format!(
                    "video '{shown}' has {} bytes, and the disk of the spool cannot keep parts of it ({error}): give the \
                     worker a larger --spool-max, or another disk as --spool",
                    object.bytes
                ))
            })?;
        }
        let state = State { blocks: Blocks::new((object.bytes, block_bytes), most), fault: None, closed: false };
        let (state, changed, readers) = (Mutex::new(state), Condvar::new(), AtomicU64::new(0));
        Ok(Self { shown: shown.to_owned(), place, object, file, state, changed, readers })
    }

    /// What people call it.
    pub(crate) fn shown(&self) -> &str {
        &self.shown
    }

    /// Its size.
    pub(crate) fn bytes(&self) -> u64 {
        self.object.bytes
    }

    /// Why it cannot be read on, if it cannot. Whoever sees an end of it asks here whether it is one.
    pub(crate) fn fault(&self) -> Option<Error> {
        self.lock().fault.clone()
    }

    /// That it cannot be read on.
    fn fail(&self, error: Error) {
        self.lock().fault.get_or_insert(error);
        self.changed.notify_all();
    }

    /// That nobody wants more of it: whoever waits for it, or fetches it, ends.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Whether its list is all that is waited for. Then that goes on whoever is to follow; else it stays where it is as long as
    /// nobody follows.
    pub(crate) fn awaits_list(&self, is: bool) {
        self.lock().blocks.list_is_awaited = is;
        self.changed.notify_all();
    }

    /// That `reader` will read all but `hollows`, which are in order.
    fn follow(&self, reader: u64, hollows: &[Range<u64>]) {
        self.lock().blocks.follows(reader, hollows);
    }

    /// A number for somebody who reads it.
    fn reader(&self) -> u64 {
        self.readers.fetch_add(1, Ordering::Relaxed)
    }

    /// Fills `into` with what is at `offset`, waiting for it.
    ///
    /// # Errors
    /// What keeps it from being read.
    pub(crate) fn read_exact_at(&self, into: &mut [u8], offset: u64) -> Result<()> {
        let (reader, mut done) = (self.reader(), 0);
        let end = offset.checked_add(into.len() as u64);
        if end.is_none_or(|end| end > self.bytes()) {
            return Err(Error::invalid(format!("'{}' ends before byte {end:?}", self.shown)));
        }
        let read = loop {
            if done == into.len() {
                break Ok(());
            }
            match self.read_some_at(reader, &mut into[done..], offset + done as u64, &STEADFAST) {
                Ok(count) => done += count,
                Err(error) => break Err(error),
            }
        };
        self.lock().blocks.leaves(reader);
        // Whoever was held for it goes on.
        self.changed.notify_all();
        read
    }

    /// Puts some of what is at `offset`, which is before its end, at the beginning of `into`; `wait` hears when that takes
    /// a wait for the place.
    fn read_some_at(&self, reader: u64, into: &mut [u8], offset: u64, wait: &Wait<'_>) -> Result<usize> {
        let mut state = self.lock();
        let block = state.blocks.of(offset);
        if !state.blocks.may_read(reader, block) {
            state = self.wait_until(&|state| state.blocks.may_read(reader, block), state, wait);
        }
        state.blocks.reads(reader, block);
        // There may be something to fetch ahead of it, even where it is here.
        self.changed.notify_all();
        if !state.blocks.is_here(block) {
            state.blocks.demand(block);
            state = self.wait_until(&|state| state.blocks.is_here(block), state, wait);
            state.blocks.came(block);
        }
        if !state.blocks.is_here(block) {
            return Err(state.fault.clone().unwrap_or_else(given_up));
        }
        state.blocks.pin(block);
        let end = state.blocks.span(&(block..block + 1)).end;
        drop(state);
        let count = into.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
        let read = self.file.read_exact_at(&mut into[..count], offset);
        self.lock().blocks.unpin(block);
        read.map(|()| count).map_err(|error| disk_failed(&error))
    }

    /// Waits until it `is_so`, or there is a reason why it will not be.
    fn wait_until<'a>(
        &self,
        is_so: &dyn Fn(&State) -> bool,
        mut state: MutexGuard<'a, State>,
        wait: &Wait<'_>,
    ) -> MutexGuard<'a, State> {
        (wait.begins_or_ends)(true);
        while !is_so(&state) && state.fault.is_none() && !state.closed && (wait.is_wanted)() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        (wait.begins_or_ends)(false);
        state
    }

    /// Has whoever waits look again whether he is to.
    fn wake(&self) {
        drop(self.lock());
        self.changed.notify_all();
    }

    /// No panic leaves it half changed.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How somebody waits for the place.
struct Wait<'a> {
    /// Whether he still does; whoever changes that wakes him.
    is_wanted: &'a dyn Fn() -> bool,
    /// Told that a wait begins, or ends.
    begins_or_ends: &'a dyn Fn(bool),
}

/// Until it comes, or there is a reason why it does not.
const STEADFAST: Wait<'_> = Wait { is_wanted: &|| true, begins_or_ends: &|_| () };

/// Gives back what `file` takes in `span`.
fn punch(file: &File, span: &Range<u64>) -> io::Result<()> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, span.start, span.end - span.start)?)
}

fn given_up() -> Error {
    Error::new(ErrorKind::Cancelled, "reading the video was given up")
}

fn disk_failed(error: &io::Error) -> Error {
    crate::spool::disk_failed(&"the spool", error)
}
