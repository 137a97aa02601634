//! Wire messages to [`InferRequest`] and back. The clock is an argument, nothing here waits.

use std::time::Instant;

use bytes::Bytes;
use engine::{DataType, Error, Result, Tensor, element_count};
use pipeline::{Options, Setting};
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::model_infer_request::InferInputTensor;
use proto::inference::model_infer_response::InferOutputTensor;
use proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse};

use super::contents;
use crate::triton::{self, Answer, Budget, Given, SharedMemory, Span, Wish};
use crate::{InferRequest, Origin};

type Parameters = std::collections::HashMap<String, InferParameter>;

/// What the answer takes from the request besides its outputs.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reply {
    id: String,
    raw: bool,
    /// By output, in the order they were asked for; empty when none was named.
    pub(super) wishes: Vec<Wish>,
    /// How people's inputs are to be answered: what the protocol does not know.
    pub(super) options: Options,
}

/// What comes with a message besides its fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call<'a> {
    /// Where inputs may be besides the message.
    pub(super) memory: Option<&'a SharedMemory>,
    /// What it may take out of there.
    pub(super) memory_bytes: usize,
    /// When it came.
    pub(super) now: Instant,
    /// The call's own deadline.
    pub(super) deadline: Option<Instant>,
}

/// The request in `message`, and how to answer it. A `timeout` parameter (microseconds from now) can only shorten the
/// call's own deadline.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) or [`Unsupported`](engine::ErrorKind::Unsupported), naming the
/// field and the fix.
pub(super) fn decode(message: ModelInferRequest, call: Call<'_>) -> Result<(InferRequest, Reply)> {
    triton::refuse_sequence(sequence(&message.parameters))?;
    let version = version(&message.model_version)?;
    let priority = triton::priority(whole(&message.parameters, "priority")?)?;
    let timeout = triton::timeout(whole(&message.parameters, "timeout")?, call.now);
    let options = options(message.parameters);
    let raw = !message.raw_input_contents.is_empty();
    let shared = |input: &InferInputTensor| input.parameters.contains_key("shared_memory_region");
    // Of tensors that are not in the message, an answer in typed form would be the odd one out.
    // A request without inputs has neither form, and most clients only read raw outputs.
    let reply_raw = raw || message.inputs.is_empty() || message.inputs.iter().any(shared);
    let inputs = inputs(message.inputs, raw.then_some(message.raw_input_contents), call)?;
    let mut wishes = Vec::with_capacity(message.outputs.len());
    for output in &message.outputs {
        wishes.push(
            wish(&output.parameters, call.memory)
                .map_err(|error| error.context(format_args!("output '{}'", output.name)))?,
        );
    }
    let request = InferRequest {
        model: message.model_name,
        version,
        inputs,
        outputs: message.outputs.into_iter().map(|output| output.name).collect(),
        priority,
        deadline: call.deadline.into_iter().chain(timeout).min(),
        origin: Origin::default(),
    };
    Ok((request, Reply { id: message.id, raw: reply_raw, wishes, options }))
}

/// About how many bytes of `message` have to be read one element at a time.
pub(super) fn typed_bytes(message: &ModelInferRequest) -> usize {
    let contents = message.inputs.iter().filter_map(|input| input.contents.as_ref());
    contents.map(prost::Message::encoded_len).sum()
}

/// The message for `answer`. Raw when the request was raw, or when an output has no typed form: the protocol wants
/// all outputs one way.
///
/// # Errors
/// [`Internal`](engine::ErrorKind::Internal) when an output is not what a tensor must be.
pub(super) fn encode(reply: Reply, answer: Answer) -> Result<ModelInferResponse> {
    let typed = |output: &Given| contents::has_field(output.tensor.dtype());
    let raw = reply.raw || !answer.outputs.iter().all(typed);
    let mut message = ModelInferResponse {
        model_name: answer.model,
        model_version: answer.version.to_string(),
        id: reply.id,
        ..ModelInferResponse::default()
    };
    for Given { name, tensor, span } in answer.outputs {
        let fault = |error: Error| Error::internal(format!("output '{name}': {error}"));
        let contents = if raw || span.is_some() { None } else { contents::encode(&tensor).map_err(fault)? };
        if raw {
            // One entry for each output: clients count them.
            message.raw_output_contents.push(if span.is_some() { Bytes::new() } else { tensor.data().clone() });
        }
        let dimension =
            |&size: &usize| i64::try_from(size).map_err(|_| fault(Error::internal("a dimension passes int64")));
        let shape = tensor.shape().iter().map(dimension).collect::<Result<_>>()?;
        let datatype = tensor.dtype().name().to_owned();
        let parameters = span.map(place).unwrap_or_default();
        message.outputs.push(InferOutputTensor { name, datatype, shape, contents, parameters });
    }
    Ok(message)
}

/// The version that `text` asks for; `None`, the newest, when it is empty.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for anything but decimal digits.
pub(super) fn version(text: &str) -> Result<Option<u64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).map(Some).ok_or_else(|| {
        Error::invalid(format!("model version '{text}' is not a decimal number; leave it empty for the newest"))
    })
}

/// The tensors of `inputs`: from shared memory where their parameters say so, and otherwise all from `raw`, in the
/// same order, or without `raw` each from its own contents.
fn inputs(inputs: Vec<InferInputTensor>, raw: Option<Vec<Bytes>>, call: Call<'_>) -> Result<Vec<(String, Tensor)>> {
    let mut budget = Budget::new(call.memory_bytes);
    let mut tensors = Vec::with_capacity(inputs.len());
    let (is_raw, given) = (raw.is_some(), raw.as_ref().map_or(0, Vec::len));
    let (mut raw, mut taken) = (raw.into_iter().flatten(), 0usize);
    for mut input in inputs {
        let typed = input.contents.take().filter(|typed| !contents::is_empty(typed));
        let mut tensor = || {
            if let Some(span) = span(&input.parameters)? {
                if typed.is_some() {
                    return Err(Error::invalid("it is in shared memory and has contents; send it one way"));
                }
                let memory = SharedMemory::of(call.memory)?;
                let (dtype, shape) = (datatype(&input)?, shape(&input)?);
                fits(dtype, &shape, span.bytes)?;
                return Tensor::new(dtype, shape, memory.read(&span, &mut budget)?);
            }
            if !is_raw {
                return contents::decode(datatype(&input)?, shape(&input)?, typed.clone().unwrap_or_default());
            }
            if typed.is_some() {
                return Err(Error::invalid("it has contents beside raw_input_contents; send every input one way"));
            }
            taken += 1;
            let missing = || Error::invalid(format!("raw_input_contents has {given} entries, and none is left for it"));
            Tensor::new(datatype(&input)?, shape(&input)?, raw.next().ok_or_else(missing)?)
        };
        tensors.push(named(tensor(), input.name)?);
    }
    if taken < given {
        return Err(Error::invalid(format!(
            "raw_input_contents has {given} entries for {taken} inputs; send one for each, in the order of the inputs"
        )));
    }
    Ok(tensors)
}

/// Checks a declared size against the shape before anything is read.
fn fits(dtype: DataType, shape: &[usize], declared: u64) -> Result<()> {
    let count = element_count(shape)?;
    match dtype.size_bytes().map(|size| count.saturating_mul(size)) {
        Some(want) if want as u64 != declared => Err(Error::invalid(format!(
            "shared_memory_byte_size is {declared}, but a {dtype} tensor of shape {shape:?} takes {want} bytes"
        ))),
        _ => Ok(()),
    }
}

fn named(tensor: Result<Tensor>, name: String) -> Result<(String, Tensor)> {
    match tensor {
        Ok(tensor) => Ok((name, tensor)),
        Err(error) => Err(error.context(format_args!("input '{name}'"))),
    }
}

fn datatype(input: &InferInputTensor) -> Result<DataType> {
    DataType::from_name(&input.datatype).ok_or_else(|| {
        let known = DataType::ALL.map(DataType::name).join(", ");
        Error::invalid(format!("datatype '{}' is unknown; use one of {known}", input.datatype))
    })
}

fn shape(input: &InferInputTensor) -> Result<Vec<usize>> {
    let dimension = |&size: &i64| usize::try_from(size).ok();
    input.shape.iter().map(dimension).collect::<Option<_>>().ok_or_else(|| {
        Error::invalid(format!("shape {:?} has a negative dimension; a request gives every size", input.shape))
    })
}

/// The options of a task among `parameters`.
fn options(parameters: Parameters) -> Options {
    let known = ["priority", "timeout", "binary_data_output", "sequence_id", "sequence_start", "sequence_end"];
    let others = parameters.into_iter().filter(|(name, _)| !known.contains(&&**name) && !triton::is_its_own(name));
    let setting = |(name, parameter): (String, InferParameter)| {
        let setting = match parameter.parameter_choice? {
            ParameterChoice::BoolParam(flag) => Setting::Flag(flag),
            // What a number loses here it would lose in JSON as well.
            ParameterChoice::Int64Param(number) => Setting::Number(number as f64),
            ParameterChoice::Uint64Param(number) => Setting::Number(number as f64),
            ParameterChoice::DoubleParam(number) => Setting::Number(number),
            ParameterChoice::StringParam(text) => Setting::Text(text),
        };
        Some((name, setting))
    };
    others.filter_map(setting).collect()
}

/// The parameter by which a request says that it belongs to a sequence.
fn sequence(parameters: &Parameters) -> Option<&'static str> {
    let asked = |name: &&'static str| {
        parameters.get(*name).and_then(|parameter| parameter.parameter_choice.as_ref()).is_some_and(|value| match value
        {
            ParameterChoice::BoolParam(value) => *value,
            ParameterChoice::Int64Param(value) => *value != 0,
            ParameterChoice::Uint64Param(value) => *value != 0,
            ParameterChoice::StringParam(value) => !value.is_empty(),
            ParameterChoice::DoubleParam(_) => true,
        })
    };
    ["sequence_id", "sequence_start", "sequence_end"].into_iter().find(asked)
}

/// The whole number of at least 0 that the parameter `name` holds, when it is there.
fn whole(parameters: &Parameters, name: &str) -> Result<Option<u64>> {
    let Some(parameter) = parameters.get(name) else { return Ok(None) };
    let number = match parameter.parameter_choice {
        Some(ParameterChoice::Int64Param(value)) => u64::try_from(value).ok(),
        Some(ParameterChoice::Uint64Param(value)) => Some(value),
        _ => None,
    };
    number.map(Some).ok_or_else(|| Error::invalid(format!("parameter '{name}' is not a whole number, 0 or more")))
}

/// The place in shared memory that a tensor's parameters name.
fn span(parameters: &Parameters) -> Result<Option<Span>> {
    let region = match parameters.get("shared_memory_region").map(|parameter| &parameter.parameter_choice) {
        None => None,
        Some(Some(ParameterChoice::StringParam(name))) => Some(name.clone()),
        Some(_) => return Err(Error::invalid("parameter 'shared_memory_region' is not the name of a region")),
    };
    let offset = whole(parameters, "shared_memory_offset")?;
    Span::from_parameters(region, offset, whole(parameters, "shared_memory_byte_size")?)
}

fn wish(parameters: &Parameters, memory: Option<&SharedMemory>) -> Result<Wish> {
    let classes = whole(parameters, "classification")?.unwrap_or_default();
    Wish::new(classes, span(parameters)?, memory)
}

/// The parameters that say where an output is.
fn place(span: Span) -> Parameters {
    // Sizes in memory never come near the sign.
    let number = |value: u64| ParameterChoice::Int64Param(i64::try_from(value).unwrap_or(i64::MAX));
    [
        ("shared_memory_region", ParameterChoice::StringParam(span.region)),
        ("shared_memory_offset", number(span.offset)),
        ("shared_memory_byte_size", number(span.bytes)),
    ]
    .map(|(name, choice)| (name.to_owned(), InferParameter { parameter_choice: Some(choice) }))
    .into()
}

#[cfg(test)]
mod tests;
