//! ONNX files become packs: the graph is optimised, its weights are lifted out, and what is left is the program.

pub(crate) mod canonical;
pub(crate) mod import;
pub(crate) mod lift;
pub(crate) mod probe;
pub(crate) mod tensor;
pub(crate) mod wire;
