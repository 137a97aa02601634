//! Changes of the repository that clients ask for. One thread with a low priority carries them out, one after the other:
//! a model that is loaded takes no time that a lane wants, and what is allocated for models is given back to where it
//! came from.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Mutex, PoisonError};

use engine::{Error, ErrorKind, Result};
use tokio::sync::oneshot;

/// Changes that wait at the most; one more is refused.
const WAITING_MAX: usize = 256;

/// A change, which answers whoever asked for it by itself.
type Change = Box<dyn FnOnce() + Send>;

/// The way to the thread that changes the repository.
pub(crate) struct Changes {
    /// Taken away when the scheduler stops; the thread then leaves.
    waiting: Mutex<Option<SyncSender<Change>>>,
}

impl Changes {
    /// The way in, and what the thread takes changes from.
    pub(crate) fn new() -> (Self, Receiver<Change>) {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        (Self { waiting: Mutex::new(Some(sender)) }, receiver)
    }

    /// Has `change` carried out in its turn, and waits for that.
    ///
    /// # Errors
    /// [`Exhausted`](ErrorKind::Exhausted) when too many wait, [`Unavailable`](ErrorKind::Unavailable) when the server
    /// stops first, and the change's own.
    pub(crate) async fn make<T: Send + 'static>(
        &self,
        change: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        self.push(Box::new(move || {
            let outcome = catch_unwind(AssertUnwindSafe(change));
            // Whoever asked may have gone; what was changed stays changed.
            let _ = sender.send(outcome.unwrap_or_else(|_| Err(Error::internal("the change of the models panicked"))));
        }))?;
        receiver.await.unwrap_or_else(|_| Err(stopping()))
    }

    fn push(&self, change: Change) -> Result<()> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = waiting.as_ref().ok_or_else(stopping)?;
        sender.try_send(change).map_err(|refused| match refused {
            TrySendError::Full(_) => {
                let full = format!("{WAITING_MAX} models wait to be loaded or unloaded; try again soon");
                Error::new(ErrorKind::Exhausted, full)
            }
            TrySendError::Disconnected(_) => stopping(),
        })
    }

    /// Sends the thread home; changes that still wait are not made.
    pub(crate) fn stop(&self) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn is_stopped(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// The life of the thread.
    pub(crate) fn run(&self, waiting: &Receiver<Change>) {
        engine::cpu::step_back();
        while let Ok(change) = waiting.recv() {
            if !self.is_stopped() {
                change();
            }
        }
    }
}

fn stopping() -> Error {
    Error::unavailable("the server is stopping; ask another one for the change")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn changes_follow_one_another_until_the_end() {
        let (changes, waiting) = Changes::new();
        let changes = Arc::new(changes);
        let thread = std::thread::spawn({
            let changes = Arc::clone(&changes);
            move || changes.run(&waiting)
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        assert_eq!(runtime.block_on(changes.make(|| Ok(1))), Ok(1));
        let refused: Result<()> = runtime.block_on(changes.make(|| Err(Error::not_found("no such model"))));
        assert_eq!(refused.unwrap_err().kind, ErrorKind::NotFound);
        let panicked: Result<()> = runtime.block_on(changes.make(|| panic!("on purpose")));
        assert_eq!(panicked.unwrap_err().kind, ErrorKind::Internal);
        assert_eq!(runtime.block_on(changes.make(|| Ok(2))), Ok(2), "a panic ended the thread");
        changes.stop();
        let late: Result<()> = runtime.block_on(changes.make(|| Ok(())));
        assert_eq!(late.unwrap_err().kind, ErrorKind::Unavailable);
        thread.join().unwrap();
    }

    #[test]
    fn too_many_are_refused_and_those_that_wait_at_the_end_are_told() {
        let (changes, waiting) = Changes::new();
        let (ran, answered) = (Arc::new(Mutex::new(0)), Mutex::new(Vec::new()));
        let change = || {
            let ran = Arc::clone(&ran);
            let (sender, receiver) = oneshot::channel::<()>();
            answered.lock().unwrap().push(receiver);
            Box::new(move || {
                *ran.lock().unwrap() += 1;
                let _ = sender.send(());
            })
        };
        for _ in 0..WAITING_MAX {
            changes.push(change()).unwrap();
        }
        assert_eq!(changes.push(change()).unwrap_err().kind, ErrorKind::Exhausted);
        changes.stop();
        changes.run(&waiting);
        assert_eq!(*ran.lock().unwrap(), 0);
        assert!(answered.into_inner().unwrap().into_iter().all(|mut answer| answer.try_recv().is_err()));
    }
}
