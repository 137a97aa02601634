//! TensorFlow Serving over REST, for what has nothing else: a frame is sent as JSON numbers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use engine::{DataType, TensorSpec};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use super::connector::{Connector, Door, HTTP_1_1, distrust};
use super::status::{ENTRY, causes};
use super::tfs::SIGNATURE;
use super::{Asked, MESSAGE_BYTES_MAX, Reply, Target, json, tensors};
use crate::address::Address;
use crate::failure::{Failure, FailureKind};
use crate::fit::Offer;
use crate::renewed::Renewed;
use crate::security::Secured;

/// An endpoint that speaks it.
#[derive(Clone)]
pub(crate) struct Rest {
    client: Client<Connector, Full<Bytes>>,
    /// Scheme, host and port.
    origin: String,
    token: Option<Arc<Renewed<http::HeaderValue>>>,
}

impl Rest {
    pub(super) fn new(address: &Address, secured: &Secured, door: &Door, within: Duration) -> Self {
        let connector = Connector::new(secured.config(HTTP_1_1), door, within);
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let scheme = if address.tls { "https" } else { "http" };
        Self { client, origin: format!("{scheme}://{}", address.authority), token: secured.token.clone() }
    }

    pub(super) async fn offer(&self, target: &Target) -> Result<Offer, Failure> {
        let path = format!("{}/metadata", path(target, target.version));
        let told = self.ask(Request::get(self.url(&path)), Bytes::new()).await?.0;
        let version = told["model_spec"]["version"].as_str().unwrap_or_default().to_owned();
        let signature = &told["metadata"]["signature_def"]["signature_def"][SIGNATURE];
        let specs = |side: &str| match &signature[side] {
            Value::Object(infos) => infos.iter().map(|(name, info)| spec(name, info)).collect::<Result<_, _>>(),
            _ => Err(Failure::wrong(format!("its metadata has no {side} of a signature '{SIGNATURE}'"))),
        };
        Ok(Offer {
            version,
            platform: "tensorflow_serving".to_owned(),
            inputs: specs("inputs")?,
            outputs: specs("outputs")?,
        })
    }

    pub(super) async fn infer(&self, asked: Asked<'_>) -> Result<Reply, Failure> {
        let body = body(&asked)?;
        let sent_bytes = body.len() as u64;
        let path = format!("{}:predict", path(asked.target, asked.target.version));
        let request = Request::post(self.url(&path)).header("content-type", "application/json");
        let (answer, received_bytes) = self.ask(request, body.into()).await?;
        let output =
            |(spec, name): (&TensorSpec, &String)| Ok((name.clone(), output(&answer, asked, name, spec.dtype)?));
        let outputs = asked.signature.outputs.iter().zip(&asked.names.outputs).map(output).collect::<Result<_, _>>()?;
        // No answer says which version it is of; the path did.
        let version = asked.target.version.map(|version| version.to_string()).unwrap_or_default();
        Ok(Reply { outputs, version, sent_bytes, received_bytes })
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.origin)
    }

    async fn ask(&self, mut request: http::request::Builder, body: Bytes) -> Result<(Value, u64), Failure> {
        if let Some(token) = &self.token {
            let header = token.at(Instant::now());
            let header = header.map_err(|error| Failure::new(FailureKind::Broken, error.message))?;
            request = request.header("authorization", header);
        }
        let lost = |error: hyper_util::client::legacy::Error| {
            if let Some(why) = distrust(&error) {
                return Failure::wrong(why);
            }
            let said: Vec<String> = causes(&error).map(ToString::to_string).collect();
            Failure::new(FailureKind::Lost, said.join(": "))
        };
        let request = request.body(Full::new(body)).map_err(|error| Failure::wrong(error.to_string()))?;
        let answer = self.client.request(request).await.map_err(lost)?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MESSAGE_BYTES_MAX).collect().await;
        let body = body.map_err(|error| Failure::new(FailureKind::Lost, error.to_string()))?.to_bytes();
        if head.status != StatusCode::OK {
            let seconds = head.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            let said =
                serde_json::from_slice::<Value>(&body).ok().and_then(|value| Some(value["error"].as_str()?.to_owned()));
            let said = said.unwrap_or_else(|| "it does not say why".to_owned());
            let entry = if head.status == StatusCode::UNAUTHORIZED { format!("; {ENTRY}") } else { String::new() };
            let message = format!("{}: {said}{entry}", head.status);
            return Err(Failure {
                retry_after: seconds.map(Duration::from_secs),
                ..Failure::new(kind(head.status), message)
            });
        }
        let value =
            serde_json::from_slice(&body).map_err(|error| Failure::wrong(format!("its answer is no JSON: {error}")))?;
        Ok((value, body.len() as u64))
    }
}

fn kind(status: StatusCode) -> FailureKind {
    match status.as_u16() {
        429 => FailureKind::Busy,
        502 | 503 => FailureKind::Lost,
        408 | 504 => FailureKind::Slow,
        400..=499 => FailureKind::Wrong,
        _ => FailureKind::Broken,
    }
}

fn path(target: &Target, version: Option<u64>) -> String {
    let model = utf8_percent_encode(&target.model, NON_ALPHANUMERIC);
    version.map_or_else(|| format!("/v1/models/{model}"), |version| format!("/v1/models/{model}/versions/{version}"))
}

/// Where there is one input, by row, as the clients of old do; else by column.
fn body(asked: &Asked<'_>) -> Result<String, Failure> {
    // A byte takes four characters at most, and a float mostly no more than twelve.
    let mut text = String::with_capacity(asked.inputs.iter().map(|tensor| tensor.len() * 4 + 64).sum());
    if let [input] = asked.inputs {
        text.push_str("{\"instances\":");
        json::write(&mut text, input)?;
    } else {
        text.push_str("{\"inputs\":{");
        for (at, (name, input)) in asked.names.inputs.iter().zip(asked.inputs).enumerate() {
            text.push_str(if at > 0 { "," } else { "" });
            text.push_str(&Value::from(name.as_str()).to_string());
            text.push(':');
            json::write(&mut text, input)?;
        }
        text.push('}');
    }
    text.push('}');
    Ok(text)
}

/// The output called `name`: of every row, or whole; bare where it is the only one.
fn output(answer: &Value, asked: Asked<'_>, name: &str, dtype: DataType) -> Result<engine::Tensor, Failure> {
    let missing = || Failure::wrong(format!("its answer has no output '{name}'"));
    let is_only = asked.names.outputs.len() == 1;
    if let Value::Array(rows) = &answer["predictions"] {
        let of_row = |row: &Value| match row {
            Value::Object(outputs) => outputs.get(name).cloned(),
            bare => is_only.then(|| bare.clone()),
        };
        let column: Option<Vec<Value>> = rows.iter().map(of_row).collect();
        return json::read(name, dtype, &Value::Array(column.ok_or_else(missing)?));
    }
    match &answer["outputs"] {
        Value::Object(outputs) => json::read(name, dtype, outputs.get(name).ok_or_else(missing)?),
        bare @ Value::Array(_) if is_only => json::read(name, dtype, bare),
        _ => Err(missing()),
    }
}

/// A tensor of the metadata, which says every number as a string.
fn spec(name: &str, info: &Value) -> Result<TensorSpec, Failure> {
    let dtype = tensors::datatype_named(name, info["dtype"].as_str().unwrap_or_default())?;
    let shape = &info["tensor_shape"];
    let any_rank = shape["unknown_rank"] == true;
    let size = |dim: &Value| dim["size"].as_str().and_then(|size| size.parse().ok());
    let sizes: Option<Vec<i64>> =
        shape["dim"].as_array().map_or(Some(Vec::new()), |dims| dims.iter().map(size).collect());
    let sizes = sizes.ok_or_else(|| Failure::wrong(format!("its metadata has no shape of '{name}'")))?;
    Ok(TensorSpec { name: name.to_owned(), dtype, shape: if any_rank { vec![-1] } else { sizes }, any_rank })
}

#[cfg(test)]
mod tests {
    use engine::{Signature, Tensor};

    use super::*;
    use crate::fit::Names;

    #[test]
    fn rows_and_columns_are_written_and_read() {
        let target = Target { model: "a/b".to_owned(), version: Some(3) };
        assert_eq!(path(&target, target.version), "/v1/models/a%2Fb/versions/3");
        let tensor = Tensor::new(DataType::U8, vec![1, 2], vec![0, 255].into()).unwrap();
        let names = |outputs: &[&str]| Names {
            inputs: vec!["x".to_owned(), "z".to_owned()],
            outputs: outputs.iter().map(|&name| name.to_owned()).collect(),
        };
        let (signature, within) = (Signature::default(), Duration::ZERO);
        let two = [tensor.clone(), tensor];
        let one = names(&["y"]);
        let asked = Asked { target: &target, signature: &signature, names: &one, inputs: &two[..1], within };
        assert_eq!(body(&asked).unwrap(), r#"{"instances":[[0,255]]}"#);
        assert_eq!(body(&Asked { inputs: &two, ..asked }).unwrap(), r#"{"inputs":{"x":[[0,255]],"z":[[0,255]]}}"#);
        let several = names(&["y", "w"]);
        for (answer, names, want) in [
            (r#"{"predictions":[[1.5],[2.5]]}"#, &one, Some([2, 1])),
            (r#"{"predictions":[{"y":[1.5],"w":1},{"y":[2.5],"w":2}]}"#, &several, Some([2, 1])),
            (r#"{"outputs":{"y":[[1.5],[2.5]]}}"#, &several, Some([2, 1])),
            (r#"{"outputs":[[1.5],[2.5]]}"#, &one, Some([2, 1])),
            (r#"{"outputs":[[1.5],[2.5]]}"#, &several, None),
            (r#"{"predictions":[{"w":1}]}"#, &several, None),
            (r#"{"error":"none"}"#, &one, None),
        ] {
            let answer: Value = serde_json::from_str(answer).unwrap();
            let got = output(&answer, Asked { names, ..asked }, "y", DataType::F32);
            assert_eq!(
                got.as_ref().ok().map(Tensor::shape),
                want.as_ref().map(|shape| &shape[..]),
                "{answer}: {got:?}"
            );
        }
    }
}
