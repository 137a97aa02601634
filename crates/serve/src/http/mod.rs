//! The Open Inference Protocol over HTTP, with JSON and with the binary tensor extension.
//!
//! Nothing is decided here: a call is routed, decoded, handed to the scheduler, and its answer encoded.

mod body;
mod calls;
mod compress;
mod document;
mod elements;
mod error;
mod incoming;
mod multipart;
mod openai;
mod openapi;
mod request;
mod response;
mod router;
mod tfs;
mod thin;
mod triton;
pub(crate) mod untrusted;

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use engine::{Error, TensorSpec};
use http::header::CONNECTION;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Body;
use serde_json::json;
use tokio::net::TcpListener;
use tracing::Instrument as _;

use crate::aside::aside;
use crate::listen::{self, ListenLimits, Speaks};
use crate::people::{self, Face};
use crate::trace::{self, TraceContext};
use crate::triton::{SharedMemory, extensions, give};
use crate::{Bodies, Connections, Management, Origin, Scheduler, deadline};
pub(crate) use body::{Parts, response as text};
pub(crate) use error::Refusal;
pub(crate) use openapi::{Listener, document as openapi};
use request::{Bounds, Call};
use router::Target;
pub(crate) use router::{Route, route};

/// How much of a body is JSON; the rest is binary tensors. Names of headers have no case.
const JSON_BYTES_HEADER: &str = "inference-header-content-length";

/// What one peer may ask for at once.
#[derive(Clone, Debug)]
pub struct HttpLimits {
    /// The largest request body, in bytes, as it is sent and inflated; a larger one is refused before it is read when
    /// it says its length. Also the most that one request takes out of shared memory.
    pub body_bytes: usize,
    /// The deepest nesting of `data`.
    pub json_depth: usize,
    /// Inputs of one request, and outputs.
    pub tensors: usize,
    /// What holds for connections.
    pub listen: ListenLimits,
    /// What the bodies of all requests take together.
    pub bodies: Arc<Bodies>,
    /// The part of the system's shared memory that is open to clients; `None`, the default, opens none of it.
    pub shared_memory: Option<Arc<SharedMemory>>,
    /// The right to change the server; `None`, the default, is that of a public listener.
    pub management: Option<Management>,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            body_bytes: 256 << 20,
            json_depth: 64,
            tensors: 1024,
            listen: ListenLimits::default(),
            bodies: Arc::default(),
            shared_memory: None,
            management: None,
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
    connections: Connections,
    shutdown: impl Future<Output = ()>,
) {
    let shared = Arc::new(limits.clone());
    let answer = move |request| {
        let (scheduler, limits) = (Arc::clone(&scheduler), Arc::clone(&shared));
        async move { answer(&scheduler, &limits, request).await }
    };
    listen::serve(listener, Speaks::Both, limits.listen, connections, shutdown, answer).await;
}

/// The answer to `request`, in the trace that it is part of.
pub(crate) async fn answer<B>(
    scheduler: &Arc<Scheduler>,
    limits: &Arc<HttpLimits>,
    mut request: Request<B>,
) -> Response<Parts>
where
    B: Body<Error: std::fmt::Display>,
{
    // HTTP/2 says goodbye in frames of its own.
    let has_goodbye = request.version() >= Version::HTTP_2;
    let mut response = match TraceContext::of(request.headers()) {
        None => untraced(scheduler, limits, request).await,
        Some(trace) => {
            let (span, told) = (trace.span(), trace.response());
            request.extensions_mut().insert(trace);
            let mut response = untraced(scheduler, limits, request).instrument(span).await;
            if let Some(told) = told {
                response.headers_mut().insert(trace::RESPONSE, told);
            }
            response
        }
    };
    // A client that has been told sends its next request elsewhere, rather than into a connection that closes.
    if !scheduler.is_ready() && !has_goodbye {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn untraced<B>(scheduler: &Arc<Scheduler>, limits: &Arc<HttpLimits>, request: Request<B>) -> Response<Parts>
where
    B: Body<Error: std::fmt::Display>,
{
    let head_only = request.method() == Method::HEAD;
    let answered = match route(request.method(), request.uri().path()) {
        Ok(route) => routed(scheduler, limits, route, request).await,
        Err(refusal) => elsewhere(scheduler, limits, refusal, request).await,
    };
    let mut response = answered.unwrap_or_else(Refusal::into_response);
    if head_only {
        *response.body_mut() = Parts::default();
    }
    response
}

async fn routed<B>(
    scheduler: &Arc<Scheduler>,
    limits: &Arc<HttpLimits>,
    route: Route,
    request: Request<B>,
) -> Result<Response<Parts>, Refusal>
where
    B: Body<Error: std::fmt::Display>,
{
    let memory = limits.shared_memory.as_deref();
    Ok(match route {
        Route::Document => openapi(Listener::Inference),
        Route::Live => live(),
        Route::Ready => ready(scheduler),
        Route::Ping => ping(scheduler),
        Route::Server => server(scheduler, limits),
        Route::Models => models(scheduler),
        Route::Model(target) => metadata(scheduler, &target)?,
        Route::ModelReady(target) => model_ready(scheduler, &target),
        Route::Infer(target) => infer(scheduler, limits, target, request).await?,
        Route::Embeddings => embeddings(scheduler, limits, request).await?,
        Route::Config(target) => triton::config(scheduler, &target)?,
        Route::Statistics(target) => triton::statistics(scheduler, target.as_ref())?,
        Route::RepositoryIndex => triton::index(scheduler, &read(request, limits).await?)?,
        Route::RepositoryChange(name, change) => {
            Management::may_change_models(limits.management.as_ref(), scheduler)?;
            triton::change(scheduler, name, change, &read(request, limits).await?).await?
        }
        Route::LogSettings => triton::log_settings(limits.management.as_ref(), &[])?,
        Route::LogChange => {
            // Who may not ask need not be listened to.
            Management::log(limits.management.as_ref())?;
            triton::log_settings(limits.management.as_ref(), &read(request, limits).await?)?
        }
        Route::MemoryStatus(name) => triton::memory_status(memory, name.as_deref())?,
        Route::MemoryRegister(name) => triton::memory_register(memory, name, &read(request, limits).await?)?,
        Route::MemoryUnregister(name) => triton::memory_unregister(memory, name.as_deref())?,
    })
}

/// What is none of this protocol's may be another's; what is nobody's gets `refusal`.
async fn elsewhere<B>(
    scheduler: &Scheduler,
    limits: &HttpLimits,
    refusal: Refusal,
    request: Request<B>,
) -> Result<Response<Parts>, Refusal>
where
    B: Body<Error: std::fmt::Display>,
{
    if !tfs::claims(request.uri().path()) {
        return Err(refusal);
    }
    let now = Instant::now();
    let (mut head, body) = request.into_parts();
    if let Some(model) = tfs::asked_of(scheduler, &head.method, head.uri.path()) {
        scheduler.expect(&model);
    }
    let (body, held) = incoming::read(&head.headers, body, limits).await?;
    let origin = Origin { trace: head.extensions.remove(), held };
    tfs::try_answer(scheduler, limits, &head, now, body, origin).await.ok_or(refusal)
}

async fn embeddings<B>(
    scheduler: &Scheduler,
    limits: &HttpLimits,
    request: Request<B>,
) -> Result<Response<Parts>, Refusal>
where
    B: Body<Error: std::fmt::Display>,
{
    let now = Instant::now();
    let (mut head, body) = request.into_parts();
    let (body, held) = incoming::read(&head.headers, body, limits).await?;
    let origin = Origin { trace: head.extensions.remove(), held };
    let response = openai::embeddings(scheduler, &head, now, body, origin).await;
    Ok(compress::deflate(response, compress::accepted(&head.headers)).await)
}

async fn read<B>(request: Request<B>, limits: &HttpLimits) -> Result<bytes::Bytes, Refusal>
where
    B: Body<Error: std::fmt::Display>,
{
    let (head, body) = request.into_parts();
    incoming::read(&head.headers, body, limits).await.map(|(body, _)| body)
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

/// [`ready`] in the words of servers that have one probe for everything.
pub(crate) fn ping(scheduler: &Scheduler) -> Response<Parts> {
    match scheduler.is_ready() {
        true => body::json(StatusCode::OK, &json!({ "status": "Healthy" })),
        false => body::json(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "Unhealthy" })),
    }
}

fn server(scheduler: &Scheduler, limits: &HttpLimits) -> Response<Parts> {
    let told = json!({
        "name": "packhorse",
        "version": env!("CARGO_PKG_VERSION"),
        "extensions": extensions(scheduler, limits.shared_memory.is_some(), limits.management.as_ref()),
    });
    body::json(StatusCode::OK, &told)
}

fn models(scheduler: &Scheduler) -> Response<Parts> {
    let models = scheduler.residency().models();
    let mut names: Vec<&str> = models.iter().map(|model| model.manifest().name.as_str()).collect();
    names.dedup();
    body::json(StatusCode::OK, &json!({ "models": names }))
}

/// A model that is not there is not ready, as public clients expect.
fn model_ready(scheduler: &Scheduler, target: &Target) -> Response<Parts> {
    let ready = Face::is_ready(scheduler.residency(), &target.name, target.version);
    let status = if ready { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    body::json(status, &json!({ "name": target.name, "ready": ready }))
}

fn metadata(scheduler: &Scheduler, target: &Target) -> Result<Response<Parts>, Refusal> {
    let residency = scheduler.residency();
    let face = Face::of(residency, &target.name, target.version)?;
    let (model, signature) = (face.model(), face.signature());
    let tensor = |spec: &TensorSpec| json!({ "name": spec.name, "datatype": spec.dtype.name(), "shape": spec.shape });
    let tensors = |specs: &[TensorSpec]| specs.iter().map(tensor).collect::<Vec<_>>();
    let versions: Vec<String> = residency.versions(&model.manifest().name).iter().map(u64::to_string).collect();
    let told = json!({
        "name": target.name,
        "versions": versions,
        "platform": model.platform(),
        "inputs": tensors(&signature.inputs),
        "outputs": tensors(&signature.outputs),
    });
    Ok(body::json(StatusCode::OK, &told))
}

async fn infer<B>(
    scheduler: &Scheduler,
    limits: &Arc<HttpLimits>,
    target: Target,
    request: Request<B>,
) -> Result<Response<Parts>, Refusal>
where
    B: Body<Error: std::fmt::Display>,
{
    let now = Instant::now();
    let (mut head, body) = request.into_parts();
    let (json_bytes, deadline) = (json_bytes(&head.headers)?, deadline::of_headers(&head.headers, now)?);
    let coding = compress::accepted(&head.headers);
    let face = || Face::of(scheduler.residency(), &target.name, target.version);
    if let Ok(face) = face() {
        scheduler.expect(face.model());
    }
    let (body, held) = incoming::read(&head.headers, body, limits).await?;
    let json_length = json_bytes.unwrap_or(body.len());
    let origin = Origin { trace: head.extensions.remove(), held };
    let found = face();
    let decode = {
        let limits = Arc::clone(limits);
        move |face: Face| {
            let memory = limits.shared_memory.as_deref();
            let bounds = Bounds { depth: limits.json_depth, tensors: limits.tensors, memory_bytes: limits.body_bytes };
            let (signature, has_options) = (face.signature(), face.is_for_people());
            let (model, version) = (target.name, target.version);
            let call = Call { model, version, signature, has_options, body, json_bytes, memory, now };
            let (mut request, reply) = request::decode(call, bounds)?;
            request.origin = origin.with_inputs(&request.inputs)?;
            Ok((face, request, reply))
        }
    };
    let decoded = match found {
        Ok(face) => aside(json_length, move || decode(face)).await.flatten(),
        Err(error) => Err(error),
    };
    let (face, mut request, mut reply) = decoded.inspect_err(|error| scheduler.metrics().refused(error.kind))?;
    if let (Some(_), Some(id)) = (&request.origin.trace, &reply.id) {
        trace::tell_request_id(id);
    }
    request.deadline = deadline::earlier(deadline, request.deadline);
    let response = people::infer(scheduler, &face, request, std::mem::take(&mut reply.options)).await?;
    let answer = give(response, &reply.wishes, face.model(), limits.shared_memory.as_deref())?;
    let encoded = aside(response::json_bytes_estimate(&reply, &answer), move || response::encode(&reply, &answer));
    Ok(compress::deflate(encoded.await??, coding).await)
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

#[cfg(test)]
mod mutation_tests;
#[cfg(test)]
mod tests;
