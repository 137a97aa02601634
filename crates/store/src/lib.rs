//! Packs: content-addressed programs, weights and manifests, and the importers that make them.
//!
//! Knows no HTTP server and no scheduler.

pub mod accuracy;
pub mod manifest;
pub mod name;
pub mod picture;
pub mod task;

mod atomic;
mod content;
mod disk;
mod folder;
mod index;
mod inspect;
mod lock;
mod maps;
mod outside;
mod segment;
mod side_by_side;
mod table;
mod used;

mod hf;
pub mod labels;
mod onnx;
pub mod pack;
pub mod padding;
mod place;
mod pointer;
pub mod saved_model;
pub mod specimen;
pub mod torch_script;
pub mod upkeep;
pub mod variant;

mod precision;
mod scratch;
mod serving;
mod whole;

pub mod remote;
pub mod repository;
pub mod untrusted;

pub use folder::{Listed, Store};
pub use hf::Beside;
pub use inspect::{DamagedSegment, Inspection};
pub use manifest::Manifest;
pub use onnx::cut::{Cut, Example, Group, Halves};
pub use onnx::joined::Joined;
pub use onnx::laid_out::Own;
pub use onnx::tables::tables;
pub use precision::Precision;
pub use remote::{Fetched, Remote};
pub use repository::Repository;
pub use scratch::{OwnFolder, Scratch};
pub use serving::{LatencyClass, Serving};
