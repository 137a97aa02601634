//! Hugging Face folders become packs without Python: the program is generated from `config.json`, the weights are the
//! tensors of the safetensors files as they are.
//!
//! `config` says what the model is, `sentence` what a sentence-transformers folder puts behind it; `program` turns both
//! into a graph (`encoder` and `head` hold the mathematics, `graph` the format) and a list of the tensors it wants;
//! `checkpoint` finds these; `import` joins the two. `text` says what the tensors mean to people, and `beside` the same of
//! models that are no such folder and come with a tokenizer.

mod beside;
pub(crate) mod checkpoint;
mod config;
mod encoder;
mod graph;
mod head;
mod import;
mod json;
mod program;
mod sentence;
mod text;

#[cfg(test)]
mod tests;

pub use beside::Beside;
pub(crate) use import::{FORMAT, Folder, came_with, identify, import, is_checkpoint, refuse_other_formats};
