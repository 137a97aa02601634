//! What a model's tensors mean: pictures and text in, answers out.
//!
//! Knows no server, no queue and no file but the manifest's: whoever runs the model hands the tensors through.

pub mod picture;
pub use picture::{Picture, Placement};
pub use store::picture::{Fit, Resample};

pub mod recognise;

mod output;

mod classify;
pub use classify::{Classifier, Embedder};

pub mod detect;
pub use detect::{Detected, Detector};
