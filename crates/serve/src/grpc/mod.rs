//! The Open Inference Protocol over gRPC, with the standard health and reflection services beside it.
//!
//! Nothing is decided here: a call is converted, handed to the scheduler, and its answer converted back.

mod calls;
mod contents;
mod convert;
mod extensions;
mod service;
mod status;
mod stream;
mod tfs;
mod unary;
mod unserved;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Error, Result};
use http::HeaderMap;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use hyper_util::service::TowerToHyperService;
use proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tonic::codec::CompressionEncoding;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::Scheduler;
use crate::http::each_connection;
use crate::triton::SharedMemory;
use calls::Calls;
use service::Inference;
use unserved::NameUnserved;

/// The service's full name, by which health is asked for.
const SERVICE: &str = <GrpcInferenceServiceServer<Inference> as NamedService>::NAME;

/// How stale the health service's answer may be.
const HEALTH_INTERVAL: Duration = Duration::from_millis(250);

/// A peer that is silent for this long is asked whether it lives, so that a vanished one frees what it holds.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);

/// What one peer may ask for at once.
#[derive(Clone, Debug)]
pub struct GrpcLimits {
    /// The largest request message, in bytes, as it is sent and inflated; a larger one is refused before it is read.
    /// Also the most that one request takes out of shared memory.
    pub message_bytes_max: usize,
    /// Calls in flight on one connection; more wait at the client.
    pub streams_max: u32,
    /// Requests of one `ModelStreamInfer` that are read and not yet answered; more wait at the client.
    pub stream_requests_max: usize,
    /// The part of the system's shared memory that is open to clients; `None`, the default, opens none of it.
    pub shared_memory: Option<Arc<SharedMemory>>,
}

impl Default for GrpcLimits {
    /// 64 MiB, which is twenty 720p pictures of bytes or five of floats, 256 calls, and 64 requests of a stream.
    fn default() -> Self {
        Self { message_bytes_max: 64 << 20, streams_max: 256, stream_requests_max: 64, shared_memory: None }
    }
}

/// Serves gRPC on `listener` until `shutdown` is ready, then finishes the calls in flight and returns.
///
/// A client that keeps a stream open can hold the return back: the caller puts its own limit on the drain.
///
/// # Errors
/// [`Internal`](engine::ErrorKind::Internal) when the server cannot be built.
pub async fn serve(
    listener: TcpListener,
    scheduler: Arc<Scheduler>,
    limits: GrpcLimits,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let stopping = report_health(reporter, Arc::clone(&scheduler), shutdown);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let broken = |error| Error::internal(format!("gRPC reflection: {error}"));
    let (prediction, models) = tfs::services(Arc::clone(&scheduler), &limits);
    let rest = Routes::new(NameUnserved(service(Arc::clone(&scheduler), limits.clone())))
        .add_service(NameUnserved(prediction))
        .add_service(NameUnserved(models))
        .add_service(health)
        .add_service(reflection().build_v1().map_err(broken)?)
        .add_service(reflection().build_v1alpha().map_err(broken)?)
        .prepare();
    let streams_max = limits.streams_max;
    let calls = Calls { inference: Inference::new(scheduler, limits), rest };
    let held = move |stream, watcher| connection(stream, streams_max, watcher, calls.clone());
    each_connection(listener, Semaphore::MAX_PERMITS, stopping, held).await;
    Ok(())
}

/// The life of one connection.
async fn connection(stream: TcpStream, streams_max: u32, watcher: Watcher, calls: Calls) {
    let serving = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams_max)
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        // Nobody reads it.
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(calls));
    if let Err(error) = watcher.watch(serving).await {
        tracing::debug!(%error, "a gRPC connection broke off");
    }
}

fn service(scheduler: Arc<Scheduler>, limits: GrpcLimits) -> GrpcInferenceServiceServer<Inference> {
    let message_bytes_max = limits.message_bytes_max;
    // An answer's memory is spent by the time its size is known, so only requests are limited. Answers are not
    // compressed: clients say that they take it without being asked, and few of them gain from it.
    GrpcInferenceServiceServer::new(Inference::new(scheduler, limits))
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
        .max_decoding_message_size(message_bytes_max)
        .max_encoding_message_size(usize::MAX)
}

/// Keeps the health service in step with the scheduler until `shutdown`, then ends it: a watcher sees "not serving"
/// and the end of its stream, which would otherwise outlive the server.
async fn report_health(mut reporter: HealthReporter, scheduler: Arc<Scheduler>, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    let mut reported = None;
    loop {
        let ready = scheduler.is_ready();
        // A watcher is told of changes, not of the time.
        if reported.replace(ready) != Some(ready) {
            set_health(&reporter, ready).await;
        }
        tokio::select! {
            () = &mut shutdown => break,
            () = tokio::time::sleep(HEALTH_INTERVAL) => {}
        }
    }
    set_health(&reporter, false).await;
    for name in ["", SERVICE] {
        reporter.clear_service_status(name).await;
    }
}

async fn set_health(reporter: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in ["", SERVICE] {
        reporter.set_service_status(name, status).await;
    }
}

/// What a call gives back.
type Answer<T> = std::result::Result<Response<T>, Status>;

/// When the call's own `grpc-timeout` runs out. The transport ends the call then; the scheduler must know it before,
/// so that nothing is computed for nobody.
fn deadline(headers: &HeaderMap, now: Instant) -> Result<Option<Instant>> {
    let Some(header) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let header = header.to_str().map_err(|_| Error::invalid("grpc-timeout is not text"))?;
    Ok(now.checked_add(convert::grpc_timeout(header)?))
}

#[cfg(test)]
mod tests;
