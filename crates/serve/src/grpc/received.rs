//! [`Received`]: a call's body as it arrives, counted against the memory for bodies, and given up when it stands still.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use engine::{Error, ErrorKind};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::status::status;
use crate::{Bodies, Held, Origin, TraceContext};

/// What a call brings besides its messages; travels with it to whoever answers it.
#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) trace: Option<Arc<TraceContext>>,
    /// Grown by the body as it arrives; taken by whoever answers a message that is whole. Never locked for longer.
    held: Arc<Mutex<Held>>,
}

impl Arrival {
    /// Of a call whose body takes its share of `bodies`.
    pub(super) fn new(trace: Option<Arc<TraceContext>>, bodies: &Arc<Bodies>) -> Self {
        Self { trace, held: Arc::new(Mutex::new(bodies.share())) }
    }

    /// What a message that has just become whole brings: the trace, and what arrived since the last one. That may be
    /// a frame too much, which is set right when the message was read.
    pub(super) fn origin(&self) -> Origin {
        Origin { trace: self.trace.clone(), held: self.with(Held::take) }
    }

    fn with<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        // A share is a number, whatever panicked.
        change(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A body that counts what arrives and knows how long it may pause.
pub(super) struct Received<B> {
    body: B,
    arrival: Arrival,
    pause: Duration,
    /// Whether the peer may say nothing for as long as it likes between messages.
    stream: bool,
    /// Set while the peer is waited for.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<B> Received<B> {
    /// `body`, whose peer may `pause` for so long: within a message when it is a `stream` of them, else at any time.
    pub(super) fn new(body: B, arrival: Arrival, pause: Duration, stream: bool) -> Self {
        Self { body, arrival, pause, stream, patience: None }
    }

    /// Ready when the peer was waited for too long.
    fn overdue(&mut self, context: &mut Context<'_>) -> Poll<Status> {
        let arrived = self.arrival.with(|held| held.bytes());
        if self.stream && arrived == 0 {
            self.patience = None;
            return Poll::Pending;
        }
        let pause = self.pause;
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + pause)));
        ready!(patience.as_mut().poll(context));
        let message = format!("nothing of the message came for {} s; {arrived} bytes had come", pause.as_secs_f64());
        Poll::Ready(status(Error::new(ErrorKind::DeadlineExceeded, message)))
    }
}

impl<B> Body for Received<B>
where
    B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => frame,
            Poll::Pending => return self.overdue(context).map(|status| Some(Err(status))),
        };
        self.patience = None;
        let Some(frame) = frame else { return Poll::Ready(None) };
        // A peer that breaks off is none that waits for an answer.
        let frame = frame.map_err(|error| Status::cancelled(format!("the call broke off: {error}")))?;
        if let Some(data) = frame.data_ref()
            && let Err(error) = self.arrival.with(|held| held.grow(data.len()))
        {
            return Poll::Ready(Some(Err(status(error))));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
