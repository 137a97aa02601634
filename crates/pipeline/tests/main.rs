//! Pipelines over real models, as whoever runs them sees both ends.

#![expect(clippy::unwrap_used, reason = "the whole of this crate is tests")]

mod text;
