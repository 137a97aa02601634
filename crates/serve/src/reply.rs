//! Where an answer goes.

use std::sync::mpsc::SyncSender;

use engine::Result;
use tokio::sync::oneshot;

use crate::InferResponse;

/// Where an answer goes.
pub trait Reply: Send {
    /// Whether nobody waits for it any more.
    fn gone(&self) -> bool;
    /// Whether the CPU time of the run is wanted, which takes two calls into the kernel.
    fn wants_cpu_time(&self) -> bool {
        false
    }
    /// Gives the answer; called once.
    fn send(self: Box<Self>, answer: Result<InferResponse>);
}

impl Reply for oneshot::Sender<Result<InferResponse>> {
    fn gone(&self) -> bool {
        self.is_closed()
    }

    fn send(self: Box<Self>, answer: Result<InferResponse>) {
        // The receiver may have gone in the meantime; then the answer is nobody's.
        let _ = (*self).send(answer);
    }
}

impl Reply for SyncSender<Result<InferResponse>> {
    fn gone(&self) -> bool {
        false
    }

    fn send(self: Box<Self>, answer: Result<InferResponse>) {
        let _ = SyncSender::send(&self, answer);
    }
}
