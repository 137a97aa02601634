//! Packs: content-addressed programs, weights and manifests, and the importers that make them.
//!
//! Knows no HTTP server and no scheduler.

pub mod manifest;
pub mod name;
pub mod task;
pub mod variant;

mod atomic;
mod folder;
mod segment;

pub mod labels;
mod onnx;
pub mod pack;

pub use folder::Store;
pub use manifest::Manifest;
