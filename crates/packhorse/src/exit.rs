//! Exit codes: 0 done, 1 the work failed, 2 wrong usage or configuration.

use std::io::Write;
use std::process::ExitCode;

use engine::{Error, ErrorKind};

/// Why a subcommand ends without success.
#[derive(Debug)]
pub(crate) enum Exit {
    /// What was asked for could not be done.
    Failed(String),
    /// It was asked for in a way, or in surroundings, in which it cannot even be tried.
    Configuration(String),
}

impl Exit {
    /// Says why on standard error, and gives the code.
    pub(crate) fn report(self) -> ExitCode {
        let (code, reason) = match self {
            Self::Failed(reason) => (1, reason),
            Self::Configuration(reason) => (2, reason),
        };
        // Standard error may be closed; the code still tells.
        let _ = writeln!(std::io::stderr(), "packhorse: {reason}");
        ExitCode::from(code)
    }

    /// Why, for a person.
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Failed(reason) | Self::Configuration(reason) => reason,
        }
    }

    /// `error` happened while the surroundings were looked at, before any work.
    pub(crate) fn configuration(error: &Error) -> Self {
        match error.kind {
            // A lock that is held or a disk that is full is no mistake of whoever typed the command.
            ErrorKind::Exhausted | ErrorKind::Unavailable | ErrorKind::DeadlineExceeded | ErrorKind::Internal => {
                Self::Failed(error.message.clone())
            }
            _ => Self::Configuration(error.message.clone()),
        }
    }
}

impl From<Error> for Exit {
    fn from(error: Error) -> Self {
        Self::Failed(error.message)
    }
}

impl From<std::io::Error> for Exit {
    fn from(error: std::io::Error) -> Self {
        Self::Failed(format!("standard output: {error}"))
    }
}
