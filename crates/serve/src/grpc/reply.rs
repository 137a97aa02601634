//! [`Reply`]: the body of an answer, of either way that a call takes.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};
use tonic::Status;

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Reply {
    /// One message with its frame, and then the status that all went well.
    Message(Bytes),
    /// That status.
    Good,
    /// Nothing more.
    Over,
    /// What the generated services give.
    Routed(tonic::body::Body),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let (next, frame) = match &mut *self {
            Self::Routed(body) => return Pin::new(body).poll_frame(context),
            Self::Message(message) => (Self::Good, Some(Frame::data(std::mem::take(message)))),
            Self::Good => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
                (Self::Over, Some(Frame::trailers(trailers)))
            }
            Self::Over => (Self::Over, None),
        };
        *self = next;
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Routed(body) => body.is_end_stream(),
            Self::Message(_) | Self::Good => false,
            Self::Over => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Routed(body) => body.size_hint(),
            // An answer's length is told by its frame.
            Self::Message(_) | Self::Good | Self::Over => SizeHint::default(),
        }
    }
}
