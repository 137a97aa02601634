//! The one trait through which the worker asks for inference, so that the binary can hand it the in-process scheduler
//! or a remote server.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use engine::{Error, Result, Tensor};
use store::Manifest;

use crate::cost::Remote;

/// Something that runs models.
pub trait Inference: Send + Sync {
    /// The newest version of the model called `name`.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound), naming the model.
    fn model(&self, name: &str) -> Result<Arc<Manifest>>;

    /// Hands over one batch; inputs in signature order, all outputs in signature order come back. Returns at once,
    /// the answer follows in [`Pending`].
    ///
    /// # Errors
    /// [`Exhausted`](engine::ErrorKind::Exhausted) when the model's queue is full; the caller keeps fewer in flight.
    fn submit(&self, model: &Manifest, inputs: Vec<Tensor>) -> Result<Pending>;

    /// How many batches can be computed at once; a caller keeps about twice as many in flight.
    fn lanes(&self) -> usize;

    /// How far answers may be from the model's own, as a share of an output's largest value; `None` when they are its own,
    /// bit for bit, wherever they are computed.
    fn tolerance(&self) -> Option<f64> {
        None
    }
}

/// An answer on its way.
pub struct Pending(pub Receiver<Result<Answer>>);

/// Outputs and what they cost.
pub struct Answer {
    /// In signature order.
    pub outputs: Vec<Tensor>,
    /// CPU time of the run itself, if it ran here.
    pub cpu: Duration,
    /// What asking other machines for it took, where there are any to ask.
    pub remote: Option<Remote>,
}

impl Pending {
    /// Waits for the answer.
    ///
    /// # Errors
    /// The run's own error, or [`Unavailable`](engine::ErrorKind::Unavailable) when the scheduler stopped first.
    pub fn wait(self) -> Result<Answer> {
        self.0.recv().unwrap_or_else(|_| Err(Error::unavailable("the scheduler stopped before it answered")))
    }
}
