//! TensorFlow Serving over gRPC, tensors as content.

use std::collections::HashMap;

use engine::TensorSpec;
use prost::Message;
use proto::tensorflow::serving::model_spec::VersionChoice;
use proto::tensorflow::serving::prediction_service_client::PredictionServiceClient;
use proto::tensorflow::serving::{GetModelMetadataRequest, ModelSpec, PredictRequest, SignatureDefMap};
use proto::tensorflow::{TensorInfo, TensorProto, TensorShapeProto};

use super::status::{Line, failure, timed};
use super::{Asked, MESSAGE_BYTES_MAX, Reply, Target, tensors};
use crate::failure::Failure;
use crate::fit::Offer;

/// The one field of metadata that there is.
const FIELD: &str = "signature_def";
/// The signature that is served unless another is asked for.
pub(super) const SIGNATURE: &str = "serving_default";

/// An endpoint that speaks it.
#[derive(Clone)]
pub(crate) struct Tfs(PredictionServiceClient<Line>);

impl Tfs {
    pub(super) fn new(line: Line) -> Self {
        Self(PredictionServiceClient::new(line).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    pub(super) async fn offer(&self, target: &Target) -> Result<Offer, Failure> {
        let request =
            GetModelMetadataRequest { model_spec: Some(model_spec(target)), metadata_field: vec![FIELD.to_owned()] };
        let told = self.0.clone().get_model_metadata(request).await.map_err(|status| failure(&status))?.into_inner();
        let version = version(told.model_spec.as_ref());
        let map = told.metadata.get(FIELD).map(|any| SignatureDefMap::decode(&any.value[..]));
        let signature = map.and_then(Result::ok).and_then(|mut map| map.signature_def.remove(SIGNATURE));
        let signature =
            signature.ok_or_else(|| Failure::wrong(format!("its metadata has no signature '{SIGNATURE}'")))?;
        let specs = |infos: HashMap<String, TensorInfo>| infos.into_iter().map(spec).collect::<Result<_, _>>();
        let (inputs, outputs) = (specs(signature.inputs)?, specs(signature.outputs)?);
        Ok(Offer { version, platform: "tensorflow_serving".to_owned(), inputs, outputs })
    }

    pub(super) async fn infer(&self, asked: Asked<'_>) -> Result<Reply, Failure> {
        let inputs = asked.names.inputs.iter().cloned().zip(asked.inputs.iter().map(tensors::encode));
        let message = PredictRequest {
            model_spec: Some(ModelSpec { signature_name: SIGNATURE.to_owned(), ..model_spec(asked.target) }),
            inputs: inputs.collect(),
            output_filter: asked.names.outputs.clone(),
        };
        let sent_bytes = message.encoded_len() as u64;
        let answer = self.0.clone().predict(timed(message, asked.within)).await;
        let answer = answer.map_err(|status| failure(&status))?.into_inner();
        let received_bytes = answer.encoded_len() as u64;
        let version = version(answer.model_spec.as_ref());
        let decoded = |(name, message): (String, TensorProto)| Ok((name.clone(), tensors::decode(&name, message)?));
        let outputs = answer.outputs.into_iter().map(decoded).collect::<Result<_, _>>()?;
        Ok(Reply { outputs, version, sent_bytes, received_bytes })
    }
}

fn model_spec(target: &Target) -> ModelSpec {
    // No version of ours is larger.
    let version = target.version.map(|version| VersionChoice::Version(i64::try_from(version).unwrap_or(i64::MAX)));
    ModelSpec { name: target.model.clone(), version_choice: version, signature_name: String::new() }
}

fn version(spec: Option<&ModelSpec>) -> String {
    match spec.and_then(|spec| spec.version_choice.as_ref()) {
        Some(VersionChoice::Version(version)) => version.to_string(),
        Some(VersionChoice::VersionLabel(label)) => label.clone(),
        None => String::new(),
    }
}

fn spec((name, info): (String, TensorInfo)) -> Result<TensorSpec, Failure> {
    let dtype = tensors::datatype(&name, info.dtype)?;
    let TensorShapeProto { dim, unknown_rank } =
        info.tensor_shape.unwrap_or(TensorShapeProto { dim: Vec::new(), unknown_rank: true });
    let shape = if unknown_rank { vec![-1] } else { dim.iter().map(|dim| dim.size).collect() };
    Ok(TensorSpec { name, dtype, shape, any_rank: unknown_rank })
}
