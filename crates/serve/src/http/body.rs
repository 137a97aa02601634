//! [`Parts`]: a response body of a few pieces, so that an output's bytes go out without a copy.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use serde::Serialize;

/// Pieces that are sent one after the other; their total length is known before the first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Parts(VecDeque<Bytes>);

impl Parts {
    /// `pieces` in their order.
    pub(crate) fn new(pieces: impl IntoIterator<Item = Bytes>) -> Self {
        Self(pieces.into_iter().filter(|piece| !piece.is_empty()).collect())
    }

    /// The pieces in their order.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        self.0.iter()
    }

    /// Their length together, in bytes.
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// Everything as one.
    #[cfg(test)]
    pub(crate) fn concat(self) -> Vec<u8> {
        self.0.iter().flatten().copied().collect()
    }
}

impl Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len() as u64)
    }
}

/// A response of one piece.
pub(crate) fn response(status: StatusCode, content_type: &'static str, content: impl Into<Bytes>) -> Response<Parts> {
    let mut response = Response::new(Parts::new([content.into()]));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// `value` as a JSON response.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Parts> {
    match serde_json::to_vec(value) {
        Ok(text) => response(status, "application/json", text),
        Err(error) => {
            tracing::error!(%error, "an answer has no JSON form");
            response(
                StatusCode::INTERNAL_SERVER_ERROR,
                "application/json",
                r#"{"error":"the answer has no JSON form"}"#,
            )
        }
    }
}
