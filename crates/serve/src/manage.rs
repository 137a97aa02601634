//! The management listener: everything that the public ones serve, on one port for REST and gRPC, and besides what
//! changes the server. Whoever reaches it may do all of that, so there is none unless it was asked for.

use std::future::Future;
use std::sync::Arc;

use engine::{Error, Result};
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::Either;
use hyper::body::Incoming;
use tokio::net::TcpListener;

use crate::grpc::{Calls, GrpcLimits};
use crate::http::{self as rest, HttpLimits};
use crate::listen::{self, Speaks};
use crate::{Connections, Control, Scheduler};

/// Which lines of the log are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLevels {
    /// What failed.
    pub error: bool,
    /// What may fail soon.
    pub warning: bool,
    /// What happens to models.
    pub info: bool,
    /// From 1 on what happens to requests and connections, from 2 on everything.
    pub verbose: u32,
}

/// The log of the process, which is the program's and not this crate's.
pub trait LogSwitch: Send + Sync {
    /// What is written now.
    fn levels(&self) -> LogLevels;
    /// Writes what `levels` says from now on.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) when there is no log any more.
    fn set(&self, levels: LogLevels) -> Result<()>;
}

/// The right to change the server. A listener has it or has not; no request can bring it.
#[derive(Clone)]
pub struct Management {
    log: Arc<dyn LogSwitch>,
}

impl std::fmt::Debug for Management {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Management").finish_non_exhaustive()
    }
}

impl Management {
    /// The right to change `log` and the models that are served.
    pub fn new(log: Arc<dyn LogSwitch>) -> Self {
        Self { log }
    }

    /// The right that a listener has.
    ///
    /// # Errors
    /// [`Forbidden`](engine::ErrorKind::Forbidden) when it has none, with where to ask instead.
    fn of(management: Option<&Self>) -> Result<&Self> {
        management.ok_or_else(|| {
            Error::forbidden(
                "this listener does not change the server; start it with --manage ADDRESS and ask at that address",
            )
        })
    }

    /// The log, for those who may change it.
    ///
    /// # Errors
    /// [`Forbidden`](engine::ErrorKind::Forbidden) for others.
    pub(crate) fn log(management: Option<&Self>) -> Result<&dyn LogSwitch> {
        Ok(Self::of(management)?.log.as_ref())
    }

    /// Whether a request to change which models are served may be looked at here.
    ///
    /// # Errors
    /// [`Forbidden`](engine::ErrorKind::Forbidden) when another listener has to be asked. Where none could do it, the
    /// change itself says why.
    pub(crate) fn may_change_models(management: Option<&Self>, scheduler: &Scheduler) -> Result<()> {
        match scheduler.residency().control() {
            Control::Explicit => Self::of(management).map(drop),
            Control::None | Control::Poll => Ok(()),
        }
    }
}

/// Serves REST and gRPC on `listener` until `shutdown` is ready, then finishes what is in flight and returns. `http` and
/// `grpc` should hold the right of [`Management`]; connections are bound by `http`'s limits.
///
/// # Errors
/// [`Internal`](engine::ErrorKind::Internal) when the server cannot be built.
pub async fn serve(
    listener: TcpListener,
    scheduler: Arc<Scheduler>,
    http: HttpLimits,
    grpc: GrpcLimits,
    connections: Connections,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let (calls, health) = Calls::new(&scheduler, grpc)?;
    let stopping = health.report(Arc::clone(&scheduler), shutdown);
    let (listen, http) = (http.listen.clone(), Arc::new(http));
    let answer = move |request: Request<Incoming>| {
        let (scheduler, http, calls) = (Arc::clone(&scheduler), Arc::clone(&http), Arc::clone(&calls));
        async move {
            if is_grpc(&request) {
                calls.answer(request).await.map(Either::Right)
            } else {
                rest::answer(&scheduler, &http, request).await.map(Either::Left)
            }
        }
    };
    listen::serve(listener, Speaks::Both, listen, connections, stopping, answer).await;
    Ok(())
}

/// gRPC's calls say so in their first header; nothing else may look like one.
fn is_grpc<B>(request: &Request<B>) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|content| content.as_bytes().starts_with(b"application/grpc"))
}
