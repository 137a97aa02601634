//! TensorFlow Serving's REST paths, and those of KServe V1 and the packing system that lie among them.
//!
//! Nothing is decided here: a call is routed, decoded, handed to the scheduler, and its answer encoded.

mod asked;
mod examples;
mod json;
mod packing;
mod path;
mod predict;
mod tensor;
mod told;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use engine::{Error, Result, Signature, Tensor};
use http::request::Parts as Head;
use http::{Method, Response, StatusCode};
use serde_json::json;

use self::path::{Call, Path, Target};
use super::{HttpLimits, Parts, Refusal, body, compress};
use crate::aside::aside;
use crate::people::Told;
use crate::tfs::{Terms, alias, classify, regress, tensors};
use crate::{Ask, InferRequest, InferResponse, Model, Origin, Residency, Scheduler, deadline};

/// Whether `path` is one of this module's.
pub(super) fn claims(path: &str) -> bool {
    path::path(path).is_some()
}

/// The model that a call of `method` to `path` is to run, as far as the path tells.
pub(super) fn asked_of(scheduler: &Scheduler, method: &Method, path: &str) -> Option<Arc<Model>> {
    let asked = path::path(path).filter(|asked| check_method(method, path, asked).is_ok())?;
    let residency = scheduler.residency();
    let target = match asked {
        Path::Predictions(name) => Target { name, version: None, label: None },
        Path::Model(target, Call::Predict | Call::Classify | Call::Regress) => target,
        Path::Model(_, Call::Status | Call::Metadata | Call::Explain)
        | Path::Root
        | Path::Metrics
        | Path::Models
        | Path::Malformed(_) => return None,
    };
    residency.model(&target.name, version(residency, &target).ok()?).ok()
}

/// The version that `target` names by its number or by a label; `None` for the newest.
fn version(residency: &Residency, target: &Target) -> Result<Option<u64>> {
    let labelled = |label: &String| residency.labelled(&target.name, label).map(Some);
    target.label.as_ref().map_or(Ok(target.version), labelled)
}

/// What is read of a call's body, one reading after the other, and written of what was read; see [`crate::untrusted`].
pub(super) fn untrusted(signature: &Signature, body: &[u8]) {
    const DEPTH: usize = 16;
    if let Ok((form, inputs)) = predict::decode(signature, body, DEPTH) {
        let _ = predict::encode(form, &inputs);
    }
    if let Ok(examples) = examples::decode(body, DEPTH) {
        let _ = tensors(signature, &examples);
    }
}

/// The answer to a call that came at `now`; `None` for a path that is not [claimed](claims).
pub(crate) async fn try_answer(
    scheduler: &Scheduler,
    limits: &HttpLimits,
    head: &Head,
    now: Instant,
    body: Bytes,
    origin: Origin,
) -> Option<Response<Parts>> {
    let path = head.uri.path();
    let asked = path::path(path)?;
    if let Err(refusal) = check_method(&head.method, path, &asked) {
        return Some(refusal.into_response());
    }
    let response = match asked {
        Path::Root => body::json(StatusCode::OK, &json!({ "Status": "Healthy" })),
        Path::Metrics => body::response(StatusCode::OK, crate::admin::METRICS_TYPE, scheduler.metrics().text()),
        Path::Predictions(model) => match deadline::of_headers(&head.headers, now) {
            Ok(deadline) => packing::answer(scheduler, &model, head, body, Terms { deadline, origin }).await,
            Err(error) => Refusal::from(error).into_response(),
        },
        Path::Models => told::models(scheduler),
        Path::Malformed(why) => Refusal::from(Error::not_found(why)).into_response(),
        Path::Model(target, call) => {
            let answered = match deadline::of_headers(&head.headers, now) {
                Ok(deadline) => answer(scheduler, limits, &target, call, (body, Terms { deadline, origin })).await,
                Err(error) => Err(error),
            };
            answered.unwrap_or_else(|error| Refusal::from(error).into_response())
        }
    };
    Some(compress::deflate(response, compress::accepted(&head.headers)).await)
}

fn check_method(method: &Method, path: &str, asked: &Path) -> std::result::Result<(), Refusal> {
    let (allowed, allow): (&[Method], _) = match asked {
        Path::Malformed(_) => return Ok(()),
        Path::Predictions(_) => (&[Method::GET, Method::POST], "GET, POST"),
        Path::Model(_, Call::Predict | Call::Classify | Call::Regress | Call::Explain) => (&[Method::POST], "POST"),
        Path::Root | Path::Metrics | Path::Models | Path::Model(_, Call::Status | Call::Metadata) => {
            (&[Method::GET, Method::HEAD], "GET, HEAD")
        }
    };
    if allowed.contains(method) { Ok(()) } else { Err(Refusal::wrong_method(method, path, allow)) }
}

/// Which of these calls `method` and `path` are; a new one does not compile before it has a number here, and is looked for in
/// the OpenAPI document.
#[cfg(test)]
pub(super) fn kind(method: &Method, path: &str) -> Option<usize> {
    let asked = path::path(path).filter(|asked| check_method(method, path, asked).is_ok())?;
    Some(match asked {
        Path::Malformed(_) => return None,
        Path::Root => 0,
        Path::Metrics => 1,
        Path::Predictions(_) => 2,
        Path::Models => 3,
        Path::Model(_, Call::Status) => 4,
        Path::Model(_, Call::Metadata) => 5,
        Path::Model(_, Call::Predict) => 6,
        Path::Model(_, Call::Classify) => 7,
        Path::Model(_, Call::Regress) => 8,
        Path::Model(_, Call::Explain) => 9,
    })
}
#[cfg(test)]
pub(super) const KINDS: usize = 10;

async fn answer(
    scheduler: &Scheduler,
    limits: &HttpLimits,
    target: &Target,
    call: Call,
    (body, terms): (Bytes, Terms),
) -> Result<Response<Parts>> {
    let mut target = target.clone();
    target.version = counted(scheduler, version(scheduler.residency(), &target))?;
    let target = &target;
    if call == Call::Status {
        return told::status(scheduler, target);
    }
    let model = scheduler.residency().model(&target.name, target.version)?;
    let encoded = match call {
        Call::Status | Call::Metadata => return Ok(told::metadata(&model)),
        Call::Explain => {
            let name = &target.name;
            return Err(Error::unsupported(format!("model '{name}' has no explainer; :predict is served")));
        }
        Call::Predict => predicted(scheduler, limits, target, model, (body, terms)).await,
        Call::Classify => {
            let (count, outputs) = examine(scheduler, limits, target, &model, (body, terms)).await?;
            classify(&outputs, &model.manifest().labels, count).and_then(|results| examples::encode_classes(&results))
        }
        Call::Regress => {
            let (count, outputs) = examine(scheduler, limits, target, &model, (body, terms)).await?;
            regress(&outputs, count).and_then(|results| examples::encode_numbers(&results))
        }
    };
    Ok(body::response(StatusCode::OK, "application/json", encoded?))
}

/// What `model` makes of `body`: of tensors in their form, of texts and pictures as people are told.
async fn predicted(
    scheduler: &Scheduler,
    limits: &HttpLimits,
    target: &Target,
    model: Arc<Model>,
    (body, terms): (Bytes, Terms),
) -> Result<Vec<u8>> {
    let (length, depth, reader) = (body.len(), limits.json_depth, Arc::clone(&model));
    let read = move || {
        if let Some(asked) = asked::asked(&reader, &body)? {
            return Ok((Predict::Words(asked), terms));
        }
        let (form, inputs) = predict::decode(reader.signature(), &body, depth)?;
        let terms = terms.with_inputs(&inputs)?;
        Ok((Predict::Tensors(form, inputs), terms))
    };
    let read = aside(length, read).await.flatten();
    match counted(scheduler, read)? {
        (Predict::Words(asked), terms) => told(scheduler, &model, asked, terms).await,
        (Predict::Tensors(form, inputs), terms) => {
            let outputs = infer(scheduler, target, &model, inputs, terms).await?;
            let bytes = outputs.iter().map(|(_, tensor)| tensor.data().len()).sum();
            aside(bytes, move || predict::encode(form, &outputs)).await.flatten()
        }
    }
}

/// What a predict request holds.
enum Predict {
    Words(asked::Asked),
    Tensors(predict::Form, Vec<(String, Tensor)>),
}

/// What `model` makes of what people ask, as they are told.
async fn told(scheduler: &Scheduler, model: &Model, asked: asked::Asked, terms: Terms) -> Result<Vec<u8>> {
    let manifest = model.manifest();
    let ask = Ask {
        model: manifest.name.clone(),
        version: Some(manifest.version),
        inputs: asked.inputs,
        options: asked.options,
        priority: 0,
        deadline: terms.deadline,
        origin: terms.origin,
    };
    let answers = scheduler.answer(ask).await?;
    let estimate = answers.json_bytes_estimate();
    let write = move || {
        let told: Vec<Told<'_>> = answers.answers.iter().map(Told).collect();
        // Written at once: a number that passes through a JSON value comes out with digits of double precision.
        serde_json::to_vec(&BTreeMap::from([(asked.key, told)])).map_err(|error| Error::internal(error.to_string()))
    };
    aside(estimate, write).await.flatten()
}

/// How many examples `body` has, and what the model makes of them.
async fn examine(
    scheduler: &Scheduler,
    limits: &HttpLimits,
    target: &Target,
    model: &Arc<Model>,
    (body, terms): (Bytes, Terms),
) -> Result<(usize, Vec<(String, Tensor)>)> {
    let (asked, depth, length) = (Arc::clone(model), limits.json_depth, body.len());
    let decode = move || {
        let examples = examples::decode(&body, depth)?;
        let inputs = tensors(asked.signature(), &examples)?;
        Ok((examples.len(), terms.with_inputs(&inputs)?, inputs))
    };
    let decoded = aside(length, decode).await.flatten();
    let (count, terms, inputs) = counted(scheduler, decoded)?;
    Ok((count, infer(scheduler, target, model, inputs, terms).await?))
}

/// What `model` makes of `inputs`, under the aliases of its outputs.
async fn infer(
    scheduler: &Scheduler,
    target: &Target,
    model: &Model,
    inputs: Vec<(String, Tensor)>,
    terms: Terms,
) -> Result<Vec<(String, Tensor)>> {
    let request = InferRequest {
        model: target.name.clone(),
        version: target.version,
        inputs,
        outputs: Vec::new(),
        priority: 0,
        deadline: terms.deadline,
        origin: terms.origin,
    };
    let InferResponse { outputs, .. } = scheduler.infer(request).await?;
    let specs = &model.signature().outputs;
    Ok(outputs.into_iter().map(|(name, tensor)| (alias(specs, &name).to_owned(), tensor)).collect())
}

/// A request that could not be read is a refusal like any other.
fn counted<T>(scheduler: &Scheduler, decoded: Result<T>) -> Result<T> {
    decoded.inspect_err(|error| scheduler.metrics().refused(error.kind))
}

#[cfg(test)]
mod tests;
