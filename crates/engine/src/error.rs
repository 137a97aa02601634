//! The one list of error kinds. The HTTP and gRPC edges each match it exhaustively, so a new kind fails to compile
//! until both have an answer for it.

use std::fmt;
use std::time::Duration;

/// What the caller can do about a failure; the list is closed on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request is wrong and will stay wrong: change it.
    InvalidInput,
    /// The named thing does not exist.
    NotFound,
    /// The named thing exists already with other content.
    AlreadyExists,
    /// The named thing is not in the state that this needs: bring it there first.
    FailedPrecondition,
    /// The request is well formed, but not where or by whom it was sent: send it elsewhere.
    Forbidden,
    /// The request is well formed, but this build, model or runtime cannot do it.
    Unsupported,
    /// A queue, budget or limit is full: try again later.
    Exhausted,
    /// Not ready at present (loading, draining): try again soon.
    Unavailable,
    /// The time limit passed before an answer was ready.
    DeadlineExceeded,
    /// The caller went away.
    Cancelled,
    /// Stored bytes are not what they should be.
    Corrupt,
    /// Anything that is our fault.
    Internal,
}

/// An error a user can act on: it names the thing, the reason and, where there is one, the fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What the caller can do.
    pub kind: ErrorKind,
    /// A sentence without a capital or a full stop, ready to follow a colon.
    pub message: String,
    /// When it is worth trying again, where that can be told.
    pub retry_after: Option<Duration>,
}

/// The result of anything in the engine, the store and the server.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` with `message`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }

    /// [`ErrorKind::InvalidInput`]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// [`ErrorKind::NotFound`]
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// [`ErrorKind::Forbidden`]
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Forbidden, message)
    }

    /// [`ErrorKind::Unsupported`]
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// [`ErrorKind::Unavailable`]
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// [`ErrorKind::Corrupt`]
    pub fn corrupt(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Corrupt, message)
    }

    /// [`ErrorKind::Internal`]
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The same kind, with `what` said first.
    #[must_use]
    pub fn context(self, what: impl fmt::Display) -> Self {
        Self { message: format!("{what}: {}", self.message), ..self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
