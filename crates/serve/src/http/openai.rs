//! `POST /v1/embeddings`, as OpenAI's clients call it.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use engine::{Error, ErrorKind, Result};
use http::request::Parts as Head;
use http::{Response, StatusCode};
use pipeline::{Answer, Input, Options, Setting};
use serde::{Deserialize, Serialize};
use serde_json::json;
use store::task::Task;

use super::error::status;
use super::{Parts, Refusal, body};
use crate::aside::aside;
use crate::{Answers, Ask, Origin, Scheduler, deadline};

/// A request. What it has besides says nothing about the answer, such as who asks.
#[derive(Debug, Deserialize)]
struct Embed {
    model: String,
    input: Given,
    #[serde(default)]
    encoding_format: Format,
    dimensions: Option<u32>,
}

/// One text or several, each as text or as token ids.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "'input' must be a text, a list of texts, or one or several lists of token ids")]
enum Given {
    Text(String),
    Texts(Vec<String>),
    Tokens(Vec<u32>),
    TokenLists(Vec<Vec<u32>>),
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Float,
    /// Little-endian single precision.
    Base64,
}

impl From<Given> for Vec<Input> {
    fn from(given: Given) -> Self {
        match given {
            Given::Text(text) => vec![Input::Text(text)],
            Given::Texts(texts) => texts.into_iter().map(Input::Text).collect(),
            Given::Tokens(ids) => vec![Input::Tokens(ids)],
            Given::TokenLists(lists) => lists.into_iter().map(Input::Tokens).collect(),
        }
    }
}

/// The vectors of what `body` holds; `head` and `body` came at `now`, with `origin`.
pub(super) async fn embeddings(
    scheduler: &Scheduler,
    head: &Head,
    now: Instant,
    body: Bytes,
    origin: Origin,
) -> Response<Parts> {
    match embedded(scheduler, head, now, body, origin).await {
        Ok(response) => response,
        Err(error) => refusal(error),
    }
}

async fn embedded(
    scheduler: &Scheduler,
    head: &Head,
    now: Instant,
    body: Bytes,
    origin: Origin,
) -> Result<Response<Parts>> {
    let (length, deadline) = (body.len(), deadline::of_headers(&head.headers, now)?);
    let read = move || {
        let no_request = |error: serde_json::Error| Error::invalid(format!("the body is no request: {error}"));
        serde_json::from_slice::<Embed>(&body).map_err(no_request)
    };
    let read = aside(length, read).await.flatten();
    let read = read.and_then(|asked| embeds(scheduler, &asked.model).map(|()| asked));
    let asked = read.inspect_err(|error| scheduler.metrics().refused(error.kind))?;
    let dimensions = asked.dimensions.map(|count| ("dimensions".to_owned(), Setting::Number(f64::from(count))));
    let ask = Ask {
        model: asked.model,
        version: None,
        inputs: asked.input.into(),
        options: dimensions.into_iter().collect::<Options>(),
        priority: 0,
        deadline,
        origin,
    };
    let answers = scheduler.answer(ask).await?;
    let estimate = answers.json_bytes_estimate();
    let write = move || Ok(body::json(StatusCode::OK, &told(&answers, asked.encoding_format)?));
    aside(estimate, write).await.flatten()
}

/// That the model called `name` is there, and has vectors of texts.
fn embeds(scheduler: &Scheduler, name: &str) -> Result<()> {
    let model = scheduler.residency().model(name, None)?;
    let what = match &model.manifest().task {
        Some(Task::SentenceEmbedding(_)) => return Ok(()),
        Some(other) => format!("is for {}", other.name()),
        None => "declares no task".to_owned(),
    };
    Err(Error::invalid(format!("model '{name}' {what}, and embeddings are made by models for sentence-embedding")))
}

/// An answer, written at once: a number that passes through a JSON value comes out with digits of double precision.
#[derive(Debug, Serialize)]
struct Told<'a> {
    object: &'static str,
    data: Vec<Embedding<'a>>,
    model: &'a str,
    usage: Usage,
}

#[derive(Debug, Serialize)]
struct Embedding<'a> {
    object: &'static str,
    index: usize,
    embedding: Vector<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Numbers(&'a [f32]),
    Base64(String),
}

#[derive(Debug, Serialize)]
struct Usage {
    prompt_tokens: usize,
    total_tokens: usize,
}

fn told<'a>(answers: &'a Answers, format: Format) -> Result<Told<'a>> {
    let one = |(index, answer): (usize, &'a Answer)| {
        let Answer::Vector(vector) = answer else { return Err(Error::internal("an answer is no vector")) };
        let embedding = match format {
            Format::Float => Vector::Numbers(vector),
            Format::Base64 => {
                let bytes: Vec<u8> = vector.iter().flat_map(|value: &f32| value.to_le_bytes()).collect();
                Vector::Base64(STANDARD.encode(bytes))
            }
        };
        Ok(Embedding { object: "embedding", index, embedding })
    };
    Ok(Told {
        object: "list",
        data: answers.answers.iter().enumerate().map(one).collect::<Result<_>>()?,
        model: &answers.model,
        usage: Usage { prompt_tokens: answers.tokens, total_tokens: answers.tokens },
    })
}

/// `error` in the words of this API, with the headers of every refusal.
fn refusal(error: Error) -> Response<Parts> {
    let (status, message) = (status(error.kind), error.message.clone());
    let kind = match error.kind {
        ErrorKind::Exhausted => "rate_limit_error",
        _ if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    };
    let code = (error.kind == ErrorKind::NotFound).then_some("model_not_found");
    let told = json!({ "error": { "message": message, "type": kind, "param": null, "code": code } });
    let mut response = Refusal::from(error).into_response();
    *response.body_mut() = body::json(status, &told).into_body();
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_come_in_four_forms() {
        let text = |text: &str| Input::Text(text.to_owned());
        for (input, want) in [
            (r#""a""#, Some(vec![text("a")])),
            (r#"["a", "b"]"#, Some(vec![text("a"), text("b")])),
            ("[1, 2]", Some(vec![Input::Tokens(vec![1, 2])])),
            ("[[1], [2, 3]]", Some(vec![Input::Tokens(vec![1]), Input::Tokens(vec![2, 3])])),
            ("[]", Some(vec![])),
            (r#"["a", 1]"#, None),
            ("[-1]", None),
            ("{}", None),
            ("null", None),
        ] {
            let got: Option<Embed> =
                serde_json::from_str(&format!(r#"{{"model": "m", "input": {input}, "user": "u"}}"#)).ok();
            assert_eq!(got.map(|embed| Vec::from(embed.input)), want, "{input}");
        }
    }

    #[test]
    fn vectors_are_told_as_numbers_or_as_bytes() {
        let answers =
            Answers { model: "m".to_owned(), version: 1, answers: vec![Answer::Vector(vec![1.0, -0.5])], tokens: 3 };
        for (format, want) in [(Format::Float, json!([1.0, -0.5])), (Format::Base64, json!("AACAPwAAAL8="))] {
            let got = serde_json::to_value(told(&answers, format).unwrap()).unwrap();
            assert_eq!(got["data"], json!([{ "object": "embedding", "index": 0, "embedding": want }]));
            assert_eq!(got["usage"], json!({ "prompt_tokens": 3, "total_tokens": 3 }));
        }
    }
}
