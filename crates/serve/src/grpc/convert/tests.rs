//! Messages to requests and back: every datatype, both forms of contents, and what is refused.

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
            parameter.clone().map(|choice| ("timeout".to_owned(), InferParameter { parameter_choice: Some(choice) })),
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
