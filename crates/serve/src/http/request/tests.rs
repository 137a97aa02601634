//! Requests of the Open Inference Protocol, good and bad, by what is read of them.

use std::time::Duration;

use engine::ErrorKind;
use pipeline::Setting;
use proptest::prelude::*;

use super::*;

const BOUNDS: Bounds = Bounds { depth: 8, tensors: 4, memory_bytes: 1000 };

fn spec(name: &str, dtype: DataType, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec(), any_rank: false }
}

/// Decodes `body` for a model whose inputs are `inputs`.
fn decoded(inputs: Vec<TensorSpec>, body: &[u8], json_bytes: Option<usize>) -> Result<(InferRequest, Reply)> {
    decoded_with(false, inputs, body, json_bytes)
}

fn decoded_with(
    has_options: bool,
    inputs: Vec<TensorSpec>,
    body: &[u8],
    json_bytes: Option<usize>,
) -> Result<(InferRequest, Reply)> {
    let signature = Signature { inputs, outputs: Vec::new() };
    let call = Call {
        model: "m".to_owned(),
        version: None,
        signature: &signature,
        has_options,
        body: Bytes::copy_from_slice(body),
        json_bytes,
        memory: None,
        now: Instant::now(),
    };
    decode(call, BOUNDS)
}

/// A request of one input `x` with `rest` of its fields, and `binary` after the JSON.
fn with_binary(rest: &str, binary: &[u8]) -> Result<(InferRequest, Reply)> {
    let json = format!(r#"{{"inputs":[{{"name":"x",{rest}}}]}}"#);
    let body = [json.as_bytes(), binary].concat();
    decoded(Vec::new(), &body, (!binary.is_empty()).then_some(json.len()))
}

#[track_caller]
fn check_data(datatype: &str, shape: &str, data: &str, bytes: &[u8]) {
    let rest = format!(r#""datatype":"{datatype}","shape":{shape},"data":{data}"#);
    let (request, _) = with_binary(&rest, &[]).unwrap();
    let (name, tensor) = &request.inputs[0];
    assert_eq!(name, "x");
    assert_eq!(tensor.dtype().name(), datatype);
    assert_eq!(&tensor.data()[..], bytes, "{rest}");
    // The other order of the fields is as good.
    let turned = format!(r#""data":{data},"shape":{shape},"datatype":"{datatype}""#);
    assert_eq!(with_binary(&turned, &[]).unwrap().0.inputs, request.inputs);
}

#[track_caller]
fn check_refused(outcome: Result<(InferRequest, Reply)>, kind: ErrorKind, says: &str) {
    let error = outcome.expect_err(says);
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.message.contains(says), "'{error}' does not say '{says}'");
}

#[track_caller]
fn check_bad(rest: &str, binary: &[u8], says: &str) {
    check_refused(with_binary(rest, binary), ErrorKind::InvalidInput, says);
}

#[test]
fn every_datatype_from_json() {
    let (one_tenth, two_53) = (0.1f32.to_le_bytes(), 9_007_199_254_740_994f64.to_le_bytes());
    for (datatype, data, bytes) in [
        ("BOOL", "[true, false]", &[1, 0][..]),
        ("UINT8", "[0, 255]", &[0, 255]),
        ("UINT16", "[1, 65535]", &[1, 0, 255, 255]),
        ("UINT32", "[2, 4294967295]", &[2, 0, 0, 0, 255, 255, 255, 255]),
        ("UINT64", "[3, 18446744073709551615]", &[3, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]),
        ("INT8", "[-128, 127]", &[0x80, 0x7f]),
        ("INT16", "[-32768, -0]", &[0, 0x80, 0, 0]),
        ("INT32", "[-1, 1]", &[255, 255, 255, 255, 1, 0, 0, 0]),
        ("INT64", "[-2, 4]", &[254, 255, 255, 255, 255, 255, 255, 255, 4, 0, 0, 0, 0, 0, 0, 0]),
        ("FP32", "[0.1, -0.0]", &[&one_tenth[..], &[0, 0, 0, 0x80]].concat()),
        ("FP32", "[1, 2e0]", &[0, 0, 0x80, 0x3f, 0, 0, 0, 0x40]),
        ("FP32", "[NaN,-Infinity]", &[0, 0, 0xc0, 0x7f, 0, 0, 0x80, 0xff]),
        ("FP64", "[Infinity, 0]", &[0, 0, 0, 0, 0, 0, 0xf0, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("FP64", "[9007199254740994, 0]", &[&two_53[..], &[0; 8]].concat()),
        ("BYTES", r#"["", "h\u00e9\"]\ud83d\udc34"]"#, "\0\0\0\0\u{9}\0\0\0hé\"]🐴".as_bytes()),
    ] {
        check_data(datatype, "[2]", data, bytes);
    }
}

#[test]
fn flat_and_nested_lists() {
    for (shape, data) in [
        ("[2,3]", "[1,2,3,4,5,6]"),
        ("[2,3]", " [ [1 ,2,3]\n,\t[4,5,6] ] "),
        ("[1,2,3,1]", "[[[[1],[2],[3]],[[4],[5],[6]]]]"),
        ("[1,2,3,1]", "[1,2,3,4,5,6]"),
    ] {
        check_data("UINT8", shape, data, &[1, 2, 3, 4, 5, 6]);
    }
    for (shape, data) in [("[]", "[7]"), ("[]", "7"), ("[1]", "[7]"), ("[1,1]", "[[7]]")] {
        check_data("UINT8", shape, data, &[7]);
    }
    for (shape, data) in [("[0]", "[]"), ("[0,3]", "[]"), ("[2,0]", "[[],[]]"), ("[9223372036854775807,9,0]", "[]")] {
        check_data("UINT8", shape, data, &[]);
    }
    for (shape, data) in [
        ("[2,3]", "[[1,2],[3,4],[5,6]]"),
        ("[2,3]", "[[1,2,3,4,5,6]]"),
        ("[2,3]", "[[1,2,3,4],[5,6]]"),
        ("[2,3]", "[[1,2,3],4,5,6]"),
        ("[2,3]", "[1,2,3,[4,5,6]]"),
        ("[2,3]", "[[[1,2,3]],[[4,5,6]]]"),
        ("[2,3]", "[1,2,3,4,5]"),
        ("[2,3]", "[1,2,3,4,5,6,7]"),
        ("[2,3]", "[]"),
        ("[2,3]", "1"),
        ("[1]", "1"),
        ("[1]", "[[1]]"),
        ("[]", "[[1]]"),
        ("[]", "[]"),
        ("[0]", "[1]"),
        ("[268435456,268435456]", "[]"),
    ] {
        let rest = format!(r#""datatype":"UINT8","shape":{shape},"data":{data}"#);
        check_bad(&rest, &[], "input 'x': data does not agree with shape [");
    }
}

#[test]
fn elements_that_do_not_fit() {
    for (datatype, element) in [
        ("BOOL", "1"),
        ("BOOL", "null"),
        ("UINT8", "256"),
        ("UINT8", "-1"),
        ("INT8", "128"),
        ("INT32", "2147483648"),
        ("INT64", "9223372036854775808"),
        ("UINT64", "18446744073709551616"),
        ("INT32", "1.5"),
        ("INT32", "1e3"),
        ("INT32", "\"7\""),
        ("FP32", "1e39"),
        ("FP64", "1e400"),
        ("FP32", "true"),
        ("FP32", "null"),
        ("FP32", "\"nan\""),
        ("BYTES", "1"),
        ("BYTES", r#""\ud800""#),
    ] {
        let rest = format!(r#""datatype":"{datatype}","shape":[1],"data":[{element}]"#);
        check_bad(&rest, &[], &format!("input 'x': element 0 is {element}, which {datatype} cannot hold"));
    }
}

#[test]
fn inputs_that_are_wrong() {
    let deep = format!("{}{}", "[".repeat(9), "]".repeat(9));
    let deep = format!(r#""datatype":"FP32","shape":[1,1,1,1,1,1,1,1,1],"data":{deep}"#);
    let many = format!(r#""datatype":"FP32","shape":[{}1],"data":[1]"#, "1,".repeat(64));
    for (rest, says) in [
        (deep.as_str(), "nested deeper than 8"),
        (many.as_str(), "more than 64 dimensions"),
        (r#""shape":[1],"data":[1]"#, "input 'x': datatype is missing"),
        (r#""datatype":"FP32","data":[1]"#, "input 'x': shape is missing"),
        (r#""datatype":"FP32","shape":[1]"#, "neither data nor binary_data_size"),
        (r#""datatype":"FP32","shape":[1],"data":null"#, "neither data nor binary_data_size"),
        (r#""datatype":"FP32","shape":[1],"data":{"0":1}"#, "data holds an object"),
        (r#""datatype":"FP31","shape":[1],"data":[1]"#, "datatype 'FP31' is unknown"),
        (r#""datatype":"FP16","shape":[1],"data":[1]"#, "send it as binary data"),
        (r#""datatype":"BF16","shape":[1],"data":[1]"#, "send it as binary data"),
        (r#""datatype":"FP32","shape":[-1],"data":[1]"#, "negative dimension"),
        (r#""datatype":"FP32","shape":[1.5],"data":[1]"#, "line 1 column"),
        (r#""datatype":"FP32","shape":[4611686018427387904,3],"data":[1]"#, "more elements than an address"),
        (r#""datatype":"FP32","shape":[1],"data":[nan]"#, "line 1 column"),
        (r#""datatype":"FP32","shape":[1],"data":[-NaN]"#, "FP32 cannot hold"),
        (r#""datatype":"INT32","shape":[1],"data":[NaN]"#, "element 0 is NaN, which INT32 cannot hold"),
        (r#""datatype":"BYTES","shape":[1],"data":[Infinity]"#, "element 0 is Infinity, which BYTES cannot hold"),
        (
            r#""datatype":"FP32","shape":[268435456],"parameters":{"binary_data_size":1073741824}"#,
            "binary_data_size is 1073741824, but the body has 0 bytes left",
        ),
        (
            r#""datatype":"FP32","shape":[2],"parameters":{"binary_data_size":4}"#,
            "binary_data_size is 4, but a FP32 tensor of shape [2] takes 8 bytes",
        ),
        (
            r#""datatype":"FP64","shape":[2305843009213693952],"parameters":{"binary_data_size":0}"#,
            "binary_data_size is 0, but",
        ),
        (
            r#""datatype":"FP32","shape":[2],"parameters":{"binary_data_size":-8}"#,
            "'binary_data_size' is -8, which is not a whole number",
        ),
        (r#""datatype":"FP32","shape":[1],"data":[1],"parameters":{"binary_data_size":4}"#, "send it one way"),
    ] {
        check_bad(rest, &[], says);
    }
    let place = r#""parameters":{"shared_memory_region":"r","shared_memory_byte_size":4}"#;
    let region = format!(r#""datatype":"FP32","shape":[1],{place}"#);
    check_refused(with_binary(&region, &[]), ErrorKind::Unsupported, "input 'x': shared memory is off");
    check_bad(&format!(r#"{region},"data":[1]"#), &[], "in shared memory and in the body");
    let unsized_region = r#""datatype":"FP32","shape":[1],"parameters":{"shared_memory_region":"r"}"#;
    check_bad(unsized_region, &[], "without 'shared_memory_byte_size'");
}

#[test]
fn requests_that_are_wrong() {
    for (body, says) in [
        ("", "EOF"),
        ("[]", "expected an inference request object"),
        (r#"{"inputs": ["#, "EOF"),
        (r#"{"inputs": []} x"#, "trailing characters"),
        (r#"{"inputs": 5}"#, "expected a list of inputs"),
        (r#"{"inputs": [], "inputs": []}"#, "'inputs' is given twice"),
        (r#"{"inputs": [{}]}"#, "inputs[0] has no name"),
        (r#"{"inputs": [{},{},{},{},{}]}"#, "more than 4 inputs"),
        (r#"{"outputs": [{}]}"#, "outputs[0] has no name"),
        (r#"{"outputs": [{},{},{},{},{}]}"#, "more than 4 outputs"),
        (r#"{"parameters": {"timeout": -1}}"#, "'timeout' is -1"),
        (r#"{"parameters": {"timeout": "soon"}}"#, "'timeout' is \"soon\""),
        (r#"{"parameters": {"priority": -1}}"#, "'priority' is -1"),
        (r#"{"parameters": {"priority": 4294967296}}"#, "priority 4294967296 is larger"),
        (r#"{"outputs": [{"name":"y","parameters":{"classification":-1}}]}"#, "output 'y': parameter 'classification'"),
    ] {
        check_refused(decoded(Vec::new(), body.as_bytes(), None), ErrorKind::InvalidInput, says);
    }
    for (body, says) in [
        (r#"{"parameters": {"sequence_id": 7}}"#, "'sequence_id'"),
        (r#"{"parameters": {"sequence_id": "a"}}"#, "'sequence_id'"),
        (r#"{"parameters": {"sequence_start": true}}"#, "'sequence_start'"),
        (r#"{"parameters": {"sequence_end": true}}"#, "'sequence_end'"),
        (
            r#"{"outputs": [{"name":"y","parameters":{"shared_memory_region":"r","shared_memory_byte_size":1}}]}"#,
            "output 'y': shared memory is off",
        ),
    ] {
        check_refused(decoded(Vec::new(), body.as_bytes(), None), ErrorKind::Unsupported, says);
    }
    check_refused(decoded(Vec::new(), b"{}", Some(3)), ErrorKind::InvalidInput, "is 3, but the body has 2 bytes");
    check_refused(decoded(Vec::new(), b"{}xyz", Some(2)), ErrorKind::InvalidInput, "3 bytes follow");
    check_refused(decoded(Vec::new(), b"{}\xff", None), ErrorKind::InvalidInput, "not UTF-8 at byte 2");
}

#[test]
fn parameters_and_outputs() {
    let body = r#"{"id":"a","model_name":"else","parameters":{"timeout":2000000,"priority":1,"sequence_id":0,
        "sequence_start":false,"binary_data_output":true,"mine":{"a":[1]}},"inputs":[],"outputs":[{"name":"p"},
        {"name":"q","parameters":{"binary_data":false,"classification":3}}],"more":[[1,{}]]}"#;
    let before = Instant::now();
    let (request, reply) = decoded(Vec::new(), body.as_bytes(), None).unwrap();
    assert_eq!((request.model.as_str(), request.outputs), ("m", vec!["p".to_owned(), "q".to_owned()]));
    assert!(request.deadline.unwrap() >= before + Duration::from_secs(2));
    assert_eq!(reply.id.as_deref(), Some("a"));
    assert_eq!([reply.is_binary(0), reply.is_binary(1)], [true, false]);
    assert_eq!((request.priority, reply.wishes[0].classes, reply.wishes[1].classes), (1, 0, 3));
    for body in ["{}", r#"{"parameters":{"timeout":0},"outputs":null,"id":null}"#, r#"{"parameters":null}"#] {
        let (request, reply) = decoded(Vec::new(), body.as_bytes(), None).unwrap();
        assert_eq!((request.deadline, request.outputs.len(), reply), (None, 0, Reply::default()));
    }
}

#[test]
fn what_the_protocol_does_not_know_are_options() {
    let body = |parameters: &str| format!(r#"{{"parameters":{parameters},"inputs":[]}}"#);
    let known = r#"{"priority":2,"timeout":5,"binary_data_output":true,"sequence_id":0,"triton_extra":{},
        "top_k":3,"truncate":true,"targets":["a","b"],"stride":null}"#;
    let (request, reply) = decoded_with(true, Vec::new(), body(known).as_bytes(), None).unwrap();
    let options = [
        ("top_k", Setting::Number(3.0)),
        ("truncate", Setting::Flag(true)),
        ("targets", Setting::Texts(vec!["a".to_owned(), "b".to_owned()])),
        ("stride", Setting::Nothing),
    ];
    let options: Options = options.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    assert_eq!((reply.options, request.priority, reply.binary_by_default), (options, 2, true));
    let many: Vec<_> = (0..65).map(|number| format!(r#""p{number}":1"#)).collect();
    for (parameters, says) in [
        (r#"{"top_k":{}}"#, "option 'top_k' must be"),
        (r#"{"timeout":1,"timeout":2}"#, "'timeout' is given twice"),
        (r#"{"binary_data_output":true,"binary_data_output":true}"#, "given twice"),
        (&format!("{{{}}}", many.join(",")), "more than 64 parameters"),
    ] {
        let outcome = decoded_with(true, Vec::new(), body(parameters).as_bytes(), None);
        check_refused(outcome, ErrorKind::InvalidInput, says);
    }
}

#[test]
fn binary_tensors_are_slices_of_the_body_in_listed_order() {
    let json = br#"{"inputs":[{"name":"a","datatype":"UINT8","shape":[3],"parameters":{"binary_data_size":3}},
        {"name":"b","datatype":"INT16","shape":[1],"data":[5]},
        {"name":"c","datatype":"BYTES","shape":[2],"parameters":{"binary_data_size":9}},
        {"name":"d","datatype":"FP16","shape":[0,2],"parameters":{"binary_data_size":0}}]}"#;
    let body = [&json[..], b"abc", b"\0\0\0\0\x01\0\0\0z"].concat();
    let (request, _) = decoded(Vec::new(), &body, Some(json.len())).unwrap();
    let given: Vec<(&str, &[u8])> =
        request.inputs.iter().map(|(name, data)| (name.as_str(), &data.data()[..])).collect();
    let want: [(&str, &[u8]); 4] = [("a", b"abc"), ("b", &[5, 0]), ("c", b"\0\0\0\0\x01\0\0\0z"), ("d", b"")];
    assert_eq!(given, want);

    for (size, binary, says) in [
        (3, &b"ab"[..], "binary_data_size is 3, but the body has 2 bytes left"),
        (3, b"abcd", "1 bytes follow"),
        (2, b"abc", "takes 3 bytes"),
    ] {
        let rest = format!(r#""datatype":"UINT8","shape":[3],"parameters":{{"binary_data_size":{size}}}"#);
        check_bad(&rest, binary, says);
    }
    let rest = r#""datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":5}"#;
    check_bad(rest, b"\x02\0\0\0a", "input 'x': BYTES data is cut off");
    check_bad(rest, b"\0\0\0\0\0", "input 'x': BYTES data is cut off");
}

#[test]
fn a_body_without_json() {
    let floats = |shape: &[i64]| vec![spec("x", DataType::F32, shape)];
    let strings = |shape: &[i64]| vec![spec("x", DataType::Bytes, shape)];
    for (inputs, body, shape, data) in [
        (floats(&[-1, 2]), &[0; 16][..], &[2, 2][..], &[0; 16][..]),
        (floats(&[2, 2]), &[0; 16], &[2, 2], &[0; 16]),
        (floats(&[-1, 2, -1]), &[0; 24], &[1, 2, 3], &[0; 24]),
        (floats(&[-1]), &[], &[0], &[]),
        (floats(&[]), &[0; 4], &[], &[0; 4]),
        (strings(&[-1, 1]), b"hi", &[1, 1], b"\x02\0\0\0hi"),
    ] {
        let (request, reply) = decoded(inputs, body, Some(0)).unwrap();
        let tensor = &request.inputs[0].1;
        assert_eq!((tensor.shape(), &tensor.data()[..]), (shape, data));
        assert!(reply.is_binary(0) && reply.is_binary(9));
    }
    for (inputs, body, says) in [
        (floats(&[-1, 2]), &[0; 15][..], "input 'x': a FP32 tensor of shape [1, 2] takes 8 bytes, but 15 were given"),
        (floats(&[2, 2]), &[0; 20], "takes 16 bytes, but 20 were given"),
        (floats(&[2, -1, -1]), &[0; 16], "does not follow from a body's size"),
        (floats(&[-1, 0]), &[], "does not follow from a body's size"),
        (strings(&[2]), b"hi", "does not follow from a body's size"),
        ([floats(&[1]), floats(&[1])].concat(), &[0; 4], "'m' has 2"),
    ] {
        check_refused(decoded(inputs, body, Some(0)), ErrorKind::InvalidInput, says);
    }
}

proptest! {
    #[test]
    fn no_body_is_too_strange(body: Vec<u8>, json_bytes in prop::option::of(0usize..64)) {
        // Whatever it is, it gives a request or a reason.
        let _ = decoded(vec![spec("x", DataType::I16, &[-1])], &body, json_bytes);
    }

    #[test]
    fn no_json_is_too_strange(pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40)) {
        let _ = decoded(Vec::new(), pieces.concat().as_bytes(), None);
        let rest = format!(r#""datatype":"BYTES","shape":[2,2],"data":[{}"#, pieces.concat());
        let _ = with_binary(&rest, &[]);
    }
}

const PIECES: [&str; 22] = [
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "\"",
    "\\",
    " ",
    "1",
    "-",
    "e9",
    "0.",
    "null",
    "true",
    "é",
    "\"inputs\":[{\"name\":\"x\"",
    "\"datatype\":\"FP32\"",
    "\"shape\":[1,1]",
    "\"data\":[[1]]",
    "\"s\"",
    "\\ud83d",
];
