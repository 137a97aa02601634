//! What a model's tensors mean: pictures and text in, answers out.
//!
//! A task of a packed model is a [`Pipeline`]: what a person gives ([`Input`], [`Options`]) becomes rows of tensors, each
//! a request to the model, and the outputs become an [`Answer`], which is plain data. Knows no server, no queue and no
//! file but the store's: whoever runs the model hands the tensors through.

mod input;
pub use input::{Input, Options, Setting};

mod answer;
pub use answer::{Answer, Class, Entity, Filling, Object, Passage};

mod pipeline;
pub use pipeline::{Finish, Pipeline, Prepared, open};

mod tokens;
pub use tokens::Tokenizers;
mod text;

pub mod picture;
pub use picture::{Picture, Placement, Planes, fit_planes};
pub use store::picture::{Fit, Resample};

pub mod recognise;

mod output;

mod classify;
pub use classify::{Classifier, Embedder};

mod sight;

pub mod detect;
pub use detect::{Detected, Detector};
