//! The threads that fetch blocks. They are the only ones that wait for the place, and know when nobody wants more.

use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, PoisonError};
use std::thread::Scope;

use engine::{Error, Result};

use super::{Ranges, disk_failed, given_up, punch};
use crate::spool::maybe_later;

/// Requests at once, for one video.
const PARALLEL: usize = 4;

/// As long as this, blocks are fetched.
pub(crate) struct Fetching<'a>(&'a Ranges);

impl<'a> Fetching<'a> {
    /// Fetches what is asked of `ranges` on threads of `scope`, until `cancelled` says so or what is returned goes.
    pub(crate) fn start<'scope>(
        ranges: &'a Arc<Ranges>,
        scope: &'scope Scope<'scope, '_>,
        cancelled: &'scope (dyn Fn() -> bool + Sync),
    ) -> Self {
        for _ in 0..PARALLEL {
            let ranges = Arc::clone(ranges);
            scope.spawn(move || {
                let _told = TellPanic(&ranges);
                ranges.fetch_all(cancelled);
            });
        }
        Self(ranges)
    }
}

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Has those who wait for a thread hear of its panic.
struct TellPanic<'a>(&'a Ranges);

impl Drop for TellPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(Error::internal("a bug stopped a thread that fetches a video"));
        }
    }
}

impl Ranges {
    /// Fetches the blocks of `span` now, before there are threads for it.
    ///
    /// # Errors
    /// What keeps them from being fetched.
    pub(crate) fn fetch_first(&self, span: Range<u64>, cancelled: &dyn Fn() -> bool) -> Result<()> {
        if span.is_empty() {
            return Ok(());
        }
        let absent = {
            let mut state = self.lock();
            let all = state.blocks.of(span.start)..state.blocks.of(span.end - 1) + 1;
            let absent: Vec<usize> = all.filter(|&block| !state.blocks.is_here(block)).collect();
            absent.iter().for_each(|&block| state.blocks.begin(&(block..block + 1)));
            absent
        };
        absent.into_iter().try_for_each(|block| self.fetch_run(block..block + 1, cancelled))
    }

    /// Fetches one run of blocks after the other, as they are wanted.
    fn fetch_all(&self, cancelled: &dyn Fn() -> bool) {
        while let Some(run) = self.next_run() {
            if let Err(error) = self.fetch_run(run, cancelled) {
                self.fail(error);
            }
        }
    }

    fn next_run(&self) -> Option<Range<usize>> {
        let mut state = self.lock();
        loop {
            if state.closed || state.fault.is_some() {
                return None;
            }
            if let Some(run) = state.blocks.next() {
                return Some(run);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Fetches the blocks in `run`; each is there for all as soon as it is whole.
    fn fetch_run(&self, run: Range<usize>, cancelled: &dyn Fn() -> bool) -> Result<()> {
        let span = self.lock().blocks.span(&run);
        let mut next = run.start;
        let mut take = |offset: u64, bytes: bytes::Bytes| {
            self.file.write_all_at(&bytes, offset).map_err(|error| disk_failed(&error))?;
            let end = offset + bytes.len() as u64;
            while next < run.end && self.lock().blocks.span(&(next..next + 1)).end <= end {
                self.arrived(next)?;
                next += 1;
            }
            Ok(())
        };
        let wanted = || !cancelled() && !self.lock().closed;
        let fetched = self.place.fetch_while(&self.object, vec![span], 1, &wanted, &mut take);
        fetched.map_err(maybe_later)?;
        if next < run.end { Err(given_up()) } else { Ok(()) }
    }

    fn arrived(&self, block: usize) -> Result<()> {
        let mut state = self.lock();
        if let Some(oldest) = state.blocks.arrived(block) {
            let span = state.blocks.span(&(oldest..oldest + 1));
            // Under the lock, so that nobody begins to fetch it before it is gone.
            punch(&self.file, &span).map_err(|error| disk_failed(&error))?;
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }
}
