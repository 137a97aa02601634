//! The request that a load repeats, made once for each API.

use bytes::Bytes;
use engine::{DataType, Error, Result, Tensor, TensorSpec};
use prost::Message as _;
use proto::inference::ModelInferRequest;
use proto::inference::model_infer_request::InferInputTensor;

/// The ways in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Api {
    /// Open Inference Protocol over REST, tensors as bytes behind the JSON.
    Rest,
    /// Open Inference Protocol over REST, tensors as JSON numbers.
    RestJson,
    /// Open Inference Protocol over gRPC, tensors as raw contents.
    Grpc,
}

/// A request, ready to be sent.
#[derive(Clone, Debug)]
pub enum Question {
    /// A whole HTTP/1.1 message.
    Http(Bytes),
    /// A message for `ModelInfer`, with its frame.
    Grpc(Bytes),
}

impl Question {
    /// Asks `model` about `inputs`, each with its name, and for all outputs.
    ///
    /// # Errors
    /// [`Unsupported`](engine::ErrorKind::Unsupported) for a datatype that the API has no form for.
    pub fn infer(api: Api, model: &str, inputs: &[(String, Tensor)]) -> Result<Self> {
        match api {
            Api::Rest => Ok(binary(model, inputs)),
            Api::RestJson => json(model, inputs),
            Api::Grpc => Ok(grpc(model, inputs)),
        }
    }

    /// A POST of `body` to `path`.
    pub fn post(path: &str, headers: &str, body: &[u8]) -> Bytes {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {length}\r\n\r\n");
        [head.as_bytes(), body].concat().into()
    }
}

fn binary(model: &str, inputs: &[(String, Tensor)]) -> Question {
    let size = |tensor: &Tensor| format!(r#""parameters":{{"binary_data_size":{}}}"#, tensor.data().len());
    let declared: Vec<_> = inputs.iter().map(|(name, tensor)| declaration(name, tensor, &size(tensor))).collect();
    let head = format!(r#"{{"inputs":[{}],"parameters":{{"binary_data_output":true}}}}"#, declared.join(","));
    let header = format!("Inference-Header-Content-Length: {}\r\n", head.len());
    let data = inputs.iter().map(|(_, tensor)| &**tensor.data());
    let body = std::iter::once(head.as_bytes()).chain(data).collect::<Vec<_>>().concat();
    Question::Http(Question::post(&path(model), &header, &body))
}

fn json(model: &str, inputs: &[(String, Tensor)]) -> Result<Question> {
    let mut declared = Vec::with_capacity(inputs.len());
    for (name, tensor) in inputs {
        declared.push(declaration(name, tensor, &format!(r#""data":[{}]"#, json_numbers(tensor)?)));
    }
    let body = format!(r#"{{"inputs":[{}]}}"#, declared.join(","));
    Ok(Question::Http(Question::post(&path(model), "", body.as_bytes())))
}

fn grpc(model: &str, inputs: &[(String, Tensor)]) -> Question {
    let declared = |(name, tensor): &(String, Tensor)| InferInputTensor {
        name: name.clone(),
        datatype: tensor.dtype().name().to_owned(),
        shape: tensor.shape().iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect(),
        ..InferInputTensor::default()
    };
    let message = ModelInferRequest {
        model_name: model.to_owned(),
        inputs: inputs.iter().map(declared).collect(),
        raw_input_contents: inputs.iter().map(|(_, tensor)| tensor.data().clone()).collect(),
        ..ModelInferRequest::default()
    };
    let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX).to_be_bytes();
    Question::Grpc([&[0][..], &length, &message.encode_to_vec()].concat().into())
}

fn path(model: &str) -> String {
    format!("/v2/models/{model}/infer")
}

fn declaration(name: &str, tensor: &Tensor, rest: &str) -> String {
    let name = serde_json::Value::from(name);
    format!(r#"{{"name":{name},"shape":{:?},"datatype":"{}",{rest}}}"#, tensor.shape(), tensor.dtype())
}

/// The elements of `tensor` as JSON has them, with commas between.
///
/// # Errors
/// [`Unsupported`](engine::ErrorKind::Unsupported) for a datatype that JSON has no form for.
pub fn json_numbers(tensor: &Tensor) -> Result<String> {
    fn each<const N: usize, T: std::fmt::Display>(tensor: &Tensor, of: impl Fn([u8; N]) -> T) -> String {
        let elements = tensor.data().as_chunks::<N>().0.iter().map(|&bytes| of(bytes).to_string());
        elements.collect::<Vec<_>>().join(",")
    }
    Ok(match tensor.dtype() {
        DataType::Bool => each(tensor, |[byte]| byte != 0),
        DataType::U8 => each(tensor, u8::from_le_bytes),
        DataType::U16 => each(tensor, u16::from_le_bytes),
        DataType::U32 => each(tensor, u32::from_le_bytes),
        DataType::U64 => each(tensor, u64::from_le_bytes),
        DataType::I8 => each(tensor, i8::from_le_bytes),
        DataType::I16 => each(tensor, i16::from_le_bytes),
        DataType::I32 => each(tensor, i32::from_le_bytes),
        DataType::I64 => each(tensor, i64::from_le_bytes),
        DataType::F32 => each(tensor, f32::from_le_bytes),
        DataType::F64 => each(tensor, f64::from_le_bytes),
        dtype @ (DataType::F16 | DataType::Bf16 | DataType::Bytes) => {
            return Err(Error::unsupported(format!("{dtype} tensors are not sent as JSON here; use another API")));
        }
    })
}

/// A tensor for the input `spec`, of `shape` where it is given, else with 1 for each dimension that varies: numbers
/// with as many digits as real ones have, between -1 and 1, or 0 and 1 where they are whole, always the same.
///
/// # Errors
/// [`Unsupported`](engine::ErrorKind::Unsupported) for strings, [`InvalidInput`](engine::ErrorKind::InvalidInput) for a
/// shape that the input does not take.
pub fn input(spec: &TensorSpec, shape: Option<&[usize]>) -> Result<Tensor> {
    let declared = || spec.shape.iter().map(|&dim| usize::try_from(dim).unwrap_or(1)).collect();
    let shape: Vec<usize> = shape.map_or_else(declared, <[usize]>::to_vec);
    let count = engine::element_count(&shape)?;
    let mut state = 0u64;
    let mut next = || {
        // Constants of Knuth's MMIX; the upper bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    };
    let data: Vec<u8> = match (spec.dtype, spec.dtype.size_bytes()) {
        (DataType::F32, _) => (0..count).flat_map(|_| next().to_le_bytes()).collect(),
        (DataType::F64, _) => (0..count).flat_map(|_| f64::from(next()).to_le_bytes()).collect(),
        // Zero and a half: patterns whose low byte is nothing, so that any of these types is as good.
        (DataType::F16, _) => (0..count).flat_map(|_| if next() < 0.0 { [0, 0] } else { [0, 0x38] }).collect(),
        (DataType::Bf16, _) => (0..count).flat_map(|_| if next() < 0.0 { [0, 0] } else { [0, 0x3f] }).collect(),
        (_, Some(size)) => {
            let element = |positive: bool| (0..size).map(move |index| u8::from(index == 0 && positive));
            (0..count).flat_map(|_| element(next() >= 0.0)).collect()
        }
        (_, None) => {
            let what = format!("input '{}' takes {}, for which no data is made up", spec.name, spec.dtype);
            return Err(Error::unsupported(what));
        }
    };
    let tensor = Tensor::new(spec.dtype, shape, data.into())?;
    spec.check(&tensor)?;
    Ok(tensor)
}
