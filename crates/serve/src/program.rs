//! A program as it runs here: its sessions, and whether they could.

use std::sync::{Mutex, MutexGuard, PoisonError};

use engine::{Error, Result, Session};
use store::manifest::ProgramRef;

/// A program's sessions, one per lane.
pub(crate) struct Program {
    /// Indexed by lane. Only that lane locks its slot, so the lock is never waited for.
    sessions: Vec<Mutex<Box<dyn Session>>>,
}

impl Program {
    pub(crate) fn new(sessions: Vec<Mutex<Box<dyn Session>>>) -> Self {
        Self { sessions }
    }

    pub(crate) fn session(&self, lane: usize) -> MutexGuard<'_, Box<dyn Session>> {
        // A run that panicked leaves the runtime's session as it was: it is only ever called through a shared handle.
        self.sessions[lane].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A program laid out for another CPU computes nonsense here, so it is refused before it runs.
pub(crate) fn runnable_here(program: &ProgramRef) -> Result<()> {
    let here = engine::cpu::target();
    if program.target == "portable" || program.target == here {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "it was packed for {}, and this node is {here}; pack it again on such a node",
        program.target
    )))
}
