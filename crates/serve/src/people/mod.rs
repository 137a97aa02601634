//! What all APIs for people share: the JSON forms of inputs, options and answers, and what they are called.

mod sent;
mod told;
mod words;

pub(crate) use sent::{holds_picture, infer, picture, picture_beside};
pub use told::Told;
pub(crate) use words::{given, input, option, options};
