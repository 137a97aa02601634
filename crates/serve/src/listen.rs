//! Accepts connections and serves HTTP on them, within limits, until it is told to stop. Every API listens through
//! this, so that what holds for one of them holds for all.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;

use crate::network::Connections;
use crate::streams::{Opened, Together};

/// Out of file descriptors or memory: time for connections to close before the next is accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection on which nothing was asked yet is still listened to when the listener closes: what its peer
/// has sent by then is on its way, and would otherwise be lost.
const LAST_CALL: Duration = Duration::from_millis(500);

/// What a listener takes from its peers, whatever is spoken on it.
#[derive(Clone, Debug)]
pub struct ListenLimits {
    /// Connections at once; more wait until one closes.
    pub connections: usize,
    /// Requests in flight on one connection of HTTP/2; more wait at the client.
    pub streams: u32,
    /// The longest that a connection may take to ask for something at all, and over HTTP/1 to send a request's head,
    /// from its start or from its last answer. So over HTTP/1 it is also how long an idle connection is kept; longer
    /// than the minute of common load balancers.
    pub header_timeout: Duration,
    /// The longest pause within a body.
    pub body_pause: Duration,
    /// A peer on HTTP/2 that is silent for this long is asked whether it lives.
    pub keepalive_interval: Duration,
    /// How long it has to say so before its connection is closed.
    pub keepalive_timeout: Duration,
}

impl Default for ListenLimits {
    fn default() -> Self {
        Self {
            connections: 1024,
            streams: 256,
            header_timeout: Duration::from_secs(75),
            body_pause: Duration::from_secs(30),
            keepalive_interval: Duration::from_secs(60),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1.1, or HTTP/2 for a peer that begins with its preface.
    Both,
    /// HTTP/2 without more ado.
    Http2,
}

/// Answers every request on `listener` with `answer` until `shutdown` is ready; then it closes the listener, finishes
/// the requests in flight and returns. Each connection is placed on `connections`. A failed accept is logged and tried
/// again.
///
/// Over HTTP/2 the end is told in the protocol, and no request is lost by it. Over HTTP/1 an idle connection is
/// closed; so that no client sends a request into that moment, answers before it should say `Connection: close`.
pub(crate) async fn serve<F, A, B>(
    listener: TcpListener,
    speaks: Speaks,
    limits: ListenLimits,
    connections: Connections,
    shutdown: impl Future<Output = ()>,
    answer: F,
) where
    F: Fn(Request<Incoming>) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(limits.connections));
    let (close, closing) = watch::channel(());
    let start = |stream: std::net::TcpStream, place: OwnedSemaphorePermit| {
        let (limits, closing, answer) = (limits.clone(), closing.clone(), answer.clone());
        connections.place(async move {
            match TcpStream::from_std(stream) {
                Ok(stream) => connection(stream, speaks, limits, closing, answer).await,
                Err(error) => tracing::warn!(%error, "cannot listen to a connection"),
            }
            drop(place);
        });
    };
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            (stream, place) = accept(&listener, &places) => start(stream, place),
        }
    }
    // Whoever the system has accepted by now has not been refused, and so is served.
    if let Ok(listener) = listener.into_std() {
        while let (Ok(place), Ok((stream, _))) = (Arc::clone(&places).try_acquire_owned(), listener.accept()) {
            if stream.set_nonblocking(true).is_ok() {
                start(stream, place);
            }
        }
    }
    drop(closing);
    // With nobody left there is nobody to tell.
    let _ = close.send(());
    close.closed().await;
}

/// The next connection and its place among the permitted ones, which is waited for first: past the limit, connections
/// wait in the system's backlog.
async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> (std::net::TcpStream, OwnedSemaphorePermit) {
    // Only a closed semaphore gives none, and nobody closes it.
    let Ok(place) = Arc::clone(places).acquire_owned().await else { return std::future::pending().await };
    loop {
        match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => return (stream, place),
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The life of one connection.
async fn connection<F, A, B>(
    stream: TcpStream,
    speaks: Speaks,
    limits: ListenLimits,
    // Dropped with the connection, which is what the listener waits for in the end.
    mut closing: watch::Receiver<()>,
    answer: F,
) where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn StdError + Send + Sync>>> + Send + 'static,
{
    // Without it an answer may wait for the peer's acknowledgement; a refusal costs that time and no more.
    let _ = stream.set_nodelay(true);
    // Written by every request, read by the time limits below; nothing else is published through it.
    let asked = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let asked = Arc::clone(&asked);
        move |request| {
            asked.store(true, Ordering::Relaxed);
            answer(request).map(Ok::<_, Infallible>)
        }
    });
    let opened = Opened::default();
    let builder = builder(speaks, &limits, opened.clone());
    let mut serving = Together::new(builder.serve_connection(TokioIo::new(stream), service), opened);
    let mut told = pin!(last_call(&mut closing, &asked));
    // The builder's own time limit begins when it knows which version is spoken; a peer may never say.
    let mut silent = pin!(tokio::time::sleep(limits.header_timeout));
    let (mut open, mut watched) = (true, true);
    let ended = loop {
        tokio::select! {
            // What has arrived is read before the end is told.
            biased;
            ended = &mut serving => break ended,
            () = told.as_mut(), if open => {
                open = false;
                serving.connection.as_mut().graceful_shutdown();
            }
            () = silent.as_mut(), if watched => {
                if asked.load(Ordering::Relaxed) {
                    watched = false;
                } else if open {
                    open = false;
                    serving.connection.as_mut().graceful_shutdown();
                    silent.as_mut().reset(Instant::now() + LAST_CALL);
                } else {
                    return;
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection broke off");
    }
}

fn builder(speaks: Speaks, limits: &ListenLimits, opened: Opened) -> auto::Builder<Opened> {
    let mut builder = auto::Builder::new(opened);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    match speaks {
        Speaks::Both => builder,
        // What speaks nothing else is gRPC, which has no use for the date.
        Speaks::Http2 => {
            builder.http2().auto_date_header(false);
            builder.http2_only()
        }
    }
}

/// Ready when the listener has closed, and a little later on a connection that has not asked for anything yet.
async fn last_call(closing: &mut watch::Receiver<()>, asked: &AtomicBool) {
    // An error means that the listener is gone altogether.
    let _ = closing.changed().await;
    if !asked.load(Ordering::Relaxed) {
        tokio::time::sleep(LAST_CALL).await;
    }
}
