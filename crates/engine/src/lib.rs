//! Tensors, signatures and the inference runtimes that compute them.
//!
//! The leaf of the house: it knows no files of ours, no HTTP, no queue. A runtime is a shared library found at run
//! time and never linked, its types do not leave its module, and every `unsafe` block of the project is in this crate.

mod error;
pub use error::{Error, ErrorKind, Result};

mod tensor;
pub use tensor::{DataType, Tensor, element_count, strings_from_wire, strings_to_wire};

mod signature;
pub use signature::{Signature, TensorSpec};

mod functions;

mod runtime;
pub use runtime::{Engine, Extra, LaidOut, Load, Outlet, SavedModel, Session, TorchScript, Weights};

pub mod blocks;
pub mod confine;
pub mod cpu;
pub mod map;
pub mod memory;
pub mod onnx;
pub mod tensorflow;
pub mod torch;

mod runtimes;
pub use runtimes::{Libraries, Runtimes};
