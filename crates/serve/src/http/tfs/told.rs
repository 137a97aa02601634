//! What the server tells of its models: lists, states and signatures.

use std::collections::BTreeMap;

use engine::{Result, TensorSpec};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::super::Parts;
use super::super::body;
use super::path::Target;
use crate::tfs::{PREDICT_METHOD, SIGNATURE, VersionState, VersionStatus, infos, statuses, wire_type};
use crate::{Model, Scheduler};

/// The names of all models that are served, as KServe V1 lists them.
pub(super) fn models(scheduler: &Scheduler) -> Response<Parts> {
    let models = scheduler.residency().models();
    let mut names: Vec<&str> = models.iter().map(|model| model.manifest().name.as_str()).collect();
    names.dedup();
    body::json(StatusCode::OK, &json!({ "models": names }))
}

/// Where a model's versions stand, with the keys of TensorFlow Serving and those of KServe V1; 503 when none is ready,
/// as clients of the latter expect.
///
/// # Errors
/// [`NotFound`](engine::ErrorKind::NotFound) for a model or version that is not known.
pub(super) fn status(scheduler: &Scheduler, target: &Target) -> Result<Response<Parts>> {
    let residency = scheduler.residency();
    let versions = statuses(residency, &target.name, target.version)?;
    let ready = residency.is_ready(&target.name, target.version);
    let versions: Vec<Value> = versions.iter().map(version).collect();
    let told = json!({ "model_version_status": versions, "name": target.name, "ready": ready });
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(body::json(status, &told))
}

fn version(status: &VersionStatus) -> Value {
    let code = match status.state {
        VersionState::End if !status.reason.is_empty() => "UNAVAILABLE",
        VersionState::Loading | VersionState::Available | VersionState::End => "OK",
    };
    json!({
        "version": status.version.to_string(),
        "state": status.state.name(),
        "status": { "error_code": code, "error_message": status.reason },
    })
}

/// A model's signature, as the JSON form of TensorFlow Serving's message: 64-bit integers are strings.
pub(super) fn metadata(model: &Model) -> Response<Parts> {
    let signature = model.signature();
    let definition = json!({
        "inputs": tensors(&signature.inputs),
        "outputs": tensors(&signature.outputs),
        "method_name": PREDICT_METHOD,
        "defaults": {},
    });
    let manifest = model.manifest();
    let told = json!({
        "model_spec": { "name": manifest.name, "signature_name": "", "version": manifest.version.to_string() },
        "metadata": { "signature_def": { "signature_def": { SIGNATURE: definition } } },
    });
    body::json(StatusCode::OK, &told)
}

fn tensors(specs: &[TensorSpec]) -> BTreeMap<&str, Value> {
    let tensor = |(alias, spec): (_, &TensorSpec)| {
        let dims = if spec.any_rank { &[][..] } else { &spec.shape };
        let dims: Vec<Value> = dims.iter().map(|dim| json!({ "size": dim.to_string(), "name": "" })).collect();
        let told = json!({
            "dtype": wire_type(spec.dtype).1,
            "tensor_shape": { "dim": dims, "unknown_rank": spec.any_rank },
            "name": spec.name,
        });
        (alias, told)
    };
    infos(specs).map(tensor).collect()
}
