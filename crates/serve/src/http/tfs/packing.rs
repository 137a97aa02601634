//! `/predictions/{model}`: the packing system's inference, for models that declare a task. Whatever comes of it is said
//! as `{"detail": ...}`.
//!
//! Its own clients ask by query, `?seq_0=QUESTION&seq_1=CONTEXT`, or for nothing at all, and get a text. Others send JSON:
//! the texts by name, with options beside them; or `{"inputs": ..., "parameters": {...}}`, one input or a list; or the
//! bare input or list; or the bare text as `text/plain`; or a form of either kind. Options may be in the query, too.

use std::sync::Arc;

use engine::{Error, Result};
use http::header::CONTENT_TYPE;
use http::request::Parts as Head;
use http::{Method, Response, StatusCode};
use percent_encoding::percent_decode_str;
use pipeline::{Answer, Input, Options, Setting};
use serde::Serialize;
use serde_json::{Map, Value, json};
use store::task::Task;

use super::super::error::status;
use super::super::{Parts, Refusal};
use super::super::{body, multipart};
use crate::aside::aside;
use crate::people::{Told, given, input, option, options, picture_beside};
use crate::tfs::Terms;
use crate::{Ask, Model, Scheduler};

/// What is asked when nobody asks anything.
const QUESTION: &str = "What does a packhorse carry?";
/// Where the answer is looked for then, and what is given where one text is wanted.
const CONTEXT: &str = "On narrow mountain paths no cart could pass. There a packhorse would carry wool, salt and letters \
                       from one valley to the next, in all weathers and on little hay.";

/// What is asked, and how its answer goes back.
struct Question {
    inputs: Vec<Input>,
    options: Options,
    /// One input that came alone is answered alone.
    alone: bool,
    /// It is asked in the packing system's words, which knows answers as texts alone.
    plain: bool,
}

/// The answer to what `head` and `body` ask of the model called `name`.
pub(super) async fn answer(
    scheduler: &Scheduler,
    name: &str,
    head: &Head,
    body: bytes::Bytes,
    terms: Terms,
) -> Response<Parts> {
    match answered(scheduler, name, head, body, terms).await {
        Ok(response) => response,
        Err(error) => {
            // Its headers are those of every refusal; only the form of the words is the packing system's.
            let (status, message) = (status(error.kind), error.message.clone());
            let mut response = Refusal::from(error).into_response();
            *response.body_mut() = body::json(status, &json!({ "detail": message })).into_body();
            response
        }
    }
}

async fn answered(
    scheduler: &Scheduler,
    name: &str,
    head: &Head,
    body: bytes::Bytes,
    terms: Terms,
) -> Result<Response<Parts>> {
    let model = super::counted(scheduler, scheduler.residency().model(name, None))?;
    let (length, reader, head) = (body.len(), Arc::clone(&model), head.clone());
    let read = aside(length, move || task(&reader).and_then(|task| question(task, &head, &body))).await.flatten();
    let question = super::counted(scheduler, read)?;
    let Question { inputs, options, alone, plain } = question;
    let ask = Ask {
        model: name.to_owned(),
        version: Some(model.manifest().version),
        inputs,
        options,
        priority: 0,
        deadline: terms.deadline,
        origin: terms.origin,
    };
    let answers = scheduler.answer(ask).await?;
    let estimate = answers.json_bytes_estimate();
    let write = move || match &answers.answers[..] {
        [Answer::Passage(passage)] if plain => detail(&passage.text),
        [only] if alone => detail(&Told(only)),
        all => detail(&all.iter().map(Told).collect::<Vec<_>>()),
    };
    aside(estimate, write).await
}

fn detail(detail: &(impl Serialize + ?Sized)) -> Response<Parts> {
    #[derive(Serialize)]
    struct Detail<'a, T: ?Sized> {
        detail: &'a T,
    }
    body::json(StatusCode::OK, &Detail { detail })
}

/// The task of `model`.
fn task(model: &Model) -> Result<&Task> {
    let name = &model.manifest().name;
    model.manifest().task.as_ref().ok_or_else(|| {
        Error::invalid(format!(
            "model '{name}' serves tensors and declares no task; use /v2/models/{name}/infer or pack it with a task"
        ))
    })
}

/// What is asked of a model for `task`.
fn question(task: &Task, head: &Head, body: &bytes::Bytes) -> Result<Question> {
    let query = head.uri.query().unwrap_or_default();
    let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let is = |wanted: &str| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wanted));
    if head.method == Method::POST && !body.is_empty() && task.takes_pictures() && !is("application/json") {
        return picture(kind, body, query);
    }
    if head.method == Method::POST && !body.is_empty() {
        let text = str::from_utf8(body).map_err(|error| {
            Error::invalid(format!(
                "the body is no UTF-8 text (at byte {}), and the model takes text",
                error.valid_up_to()
            ))
        })?;
        if is("text/plain") {
            let inputs = vec![Input::Text(text.to_owned())];
            return Ok(Question { inputs, options: texts(pairs(query)?), alone: true, plain: false });
        }
        // JSON goes by this name as well, when it is sent with curl and nothing more is said.
        if is("application/x-www-form-urlencoded") && !text.trim_start().starts_with(['{', '[']) {
            return by_pairs(task, [pairs(text)?, pairs(query)?].concat());
        }
        if let Some(boundary) = multipart::boundary(kind) {
            let parts = multipart::parts(body, boundary)?;
            // The body is a text, and so are its parts.
            let of = |part: multipart::Part| (part.name, String::from_utf8_lossy(&part.content).into_owned());
            return by_pairs(task, parts.into_iter().map(of).chain(pairs(query)?).collect());
        }
        let value = serde_json::from_str(text).map_err(|error| {
            Error::invalid(format!(
                "the body is no JSON: {error}; a bare text is sent as text/plain, a form as what it is"
            ))
        })?;
        let asked = by_json(task, value)?;
        return Ok(Question { options: asked.options.beside(texts(pairs(query)?)), ..asked });
    }
    let pairs = pairs(query)?;
    if task.takes_pictures() {
        return Err(Error::invalid(format!("{} wants a picture; POST its file", task.name())));
    }
    if pairs.is_empty() {
        let input = match task {
            Task::QuestionAnswering(_) | Task::TextSimilarity(_) => {
                Input::Pair(QUESTION.to_owned(), CONTEXT.to_owned())
            }
            Task::FillMask(task) => Input::Text(format!("A packhorse carries {}.", task.mask_token)),
            _ => Input::Text(CONTEXT.to_owned()),
        };
        return Ok(Question { inputs: vec![input], options: Options::default(), alone: true, plain: true });
    }
    by_pairs(task, pairs)
}

/// A picture that is the body, or one or several that are files of a form, as `curl -T` and `curl -F` send them.
fn picture(kind: &str, body: &bytes::Bytes, query: &str) -> Result<Question> {
    let mut options: Vec<(String, String)> = pairs(query)?;
    let Some(boundary) = multipart::boundary(kind) else {
        let inputs = vec![Input::Picture(body.clone())];
        return Ok(Question { inputs, options: texts(options), alone: true, plain: false });
    };
    let mut inputs = Vec::new();
    for part in multipart::parts(body, boundary)? {
        if part.is_file || matches!(&part.name[..], "data" | "image" | "body") {
            inputs.push(Input::Picture(part.content));
        } else {
            options.push((part.name, String::from_utf8_lossy(&part.content).into_owned()));
        }
    }
    if inputs.is_empty() {
        return Err(Error::invalid("the form has no file; send the picture as a part that is a file"));
    }
    let alone = inputs.len() == 1;
    Ok(Question { inputs, options: texts(options), alone, plain: false })
}

/// The texts and options in `pairs`.
fn by_pairs(task: &Task, pairs: Vec<(String, String)>) -> Result<Question> {
    let plain = pairs.iter().any(|(name, _)| name == "seq_0");
    let (input, rest) = given(task, pairs, |_, text| Ok(text))?;
    Ok(Question { inputs: vec![input], options: texts(rest), alone: true, plain })
}

/// Options whose values are texts.
fn texts(pairs: Vec<(String, String)>) -> Options {
    pairs.into_iter().map(|(name, value)| (name, Setting::Text(value))).collect()
}

/// The pairs of a query or a form, decoded.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for one that is no text.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let decoded = |text: &str| {
        let spaced = text.replace('+', " ");
        let decoded = percent_decode_str(&spaced).decode_utf8().map(std::borrow::Cow::into_owned);
        decoded.map_err(|_| {
            let shown: String = text.chars().take(40).collect();
            Error::invalid(format!("'{shown}' is no UTF-8 text when it is decoded"))
        })
    };
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Ok((decoded(name)?, decoded(value)?))
    };
    text.split('&').filter(|text| !text.is_empty()).map(pair).collect()
}

fn by_json(task: &Task, value: Value) -> Result<Question> {
    let mut fields = match value {
        Value::Object(fields) => fields,
        other => return listed(task, other, Options::default()),
    };
    if let Some(inputs) = fields.remove("inputs").or_else(|| fields.remove("instances")) {
        let parameters = match fields.remove("parameters") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(parameters)) => parameters,
            Some(_) => return Err(Error::invalid("'parameters' must be an object of options")),
        };
        if let Some(unknown) = fields.keys().next() {
            let shown: String = unknown.chars().take(40).collect();
            return Err(Error::invalid(format!("'{shown}' means nothing beside inputs; options go into 'parameters'")));
        }
        return listed(task, inputs, options(parameters)?);
    }
    if task.takes_pictures() {
        let missing = || Error::invalid(format!("'image' is missing; {} wants it, in base64", task.name()));
        let (input, options) = picture_beside(fields)?.ok_or_else(missing)?;
        return Ok(Question { inputs: vec![input], options, alone: true, plain: false });
    }
    let plain = fields.contains_key("seq_0");
    let text = |name: &str, value| match value {
        Value::String(text) => Ok(text),
        _ => Err(Error::invalid(format!("'{name}' must be a text"))),
    };
    let (input, rest) = given(task, fields, text)?;
    let options = rest.into_iter().map(|(name, value)| option(name, value)).collect::<Result<_>>()?;
    Ok(Question { inputs: vec![input], options, alone: true, plain })
}

/// One input, or a list of them.
fn listed(task: &Task, value: Value, options: Options) -> Result<Question> {
    match value {
        Value::Array(values) => {
            let of = |(index, value)| input(task, value).map_err(|error| error.context(format_args!("input {index}")));
            let inputs = values.into_iter().enumerate().map(of).collect::<Result<_>>()?;
            Ok(Question { inputs, options, alone: false, plain: false })
        }
        one => Ok(Question { inputs: vec![input(task, one)?], options, alone: true, plain: false }),
    }
}
