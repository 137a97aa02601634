//! [`NameUnserved`]: the answer to a call that no service here has, with the call's name in it.

use std::convert::Infallible;
use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;

/// The code, as a header has it.
const UNIMPLEMENTED: &str = "12";

/// A service, whose bare "unimplemented" it makes say of what.
#[derive(Clone, Debug)]
pub(super) struct NameUnserved<S>(pub(super) S);

impl<S: NamedService> NamedService for NameUnserved<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for NameUnserved<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Response<Body>, Infallible>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // Shared, not copied.
        let uri = request.uri().clone();
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            let headers = response.headers_mut();
            let unimplemented = headers.get("grpc-status").is_some_and(|code| code == UNIMPLEMENTED);
            if unimplemented && !headers.contains_key("grpc-message") {
                let call = uri.path().rsplit('/').next().unwrap_or_default();
                // A path's characters are those that a header takes.
                if let Ok(message) = HeaderValue::from_str(&format!("call '{call}' is not served")) {
                    headers.insert("grpc-message", message);
                }
            }
            Ok(response)
        })
    }
}
