//! What is left in the place of results of a task that has none, where the queue does not keep its tasks: a file that says
//! why, for whoever waits for them.

use engine::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::task::Task;

/// The format this build writes.
pub const FORMAT: u32 = 1;

/// The object that says why there are no results.
pub fn failed_key(task_id: &str) -> String {
    format!("{task_id}/failed.json")
}

/// Why a task has no results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// [`FORMAT`] at the time of writing.
    pub format: u32,
    /// The task's id.
    pub task: String,
    /// The video, as the task names it.
    pub input: String,
    /// For a person.
    pub reason: String,
}

impl Refusal {
    /// That of `task`.
    pub fn new(task: &Task, reason: &str) -> Self {
        let (task, input) = (task.id.clone(), task.shown_input().into_owned());
        Self { format: FORMAT, task, input, reason: reason.to_owned() }
    }

    /// The one in `bytes`.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when they are none.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| Error::corrupt(format!("not a refusal: {e}")))
    }

    /// Its bytes, for people to read as well.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) when it cannot be said in JSON.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::internal(format!("a refusal cannot be written as JSON: {e}")))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}
