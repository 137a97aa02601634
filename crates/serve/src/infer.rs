//! What an API hands to the scheduler and gets back. No wire type and no JSON past this point.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Error, Result, Signature, Tensor, TensorSpec};

use crate::bodies::Held;
use crate::trace::TraceContext;

/// One request, decoded.
#[derive(Debug)]
pub struct InferRequest {
    /// The model's name.
    pub model: String,
    /// A version, or the newest.
    pub version: Option<u64>,
    /// Named inputs, in any order.
    pub inputs: Vec<(String, Tensor)>,
    /// Named outputs; empty asks for all, in signature order.
    pub outputs: Vec<String>,
    /// 1 goes first, larger numbers later; 0 is in the middle. Among the requests of one model.
    pub priority: u32,
    /// After this the answer is worth nothing: it is honoured in the queue and before compute.
    pub deadline: Option<Instant>,
    /// What came with it besides its content.
    pub origin: Origin,
}

/// What comes with a request besides its content. The default is that of a request from within the process.
#[derive(Debug, Default)]
pub struct Origin {
    /// The trace that it is part of, for whatever it is passed on to.
    pub trace: Option<Arc<TraceContext>>,
    /// Its share of the memory for bodies; given back when the request is done.
    pub held: Held,
}

impl Origin {
    /// The same for a request that was read: its share of memory is what its `inputs` take.
    ///
    /// # Errors
    /// [`Exhausted`](engine::ErrorKind::Exhausted) when they take more than was sent, and there is no more.
    pub(crate) fn with_inputs(mut self, inputs: &[(String, Tensor)]) -> Result<Self> {
        self.held.resize(inputs.iter().map(|(_, tensor)| tensor.data().len()).sum())?;
        Ok(self)
    }
}

/// The answer to an [`InferRequest`].
#[derive(Debug)]
pub struct InferResponse {
    /// The model's name.
    pub model: String,
    /// The version that answered.
    pub version: u64,
    /// Outputs in the order they were asked for.
    pub outputs: Vec<(String, Tensor)>,
    /// Where the time went.
    pub timing: Timing,
}

/// Where a request's time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// From submission to a lane.
    pub queue: Duration,
    /// On the lane, by the clock on the wall.
    pub compute: Duration,
    /// On the lane, by the thread's own CPU clock; zero unless the [`Reply`](crate::Reply) wanted it.
    pub compute_cpu: Duration,
}

/// `inputs` in the order of `signature` and checked against it.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the input that is unknown, missing, double or unfit.
pub(crate) fn inputs_in_order(signature: &Signature, inputs: Vec<(String, Tensor)>) -> Result<Vec<Tensor>> {
    let mut given: Vec<Option<Tensor>> = vec![None; signature.inputs.len()];
    for (name, tensor) in inputs {
        let index = signature.inputs.iter().position(|spec| spec.name == name).ok_or_else(|| {
            Error::invalid(format!("the model has no input '{name}'; it takes {}", names_of(&signature.inputs)))
        })?;
        signature.inputs[index].check(&tensor)?;
        if given[index].replace(tensor).is_some() {
            return Err(Error::invalid(format!("input '{name}' is given twice")));
        }
    }
    given
        .into_iter()
        .zip(&signature.inputs)
        .map(|(tensor, spec)| {
            tensor.ok_or_else(|| {
                let dtype = spec.dtype;
                Error::invalid(format!("input '{}' ({dtype} {:?}) is missing", spec.name, spec.shape))
            })
        })
        .collect()
}

/// The indices in `signature` of the outputs called `names`; of all of them when there are no names.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the output that is unknown.
pub(crate) fn output_indices(signature: &Signature, names: &[String]) -> Result<Vec<usize>> {
    if names.is_empty() {
        return Ok((0..signature.outputs.len()).collect());
    }
    names
        .iter()
        .map(|name| {
            signature.outputs.iter().position(|spec| spec.name == *name).ok_or_else(|| {
                Error::invalid(format!("the model has no output '{name}'; it gives {}", names_of(&signature.outputs)))
            })
        })
        .collect()
}

fn names_of(specs: &[TensorSpec]) -> String {
    let names: Vec<_> = specs.iter().map(|spec| format!("'{}'", spec.name)).collect();
    names.join(", ")
}
