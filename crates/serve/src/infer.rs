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

/// Checks that none of `inputs`, of a request for the model called `model`, has more than `items_max` items.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming both numbers.
pub(crate) fn check_items(model: &str, inputs: &[Tensor], items_max: Option<u64>) -> Result<()> {
    let Some(most) = items_max else { return Ok(()) };
    let items = inputs.iter().filter_map(|input| input.shape().first().copied()).max().unwrap_or(0);
    if items as u64 <= most {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the request has a batch of {items}, and the max_batch_size of model '{model}' is {most}; send it in parts"
    )))
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

/// The names of `specs`, for a person.
pub(crate) fn names_of(specs: &[TensorSpec]) -> String {
    let names: Vec<_> = specs.iter().map(|spec| format!("'{}'", spec.name)).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use engine::ErrorKind;
    use serde_json::json;
    use store::Serving;
    use store::repository::{Declared, Settings};

    use super::*;
    use crate::Model;

    /// Whether a request of so many `items` is taken, of a model that was `seen` to batch so many, is `set` to batch so many,
    /// and is `declared` to take so many.
    #[track_caller]
    fn check(items: &[usize], (seen, set, declared): (u64, Option<u64>, Option<u64>), taken: bool) {
        let manifest = serde_json::from_value(json!({
            "format": 1, "name": "m", "version": 1, "source": {"format": "onnx", "hash": "", "bytes": 0},
            "program": {"hash": "", "kind": "lifted", "target": "portable"},
            "inputs": [], "outputs": [], "max_batch_size": seen,
        }))
        .unwrap();
        let settings = Settings {
            serving: Serving { max_batch_size: set, ..Serving::default() },
            declared: declared.map(|size| Declared { max_batch_size: Some(size), ..Declared::default() }),
            ..Settings::default()
        };
        let model = Model::unloaded(1, manifest, settings.into()).unwrap();
        let input = |&items: &usize| Tensor::from_f32(vec![items, 1], vec![0.0; items]).unwrap();
        let inputs: Vec<Tensor> = items.iter().map(input).collect();
        match check_items("m", &inputs, model.request_items_max()) {
            Ok(()) => assert!(taken),
            Err(error) => {
                assert!(!taken && error.kind == ErrorKind::InvalidInput, "{error}");
                assert!(error.message.contains("batch of 9") && error.message.contains("'m' is 8"), "{error}");
            }
        }
    }

    #[test]
    fn a_request_brings_no_more_items_than_somebody_set() {
        for (items, sizes, taken) in [
            (&[8][..], (32, Some(8), Some(8)), true),
            (&[9], (32, Some(8), Some(8)), false),
            (&[1, 9], (32, Some(8), Some(8)), false),
            // The items of its batches are not apart, and its configuration says that they are batches.
            (&[9], (0, Some(8), Some(8)), false),
            (&[9], (8, None, None), true),
            (&[9], (32, Some(8), None), true),
            (&[9], (32, Some(0), Some(0)), true),
            (&[], (32, Some(8), Some(8)), true),
        ] {
            check(items, sizes, taken);
        }
        let scalar = Tensor::from_f32(Vec::new(), vec![1.0]).unwrap();
        check_items("m", &[scalar], Some(1)).unwrap();
    }
}
