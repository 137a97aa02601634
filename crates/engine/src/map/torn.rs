//! Maps whose files no longer have what was mapped: cut by somebody, or on a disk that fails. Whoever reads such a page gets
//! SIGBUS, which ends the process, and with it every model that it serves.
//!
//! So what a runtime reads it reads [while it is watched](reading): a page that its file cannot give then comes from an
//! anonymous map of zeros, put in place of the whole file's, and the map is torn from then on. What was computed with it is
//! worth nothing, which is for the reader to find out: by [`count`], and then [`is_torn`]. Anywhere else SIGBUS does what
//! it did before.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, OnceLock, PoisonError};

/// More maps than the kernel gives a process unless it is asked for more; those past it are not watched.
const PLACES: usize = 1 << 16;

/// Where a map is. Written by whoever maps and unmaps, read by the signal's handler, which may take no lock.
struct Entry {
    start: AtomicUsize,
    /// 0 where there is none.
    len: AtomicUsize,
    torn: AtomicBool,
}

static ENTRIES: [Entry; PLACES] =
    [const { Entry { start: AtomicUsize::new(0), len: AtomicUsize::new(0), torn: AtomicBool::new(false) } }; PLACES];
/// How many of the entries were ever used.
static USED: AtomicUsize = AtomicUsize::new(0);
/// Those of them that are free again.
static FREE: Mutex<Vec<usize>> = Mutex::new(Vec::new());
/// How many maps were ever torn.
static TORN: AtomicUsize = AtomicUsize::new(0);
/// What SIGBUS did before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

thread_local! {
    /// How many readers that are watched are on this thread's stack. Its own alone.
    static READING: Cell<u32> = const { Cell::new(0) };
}

/// A map's entry, free again when this is dropped, which has to be before the map goes.
pub(super) struct Place(usize);

impl Place {
    /// An entry for the map of these bytes; `None` when there are too many.
    pub(super) fn of(map: &[u8]) -> Option<Self> {
        static WATCHING: Once = Once::new();
        WATCHING.call_once(watch);
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        let place = free.pop().or_else(|| {
            let next = USED.load(Ordering::Relaxed);
            (next < PLACES).then(|| {
                USED.store(next + 1, Ordering::Release);
                next
            })
        })?;
        let entry = &ENTRIES[place];
        entry.torn.store(false, Ordering::Relaxed);
        entry.start.store(map.as_ptr().addr(), Ordering::Relaxed);
        entry.len.store(map.len(), Ordering::Release);
        Some(Self(place))
    }

    pub(super) fn is_torn(&self) -> bool {
        ENTRIES[self.0].torn.load(Ordering::Acquire)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        ENTRIES[self.0].len.store(0, Ordering::Release);
        FREE.lock().unwrap_or_else(PoisonError::into_inner).push(self.0);
    }
}

/// How many maps were ever torn: while that stays the same, none was.
pub(crate) fn count() -> usize {
    TORN.load(Ordering::SeqCst)
}

/// Whether `bytes` lie in a map that is torn.
pub(crate) fn is_torn(bytes: &[u8]) -> bool {
    find(bytes.as_ptr().addr()).is_some_and(|entry| entry.torn.load(Ordering::SeqCst))
}

/// What `read` returns, whose mapped pages come from nowhere if they have to: who asked for that looks whether they did.
pub(crate) fn reading<T>(read: impl FnOnce() -> T) -> T {
    struct Watched;
    impl Drop for Watched {
        fn drop(&mut self) {
            READING.set(READING.get() - 1);
        }
    }
    READING.set(READING.get() + 1);
    let _watched = Watched;
    read()
}

fn find(address: usize) -> Option<&'static Entry> {
    ENTRIES[..USED.load(Ordering::Acquire)].iter().find(|entry| {
        let len = entry.len.load(Ordering::Acquire);
        let start = entry.start.load(Ordering::Relaxed);
        len > 0 && (start..start + len).contains(&address)
    })
}

/// Has SIGBUS come here first.
#[expect(unsafe_code, reason = "a signal's handler is set through the C library")]
fn watch() {
    // SAFETY: all bytes zero are a valid sigaction, and each call gets pointers to live ones. The handler is set once what
    // it looks at is there; it does nothing that may not be done in one: it reads and writes atomics and a thread's own
    // number, and calls mmap and sigaction.
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) != 0 {
            return;
        }
        let _ = BEFORE.set(before);
        let mut ours: libc::sigaction = std::mem::zeroed();
        ours.sa_sigaction = on_bus_error as *const () as usize;
        // On the stack that the standard library gives threads for this, as its own handler is.
        ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &raw const ours, ptr::null_mut());
    }
}

#[expect(unsafe_code, reason = "a signal's handler")]
extern "C" fn on_bus_error(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gives a handler with SA_SIGINFO a live structure, and of this signal it has an address. What was
    // interrupted finds errno as it was.
    unsafe {
        let errno = *libc::__errno_location();
        let mended = (*info).si_code == libc::BUS_ADRERR
            && READING.try_with(Cell::get).unwrap_or(0) > 0
            && tear((*info).si_addr().addr());
        *libc::__errno_location() = errno;
        if !mended {
            as_before(signal, info, context);
        }
    }
}

/// Puts zeros in place of the map that has `address`, if there is one.
#[expect(unsafe_code, reason = "a map is replaced by address")]
fn tear(address: usize) -> bool {
    let Some(entry) = find(address) else { return false };
    // Before anybody can read zeros: whoever does finds out when he looks.
    entry.torn.store(true, Ordering::SeqCst);
    TORN.fetch_add(1, Ordering::SeqCst);
    let (start, len) = (entry.start.load(Ordering::Relaxed), entry.len.load(Ordering::Relaxed));
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: the range is that of a map of ours, which whoever reads it holds; it stays mapped, readable as before, and is
    // unmapped by whoever made it. Its bytes were a file's, of which any are valid.
    let zeros = unsafe { libc::mmap(ptr::with_exposed_provenance_mut(start), len, libc::PROT_READ, flags, -1, 0) };
    zeros != libc::MAP_FAILED
}

/// What would have become of the signal without this.
#[expect(unsafe_code, reason = "another handler is called by its address")]
fn as_before(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(before) = BEFORE.get() else { return };
    // SAFETY: a handler that is neither of the two constants is a function of the form that its flags say. Without one the
    // instruction that failed is tried again under the default, which ends the process.
    unsafe {
        match before.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                let mut default: libc::sigaction = std::mem::zeroed();
                default.sa_sigaction = libc::SIG_DFL;
                libc::sigaction(signal, &raw const default, ptr::null_mut());
            }
            handler if before.sa_flags & libc::SA_SIGINFO != 0 => {
                let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = std::mem::transmute(handler);
                handler(signal, info, context);
            }
            handler => {
                let handler: extern "C" fn(c_int) = std::mem::transmute(handler);
                handler(signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::Map;
    use super::*;

    #[test]
    fn what_is_read_past_the_end_of_a_file_that_was_cut_is_nothing_and_known() {
        const LEN: usize = 1 << 20;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["cut", "whole"] {
            std::fs::write(path(name), vec![7u8; LEN]).unwrap();
        }
        let (cut, whole) = (Map::open(&path("cut")).unwrap(), Map::open(&path("whole")).unwrap());
        File::options().write(true).open(path("cut")).unwrap().set_len(5000).unwrap();
        let before = count();
        let sum = |bytes: &[u8]| reading(|| bytes.iter().map(|&byte| usize::from(byte)).sum::<usize>());
        let (from_cut, from_whole) = (cut.bytes(), whole.bytes());
        assert_eq!(sum(&from_whole), 7 * LEN);
        assert!(!cut.is_torn() && !is_torn(&from_cut));
        assert!(sum(&from_cut) < 7 * LEN);
        assert!(cut.is_torn() && is_torn(&from_cut[100..]) && count() > before);
        assert!(!whole.is_torn() && !is_torn(&from_whole) && sum(&from_whole) == 7 * LEN);
        // Mapped again it is what it is now, at an entry that says nothing of the past.
        drop((cut, from_cut));
        let again = Map::open(&path("cut")).unwrap();
        assert!(!again.is_torn() && sum(&again.bytes()) == 7 * 5000);
    }
}
