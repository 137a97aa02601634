//! What nobody may take away at the moment: files of a cache that models are made ready from, here and in the other processes
//! that share the folder.
//!
//! Each process has a file that it holds locked and writes its names to, a line each: `+NAME` when it begins to need a file,
//! `-NAME` when it does not any more. Whoever makes room reads those of all living processes; the kernel unlocks those of
//! the dead. Between the reading and the removal somebody may begin to need a file: then it is gone, and is fetched again.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use engine::Result;
use rustix::fs::{FlockOperation, flock};

use crate::atomic::io_error;

/// The folder of those files.
const USERS: &str = "users";

/// The files that this process needs, and how often.
pub(super) struct Pins {
    folder: PathBuf,
    state: Mutex<State>,
}

struct State {
    counts: HashMap<String, usize>,
    file: tempfile::NamedTempFile,
    /// In the file.
    lines: usize,
}

impl Pins {
    /// # Errors
    /// As the file system's, naming the folder.
    pub(super) fn open(cache: &Path) -> Result<Self> {
        let folder = cache.join(USERS);
        std::fs::create_dir_all(&folder).map_err(|source| io_error(&folder, "cannot be made", &source))?;
        let file = begin(&folder)?;
        Ok(Self { folder, state: Mutex::new(State { counts: HashMap::new(), file, lines: 0 }) })
    }

    /// Needs the files called `names` until what this returns is dropped.
    pub(super) fn hold(self: &Arc<Self>, names: Vec<String>) -> Pinned {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &names {
            let count = state.counts.entry(name.clone()).or_default();
            *count += 1;
            if *count == 1 {
                state.say('+', name);
            }
        }
        Pinned { pins: Arc::clone(self), names }
    }

    fn release(&self, names: &[String]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            let left = state.counts.get_mut(name).map_or(0, |count| {
                *count -= 1;
                *count
            });
            if left == 0 && state.counts.remove(name).is_some() {
                state.say('-', name);
            }
        }
        // What was said and taken back is forgotten from time to time.
        if state.lines > 1000 + 4 * state.counts.len()
            && let Ok(file) = begin(&self.folder)
        {
            let names: Vec<String> = state.counts.keys().cloned().collect();
            let old = std::mem::replace(&mut state.file, file);
            state.lines = 0;
            names.iter().for_each(|name| state.say('+', name));
            drop(old);
        }
    }

    /// What any process needs.
    pub(super) fn needed(&self) -> HashSet<String> {
        let own = self.state.lock().unwrap_or_else(PoisonError::into_inner).counts.keys().cloned().collect();
        let mut needed: HashSet<String> = own;
        for path in std::fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let Ok(file) = File::open(&path) else { continue };
            match flock(&file, FlockOperation::NonBlockingLockShared) {
                // Nobody has it any more. One that is just being made is seen as that too, and has nothing in it yet.
                Ok(()) if file.metadata().is_ok_and(|about| about.len() > 0) => drop(std::fs::remove_file(&path)),
                Ok(()) => {}
                Err(_) => needed.extend(said(&std::fs::read_to_string(&path).unwrap_or_default())),
            }
        }
        needed
    }
}

impl State {
    fn say(&mut self, what: char, name: &str) {
        self.lines += 1;
        // When it cannot be said, a file may be taken that is mapped here: its room is then not free, no more.
        if let Err(error) = writeln!(self.file, "{what}{name}") {
            tracing::warn!(%error, "other processes are not told which files of the cache are needed here");
        }
    }
}

fn begin(folder: &Path) -> Result<tempfile::NamedTempFile> {
    let failed = |source: std::io::Error| io_error(folder, "cannot be written", &source);
    let file = tempfile::Builder::new().tempfile_in(folder).map_err(failed)?;
    // Where there are no locks, others take it for a dead one's.
    let _ = flock(file.as_file(), FlockOperation::NonBlockingLockExclusive);
    Ok(file)
}

/// The names that the lines of a file leave needed.
fn said(lines: &str) -> HashSet<String> {
    let mut needed = HashSet::new();
    for line in lines.lines() {
        match line.split_at_checked(1) {
            Some(("+", name)) => drop(needed.insert(name.to_owned())),
            Some(("-", name)) => drop(needed.remove(name)),
            _ => {}
        }
    }
    needed
}

/// Files that stay as long as this does.
pub(super) struct Pinned {
    pins: Arc<Pins>,
    names: Vec<String>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        self.pins.release(&self.names);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_sees_what_somebody_needs() {
        let folder = tempfile::tempdir().unwrap();
        let open = || Arc::new(Pins::open(folder.path()).unwrap());
        let (one, other) = (open(), open());
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let set = |of: &[&str]| names(of).into_iter().collect::<HashSet<_>>();
        let first = one.hold(names(&["a", "b"]));
        let second = one.hold(names(&["b"]));
        assert_eq!((one.needed(), other.needed()), (set(&["a", "b"]), set(&["a", "b"])));
        drop(first);
        assert_eq!((one.needed(), other.needed()), (set(&["b"]), set(&["b"])));
        // Many come and go without the file growing for ever.
        for number in 0..3000 {
            drop(one.hold(vec![number.to_string()]));
        }
        assert_eq!(other.needed(), set(&["b"]));
        let longest =
            std::fs::read_dir(folder.path().join(USERS)).unwrap().map(|file| file.unwrap().metadata().unwrap().len());
        assert!(longest.max().unwrap() < 50_000);
        drop((second, one));
        assert_eq!(other.needed(), set(&[]));
        // What a process that was killed leaves is nobody's.
        std::fs::write(folder.path().join(USERS).join("dead"), "+x\n").unwrap();
        assert_eq!(other.needed(), set(&[]));
        assert!(!folder.path().join(USERS).join("dead").exists());
    }
}
