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
mod tests {
    use std::time::Duration;

    use engine::ErrorKind;
    use proptest::prelude::*;
    use proto::inference::InferTensorContents;
    use proto::inference::model_infer_request::InferRequestedOutputTensor;

    use super::*;
    use crate::fixture::any_tensor;

    fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
        InferInputTensor {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
            ..InferInputTensor::default()
        }
    }

    fn raw(inputs: Vec<InferInputTensor>, raw: &[&[u8]]) -> ModelInferRequest {
        let raw_input_contents = raw.iter().map(|data| Bytes::copy_from_slice(data)).collect();
        ModelInferRequest { model_name: "m".to_owned(), inputs, raw_input_contents, ..ModelInferRequest::default() }
    }

    fn typed(datatype: &str, shape: &[i64], contents: InferTensorContents) -> ModelInferRequest {
        raw(vec![InferInputTensor { contents: Some(contents), ..input("x", datatype, shape) }], &[])
    }

    fn fp32(values: &[f32]) -> InferTensorContents {
        InferTensorContents { fp32_contents: values.to_vec(), ..InferTensorContents::default() }
    }

    fn call(now: Instant, deadline: Option<Instant>) -> Call<'static> {
        Call { memory: None, memory_bytes: 1000, now, deadline }
    }

    fn decoded(message: ModelInferRequest) -> Result<(InferRequest, Reply)> {
        decode(message, call(Instant::now(), None))
    }

    fn given(outputs: Vec<(String, Tensor)>) -> Answer {
        Answer { model: "m".to_owned(), version: 7, outputs: outputs.into_iter().map(Given::plain).collect() }
    }

    /// The answer of a model that gives back what it got.
    fn echo(request: InferRequest, reply: Reply) -> ModelInferResponse {
        encode(reply, given(request.inputs)).unwrap()
    }

    #[track_caller]
    fn check_refused(message: ModelInferRequest, kind: ErrorKind, says: &str) {
        let shown = format!("{message:?}");
        let error = decoded(message).expect_err(&shown);
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(says), "'{error}' does not say '{says}'");
    }

    /// The answer to `contents` is `contents`, and the answer to `bytes` is `bytes`: two elements of `datatype`.
    #[track_caller]
    fn check_both_ways(datatype: &str, contents: InferTensorContents, bytes: &[u8]) {
        let (request, reply) = decoded(typed(datatype, &[2], contents.clone())).unwrap();
        assert_eq!(request.inputs[0].1.data(), bytes, "{datatype} decoded");
        let answer = echo(request, reply);
        assert_eq!(answer.outputs[0].contents, Some(contents), "{datatype} encoded");
        assert!(answer.raw_output_contents.is_empty(), "{datatype}: typed in, typed out");

        let (request, reply) = decoded(raw(vec![input("x", datatype, &[2])], &[bytes])).unwrap();
        let answer = echo(request, reply);
        assert_eq!(answer.raw_output_contents, [bytes], "{datatype} raw");
        assert_eq!(answer.outputs[0].contents, None, "{datatype}: raw in, raw out");
    }

    #[test]
    fn every_typed_datatype_both_ways() {
        let none = InferTensorContents::default;
        let int = |values: [i32; 2]| InferTensorContents { int_contents: values.into(), ..none() };
        let uint = |values: [u32; 2]| InferTensorContents { uint_contents: values.into(), ..none() };
        let bool_contents = vec![true, false];
        let bytes_contents = vec![Bytes::new(), Bytes::from_static(b"ab")];
        let (int64_contents, uint64_contents) = (vec![-2, 1], vec![1, u64::MAX]);
        let fp64_contents = vec![1.0, -2.0];
        for (datatype, contents, bytes) in [
            ("BOOL", InferTensorContents { bool_contents, ..none() }, "01 00"),
            ("INT8", int([-128, 127]), "80 7f"),
            ("INT16", int([-2, 258]), "feff 0201"),
            ("INT32", int([-2, 1]), "feffffff 01000000"),
            ("INT64", InferTensorContents { int64_contents, ..none() }, "feffffffffffffff 0100000000000000"),
            ("UINT8", uint([0, 255]), "00 ff"),
            ("UINT16", uint([1, 65535]), "0100 ffff"),
            ("UINT32", uint([1, u32::MAX]), "01000000 ffffffff"),
            ("UINT64", InferTensorContents { uint64_contents, ..none() }, "0100000000000000 ffffffffffffffff"),
            ("FP32", fp32(&[1.0, -2.0]), "0000803f 000000c0"),
            ("FP64", InferTensorContents { fp64_contents, ..none() }, "000000000000f03f 00000000000000c0"),
            ("BYTES", InferTensorContents { bytes_contents, ..none() }, "00000000 020000006162"),
        ] {
            let digits: Vec<char> = bytes.chars().filter(|digit| *digit != ' ').collect();
            let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
            check_both_ways(datatype, contents, &digits.chunks(2).map(byte).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_request_without_inputs_is_answered_raw() {
        let (mut request, reply) = decoded(raw(vec![], &[])).unwrap();
        request.inputs.push(("y".to_owned(), Tensor::from_f32(vec![], vec![1.0]).unwrap()));
        let answer = echo(request, reply);
        assert_eq!(
            (&answer.raw_output_contents[..], &answer.outputs[0].contents),
            (&[Bytes::from(vec![0, 0, 0x80, 0x3f])][..], &None)
        );
    }

    #[test]
    fn half_precision_is_answered_raw_even_to_a_typed_request() {
        for datatype in ["FP16", "BF16"] {
            let (request, reply) = decoded(raw(vec![input("x", datatype, &[1])], &[&[0, 0x3c]])).unwrap();
            for raw in [true, false] {
                let answer = encode(Reply { raw, ..reply.clone() }, given(request.inputs.clone())).unwrap();
                assert_eq!(answer.raw_output_contents, [&[0, 0x3c][..]], "{datatype}");
                assert_eq!(answer.outputs[0].contents, None, "{datatype}");
            }
        }
    }

    #[test]
    fn what_is_echoed_and_what_is_asked_for() {
        let output = |name: &str| InferRequestedOutputTensor { name: name.to_owned(), ..Default::default() };
        let message = ModelInferRequest {
            id: "42".to_owned(),
            model_version: "3".to_owned(),
            outputs: vec![output("b"), output("a")],
            ..typed("FP32", &[1, 2], fp32(&[1.0, 2.0]))
        };
        let (request, reply) = decoded(message).unwrap();
        assert_eq!((request.model.as_str(), request.version), ("m", Some(3)));
        assert_eq!(request.outputs, ["b", "a"]);
        let answer = echo(request, reply);
        assert_eq!((answer.id.as_str(), answer.model_name.as_str(), answer.model_version.as_str()), ("42", "m", "7"));
        assert_eq!(answer.outputs[0].shape, [1, 2]);
    }

    #[test]
    fn what_the_protocol_does_not_know_are_options() {
        let parameters = parameters([
            ("priority", ParameterChoice::Int64Param(2)),
            ("triton_extra", ParameterChoice::BoolParam(true)),
            ("top_k", ParameterChoice::Int64Param(3)),
            ("threshold", ParameterChoice::DoubleParam(0.5)),
            ("truncate", ParameterChoice::BoolParam(false)),
        ]);
        let (_, reply) = decoded(ModelInferRequest { parameters, ..raw(vec![], &[]) }).unwrap();
        let options =
            [("top_k", Setting::Number(3.0)), ("threshold", Setting::Number(0.5)), ("truncate", Setting::Flag(false))];
        assert_eq!(reply.options, options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
    }

    #[test]
    fn wrong_raw_requests_are_refused_with_the_field_and_the_fix() {
        let x = |datatype, shape: &[i64]| vec![input("x", datatype, shape)];
        let raw_input_contents = vec![Bytes::from_static(&[0; 4])];
        let both = ModelInferRequest { raw_input_contents, ..typed("FP32", &[1], fp32(&[1.0])) };
        let unversioned = ModelInferRequest { model_version: "new".to_owned(), ..raw(vec![], &[]) };
        for (message, says) in [
            (unversioned, "model version 'new' is not a decimal number"),
            (both, "input 'x': it has contents beside raw_input_contents"),
            (raw(x("FP32", &[1]), &[&[0; 4], &[0; 4]]), "2 entries for 1 inputs"),
            (raw(x("FP32", &[2]), &[&[0; 7]]), "input 'x': a FP32 tensor of shape [2] takes 8 bytes, but 7"),
            (raw(x("FP32", &[0]), &[&[0; 4]]), "takes 0 bytes, but 4"),
            (raw(x("FP16", &[2]), &[&[0; 3]]), "takes 4 bytes, but 3"),
            (raw(x("BYTES", &[1]), &[&[9, 0, 0, 0, b'a']]), "input 'x': BYTES data is cut off at byte 0 of 5"),
            (raw(x("BYTES", &[2]), &[&[0, 0, 0, 0]]), "2 elements, but 1"),
            (raw(x("FP32", &[1 << 62, 1 << 62]), &[&[0; 4]]), "more elements than"),
            (raw(x("FP64", &[1 << 61]), &[&[0; 8]]), "does not fit"),
            (raw(x("FP32", &[1 << 28]), &[&[]]), "takes 1073741824 bytes, but 0"),
            (raw(x("FP32", &[-1]), &[&[0; 4]]), "negative dimension"),
            (raw(x("FLOAT", &[1]), &[&[0; 4]]), "datatype 'FLOAT' is unknown; use one of BOOL,"),
        ] {
            check_refused(message, ErrorKind::InvalidInput, says);
        }
    }

    #[test]
    fn wrong_typed_requests_are_refused_with_the_field_and_the_fix() {
        let none = InferTensorContents::default;
        let int = |value| InferTensorContents { int_contents: vec![1, value], ..none() };
        let uint = |value| InferTensorContents { uint_contents: vec![1, value], ..none() };
        for (datatype, shape, contents, says) in [
            ("FP32", &[3][..], fp32(&[1.0]), "input 'x': shape [3] has 3 elements, but fp32_contents holds 1"),
            ("FP32", &[1], none(), "fp32_contents holds 0"),
            ("FP32", &[1 << 62, 4], fp32(&[1.0]), "more elements than"),
            ("INT32", &[1], fp32(&[1.0]), "INT32 elements go into int_contents, but fp32_contents holds 1"),
            ("FP16", &[1], fp32(&[1.0]), "FP16 has no field in contents; send every input in raw_input_contents"),
            ("BF16", &[1], none(), "BF16 has no field"),
            ("INT8", &[2], int(128), "element 1 is 128, which INT8 cannot hold"),
            ("INT16", &[2], int(-32769), "INT16 cannot hold"),
            ("UINT8", &[2], uint(256), "UINT8 cannot hold"),
            ("UINT16", &[2], uint(65536), "UINT16 cannot hold"),
        ] {
            check_refused(typed(datatype, shape, contents), ErrorKind::InvalidInput, says);
        }
    }

    fn parameters<const N: usize>(values: [(&str, ParameterChoice); N]) -> Parameters {
        values.map(|(name, choice)| (name.to_owned(), InferParameter { parameter_choice: Some(choice) })).into()
    }

    #[test]
    fn what_cannot_be_honoured_is_refused() {
        use ParameterChoice::{BoolParam, Int64Param, StringParam, Uint64Param};
        let text = |text: &str| StringParam(text.to_owned());
        let asked = |values| ModelInferRequest { parameters: values, ..raw(vec![], &[]) };
        for (name, value) in [
            ("sequence_id", Int64Param(1)),
            ("sequence_id", Uint64Param(1)),
            ("sequence_id", text("a")),
            ("sequence_start", BoolParam(true)),
            ("sequence_end", BoolParam(true)),
        ] {
            check_refused(asked(parameters([(name, value)])), ErrorKind::Unsupported, &format!("'{name}'"));
        }
        for (name, value) in [
            ("sequence_id", Int64Param(0)),
            ("sequence_id", text("")),
            ("sequence_start", BoolParam(false)),
            ("anything", text("else")),
        ] {
            assert!(decoded(asked(parameters([(name, value.clone())]))).is_ok(), "{name} {value:?}");
        }
        let place = [("shared_memory_region", text("r")), ("shared_memory_byte_size", Int64Param(4))];
        let shared = |place| InferInputTensor { parameters: place, ..input("x", "FP32", &[1]) };
        let message = |place| raw(vec![shared(place)], &[]);
        check_refused(message(parameters(place.clone())), ErrorKind::Unsupported, "input 'x': shared memory is off");
        for (place, says) in [
            (parameters([("shared_memory_region", Int64Param(1))]), "not the name of a region"),
            (parameters([("shared_memory_region", text("r"))]), "without 'shared_memory_byte_size'"),
        ] {
            check_refused(message(place), ErrorKind::InvalidInput, says);
        }
    }

    #[test]
    fn priority_and_wishes_are_read() {
        use ParameterChoice::{Int64Param, StringParam, Uint64Param};
        let priority = |value| ModelInferRequest { parameters: parameters([("priority", value)]), ..raw(vec![], &[]) };
        for (value, want) in [
            (Uint64Param(1), Some(1)),
            (Int64Param(7), Some(7)),
            (Int64Param(-1), None),
            (Uint64Param(1 << 32), None),
            (StringParam("high".to_owned()), None),
        ] {
            let got = decoded(priority(value.clone())).ok().map(|(request, _)| request.priority);
            assert_eq!(got, want, "{value:?}");
        }
        let output = InferRequestedOutputTensor {
            name: "y".to_owned(),
            parameters: parameters([("classification", Int64Param(3))]),
        };
        let (_, reply) = decoded(ModelInferRequest { outputs: vec![output], ..raw(vec![], &[]) }).unwrap();
        assert_eq!(reply.wishes, [Wish { classes: 3, span: None }]);
        let span = Span { region: "r".to_owned(), offset: 8, bytes: 64 };
        assert_eq!(super::span(&place(span.clone())).unwrap(), Some(span.clone()));

        // Written, it is an entry without bytes, and its parameters say where it is.
        let mut answer = given(vec![
            ("y".to_owned(), Tensor::from_f32(vec![1], vec![1.0]).unwrap()),
            ("z".to_owned(), Tensor::from_f32(vec![1], vec![2.0]).unwrap()),
        ]);
        answer.outputs[0].span = Some(span);
        let message = encode(Reply { raw: true, ..reply.clone() }, answer.clone()).unwrap();
        assert_eq!(message.raw_output_contents, [&[][..], &2f32.to_le_bytes()]);
        let told = &message.outputs[0].parameters["shared_memory_offset"].parameter_choice;
        assert_eq!(*told, Some(Int64Param(8)));
        let message = encode(Reply { raw: false, ..reply }, answer).unwrap();
        assert_eq!((&message.outputs[0].contents, &message.outputs[1].contents), (&None, &Some(fp32(&[2.0]))));
    }

    #[test]
    fn versions() {
        for (text, want) in [
            ("", Some(None)),
            ("7", Some(Some(7))),
            ("007", Some(Some(7))),
            ("+7", None),
            ("-1", None),
            (" 7", None),
            ("18446744073709551616", None),
        ] {
            assert_eq!(version(text).ok(), want, "'{text}'");
        }
    }

    #[test]
    fn the_earlier_deadline_holds() {
        let now = Instant::now();
        let at = |ms| Some(now + Duration::from_millis(ms));
        for (given, parameter, want) in [
            (None, None, None),
            (at(5), None, at(5)),
            (None, Some(ParameterChoice::Int64Param(9000)), at(9)),
            (at(5), Some(ParameterChoice::Uint64Param(9000)), at(5)),
            (at(10), Some(ParameterChoice::Int64Param(9000)), at(9)),
            (at(10), Some(ParameterChoice::Int64Param(0)), at(10)),
        ] {
            let mut message = raw(vec![], &[]);
            message.parameters.extend(
                parameter
                    .clone()
                    .map(|choice| ("timeout".to_owned(), InferParameter { parameter_choice: Some(choice) })),
            );
            let (request, _) = decode(message, call(now, given)).unwrap();
            assert_eq!(request.deadline, want, "{given:?} and {parameter:?}");
        }
        for choice in [ParameterChoice::Int64Param(-1), ParameterChoice::StringParam("soon".to_owned())] {
            let timeout = ("timeout".to_owned(), InferParameter { parameter_choice: Some(choice) });
            let message = ModelInferRequest { parameters: Parameters::from([timeout]), ..raw(vec![], &[]) };
            check_refused(message, ErrorKind::InvalidInput, "parameter 'timeout'");
        }
    }

    proptest! {
        #[test]
        fn tensors_survive_the_wire(tensors in prop::collection::vec(any_tensor(), 1..4)) {
            let (inputs, data): (Vec<_>, Vec<_>) = tensors
                .iter()
                .map(|tensor| {
                    let shape: Vec<i64> = tensor.shape().iter().map(|&size| i64::try_from(size).unwrap()).collect();
                    (input("x", tensor.dtype().name(), &shape), &tensor.data()[..])
                })
                .unzip();
            let (request, reply) = decoded(raw(inputs, &data)).unwrap();
            let read: Vec<_> = request.inputs.iter().map(|(_, tensor)| tensor.clone()).collect();
            prop_assert_eq!(&read, &tensors);
            let answer = echo(request, reply);
            prop_assert_eq!(&answer.raw_output_contents, &data);

            // What is answered in typed form and sent again is the same tensor.
            for tensor in tensors.into_iter().filter(|tensor| contents::has_field(tensor.dtype())) {
                let contents = contents::encode(&tensor).unwrap().unwrap();
                let again = contents::decode(tensor.dtype(), tensor.shape().to_vec(), contents).unwrap();
                prop_assert_eq!(again, tensor);
            }
        }
    }
}
