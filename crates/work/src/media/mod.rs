//! Video files in and out, through ffmpeg and ffprobe as child processes: a crash costs one job and nothing native is
//! linked. Every child is watched for progress, and killed and reaped by whoever started it.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use engine::Result;
use pipeline::Fit;
use store::task::Channels;

mod child;

mod probe;
pub use probe::{Probe, probe};

mod frames;
pub use frames::{DecodeReport, Frame, Frames};

mod draw;
pub use draw::Mark;

mod annotate;
pub use annotate::{Annotate, annotate};

mod sheet;
pub use sheet::SheetPlan;

#[cfg(test)]
mod clips;

/// Where the two programs are: a path, or a bare name to be looked up on `PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// Decodes and encodes.
    pub ffmpeg: PathBuf,
    /// Reads a file's headers.
    pub ffprobe: PathBuf,
}

impl Tools {
    /// `PACKHORSE_FFMPEG` and `PACKHORSE_FFPROBE`, else `ffmpeg` and `ffprobe` on `PATH`.
    pub fn from_env() -> Self {
        let named = |variable, program| {
            let value = std::env::var_os(variable).filter(|value| !value.is_empty());
            value.map_or_else(|| PathBuf::from(program), PathBuf::from)
        };
        Self { ffmpeg: named("PACKHORSE_FFMPEG", "ffmpeg"), ffprobe: named("PACKHORSE_FFPROBE", "ffprobe") }
    }

    /// Starts both once, so that a missing one is found before any video is touched.
    ///
    /// # Errors
    /// [`Unavailable`](engine::ErrorKind::Unavailable), naming the program and the fix.
    pub fn check(&self) -> Result<()> {
        for program in [&self.ffprobe, &self.ffmpeg] {
            let mut command = Command::new(program);
            command.arg("-version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().map_err(|error| child::cannot_start(program, &error))?;
        }
        Ok(())
    }
}

/// How a video is to be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decode {
    /// The size of every frame.
    pub size: Fit,
    /// The order of a pixel's three bytes.
    pub channels: Channels,
    /// The longest wait for the next sign of life; afterwards the decoder is killed.
    pub stall_limit: Duration,
}
