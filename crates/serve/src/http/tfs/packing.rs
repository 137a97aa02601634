//! The packing system's inference, for models that declare a text task: `{"detail": ...}`, whatever comes of it.

use engine::{Error, Result};
use http::{Response, StatusCode};
use serde_json::json;
use store::task::Task;

use super::super::body;
use super::super::error::status;
use super::super::{Parts, Refusal};
use crate::{Model, Scheduler};

/// The answer to a question for the model called `name`.
pub(super) fn answer(scheduler: &Scheduler, name: &str) -> Response<Parts> {
    let found = scheduler.residency().model(name, None);
    match found.and_then(|model| text(&model)) {
        Ok(detail) => body::json(StatusCode::OK, &json!({ "detail": detail })),
        Err(error) => {
            scheduler.metrics().refused(error.kind);
            // Its headers are those of every refusal; only the form of the words is the packing system's.
            let (status, message) = (status(error.kind), error.message.clone());
            let mut response = Refusal::from(error).into_response();
            *response.body_mut() = body::json(status, &json!({ "detail": message })).into_body();
            response
        }
    }
}

/// What the text task of `model` says.
fn text(model: &Model) -> Result<String> {
    match &model.manifest().task {
        Some(
            Task::QuestionAnswering
            | Task::TextClassification { .. }
            | Task::TokenClassification
            | Task::FillMask
            | Task::SentenceEmbedding,
        ) => {
            let name = &model.manifest().name;
            Err(Error::unsupported(format!(
                "model '{name}' is a text model, and this build does not turn text into tokens; send token ids to \
                 /v2/models/{name}/infer"
            )))
        }
        None | Some(Task::ObjectDetection(_) | Task::ImageClassification(_) | Task::ImageEmbedding(_)) => {
            let name = &model.manifest().name;
            Err(Error::invalid(format!(
                "model '{name}' serves tensors and declares no text task; use /v2/models/{name}/infer or pack it with a \
                 task"
            )))
        }
    }
}
