//! An inference request's body to [`InferRequest`]: JSON, JSON with binary tensors after it, or one raw tensor.
//! Pure: the clock is an argument, nothing here waits.

use std::time::Instant;

use bytes::Bytes;
use engine::{DataType, Error, Result, Signature, Tensor, TensorSpec, element_count};
use pipeline::Options;
use serde_json::value::RawValue;

use super::document::{self, Document, Input, Output, Parameters, Scratch, whole};
use super::elements;
use crate::people;
use crate::triton::{self, Budget, SharedMemory, Span, Wish};
use crate::{InferRequest, Origin};

/// One call, as the transport gives it.
pub(super) struct Call<'a> {
    pub(super) model: String,
    pub(super) version: Option<u64>,
    pub(super) signature: &'a Signature,
    /// Whether parameters that the protocol does not know are options of a task.
    pub(super) has_options: bool,
    pub(super) body: Bytes,
    /// `Inference-Header-Content-Length`: how much of the body is JSON; all of it when the header is absent.
    pub(super) json_bytes: Option<usize>,
    /// Where inputs may be besides the body.
    pub(super) memory: Option<&'a SharedMemory>,
    /// When the call came.
    pub(super) now: Instant,
}

/// The most that a request's JSON may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Lists within lists.
    pub(super) depth: usize,
    /// Inputs, and outputs.
    pub(super) tensors: usize,
    /// What it may take out of shared memory.
    pub(super) memory_bytes: usize,
}

/// What the answer takes from the request besides its outputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reply {
    pub(super) id: Option<String>,
    /// For outputs that say nothing of their own.
    pub(super) binary_by_default: bool,
    /// By output, in the order they were asked for; empty when none was named.
    pub(super) binary: Vec<Option<bool>>,
    /// By output, in the same order.
    pub(super) wishes: Vec<Wish>,
    /// How people's inputs are to be answered.
    pub(super) options: Options,
}

/// Where an input's elements may be.
struct Sources<'a> {
    /// What follows the JSON and no input has taken yet.
    binary: Bytes,
    memory: Option<&'a SharedMemory>,
    budget: Budget,
    /// The deepest nesting of `data`.
    depth: usize,
}

impl Reply {
    /// Whether the output at `index` goes out as binary data.
    pub(super) fn is_binary(&self, index: usize) -> bool {
        self.binary.get(index).copied().flatten().unwrap_or(self.binary_by_default)
    }
}

/// The request in `call`, and how to answer it.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) or [`Unsupported`](engine::ErrorKind::Unsupported), naming the
/// field and the fix.
pub(super) fn decode(call: Call<'_>, bounds: Bounds) -> Result<(InferRequest, Reply)> {
    if call.json_bytes == Some(0) {
        return raw(call);
    }
    let json_bytes = call.json_bytes.unwrap_or(call.body.len());
    if json_bytes > call.body.len() {
        return Err(Error::invalid(format!(
            "Inference-Header-Content-Length is {json_bytes}, but the body has {} bytes",
            call.body.len()
        )));
    }
    let (json, binary) = (call.body.slice(..json_bytes), call.body.slice(json_bytes..));
    let json = str::from_utf8(&json).map_err(|error| {
        let at = error.valid_up_to();
        Error::invalid(format!(
            "the request's JSON is not UTF-8 at byte {at}; binary tensors after it need Inference-Header-Content-Length"
        ))
    })?;
    let mut scratch = Scratch::default();
    let Document { id, parameters, inputs, outputs } = document::parse(json, &mut scratch, bounds.tensors)?;
    triton::refuse_sequence(sequence(&parameters))?;
    let timeout_us = whole(parameters.timeout, "timeout", "microseconds")?;
    let priority = triton::priority(whole(parameters.priority, "priority", "levels")?)?;
    let options = if call.has_options { options(parameters.others)? } else { Options::default() };
    let budget = Budget::new(bounds.memory_bytes);
    let mut sources = Sources { binary, memory: call.memory, budget, depth: bounds.depth };
    let inputs = inputs
        .into_iter()
        .enumerate()
        .map(|(index, input)| named_tensor(index, input, &mut sources))
        .collect::<Result<_>>()?;
    if !sources.binary.is_empty() {
        return Err(Error::invalid(format!(
            "{} bytes follow the last input's binary data; each input in it needs its binary_data_size",
            sources.binary.len()
        )));
    }
    let mut reply = Reply { id, binary_by_default: parameters.binary_data_output, options, ..Reply::default() };
    let outputs = wanted(outputs, call.memory, &mut reply)?;
    let request = InferRequest {
        model: call.model,
        version: call.version,
        inputs,
        outputs,
        priority,
        deadline: triton::timeout(timeout_us, call.now),
        origin: Origin::default(),
    };
    Ok((request, reply))
}

/// A body without JSON is the one input of its model, as a batch of one, and asks for every output as binary data.
fn raw(call: Call<'_>) -> Result<(InferRequest, Reply)> {
    let [spec] = call.signature.inputs.as_slice() else {
        return Err(Error::invalid(format!(
            "a body without JSON is for a model with one input, but '{}' has {}; describe them in JSON",
            call.model,
            call.signature.inputs.len()
        )));
    };
    let tensor = raw_tensor(spec, call.body).map_err(|error| error.context(format_args!("input '{}'", spec.name)))?;
    let request = InferRequest {
        model: call.model,
        version: call.version,
        inputs: vec![(spec.name.clone(), tensor)],
        outputs: Vec::new(),
        priority: 0,
        deadline: None,
        origin: Origin::default(),
    };
    let reply = Reply { binary_by_default: true, ..Reply::default() };
    Ok((request, reply))
}

fn raw_tensor(spec: &TensorSpec, body: Bytes) -> Result<Tensor> {
    let unclear = || {
        let shape = &spec.shape;
        Error::invalid(format!("the shape {shape:?} does not follow from a body's size; describe the input in JSON"))
    };
    let mut dims = spec.shape.clone();
    let varying = |dims: &[i64]| dims.iter().filter(|&&dim| dim < 0).count();
    let Some(size) = spec.dtype.size_bytes() else {
        // The body is one element, with no length in front of it.
        if dims.iter().any(|&dim| dim > 1 || dim == 0) {
            return Err(unclear());
        }
        let mut data = Vec::with_capacity(body.len() + 4);
        elements::push_string(&mut data, &body)?;
        return Tensor::new(spec.dtype, vec![1; dims.len()], Bytes::from(data));
    };
    if varying(&dims) > 1
        && let Some(batch @ ..=-1) = dims.first_mut()
    {
        *batch = 1;
    }
    if varying(&dims) > 1 {
        return Err(unclear());
    }
    let known: Vec<usize> = dims.iter().filter_map(|&dim| usize::try_from(dim).ok()).collect();
    let known_bytes = element_count(&known)?.saturating_mul(size);
    // Of a body that is no whole multiple, the tensor's own check says what it should be.
    let rest = body.len().checked_div(known_bytes).ok_or_else(unclear)?;
    let shape = dims.iter().map(|&dim| usize::try_from(dim).unwrap_or(rest)).collect();
    Tensor::new(spec.dtype, shape, body)
}

fn named_tensor(index: usize, mut input: Input<'_>, sources: &mut Sources<'_>) -> Result<(String, Tensor)> {
    let name = input.name.take().ok_or_else(|| Error::invalid(format!("inputs[{index}] has no name")))?;
    match tensor(input, sources) {
        Ok(tensor) => Ok((name, tensor)),
        Err(error) => Err(error.context(format_args!("input '{name}'"))),
    }
}

/// The tensor that `input` holds, that is next in the binary data, which is shared and not copied, or that is in
/// shared memory.
fn tensor(input: Input<'_>, sources: &mut Sources<'_>) -> Result<Tensor> {
    let missing = |field| Error::invalid(format!("{field} is missing"));
    let parameters = input.parameters.unwrap_or_default();
    let datatype = input.datatype.ok_or_else(|| missing("datatype"))?;
    let dtype = DataType::from_name(&datatype).ok_or_else(|| {
        let known = DataType::ALL.map(DataType::name).join(", ");
        Error::invalid(format!("datatype '{datatype}' is unknown; use one of {known}"))
    })?;
    let dims = input.shape.ok_or_else(|| missing("shape"))?.0;
    let shape: Option<Vec<usize>> = dims.iter().map(|&dim| usize::try_from(dim).ok()).collect();
    let shape = shape.ok_or_else(|| {
        Error::invalid(format!("shape {dims:?} has a negative dimension; a request gives every size"))
    })?;
    let size = whole(parameters.binary_data_size, "binary_data_size", "bytes")?;
    let region = parameters.shared_memory_region;
    let span = span(region, parameters.shared_memory_offset, parameters.shared_memory_byte_size)?;
    match (input.data, size, span) {
        (Some(data), None, None) => {
            let data = elements::decode(data.0, dtype, &shape, sources.depth)?;
            Tensor::new(dtype, shape, data)
        }
        (None, Some(size), None) => {
            let size = expected_size("binary_data_size", dtype, &shape, size)?;
            if size > sources.binary.len() {
                return Err(Error::invalid(format!(
                    "binary_data_size is {size}, but the body has {} bytes left for it",
                    sources.binary.len()
                )));
            }
            Tensor::new(dtype, shape, sources.binary.split_to(size))
        }
        (None, None, Some(span)) => {
            let memory = SharedMemory::of(sources.memory)?;
            expected_size("shared_memory_byte_size", dtype, &shape, span.bytes)?;
            Tensor::new(dtype, shape, memory.read(&span, &mut sources.budget)?)
        }
        (None, None, None) => Err(Error::invalid("it has neither data nor binary_data_size")),
        (Some(_), Some(_), _) => Err(Error::invalid("it has both data and binary_data_size; send it one way")),
        (_, _, Some(_)) => Err(Error::invalid("it is in shared memory and in the body; send it one way")),
    }
}

fn span(region: Option<String>, offset: Option<&RawValue>, bytes: Option<&RawValue>) -> Result<Option<Span>> {
    let offset = whole(offset, "shared_memory_offset", "bytes")?;
    let bytes = whole(bytes, "shared_memory_byte_size", "bytes")?;
    Span::from_parameters(region, offset, bytes)
}

/// Checks a declared size against the shape, so that the message speaks of the declaration.
fn expected_size(parameter: &str, dtype: DataType, shape: &[usize], declared: u64) -> Result<usize> {
    let count = element_count(shape)?;
    let expected = dtype.size_bytes().map(|size| count.saturating_mul(size));
    let size = usize::try_from(declared).unwrap_or(usize::MAX);
    match expected {
        Some(expected) if expected != size => Err(Error::invalid(format!(
            "{parameter} is {declared}, but a {dtype} tensor of shape {shape:?} takes {expected} bytes"
        ))),
        _ => Ok(size),
    }
}

/// The names of the outputs asked for; how each is to go out is added to `reply`.
fn wanted(outputs: Vec<Output<'_>>, memory: Option<&SharedMemory>, reply: &mut Reply) -> Result<Vec<String>> {
    let one = |(index, output): (usize, Output<'_>)| {
        let name = output.name.ok_or_else(|| Error::invalid(format!("outputs[{index}] has no name")))?;
        let parameters = output.parameters.unwrap_or_default();
        let of = |error: Error| error.context(format_args!("output '{name}'"));
        let classes = whole(parameters.classification, "classification", "classes").map_err(of)?.unwrap_or(0);
        let region = parameters.shared_memory_region;
        let span = span(region, parameters.shared_memory_offset, parameters.shared_memory_byte_size).map_err(of)?;
        reply.binary.push(parameters.binary_data);
        reply.wishes.push(Wish::new(classes, span, memory).map_err(of)?);
        Ok(name)
    };
    outputs.into_iter().enumerate().map(one).collect()
}

/// The options of a task among parameters.
fn options(parameters: Vec<(String, &RawValue)>) -> Result<Options> {
    let parameters = parameters.into_iter().filter(|(name, _)| !triton::is_its_own(name));
    let value = |(name, raw): (String, &RawValue)| {
        let value = serde_json::from_str(raw.get());
        let value = value.map_err(|error| Error::invalid(format!("parameter '{name}' is no JSON: {error}")))?;
        Ok((name, value))
    };
    people::options(parameters.map(value).collect::<Result<_>>()?)
}

/// The parameter by which a request says that it belongs to a sequence.
fn sequence(parameters: &Parameters<'_>) -> Option<&'static str> {
    let asked = |value: Option<&RawValue>| value.is_some_and(|value| !matches!(value.get(), "0" | "\"\"" | "false"));
    [
        ("sequence_id", parameters.sequence_id),
        ("sequence_start", parameters.sequence_start),
        ("sequence_end", parameters.sequence_end),
    ]
    .into_iter()
    .find(|&(_, value)| asked(value))
    .map(|(name, _)| name)
}

#[cfg(test)]
mod tests;
