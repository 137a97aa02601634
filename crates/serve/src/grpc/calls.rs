//! [`Calls`]: every call that a connection brings, within the time that it gives itself.

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::body::Body;
use tonic::Status;
use tonic::codegen::{BoxFuture, Service, StdError};
use tonic::service::Routes;

use super::service::Inference;
use super::{convert, unary};

/// Every call: inference the short way, the rest by the services' router.
#[derive(Clone)]
pub(super) struct Calls {
    pub(super) inference: Inference,
    pub(super) rest: Routes,
}

impl<B> Service<Request<B>> for Calls
where
    B: Body<Data = Bytes, Error: Into<StdError> + std::fmt::Display> + Send + 'static,
{
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if !request.headers().contains_key("grpc-timeout") {
            return self.untimed(request);
        }
        let time = time(request.headers());
        let answer = self.untimed(request);
        Box::pin(async move {
            let Some(time) = time else { return answer.await };
            tokio::time::timeout(time, answer)
                .await
                .unwrap_or_else(|_| Ok(Status::deadline_exceeded("the call's deadline passed").into_http()))
        })
    }
}

impl Calls {
    fn untimed<B>(&mut self, request: Request<B>) -> BoxFuture<Response<tonic::body::Body>, Infallible>
    where
        B: Body<Data = Bytes, Error: Into<StdError> + std::fmt::Display> + Send + 'static,
    {
        if unary::claims(&request) {
            let inference = self.inference.clone();
            return Box::pin(async move { Ok(unary::answer(&inference, request).await) });
        }
        // Its router is always ready.
        Box::pin(self.rest.call(request))
    }
}

/// The time that a call gives itself. A header that says it wrong is refused by whoever answers the call.
fn time(headers: &HeaderMap) -> Option<std::time::Duration> {
    convert::grpc_timeout(headers.get("grpc-timeout")?.to_str().ok()?).ok()
}
