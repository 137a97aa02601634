//! The seam between the house and a runtime: three small, synchronous traits.

use std::any::Any;
use std::sync::Arc;

use crate::{Result, Signature, Tensor};

/// How a session treats the graph it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// The graph was optimised when it was packed: run it as it stands.
    AsIs,
    /// A plain graph: let the runtime optimise it for this CPU first.
    Optimise,
}

/// A runtime. One per process; shared by every lane and loader.
pub trait Engine: Send + Sync {
    /// The runtime's name and version, for people and for metadata.
    fn description(&self) -> String;

    /// Builds a session for `program`, a serialised graph of which the last `weights` inputs are weights.
    ///
    /// Costs milliseconds to seconds; call it from a loader, never from a lane that has work.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when the runtime refuses the graph, with its own reason.
    fn session(&self, program: &[u8], weights: usize, load: Load) -> Result<Box<dyn Session>>;

    /// Binds `weights`, in the program's order, so that any session of that program can run on them.
    ///
    /// Copies nothing: the runtime points at the tensors' own bytes, which the result keeps alive.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when a tensor cannot be represented.
    fn bind(&self, weights: Vec<Tensor>) -> Result<Arc<dyn Weights>>;
}

/// A program ready to run on one thread at a time.
pub trait Session: Send {
    /// The model's inputs and outputs; lifted weights are not among them.
    fn signature(&self) -> &Signature;

    /// Runs the program on `weights` and `inputs` (in signature order) and returns the outputs whose indices are in
    /// `outputs`, in that order.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the runtime refuses the inputs.
    fn run(&mut self, weights: &dyn Weights, inputs: &[Tensor], outputs: &[usize]) -> Result<Vec<Tensor>>;
}

/// Weights bound to a runtime; shared by lanes, never written.
pub trait Weights: Any + Send + Sync {
    /// Bytes of weight data pointed at; mapped, not private.
    fn mapped_bytes(&self) -> u64;
}
