//! The settings in the words of the parts that obey them.

use std::sync::Arc;

use engine::Result;
use serve::grpc::GrpcLimits;
use serve::http::HttpLimits;
use serve::{QueueLimits, SharedMemory};

use super::Settings;

/// What the listeners take from one peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) http: HttpLimits,
    pub(crate) grpc: GrpcLimits,
}

impl Settings {
    /// The scheduler's bounds.
    pub(crate) fn queue_limits(&self) -> QueueLimits {
        QueueLimits { capacity: self.queue_capacity.size(), time_limit: self.queue_time_limit_s.get() }
    }

    /// The listeners' bounds. What is registered of shared memory over one API is there over the other.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a prefix of shared memory that cannot be one.
    pub(crate) fn limits(&self) -> Result<Limits> {
        let memory = self.shared_memory.as_ref().map(|prefix| SharedMemory::new(prefix.text()).map(Arc::new));
        let shared_memory = memory.transpose()?;
        Ok(Limits {
            http: HttpLimits {
                body_bytes: self.body_bytes_max.size(),
                json_depth: self.json_depth_max.size(),
                tensors: self.tensors_max.size(),
                header_timeout: self.header_timeout_s.get(),
                connections: self.connections_max.size(),
                shared_memory: shared_memory.clone(),
                ..HttpLimits::default()
            },
            grpc: GrpcLimits {
                message_bytes_max: self.body_bytes_max.size(),
                streams_max: self.streams_max.get(),
                shared_memory,
                ..GrpcLimits::default()
            },
        })
    }
}
