//! [`InferResponse`] to an HTTP response: JSON, and after it the tensors that go out as binary data.

use bytes::Bytes;
use engine::{Error, Result};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::JSON_BYTES_HEADER;
use super::body::{self, Parts};
use super::elements;
use super::request::Reply;
use crate::triton::{Answer, Given, Span};

/// Room for what stands around an output's elements.
const FRAME_BYTES_ESTIMATE: usize = 128;

/// About how many bytes of JSON the answer has.
pub(super) fn json_bytes_estimate(reply: &Reply, answer: &Answer) -> usize {
    let estimate = |(index, output): (usize, &Given)| {
        let elsewhere = output.span.is_some() || reply.is_binary(index);
        let data = if elsewhere { 0 } else { elements::encoded_bytes_estimate(&output.tensor) };
        data.saturating_add(FRAME_BYTES_ESTIMATE)
    };
    answer.outputs.iter().enumerate().map(estimate).fold(FRAME_BYTES_ESTIMATE, usize::saturating_add)
}

/// The answer to a request that `reply` came with. Binary tensors are sent from where they are.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when an output that was asked for as JSON has no form in it.
pub(super) fn encode(reply: &Reply, answer: &Answer) -> Result<Response<Parts>> {
    let mut json = Vec::with_capacity(json_bytes_estimate(reply, answer));
    let mut binary = Vec::new();
    json.extend_from_slice(br#"{"model_name":"#);
    write(&mut json, &answer.model)?;
    json.extend_from_slice(br#","model_version":"#);
    write(&mut json, &answer.version.to_string())?;
    if let Some(id) = &reply.id {
        json.extend_from_slice(br#","id":"#);
        write(&mut json, id)?;
    }
    json.extend_from_slice(br#","outputs":["#);
    for (index, Given { name, tensor, span }) in answer.outputs.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        json.extend_from_slice(br#"{"name":"#);
        write(&mut json, name)?;
        json.extend_from_slice(br#","datatype":"#);
        write(&mut json, tensor.dtype().name())?;
        json.extend_from_slice(br#","shape":"#);
        write(&mut json, tensor.shape())?;
        if let Some(Span { region, offset, bytes }) = span {
            json.extend_from_slice(br#","parameters":{"shared_memory_region":"#);
            write(&mut json, region)?;
            json.extend_from_slice(br#","shared_memory_offset":"#);
            write(&mut json, offset)?;
            json.extend_from_slice(br#","shared_memory_byte_size":"#);
            write(&mut json, bytes)?;
            json.push(b'}');
        } else if reply.is_binary(index) {
            json.extend_from_slice(br#","parameters":{"binary_data_size":"#);
            write(&mut json, &tensor.data().len())?;
            json.push(b'}');
            binary.push(tensor.data().clone());
        } else {
            json.extend_from_slice(br#","data":"#);
            elements::encode(tensor, &mut json).map_err(|error| error.context(format_args!("output '{name}'")))?;
        }
        json.push(b'}');
    }
    json.extend_from_slice(b"]}");
    Ok(framed(json, binary))
}

fn framed(json: Vec<u8>, binary: Vec<Bytes>) -> Response<Parts> {
    if binary.is_empty() {
        return body::response(StatusCode::OK, "application/json", json);
    }
    let json_bytes = HeaderValue::from(json.len());
    let mut response = body::response(StatusCode::OK, "application/octet-stream", Bytes::new());
    response.headers_mut().insert(JSON_BYTES_HEADER, json_bytes);
    *response.body_mut() = Parts::new(std::iter::once(Bytes::from(json)).chain(binary));
    response
}

fn write(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) -> Result<()> {
    serde_json::to_writer(out, value).map_err(|error| Error::internal(format!("the answer has no JSON form: {error}")))
}

#[cfg(test)]
mod tests {
    use engine::{DataType, ErrorKind, Signature, Tensor, strings_to_wire};
    use proptest::prelude::*;

    use super::super::request::{Bounds, Call, decode};
    use super::*;
    use crate::InferRequest;
    use crate::fixture::any_tensor;

    fn answer(outputs: Vec<(String, Tensor)>) -> Answer {
        let outputs = outputs.into_iter().map(Given::plain).collect();
        Answer { model: "m \"1\"".to_owned(), version: 7, outputs }
    }

    fn tensor(dtype: DataType, shape: &[usize], data: &[u8]) -> Tensor {
        Tensor::new(dtype, shape.to_vec(), Bytes::copy_from_slice(data)).unwrap()
    }

    /// Its JSON text and what follows.
    fn sent(response: Response<Parts>) -> (String, Vec<u8>) {
        let header = response.headers().get(JSON_BYTES_HEADER).map(|value| value.to_str().unwrap().parse().unwrap());
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        let mut body = response.into_body().concat();
        assert_eq!(content_type == "application/octet-stream", header.is_some());
        let binary = body.split_off(header.unwrap_or(body.len()));
        (String::from_utf8(body).unwrap(), binary)
    }

    #[test]
    fn the_whole_of_an_answer() {
        let outputs = || {
            let strings = strings_to_wire([&b"a\"b"[..], "é".as_bytes()]);
            vec![
                ("p".to_owned(), Tensor::from_f32(vec![2, 2], vec![0.1, -0.0, 16_777_216.0, 1e-45]).unwrap()),
                ("q".to_owned(), tensor(DataType::Bytes, &[2], &strings)),
                ("r".to_owned(), tensor(DataType::Bf16, &[1], &[1, 2])),
            ]
        };
        let reply =
            Reply { id: Some("é\n".to_owned()), binary: vec![None, Some(false), Some(true)], ..Reply::default() };
        let (json, binary) = sent(encode(&reply, &answer(outputs())).unwrap());
        let want = concat!(
            r#"{"model_name":"m \"1\"","model_version":"7","id":"é\n","outputs":["#,
            r#"{"name":"p","datatype":"FP32","shape":[2,2],"data":[0.1,-0.0,16777216.0,1e-45]},"#,
            r#"{"name":"q","datatype":"BYTES","shape":[2],"data":["a\"b","é"]},"#,
            r#"{"name":"r","datatype":"BF16","shape":[1],"parameters":{"binary_data_size":2}}]}"#,
        );
        assert_eq!((json.as_str(), &binary[..]), (want, &[1, 2][..]));

        let all = Reply { binary_by_default: true, ..Reply::default() };
        let (json, binary) = sent(encode(&all, &answer(outputs())).unwrap());
        assert!(!json.contains("\"id\"") && !json.contains("\"data\""), "{json}");
        assert_eq!(binary.len(), 16 + 13 + 2);
    }

    #[test]
    fn an_output_in_shared_memory_leaves_only_its_place() {
        let mut placed = answer(vec![
            ("p".to_owned(), tensor(DataType::Bf16, &[1], &[1, 2])),
            ("q".to_owned(), tensor(DataType::U8, &[1], &[9])),
        ]);
        placed.outputs[0].span = Some(Span { region: "r\"".to_owned(), offset: 8, bytes: 2 });
        let reply = Reply { binary_by_default: true, ..Reply::default() };
        let (json, binary) = sent(encode(&reply, &placed).unwrap());
        let place =
            r#""parameters":{"shared_memory_region":"r\"","shared_memory_offset":8,"shared_memory_byte_size":2}"#;
        let outputs = format!(r#"{{"name":"p","datatype":"BF16","shape":[1],{place}}},{{"name":"q","#);
        assert!(json.contains(&outputs), "{json}");
        assert_eq!(binary, [9]);
    }

    #[test]
    fn what_json_cannot_say() {
        for (dtype, data, says) in [
            (DataType::F16, &[0, 0][..], "FP16 has no form in JSON"),
            (DataType::Bf16, &[0, 0], "BF16 has no form in JSON"),
            (DataType::Bytes, b"\x01\0\0\0\xff", "not UTF-8"),
        ] {
            let outputs = vec![("y".to_owned(), tensor(dtype, &[1], data))];
            let error = encode(&Reply::default(), &answer(outputs)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidInput);
            for part in ["output 'y'", says, "ask for it as binary data"] {
                assert!(error.message.contains(part), "'{error}' does not say '{part}'");
            }
        }
    }

    /// A response has the form of a request but for the name of its list.
    fn read_back(json: &str, binary: &[u8]) -> InferRequest {
        let json = json.replacen("\"outputs\":", "\"inputs\":", 1);
        let call = Call {
            model: String::new(),
            version: None,
            signature: &Signature::default(),
            has_options: false,
            json_bytes: Some(json.len()),
            body: Bytes::from([json.as_bytes(), binary].concat()),
            memory: None,
            now: std::time::Instant::now(),
        };
        decode(call, Bounds { depth: 64, tensors: 64, memory_bytes: 0 }).unwrap().0
    }

    proptest! {
        #[test]
        fn tensors_survive_the_wire(tensors in prop::collection::vec((any_tensor(), any::<bool>()), 1..5)) {
            let outputs: Vec<_> = tensors.iter().map(|(tensor, _)| ("x".to_owned(), tensor.clone())).collect();
            // What JSON cannot say goes as binary data, whatever was drawn.
            let binary = tensors.iter().map(|(tensor, binary)| {
                let mut json = Vec::new();
                let refused = elements::encode(tensor, &mut json).is_err();
                // One word for every not-a-number: payload and sign are lost.
                let word = tensor.dtype() != DataType::Bytes && json.windows(3).any(|word| word == b"NaN");
                Some(*binary || refused || word)
            });
            let reply = Reply { binary: binary.collect(), ..Reply::default() };
            let (json, binary) = sent(encode(&reply, &answer(outputs.clone())).unwrap());
            prop_assert_eq!(read_back(&json, &binary).inputs, outputs);
        }
    }
}
