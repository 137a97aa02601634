//! What both gRPC protocols share: the connection, and what a status says.

use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Error, Result};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use super::connector::{Connector, Door, H2, distrust};
use crate::address::Address;
use crate::failure::{Failure, FailureKind};
use crate::renewed::Renewed;
use crate::security::Secured;

/// Room for what is on its way, in bytes: a frame or two are sent without waiting for word that there is room for more.
const WINDOW_BYTES: u32 = 4 << 20;
/// A connection that is silent for so long is asked whether it lives, and has as long again to say so.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// What to do about an endpoint that wants to know who asks.
pub(super) const ENTRY: &str = "it wants to know who asks: give a token that it takes as --infer-token-file";

/// A connection, and what is shown on it to be let in.
pub(super) type Line = InterceptedService<Channel, Pass>;

/// A connection that is made when it is needed, and again when it was lost.
pub(super) fn line(address: &Address, secured: &Secured, door: &Door, within: Duration) -> Result<Line> {
    let scheme = if address.tls { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{}", address.authority))
        .map_err(|error| Error::invalid(format!("'{}' is no host and port: {error}", address.authority)))?;
    let endpoint = endpoint.connect_timeout(within).initial_stream_window_size(WINDOW_BYTES);
    let endpoint = endpoint.initial_connection_window_size(WINDOW_BYTES);
    let endpoint = endpoint.http2_keep_alive_interval(KEEPALIVE).keep_alive_timeout(KEEPALIVE);
    let channel = endpoint.connect_with_connector_lazy(Connector::new(secured.config(H2), door, within));
    Ok(InterceptedService::new(channel, Pass(secured.token.clone())))
}

/// Shows the token with every call, if there is one.
#[derive(Clone)]
pub(super) struct Pass(Option<Arc<Renewed<http::HeaderValue>>>);

impl Interceptor for Pass {
    fn call(&mut self, mut request: Request<()>) -> std::result::Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let header = token.at(Instant::now()).map_err(|error| Status::internal(error.message))?;
            let value = AsciiMetadataValue::try_from(header.as_bytes());
            let mut value = value.map_err(|_| Status::internal("the token is none"))?;
            value.set_sensitive(true);
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

/// A request that tells the endpoint how much time there is.
pub(super) fn timed<T>(message: T, within: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(within);
    request
}

/// What a status says of its endpoint.
pub(super) fn failure(status: &Status) -> Failure {
    if let Some(why) = status.source().and_then(distrust) {
        return Failure::wrong(why);
    }
    let lost = status.source().is_some_and(|source| source.is::<tonic::transport::Error>() || is_broken(source));
    let late = status.source().is_some_and(|source| causes(source).any(|cause| cause.is::<tonic::TimeoutExpired>()));
    let kind = match status.code() {
        _ if late => FailureKind::Slow,
        Code::Unavailable => FailureKind::Lost,
        Code::ResourceExhausted => FailureKind::Busy,
        Code::DeadlineExceeded => FailureKind::Slow,
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::PermissionDenied
        | Code::Unauthenticated
        | Code::Unimplemented => FailureKind::Wrong,
        Code::Cancelled | Code::Internal | Code::Unknown if lost => FailureKind::Lost,
        Code::Ok | Code::Cancelled | Code::Unknown | Code::Internal | Code::Aborted | Code::DataLoss => {
            FailureKind::Broken
        }
    };
    // gRPC's own word for it (gRFC A6); what is negative means never, which is long.
    let pushback = status.metadata().get("grpc-retry-pushback-ms").and_then(|value| value.to_str().ok());
    let after = pushback.map(|ms| ms.parse().map_or(Duration::MAX, Duration::from_millis));
    let said = status.message();
    let message = match status.source() {
        Some(source) => format!("{said}: {}", innermost(source)),
        None if status.code() == Code::Unauthenticated && said.is_empty() => ENTRY.to_owned(),
        None if status.code() == Code::Unauthenticated => format!("{said}; {ENTRY}"),
        None if said.is_empty() => status.code().to_string(),
        None => said.to_owned(),
    };
    Failure { retry_after: after, ..Failure::new(kind, message) }
}

/// Whether the connection went while a call was on it.
fn is_broken(source: &Cause) -> bool {
    causes(source).any(|cause| cause.is::<std::io::Error>() || cause.is::<hyper::Error>())
}

fn innermost(source: &Cause) -> String {
    causes(source).last().map_or_else(String::new, ToString::to_string)
}

pub(super) type Cause = dyn std::error::Error + 'static;

/// An error, what caused it, and so on.
pub(super) fn causes(error: &Cause) -> impl Iterator<Item = &Cause> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let this = next?;
        next = this.source();
        Some(this)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_is_to_be_done() {
        for (code, want) in [
            (Code::Unavailable, FailureKind::Lost),
            (Code::ResourceExhausted, FailureKind::Busy),
            (Code::DeadlineExceeded, FailureKind::Slow),
            (Code::NotFound, FailureKind::Wrong),
            (Code::Internal, FailureKind::Broken),
            (Code::Unknown, FailureKind::Broken),
        ] {
            let got = failure(&Status::new(code, "why"));
            assert_eq!((got.kind, got.retry_after), (want, None), "{code:?}");
            assert!(got.message.contains("why"));
        }
        for (pushback, want) in [("250", Duration::from_millis(250)), ("-1", Duration::MAX)] {
            let mut status = Status::unavailable("why");
            status.metadata_mut().insert("grpc-retry-pushback-ms", pushback.parse().unwrap());
            assert_eq!(failure(&status).retry_after, Some(want));
        }
    }
}
