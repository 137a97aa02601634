//! The readers of what clients send, each by itself and without a server around it, for whoever tries to break them: whatever
//! they are given, they read it or refuse it, in time and memory that its size pays for.

use crate::{grpc, http};

/// A reader, given all of a body.
pub type Reader = fn(&[u8]);

/// Every reader, with the name of what it reads.
pub fn readers() -> impl Iterator<Item = (&'static str, Reader)> {
    http::untrusted::READERS.into_iter().chain(grpc::untrusted::READERS)
}
