//! ONNX files become packs: the graph is optimised, its weights are lifted out, and what is left is the program.

pub(crate) mod apart;
pub(crate) mod import;

// From a graph to its program: `sparse`, `names` and `roles` serve `lift`, then come `linear` or, in eight bits,
// `quantise` (both by way of `rewriting` and `made`), and `canonical`; `compile` builds the result, `fit` until it is near
// enough to the original.
pub(crate) mod canonical;
pub(crate) mod compile;
pub(crate) mod cut;
pub(crate) mod fit;
pub(crate) mod joined;
pub(crate) mod laid_out;
pub(crate) mod lift;
mod linear;
pub(crate) mod made;
mod names;
mod quantise;
mod rewriting;
mod roles;
pub(crate) mod sparse;

pub(crate) mod probe;
mod resizes;
pub(crate) mod tables;
pub(crate) mod tensor;
pub(crate) mod wire;

#[cfg(test)]
mod scramble;
