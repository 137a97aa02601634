//! The streams of one connection of HTTP/2, driven by the task that drives the connection. A task for each of them
//! would be scheduled twice for every call, and would wake other threads to come and take it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hyper::rt::Executor;

type Stream = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Takes the streams that a connection opens. Clones take them to the same place.
#[derive(Clone, Default)]
pub(crate) struct Opened(Arc<Mutex<Vec<Stream>>>);

impl<F> Executor<F> for Opened
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        // Pushing is all that happens under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Box::pin(stream));
    }
}

/// A connection together with the streams that it opens.
pub(crate) struct Together<C> {
    pub(crate) connection: Pin<Box<C>>,
    opened: Opened,
    streams: FuturesUnordered<Stream>,
}

impl<C: Future> Together<C> {
    /// Of `connection`, whose streams come to `opened`.
    pub(crate) fn new(connection: C, opened: Opened) -> Self {
        Self { connection: Box::pin(connection), opened, streams: FuturesUnordered::new() }
    }

    /// Whether a stream was opened that has not had its first turn.
    fn take_opened(&mut self) -> bool {
        let mut opened = self.opened.0.lock().unwrap_or_else(PoisonError::into_inner);
        let any = !opened.is_empty();
        self.streams.extend(opened.drain(..));
        any
    }
}

/// Ends with its connection, and with it whatever streams are left: nobody is there for their answers.
impl<C: Future> Future for Together<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<C::Output> {
        loop {
            // First the streams, so that what they have to say goes out with the connection's next write.
            while let Poll::Ready(Some(())) = self.streams.poll_next_unpin(context) {}
            if let Poll::Ready(ended) = self.connection.as_mut().poll(context) {
                return Poll::Ready(ended);
            }
            if !self.take_opened() {
                return Poll::Pending;
            }
        }
    }
}
