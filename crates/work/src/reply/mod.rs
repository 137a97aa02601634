//! Who is told when a task has ended, and what.
//!
//! A body may pick one of the queues that its worker was started with, and never name another: else whoever may write into
//! the queue of tasks would have workers write, with their rights, into any queue that those reach.

mod completion;
mod old_text;

use std::io::BufReader;
use std::sync::Arc;

use engine::{Error, Result};
use serde::{Deserialize, Serialize};

pub use self::completion::{Completion, Ending};
use self::old_text::old_text;
use crate::object::ObjectStore;
use crate::result::{Summary, lines_key};
use crate::task::Task;

/// The smallest limit that a queue of replies may have for its messages: whatever has to be told fits into it.
pub const MESSAGE_BYTES_MIN: usize = 16 << 10;

/// What is told of a task that is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplyForm {
    /// A [`Completion`].
    #[default]
    Json,
    /// What workers of the first generation told: a line for each frame.
    Text,
}

/// A message about a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The task's id, for those who tell messages apart by it: one may come twice.
    pub task: String,
    /// Whether there are results.
    pub done: bool,
    /// What is told.
    pub body: String,
    /// Frames at the end that are not told of, for want of room.
    pub frames_left_out: u64,
}

/// A queue into which replies go.
pub trait Outbox: Send + Sync {
    /// The longest body that it takes, at least [`MESSAGE_BYTES_MIN`].
    fn body_bytes_max(&self) -> usize;

    /// Sends a message; when this returns, it is durable.
    ///
    /// # Errors
    /// About the queue.
    fn send(&self, reply: &Reply) -> Result<()>;
}

/// The queues that a worker may tell.
#[derive(Default)]
pub struct Replies {
    /// By the text that named them at the start.
    named: Vec<(String, Arc<dyn Outbox>)>,
    /// Which of them is told of a task that names none.
    usual: Option<usize>,
    form: ReplyForm,
}

impl Replies {
    /// Nobody is told, and no task may ask for it.
    pub fn none() -> Self {
        Self::default()
    }

    /// `usual` is told of tasks that name no queue; tasks may name it and `others`. `form` is for those that ask for none.
    pub fn new(
        usual: Option<(String, Arc<dyn Outbox>)>,
        others: Vec<(String, Arc<dyn Outbox>)>,
        form: ReplyForm,
    ) -> Self {
        let first = usual.is_some().then_some(0);
        Self { named: usual.into_iter().chain(others).collect(), usual: first, form }
    }

    /// Who is to be told of `task`, if anybody. A task names a queue as the worker's settings do, or by its last word.
    ///
    /// # Errors
    /// [`Forbidden`](engine::ErrorKind::Forbidden) for a queue that is none of these.
    pub fn of(&self, task: &Task) -> Result<Option<&dyn Outbox>> {
        let Some(wanted) = &task.reply_to else {
            return Ok(self.usual.map(|place| self.named[place].1.as_ref()));
        };
        let is_it = |(named, _): &&(String, _)| named == wanted || named.rsplit('/').next() == Some(wanted);
        let found = self.named.iter().find(is_it);
        let (_, outbox) = found.ok_or_else(|| {
            let shown: String = wanted.chars().take(100).collect();
            Error::forbidden(format!(
                "field 'reply_to': this worker tells no queue {shown:?}; start it with --reply-allow and that queue's address"
            ))
        })?;
        Ok(Some(outbox.as_ref()))
    }

    /// Tells that `task` came to `summary`, which is durable in `objects`.
    ///
    /// # Errors
    /// The queue's or the place's own.
    pub fn tell_done(&self, task: &Task, summary: &Summary, objects: &dyn ObjectStore) -> Result<()> {
        let Some(outbox) = self.of(task)? else { return Ok(()) };
        let bytes_max = outbox.body_bytes_max();
        let (body, frames_left_out) = match task.reply_form.unwrap_or(self.form) {
            ReplyForm::Json => {
                let results = objects.url(&task.id);
                (Completion::done(task, summary, &results).to_json(bytes_max)?, 0)
            }
            ReplyForm::Text => old_text(BufReader::new(objects.open(&lines_key(&task.id))?), bytes_max)?,
        };
        outbox.send(&Reply { task: task.id.clone(), done: true, body, frames_left_out })
    }

    /// Tells that `task` came to nothing, for `reason`; in the same words whatever form was asked for, since the old one has
    /// none for it. Of a task that names a queue which it may not, nobody is told.
    ///
    /// # Errors
    /// The queue's own.
    pub fn tell_failed(&self, task: &Task, reason: &str) -> Result<()> {
        let Ok(Some(outbox)) = self.of(task) else { return Ok(()) };
        let body = Completion::failed(task, reason).to_json(outbox.body_bytes_max())?;
        outbox.send(&Reply { task: task.id.clone(), done: false, body, frames_left_out: 0 })
    }
}
