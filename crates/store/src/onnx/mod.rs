//! ONNX files become packs: the graph is optimised, its weights are lifted out, and what is left is the program.

pub(crate) mod import;

// From a graph to its program: `sparse`, `names` and `roles` serve `lift`, then come `linear` and `canonical`.
pub(crate) mod canonical;
mod lift;
mod linear;
mod names;
mod roles;
mod sparse;

pub(crate) mod probe;
pub(crate) mod tensor;
pub(crate) mod wire;

#[cfg(test)]
mod scramble;
