//! The Open Inference Protocol over HTTP, with JSON and with the binary tensor extension.
//!
//! Nothing is decided here: a call is routed, decoded, handed to the scheduler, and its answer encoded.

mod body;
mod document;
mod elements;
mod error;
mod listen;
mod request;
mod response;
mod router;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use engine::Error;
use http::header::CONTENT_ENCODING;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body;
use serde_json::json;
use store::manifest::Io;
use tokio::net::TcpListener;

use crate::Scheduler;
pub(crate) use body::{Parts, response as text};
pub(crate) use error::Refusal;
pub(crate) use listen::serve as listen;
use request::{Bounds, Call};
use router::Target;
pub(crate) use router::{Route, route};

/// How much of a body is JSON; the rest is binary tensors. Names of headers have no case.
const JSON_BYTES_HEADER: &str = "inference-header-content-length";

/// What one peer may ask for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// The largest request body, in bytes; a larger one is refused before it is read when it says its length.
    pub body_bytes: usize,
    /// The deepest nesting of `data`.
    pub json_depth: usize,
    /// Inputs of one request, and outputs.
    pub tensors: usize,
    /// The longest that a connection may take to send a request's head, from its start or from its last answer. So it
    /// is also how long an idle connection is kept; longer than the minute of common load balancers.
    pub header_timeout: Duration,
    /// The longest pause within a body.
    pub body_pause: Duration,
    /// Connections at once; more wait until one closes.
    pub connections: usize,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            body_bytes: 64 << 20,
            json_depth: 64,
            tensors: 1024,
            header_timeout: Duration::from_secs(75),
            body_pause: Duration::from_secs(30),
            connections: 1024,
        }
    }
}

/// Serves HTTP/1.1 and cleartext HTTP/2 on `listener` until `shutdown` is ready, then finishes the requests in flight
/// and returns. A client that is slow to send or to take can hold the return back: the caller puts its own limit on
/// the drain.
pub async fn serve(
    listener: TcpListener,
    scheduler: Arc<Scheduler>,
    limits: HttpLimits,
    shutdown: impl Future<Output = ()>,
) {
    let answer = move |request| {
        let scheduler = Arc::clone(&scheduler);
        async move { answer(&scheduler, &limits, request).await }
    };
    listen(listener, limits, shutdown, answer).await;
}

async fn answer<B>(scheduler: &Scheduler, limits: &HttpLimits, request: Request<B>) -> Response<Parts>
where
    B: Body<Error: std::fmt::Display>,
{
    let head_only = request.method() == Method::HEAD;
    let answered = match route(request.method(), request.uri().path()) {
        Ok(Route::Live) => Ok(live()),
        Ok(Route::Ready) => Ok(ready(scheduler)),
        Ok(Route::Server) => Ok(server()),
        Ok(Route::Models) => Ok(models(scheduler)),
        Ok(Route::Model(target)) => metadata(scheduler, &target),
        Ok(Route::ModelReady(target)) => Ok(model_ready(scheduler, &target)),
        Ok(Route::Infer(target)) => infer(scheduler, limits, target, request).await,
        Err(refusal) => Err(refusal),
    };
    let mut response = answered.unwrap_or_else(Refusal::into_response);
    if head_only {
        *response.body_mut() = Parts::default();
    }
    response
}

/// The process answers, and this is the answer.
pub(crate) fn live() -> Response<Parts> {
    body::json(StatusCode::OK, &json!({ "live": true }))
}

/// 503 while the server drains, so that a proxy sends requests elsewhere.
pub(crate) fn ready(scheduler: &Scheduler) -> Response<Parts> {
    let ready = scheduler.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    body::json(status, &json!({ "ready": ready }))
}

fn server() -> Response<Parts> {
    let told = json!({
        "name": "packhorse",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": ["binary_tensor_data"],
    });
    body::json(StatusCode::OK, &told)
}

fn models(scheduler: &Scheduler) -> Response<Parts> {
    let mut names: Vec<&str> = scheduler.residency().models().map(|model| model.manifest().name.as_str()).collect();
    names.dedup();
    body::json(StatusCode::OK, &json!({ "models": names }))
}

/// A model that is not there is not ready, as public clients expect.
fn model_ready(scheduler: &Scheduler, target: &Target) -> Response<Parts> {
    let ready = scheduler.residency().is_ready(&target.name, target.version);
    let status = if ready { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    body::json(status, &json!({ "name": target.name, "ready": ready }))
}

fn metadata(scheduler: &Scheduler, target: &Target) -> Result<Response<Parts>, Refusal> {
    let residency = scheduler.residency();
    let manifest = residency.model(&target.name, target.version)?.manifest();
    let tensor = |io: &Io| json!({ "name": io.name, "datatype": io.datatype, "shape": io.shape });
    let tensors = |tensors: &[Io]| tensors.iter().map(tensor).collect::<Vec<_>>();
    let versions: Vec<String> = residency.versions(&target.name).iter().map(u64::to_string).collect();
    let platform = match manifest.source.format.as_str() {
        // The word that public clients know for it.
        "onnx" => "onnxruntime_onnx",
        other => other,
    };
    let told = json!({
        "name": target.name,
        "versions": versions,
        "platform": platform,
        "inputs": tensors(&manifest.inputs),
        "outputs": tensors(&manifest.outputs),
    });
    Ok(body::json(StatusCode::OK, &told))
}

async fn infer<B>(
    scheduler: &Scheduler,
    limits: &HttpLimits,
    target: Target,
    request: Request<B>,
) -> Result<Response<Parts>, Refusal>
where
    B: Body<Error: std::fmt::Display>,
{
    let now = Instant::now();
    let (head, body) = request.into_parts();
    refuse_encoding(&head.headers)?;
    let json_bytes = json_bytes(&head.headers)?;
    let body = read(body, limits).await?;
    let (request, reply) = {
        let model = scheduler.residency().model(&target.name, target.version);
        let decoded = model.and_then(|model| {
            let call = Call {
                model: target.name,
                version: target.version,
                signature: model.signature(),
                body,
                json_bytes,
                now,
            };
            let bounds = Bounds { depth: limits.json_depth, tensors: limits.tensors };
            request::decode(call, bounds)
        });
        decoded.inspect_err(|error| scheduler.metrics().refused(error.kind))?
    };
    let answer = scheduler.infer(request).await?;
    Ok(response::encode(&reply, &answer)?)
}

/// A compressed body is none that this build reads.
fn refuse_encoding(headers: &HeaderMap) -> Result<(), Refusal> {
    let plain = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    match headers.get_all(CONTENT_ENCODING).into_iter().find(|value| !plain(value)) {
        None => Ok(()),
        Some(encoding) => Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("Content-Encoding {encoding:?} is not served; send the body as it is"),
        )),
    }
}

fn json_bytes(headers: &HeaderMap) -> engine::Result<Option<usize>> {
    let Some(value) = headers.get(JSON_BYTES_HEADER) else {
        return Ok(None);
    };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| {
        Error::invalid(format!("Inference-Header-Content-Length is {value:?}, which is not a number of bytes"))
    })
}

/// The whole of `body`, within its limits. It grows with what arrives and never by what is announced.
async fn read(body: impl Body<Error: std::fmt::Display>, limits: &HttpLimits) -> Result<Bytes, Refusal> {
    const FIRST_BYTES_MAX: u64 = 1 << 20;
    let limit = limits.body_bytes;
    let too_large = || {
        let message = format!("the body is larger than {limit} bytes, the most that this server takes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(too_large());
    }
    let mut whole = Vec::with_capacity(usize::try_from(announced.min(FIRST_BYTES_MAX)).unwrap_or_default());
    let mut body = std::pin::pin!(body);
    loop {
        let pause = tokio::time::timeout(limits.body_pause, body.frame()).await;
        let Some(frame) = pause.map_err(|_| {
            let pause_s = limits.body_pause.as_secs_f64();
            let message = format!("nothing of the body came for {pause_s} s; {} bytes had come", whole.len());
            Refusal::new(StatusCode::REQUEST_TIMEOUT, message)
        })?
        else {
            return Ok(Bytes::from(whole));
        };
        let frame = frame.map_err(|error| {
            Refusal::from(Error::invalid(format!("the body broke off after {} bytes: {error}", whole.len())))
        })?;
        // What is not data is trailers, and the protocol has none.
        let Ok(mut data) = frame.into_data() else { continue };
        if data.remaining() > limit - whole.len() {
            return Err(too_large());
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            whole.extend_from_slice(chunk);
            let length = chunk.len();
            data.advance(length);
        }
    }
}

#[cfg(test)]
mod tests;
