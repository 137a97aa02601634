//! [`Calls`]: every gRPC service as one function of a request, for whichever listener has it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use engine::{Error, Result};
use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use proto::inference::grpc_inference_service_server::GrpcInferenceServiceServer;
use tonic::codegen::Service as _;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tracing::Instrument as _;

use super::received::{Arrival, Received};
use super::reply::Reply;
use super::service::Inference;
use super::unserved::NameUnserved;
use super::{GrpcLimits, service, tfs, unary};
use crate::trace::{RESPONSE, TraceContext};
use crate::{Bodies, Scheduler, deadline};

/// The service's full name, by which health is asked for.
const SERVICE: &str = <GrpcInferenceServiceServer<Inference> as NamedService>::NAME;

/// How stale the health service's answer may be.
const HEALTH_INTERVAL: Duration = Duration::from_millis(250);

/// The calls on which a client sends messages one by one and may be silent in between.
const STREAMS: [&str; 2] = ["ModelStreamInfer", "ServerReflectionInfo"];

/// An answer that is being made.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Response<Reply>> + Send>>;

/// Every service.
pub(crate) struct Calls {
    /// The call that clients make all day takes a shorter way than the rest.
    inference: Inference,
    routes: Routes,
    bodies: Arc<Bodies>,
    body_pause: Duration,
}

impl Calls {
    /// The services in front of `scheduler`, and the health that one of them tells.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) when reflection cannot read its own descriptors.
    pub(crate) fn new(scheduler: &Arc<Scheduler>, limits: GrpcLimits) -> Result<(Arc<Self>, Health)> {
        let (reporter, health) = tonic_health::server::health_reporter();
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let broken = |error| Error::internal(format!("gRPC reflection: {error}"));
        let (bodies, body_pause) = (Arc::clone(&limits.bodies), limits.listen.body_pause);
        let (prediction, models) = tfs::services(Arc::clone(scheduler), &limits);
        let inference = Inference::new(Arc::clone(scheduler), limits.clone());
        let routes = Routes::new(NameUnserved(service(Arc::clone(scheduler), limits)))
            .add_service(NameUnserved(prediction))
            .add_service(NameUnserved(models))
            .add_service(health)
            .add_service(reflection().build_v1().map_err(broken)?)
            .add_service(reflection().build_v1alpha().map_err(broken)?)
            .prepare();
        Ok((Arc::new(Self { inference, routes, bodies, body_pause }), Health(reporter)))
    }

    /// The answer to `request`, in the trace that it is part of and within the time that it gives.
    pub(crate) fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Answering {
        let (calls, trace) = (Arc::clone(self), TraceContext::of(request.headers()));
        // In a box each, so that what the connection carries about is small whatever the call.
        let answering: Answering = if unary::claims(&request) {
            let arrival = Arrival::new(trace.clone(), &self.bodies);
            Box::pin(async move { unary::answer(&calls.inference, request, arrival, calls.body_pause).await })
        } else {
            let trace = trace.clone();
            Box::pin(async move { calls.routed(request, trace).await.map(Reply::Routed) })
        };
        match trace {
            None => answering,
            Some(trace) => Box::pin(traced(answering, trace)),
        }
    }

    async fn routed(
        &self,
        request: Request<Incoming>,
        trace: Option<Arc<TraceContext>>,
    ) -> Response<tonic::body::Body> {
        let time = time(request.headers());
        let arrival = Arrival::new(trace, &self.bodies);
        let stream = request.uri().path().rsplit('/').next().is_some_and(|call| STREAMS.contains(&call));
        let mut request = request.map(|body| Received::new(body, arrival.clone(), self.body_pause, stream));
        request.extensions_mut().insert(arrival);
        let call = self.routes.clone().call(request);
        let answered = match time {
            None => call.await,
            Some(time) => tokio::time::timeout(time, call).await.unwrap_or_else(|_| {
                Ok(Status::new(Code::DeadlineExceeded, "the call's grpc-timeout passed").into_http())
            }),
        };
        let Ok(response) = answered;
        response
    }
}

async fn traced(answering: Answering, trace: Arc<TraceContext>) -> Response<Reply> {
    let mut response = answering.instrument(trace.span()).await;
    if let Some(told) = trace.response() {
        response.headers_mut().insert(RESPONSE, told);
    }
    response
}

/// The time that the call's `grpc-timeout` gives: it ends whatever takes long. Inference says besides what is wrong with
/// one that is malformed.
fn time(headers: &HeaderMap) -> Option<Duration> {
    deadline::grpc_timeout(headers.get(deadline::TIMEOUT_HEADER)?.to_str().ok()?).ok()
}

/// What the health service tells.
pub(crate) struct Health(HealthReporter);

impl Health {
    /// Keeps it in step with `scheduler` until `shutdown`, then ends it: a watcher sees "not serving" and the end of its
    /// stream, which would otherwise outlive the server.
    pub(crate) async fn report(self, scheduler: Arc<Scheduler>, shutdown: impl Future<Output = ()>) {
        let Self(mut reporter) = self;
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
}

async fn set_health(reporter: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in ["", SERVICE] {
        reporter.set_service_status(name, status).await;
    }
}
