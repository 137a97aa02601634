//! The Open Inference Protocol over gRPC, tensors as raw contents.

use bytes::Bytes;
use engine::{DataType, Tensor, TensorSpec};
use prost::Message;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use proto::inference::model_infer_response::InferOutputTensor;
use proto::inference::model_metadata_response::TensorMetadata;
use proto::inference::{InferTensorContents, ModelInferRequest, ModelInferResponse, ModelMetadataRequest};

use super::status::{Line, failure, timed};
use super::{Asked, MESSAGE_BYTES_MAX, Reply, Target};
use crate::failure::Failure;
use crate::fit::Offer;

/// An endpoint that speaks it.
#[derive(Clone)]
pub(crate) struct Oip(GrpcInferenceServiceClient<Line>);

impl Oip {
    pub(super) fn new(line: Line) -> Self {
        Self(GrpcInferenceServiceClient::new(line).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    pub(super) async fn offer(&self, target: &Target) -> Result<Offer, Failure> {
        let request = ModelMetadataRequest { name: target.model.clone(), version: version(target) };
        let told = self.0.clone().model_metadata(request).await.map_err(|status| failure(&status))?.into_inner();
        let specs = |tensors: Vec<TensorMetadata>| tensors.into_iter().map(spec).collect::<Result<_, _>>();
        let (inputs, outputs) = (specs(told.inputs)?, specs(told.outputs)?);
        // Where one version alone is there, it is meant.
        let version = if let [one] = &told.versions[..] { one.clone() } else { String::new() };
        Ok(Offer { version, platform: told.platform, inputs, outputs })
    }

    pub(super) async fn infer(&self, asked: Asked<'_>) -> Result<Reply, Failure> {
        let message = request(&asked);
        let sent_bytes = message.encoded_len() as u64;
        let answer = self.0.clone().model_infer(timed(message, asked.within)).await;
        let answer = answer.map_err(|status| failure(&status))?.into_inner();
        let received_bytes = answer.encoded_len() as u64;
        let version = answer.model_version.clone();
        Ok(Reply { outputs: outputs(answer)?, version, sent_bytes, received_bytes })
    }
}

fn version(target: &Target) -> String {
    target.version.map(|version| version.to_string()).unwrap_or_default()
}

fn spec(told: TensorMetadata) -> Result<TensorSpec, Failure> {
    let dtype = datatype(&told.name, &told.datatype)?;
    Ok(TensorSpec { name: told.name, dtype, shape: told.shape, any_rank: false })
}

fn datatype(tensor: &str, name: &str) -> Result<DataType, Failure> {
    DataType::from_name(name)
        .ok_or_else(|| Failure::wrong(format!("its tensor '{tensor}' is of '{name}', which is no type")))
}

fn request(asked: &Asked<'_>) -> ModelInferRequest {
    let input = |(name, tensor): (&String, &Tensor)| InferInputTensor {
        name: name.clone(),
        datatype: tensor.dtype().name().to_owned(),
        // No dimension of a tensor that is in memory is larger.
        shape: tensor.shape().iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect(),
        ..InferInputTensor::default()
    };
    let output =
        |name: &String| InferRequestedOutputTensor { name: name.clone(), ..InferRequestedOutputTensor::default() };
    ModelInferRequest {
        model_name: asked.target.model.clone(),
        model_version: version(asked.target),
        inputs: asked.names.inputs.iter().zip(asked.inputs).map(input).collect(),
        outputs: asked.names.outputs.iter().map(output).collect(),
        raw_input_contents: asked.inputs.iter().map(|tensor| tensor.data().clone()).collect(),
        ..ModelInferRequest::default()
    }
}

fn outputs(answer: ModelInferResponse) -> Result<Vec<(String, Tensor)>, Failure> {
    let mut raw = answer.raw_output_contents.into_iter();
    let output = |told: InferOutputTensor| {
        let dtype = datatype(&told.name, &told.datatype)?;
        let shape = shape(&told.name, &told.shape)?;
        let data = match told.contents {
            Some(contents) => typed(&told.name, dtype, &contents)?,
            None => raw.next().unwrap_or_default(),
        };
        let tensor = Tensor::new(dtype, shape, data);
        let tensor = tensor.map_err(|error| Failure::wrong(format!("its output '{}': {error}", told.name)))?;
        Ok((told.name, tensor))
    };
    answer.outputs.into_iter().map(output).collect()
}

/// The dimensions of an answer, all of which are known.
pub(super) fn shape(tensor: &str, dims: &[i64]) -> Result<Vec<usize>, Failure> {
    let known = |&dim: &i64| usize::try_from(dim).ok();
    let shape: Option<_> = dims.iter().map(known).collect();
    shape.ok_or_else(|| Failure::wrong(format!("its output '{tensor}' came with shape {dims:?}")))
}

/// Elements one by one, as servers without raw contents send them.
fn typed(tensor: &str, dtype: DataType, contents: &InferTensorContents) -> Result<Bytes, Failure> {
    let bytes: Vec<u8> = match dtype {
        DataType::F32 => contents.fp32_contents.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DataType::F64 => contents.fp64_contents.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DataType::I32 => contents.int_contents.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DataType::I64 => contents.int64_contents.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DataType::U32 => contents.uint_contents.iter().flat_map(|value| value.to_le_bytes()).collect(),
        other => return Err(Failure::wrong(format!("its output '{tensor}' came as single elements of {other}"))),
    };
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read_raw_or_typed_or_refused() {
        let told = |datatype: &str, shape: &[i64], contents| InferOutputTensor {
            name: "y".to_owned(),
            datatype: datatype.to_owned(),
            shape: shape.to_vec(),
            contents,
            ..InferOutputTensor::default()
        };
        let typed = InferTensorContents { fp32_contents: vec![1.0, 2.0], ..InferTensorContents::default() };
        let two: Bytes = [1.0f32, 2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        for (output, raw, fits) in [
            (told("FP32", &[2], None), vec![two.clone()], true),
            (told("FP32", &[2], Some(typed.clone())), Vec::new(), true),
            (told("FP32", &[2], None), Vec::new(), false),
            (told("FP32", &[3], None), vec![two.clone()], false),
            (told("FP32", &[-2], None), vec![two.clone()], false),
            (told("FP33", &[2], None), vec![two.clone()], false),
            (told("UINT8", &[2], Some(typed)), Vec::new(), false),
        ] {
            let answer = ModelInferResponse {
                outputs: vec![output.clone()],
                raw_output_contents: raw,
                ..ModelInferResponse::default()
            };
            match outputs(answer) {
                Ok(outputs) => {
                    assert!(fits, "{output:?}");
                    assert_eq!((&*outputs[0].0, outputs[0].1.data()), ("y", &two));
                }
                Err(failure) => assert!(!fits && failure.message.contains("'y'"), "{output:?}: {failure}"),
            }
        }
    }
}
