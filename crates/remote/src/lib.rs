//! Models that run on another machine: asked in time, within budgets, and never trusted unseen.
//!
//! A [`Remote`] owns connections to a few endpoints. For a model of ours it gives an [`Attachment`]: each endpoint is looked
//! at first (does its signature fit, does it answer a picture as we do), then it is asked. What is sent where, again, twice
//! or not at all is decided in [`policy`], in terms of plain values and a time that it is given; the rest only acts.
//!
//! Knows no video and no scheduler: whoever asks says what is to become of what nobody answered.

mod address;
pub use address::{Address, Wire};

mod security;
pub use security::Security;

mod renewed;

mod failure;
pub use failure::{Failure, FailureKind};

pub mod policy;

mod fit;
pub use fit::Tolerance;

mod wire;

mod remote;
pub use remote::{Remote, Settings};

mod attachment;
pub use attachment::{Answered, Attachment, Model, Unanswered};

mod asking;
mod probing;

mod used;
pub use used::Used;
