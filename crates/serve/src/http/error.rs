//! The HTTP answer to each kind of error, and to what only HTTP can get wrong.

use engine::{Error, ErrorKind};
use http::header::{ALLOW, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Method, Response, StatusCode};

use super::body::{Parts, json};

/// A message longer than this quotes the request at length; its client knows the rest.
const MESSAGE_BYTES_MAX: usize = 1024;

/// One status for each kind, without a wildcard: a new kind does not compile until it has its answer here.
pub(crate) fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidInput | ErrorKind::FailedPrecondition => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::AlreadyExists => StatusCode::CONFLICT,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        ErrorKind::Cancelled => client_closed_request(),
        ErrorKind::Corrupt | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// 499, which no standard lists and every proxy knows.
fn client_closed_request() -> StatusCode {
    // Three digits are all that a status must be, so the other arm is never taken.
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

/// Why a request is not answered with what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    status: StatusCode,
    message: String,
    header: Option<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), header: None }
    }

    /// 413: `limit` bytes are the most.
    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("the body is larger than {limit} bytes, the most that this server takes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    pub(crate) fn no_such_path(path: &str) -> Self {
        let message = format!("no such path '{path}'; GET /openapi.json lists those that there are");
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(crate) fn wrong_method(method: &Method, path: &str, allow: &'static str) -> Self {
        let message = format!("{path} does not take {method}; use {allow}");
        Self {
            header: Some((ALLOW, HeaderValue::from_static(allow))),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, message)
        }
    }

    /// The answer that a client sees. This is where an error is consumed, so faults of the server are logged here and
    /// nowhere before.
    pub(crate) fn into_response(mut self) -> Response<Parts> {
        let status = self.status;
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = %self.message, "an HTTP request failed");
        } else {
            tracing::debug!(status = status.as_u16(), error = %self.message, "an HTTP request was refused");
        }
        let end = self.message.floor_char_boundary(MESSAGE_BYTES_MAX);
        if end < self.message.len() {
            self.message.truncate(end);
            self.message.push_str(" ...");
        }
        let mut response = json(status, &serde_json::json!({ "error": self.message }));
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let soon = matches!(error.kind, ErrorKind::Exhausted | ErrorKind::Unavailable);
        // The header counts whole seconds, and too late is better than again too early.
        let after_s = error.retry_after.map_or(1, |after| after.as_secs_f64().ceil().max(1.0) as u64);
        let header = soon.then(|| (RETRY_AFTER, HeaderValue::from(after_s)));
        Self { header, ..Self::new(status(error.kind), error.message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(refusal: Refusal, status: u16, header: Option<(&str, &str)>) {
        let response = refusal.into_response();
        assert_eq!(response.status().as_u16(), status);
        for name in ["retry-after", "allow"] {
            let want = header.filter(|header| header.0 == name).map(|header| header.1);
            let got = response.headers().get(name).map(|value| value.to_str().unwrap());
            assert_eq!(got, want, "{name}");
        }
        let body = response.into_body().concat();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let message = body["error"].as_str().unwrap();
        assert!((1..MESSAGE_BYTES_MAX + 8).contains(&message.len()), "{message}");
    }

    #[test]
    fn each_refusal_has_its_status_and_header() {
        for (kind, status, header) in [
            (ErrorKind::InvalidInput, 400, None),
            (ErrorKind::Exhausted, 429, Some(("retry-after", "1"))),
            (ErrorKind::Unavailable, 503, Some(("retry-after", "1"))),
            (ErrorKind::Forbidden, 403, None),
            (ErrorKind::Cancelled, 499, None),
            (ErrorKind::Corrupt, 500, None),
        ] {
            check(Refusal::from(Error::new(kind, "a reason")), status, header);
        }
        for (after_ms, want) in [(0, "1"), (1000, "1"), (1001, "2"), (30_000, "30")] {
            let retry_after = Some(std::time::Duration::from_millis(after_ms));
            let full = Error { retry_after, ..Error::new(ErrorKind::Exhausted, "full") };
            check(Refusal::from(full), 429, Some(("retry-after", want)));
        }
        check(Refusal::wrong_method(&Method::PUT, "/v2", "GET, HEAD"), 405, Some(("allow", "GET, HEAD")));
        check(Refusal::from(Error::invalid("é".repeat(1 << 20))), 400, None);
    }
}
