//! The gRPC answer to each kind of error.

use engine::{Error, ErrorKind};
use tonic::{Code, Status};

/// The status that a client sees. This is where an error is consumed, so faults of the server are logged here and
/// nowhere before.
pub(super) fn status(error: Error) -> Status {
    let code = code(error.kind);
    match error.kind {
        ErrorKind::Corrupt | ErrorKind::Internal => tracing::error!(%code, error = %error, "a gRPC call failed"),
        _ => tracing::debug!(%code, error = %error, "a gRPC call was refused"),
    }
    Status::new(code, error.message)
}

/// One code for each kind, without a wildcard: a new kind does not compile until it has its answer here.
///
/// Public clients retry [`Code::Unavailable`] by themselves, so it is kept for what a moment cures; a full queue is
/// [`Code::ResourceExhausted`], which asks them to send less.
fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidInput => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::AlreadyExists => Code::AlreadyExists,
        ErrorKind::FailedPrecondition => Code::FailedPrecondition,
        ErrorKind::Forbidden => Code::PermissionDenied,
        ErrorKind::Unsupported => Code::Unimplemented,
        ErrorKind::Exhausted => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorKind::Cancelled => Code::Cancelled,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Internal => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_travels_with_the_code() {
        let status = status(Error::not_found("no model 'a': see the server's metadata for the names it has"));
        assert_eq!(status.code(), Code::NotFound);
        assert_eq!(status.message(), "no model 'a': see the server's metadata for the names it has");
    }
}
