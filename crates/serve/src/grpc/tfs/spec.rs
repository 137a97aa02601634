//! Which model a message means, and what is told of it.

use std::collections::HashMap;

use engine::{Error, Result, TensorSpec};
use prost::Message;
use proto::tensorflow::serving::model_spec::VersionChoice;
use proto::tensorflow::serving::{
    GetModelMetadataRequest, GetModelMetadataResponse, GetModelStatusRequest, GetModelStatusResponse, ModelSpec,
    ModelVersionStatus, SignatureDefMap, StatusProto,
};
use proto::tensorflow::tensor_info::Encoding;
use proto::tensorflow::{SignatureDef, TensorInfo, TensorShapeProto, error::Code};

use super::tensor::shape_message;
use crate::tfs::{PREDICT_METHOD, SIGNATURE, VersionState, check_signature, infos, statuses, wire_type};
use crate::{Model, Residency, Scheduler};

/// The one field of metadata that there is.
const SIGNATURE_FIELD: &str = "signature_def";

/// What it is, within an [`Any`](prost_types::Any).
const SIGNATURE_TYPE: &str = "type.googleapis.com/tensorflow.serving.SignatureDefMap";

/// A model that a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) version: Option<u64>,
}

/// The model that `spec` means; a label stands for the version that it has at this moment.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it names none or another signature than there is,
/// [`NotFound`](engine::ErrorKind::NotFound) for a label that there is not.
pub(super) fn target(residency: &Residency, spec: Option<ModelSpec>) -> Result<Target> {
    let ModelSpec { name, signature_name, version_choice } =
        spec.ok_or_else(|| Error::invalid("the request has no model_spec"))?;
    if name.is_empty() {
        return Err(Error::invalid("model_spec has no name"));
    }
    check_signature(&signature_name)?;
    let version = match version_choice {
        None => None,
        Some(VersionChoice::VersionLabel(label)) => Some(residency.labelled(&name, &label)?),
        Some(VersionChoice::Version(version)) => Some(
            u64::try_from(version).map_err(|_| Error::invalid(format!("version {version} of '{name}' is negative")))?,
        ),
    };
    Ok(Target { name, version })
}

/// What answered.
pub(super) fn answered(name: String, version: u64) -> ModelSpec {
    let version = VersionChoice::Version(i64::try_from(version).unwrap_or(i64::MAX));
    ModelSpec { name, signature_name: SIGNATURE.to_owned(), version_choice: Some(version) }
}

/// A model's signatures.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for another field than `signature_def`,
/// [`NotFound`](engine::ErrorKind::NotFound) for the model.
pub(super) fn metadata(scheduler: &Scheduler, request: GetModelMetadataRequest) -> Result<GetModelMetadataResponse> {
    let fields = &request.metadata_field;
    if fields.is_empty() {
        return Err(Error::invalid(format!("metadata_field is empty; ask for '{SIGNATURE_FIELD}'")));
    }
    if let Some(other) = fields.iter().find(|field| *field != SIGNATURE_FIELD) {
        return Err(Error::invalid(format!("metadata_field '{other}' is none; ask for '{SIGNATURE_FIELD}'")));
    }
    let target = target(scheduler.residency(), request.model_spec)?;
    let model = scheduler.residency().model(&target.name, target.version)?;
    let map = SignatureDefMap { signature_def: HashMap::from([(SIGNATURE.to_owned(), signature(&model))]) };
    let any = prost_types::Any { type_url: SIGNATURE_TYPE.to_owned(), value: map.encode_to_vec() };
    Ok(GetModelMetadataResponse {
        // As TensorFlow Serving has it: the metadata is not of one signature.
        model_spec: Some(ModelSpec {
            signature_name: String::new(),
            ..answered(target.name, model.manifest().version)
        }),
        metadata: HashMap::from([(SIGNATURE_FIELD.to_owned(), any)]),
    })
}

fn signature(model: &Model) -> SignatureDef {
    let signature = model.signature();
    SignatureDef {
        inputs: tensors(&signature.inputs),
        outputs: tensors(&signature.outputs),
        method_name: PREDICT_METHOD.to_owned(),
    }
}

fn tensors(specs: &[TensorSpec]) -> HashMap<String, TensorInfo> {
    let info = |(alias, spec): (&str, &TensorSpec)| {
        let shape = match spec.any_rank {
            true => TensorShapeProto { dim: Vec::new(), unknown_rank: true },
            false => shape_message(spec.shape.iter().copied()),
        };
        let info = TensorInfo {
            encoding: Some(Encoding::Name(spec.name.clone())),
            dtype: wire_type(spec.dtype).0,
            tensor_shape: Some(shape),
        };
        (alias.to_owned(), info)
    };
    infos(specs).map(info).collect()
}

/// Where a model's versions stand.
///
/// # Errors
/// [`NotFound`](engine::ErrorKind::NotFound) for a model or version that is not known.
pub(super) fn status(scheduler: &Scheduler, request: GetModelStatusRequest) -> Result<GetModelStatusResponse> {
    let target = target(scheduler.residency(), request.model_spec)?;
    let found = statuses(scheduler.residency(), &target.name, target.version)?;
    let statuses = found.into_iter().map(|status| {
        let failed = status.state == VersionState::End && !status.reason.is_empty();
        let code = if failed { Code::Unavailable } else { Code::Ok };
        ModelVersionStatus {
            version: i64::try_from(status.version).unwrap_or(i64::MAX),
            state: status.state.number(),
            status: Some(StatusProto { error_code: code.into(), error_message: status.reason }),
        }
    });
    Ok(GetModelStatusResponse { model_version_status: statuses.collect() })
}

#[cfg(test)]
mod tests {
    use engine::{DataType, ErrorKind};

    use super::*;
    use crate::fixture::served;

    #[test]
    fn a_spec_names_one_version_of_one_signature() {
        let spec = |name: &str, signature: &str, version| {
            Some(ModelSpec { name: name.to_owned(), signature_name: signature.to_owned(), version_choice: version })
        };
        let served = served(crate::Control::None);
        let residency = served.scheduler.residency();
        residency.label("two", [("stable".to_owned(), 1)].into()).unwrap();
        for (spec, want) in [
            (spec("two", "", Some(VersionChoice::VersionLabel("stable".to_owned()))), Ok(Some(1))),
            (spec("m", "", None), Ok(None)),
            (spec("m", SIGNATURE, Some(VersionChoice::Version(3))), Ok(Some(3))),
            (spec("m", "", Some(VersionChoice::Version(-1))), Err(ErrorKind::InvalidInput)),
            (spec("m", "", Some(VersionChoice::VersionLabel("a".to_owned()))), Err(ErrorKind::NotFound)),
            (spec("m", "b", None), Err(ErrorKind::InvalidInput)),
            (spec("", "", None), Err(ErrorKind::InvalidInput)),
            (None, Err(ErrorKind::InvalidInput)),
        ] {
            assert_eq!(target(residency, spec).map(|target| target.version).map_err(|error| error.kind), want);
        }
    }

    #[test]
    fn a_signature_keeps_the_graphs_names_beside_the_aliases() {
        let spec = TensorSpec { name: "x:0".to_owned(), dtype: DataType::U8, shape: vec![-1, 3], any_rank: false };
        let info = &tensors(std::slice::from_ref(&spec))["x"];
        assert_eq!(info.encoding, Some(Encoding::Name("x:0".to_owned())));
        assert_eq!((info.dtype, info.tensor_shape.as_ref().unwrap().dim[0].size), (4, -1));
        let any = tensors(&[TensorSpec { any_rank: true, ..spec }]);
        assert!(any["x"].tensor_shape.as_ref().unwrap().unknown_rank);
    }
}
