//! What all APIs for people share: the JSON forms of inputs, options and answers, and what they are called.

mod face;
mod picture;
mod tensors;
mod told;
mod words;

pub(crate) use face::Face;
pub(crate) use picture::{picture, picture_beside};
pub(crate) use tensors::infer;
pub use told::Told;
pub(crate) use words::{given, input, option, options, takes_words};
