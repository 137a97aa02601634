//! The Open Inference Protocol over gRPC, with the standard health and reflection services beside it.
//!
//! Nothing is decided here: a call is converted, handed to the scheduler, and its answer converted back.

mod calls;
mod contents;
mod convert;
mod extensions;
mod logging;
mod received;
mod reply;
mod service;
mod status;
mod stream;
mod tfs;
mod unary;
mod unserved;
pub(crate) mod untrusted;

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use engine::Result;
use proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use tokio::net::TcpListener;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status};

use crate::listen::{self, ListenLimits, Speaks};
use crate::triton::SharedMemory;
use crate::{Bodies, Connections, Management, Origin, Scheduler};
pub(crate) use calls::Calls;
use received::Arrival;
use service::Inference;

/// What one peer may ask for at once.
#[derive(Clone, Debug)]
pub struct GrpcLimits {
    /// The largest request message, in bytes, as it is sent and inflated; a larger one is refused before it is read.
    /// Also the most that one request takes out of shared memory.
    pub message_bytes_max: usize,
    /// What holds for connections.
    pub listen: ListenLimits,
    /// What the bodies of all requests take together.
    pub bodies: Arc<Bodies>,
    /// Requests of one `ModelStreamInfer` that are read and not yet answered; more wait at the client.
    pub stream_requests_max: usize,
    /// The part of the system's shared memory that is open to clients; `None`, the default, opens none of it.
    pub shared_memory: Option<Arc<SharedMemory>>,
    /// The right to change the server; `None`, the default, is that of a public listener.
    pub management: Option<Management>,
}

impl Default for GrpcLimits {
    /// 256 MiB, which is ninety 720p pictures of bytes or twenty of floats, and 64 requests of a stream.
    fn default() -> Self {
        Self {
            message_bytes_max: 256 << 20,
            stream_requests_max: 64,
            listen: ListenLimits::default(),
            bodies: Arc::default(),
            shared_memory: None,
            management: None,
        }
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
    connections: Connections,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let listen = limits.listen.clone();
    let (calls, health) = Calls::new(&scheduler, limits)?;
    let stopping = health.report(scheduler, shutdown);
    let answer = move |request| calls.answer(request);
    listen::serve(listener, Speaks::Http2, listen, connections, stopping, answer).await;
    Ok(())
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

/// What a call gives back.
type Answer<T> = std::result::Result<Response<T>, Status>;

/// When the time that the call was given runs out. The transport ends the call then; the scheduler must know it before,
/// so that nothing is computed for nobody.
fn deadline(metadata: &MetadataMap, now: Instant) -> Result<Option<Instant>> {
    crate::deadline::of_headers(metadata.as_ref(), now)
}

/// What `request` brings besides its messages. Nothing, where no listener gave it anything.
fn origin<T>(request: &tonic::Request<T>) -> Origin {
    request.extensions().get::<Arrival>().map_or_else(Origin::default, Arrival::origin)
}

#[cfg(test)]
mod tests;
