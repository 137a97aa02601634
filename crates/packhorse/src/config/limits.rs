//! The settings in the words of the parts that obey them.

use std::sync::Arc;

use engine::Result;
use serve::grpc::GrpcLimits;
use serve::http::HttpLimits;
use serve::{Bodies, Budget, ListenLimits, QueueLimits, SharedMemory};

use super::Settings;
use super::value::Count;

/// What the listeners take from one peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Limits {
    pub(crate) http: HttpLimits,
    pub(crate) grpc: GrpcLimits,
    /// As many as the lanes want when not given.
    pub(crate) network_threads: Option<usize>,
}

impl Settings {
    /// The scheduler's bounds.
    pub(crate) fn queue_limits(&self) -> QueueLimits {
        QueueLimits { capacity: self.queue_capacity.size(), time_limit: self.queue_time_limit_s.get() }
    }

    /// What everything together may take of the memory, in bytes.
    pub(crate) fn memory_budget_bytes(&self) -> u64 {
        self.memory_budget_bytes.bytes().unwrap_or_else(Budget::default_bytes)
    }

    /// What of that requests' bodies may take, in bytes.
    pub(crate) fn bodies_bytes(&self) -> u64 {
        self.bodies_bytes_max.bytes().unwrap_or_else(|| Bodies::default_bytes(self.memory_budget_bytes()))
    }

    /// The listeners' bounds. What is registered of shared memory over one API is there over the other.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a prefix of shared memory that cannot be one.
    pub(crate) fn limits(&self) -> Result<Limits> {
        let memory = self.shared_memory.as_ref().map(|prefix| SharedMemory::new(prefix.text()).map(Arc::new));
        let shared_memory = memory.transpose()?;
        let bodies = Bodies::new(usize::try_from(self.bodies_bytes()).unwrap_or(usize::MAX));
        // A body for which there is never room is too large, which is another answer than "not now".
        let body_bytes = self.body_bytes_max.size().min(bodies.limit_bytes());
        let listen = ListenLimits {
            connections: self.connections_max.size(),
            streams: self.streams_max.get(),
            header_timeout: self.header_timeout_s.get(),
            body_pause: self.read_timeout_s.get(),
            keepalive_interval: self.keepalive_s.get(),
            ..ListenLimits::default()
        };
        Ok(Limits {
            http: HttpLimits {
                body_bytes,
                json_depth: self.json_depth_max.size(),
                tensors: self.tensors_max.size(),
                listen: listen.clone(),
                bodies: Arc::clone(&bodies),
                shared_memory: shared_memory.clone(),
                management: None,
            },
            grpc: GrpcLimits { message_bytes_max: body_bytes, listen, bodies, shared_memory, ..GrpcLimits::default() },
            network_threads: self.network_threads.map(Count::size),
        })
    }
}
