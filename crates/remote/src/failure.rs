//! What can become of a call, in terms of what is to be done about it.

use std::fmt;
use std::time::Duration;

/// What a failed call says of its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Nobody is there, or the connection went: another call may find somebody.
    Lost,
    /// It is there and has no room at present.
    Busy,
    /// No answer in time.
    Slow,
    /// It could not do what it should; asking again is not known to help.
    Broken,
    /// It says that the question is wrong, or its answer is none to this question: it is not what it was taken for.
    Wrong,
}

impl FailureKind {
    /// Whether the same question may be asked again.
    pub fn may_pass(self) -> bool {
        matches!(self, Self::Lost | Self::Busy)
    }
}

/// A call that was not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What that says of the endpoint.
    pub kind: FailureKind,
    /// In the endpoint's words, or in ours.
    pub message: String,
    /// How long the endpoint wants to be left alone.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure of `kind`.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }

    /// [`FailureKind::Wrong`]
    pub(crate) fn wrong(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Wrong, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
