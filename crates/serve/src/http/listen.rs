//! Accepts connections and serves HTTP/1.1 and HTTP/2 on them, within limits, until it is told to stop.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::HttpLimits;
use super::body::Parts;

/// Out of file descriptors or memory: time for connections to close before the next is accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A peer on HTTP/2 that is silent for this long is asked whether it lives.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);

/// Requests in flight on one connection of HTTP/2; more wait at the client.
const STREAMS_MAX: u32 = 128;

/// Answers every request on `listener` with `answer` until `shutdown` is ready, then finishes the requests in flight
/// and returns.
pub(crate) async fn serve<F, A>(
    listener: TcpListener,
    limits: HttpLimits,
    shutdown: impl Future<Output = ()>,
    answer: F,
) where
    F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<Parts>> + Send + 'static,
{
    let held = move |stream, watcher| connection(stream, limits.header_timeout, watcher, answer.clone());
    each_connection(listener, limits.connections, shutdown, held).await;
}

/// Has every connection on `listener`, at most so many at once, `held` until `shutdown` is ready, then waits for those
/// that are there to end. A failed accept is logged and tried again.
pub(crate) async fn each_connection<H>(
    listener: TcpListener,
    connections_max: usize,
    shutdown: impl Future<Output = ()>,
    held: impl Fn(TcpStream, Watcher) -> H,
) where
    H: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(connections_max));
    let graceful = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            (stream, place) = accept(&listener, &places) => {
                // Without it an answer may wait for the peer's acknowledgement; a refusal costs that time and no more.
                let _ = stream.set_nodelay(true);
                let held = held(stream, graceful.watcher());
                tokio::spawn(async move {
                    held.await;
                    drop(place);
                });
            }
        }
    }
    drop(listener);
    graceful.shutdown().await;
}

/// The next connection and its place among the permitted ones, which is waited for first: past the limit, connections
/// wait in the system's backlog.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (TcpStream, Option<OwnedSemaphorePermit>) {
    // Only a closed semaphore gives none, and nobody closes it.
    let place = Arc::clone(places).acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, place),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The life of one connection.
async fn connection<F, A>(stream: TcpStream, header_timeout: Duration, watcher: Watcher, answer: F)
where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Parts>> + Send + 'static,
{
    // Written by the first request, read once by the time limit below; nothing else is published through it.
    let asked = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let asked = Arc::clone(&asked);
        move |request| {
            asked.store(true, Ordering::Relaxed);
            let response = answer(request);
            async move { Ok::<_, Infallible>(response.await) }
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(KEEPALIVE_INTERVAL);
    let serving = watcher.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
    let mut serving = pin!(serving);
    // The builder's own time limit begins when it knows which version is spoken; a peer may never say.
    let ended = tokio::select! {
        ended = &mut serving => ended,
        () = tokio::time::sleep(header_timeout) => {
            if !asked.load(Ordering::Relaxed) {
                return;
            }
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "an HTTP connection broke off");
    }
}
