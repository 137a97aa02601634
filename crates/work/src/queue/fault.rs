//! What SQLite's errors mean to whoever has to mend them.

use std::path::Path;

use engine::{Error, ErrorKind};
use rusqlite::ErrorCode;

/// Says what happened to the queue and what to do about it.
pub(super) fn explain(path: &Path, error: &rusqlite::Error) -> Error {
    let path = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed) => {
            Error::unavailable(format!(
                "queue {path} is locked by another program: end what holds it open, then try again"
            ))
        }
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Error::corrupt(format!(
            "queue {path} is damaged or is no queue ({error}): move the file away and submit the videos again; finished results are not touched"
        )),
        Some(ErrorCode::DiskFull) => Error::new(
            ErrorKind::Exhausted,
            format!("the disk that holds queue {path} is full: free some space, then try again"),
        ),
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => Error::invalid(format!(
            "queue {path} cannot be opened for writing ({error}): correct the permissions of the file and its folder"
        )),
        Some(ErrorCode::SystemIoFailure) => Error::unavailable(format!(
            "queue {path} cannot be read or written ({error}): check the disk that holds it for errors and free space"
        )),
        _ => Error::internal(format!("queue {path}: {error}")),
    }
}
