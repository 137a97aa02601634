//! Video files in and out, through ffmpeg and ffprobe as child processes: a crash costs one job and nothing native is
//! linked. Every child is watched for progress, and killed and reaped by whoever started it.

use std::ops::Range;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::confine::confine_with_loopback;
use engine::{Error, Result};
use pipeline::{Placement, Resample};

mod child;

mod input;
pub use input::Input;

mod orientation;
pub use orientation::Orientation;

mod ffprobe;
mod headers;

mod probe;
pub use probe::{Colour, Probe, probe};

mod survey;
pub(crate) use survey::outlined;
pub use survey::{Told, survey};

mod filters;

mod frames;
mod scaling;
mod stamps;
pub use frames::{DecodeReport, Frame, Frames};

mod annotate;
pub use annotate::{Annotate, annotate};

mod sheet;
pub use sheet::{SheetPlan, write_png};

#[cfg(test)]
mod clips;
#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod truth;

/// Where the two programs are: a path, or a bare name to be looked up on `PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// Decodes and encodes.
    pub ffmpeg: PathBuf,
    /// Reads a file's headers.
    pub ffprobe: PathBuf,
    /// Whether they run without a network, other processes and a file system to change, within bounds, when they read what
    /// a stranger sent; only programs that are themselves scripts need more.
    pub confined: bool,
}

impl Tools {
    /// `PACKHORSE_FFMPEG` and `PACKHORSE_FFPROBE`, else `ffmpeg` and `ffprobe` on `PATH`; confined, unless
    /// `PACKHORSE_UNCONFINED` is set.
    pub fn from_env() -> Self {
        let named = |variable, program| {
            let value = std::env::var_os(variable).filter(|value| !value.is_empty());
            value.map_or_else(|| PathBuf::from(program), PathBuf::from)
        };
        Self {
            ffmpeg: named("PACKHORSE_FFMPEG", "ffmpeg"),
            ffprobe: named("PACKHORSE_FFPROBE", "ffprobe"),
            confined: std::env::var_os("PACKHORSE_UNCONFINED").is_none_or(|value| value.is_empty()),
        }
    }

    /// Starts both once, so that a missing one is found before any video is touched; says which decoder it is, in
    /// the words of its first line. Programs that were there are not started again by this process: it takes as long as a
    /// short video does.
    ///
    /// # Errors
    /// [`Unavailable`](engine::ErrorKind::Unavailable), naming the program and the fix.
    pub fn check(&self) -> Result<String> {
        // By the tools: a process has hardly ever more than one kind.
        static SAID: Mutex<Vec<(Tools, String)>> = Mutex::new(Vec::new());
        let known = || SAID.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, said)) = known().iter().find(|(tools, _)| tools == self) {
            return Ok(said.clone());
        }
        let mut said = String::new();
        for program in [&self.ffprobe, &self.ffmpeg] {
            let mut command = Command::new(program);
            command.arg("-version").stdin(Stdio::null()).stderr(Stdio::null());
            let output = command.output().map_err(|error| child::cannot_start(program, &error))?;
            said = String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned();
        }
        known().push((self.clone(), said.clone()));
        Ok(said)
    }

    /// Starts ffprobe once as it reads a video that is elsewhere, before it does.
    ///
    /// # Errors
    /// [`Unsupported`](engine::ErrorKind::Unsupported) where it is not to have a network of its own, or does not know how to
    /// use it, with the fix.
    pub fn check_ranges(&self) -> Result<()> {
        if !self.confined {
            return Err(Error::unsupported("decoders run unconfined: unset PACKHORSE_UNCONFINED"));
        }
        let mut command = Command::new(&self.ffprobe);
        let command = command.args(["-hide_banner", "-protocols"]).stdin(Stdio::null()).stderr(Stdio::null());
        let loopback = confine_with_loopback(command, &child::BOUNDS)?;
        let output = command.output().map_err(|error| {
            Error::unsupported(format!(
                "a decoder cannot have a network of its own ({error}): let this user make user namespaces, or a \
                 container's seccomp profile allow unshare(CLONE_NEWUSER | CLONE_NEWNET)"
            ))
        })?;
        loopback.listener()?;
        let protocols = String::from_utf8_lossy(&output.stdout);
        match protocols.lines().any(|line| line.trim() == "http") {
            true => Ok(()),
            false => Err(Error::unsupported("this ffprobe knows no http: install one that is built with it")),
        }
    }
}

/// How a video is to be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decode {
    /// Where every frame lies in what is given out: its size, what is cut, what is filled.
    pub placement: Placement,
    /// What a pixel is made of when the size changes.
    pub resample: Resample,
    /// The longest wait for the next sign of life; afterwards the decoder is killed.
    pub stall_limit: Duration,
    /// Which of its frames.
    pub span: Span,
    /// Which of those.
    pub choice: Choice,
}

/// Which frames of a span are given out; all of them are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Every one.
    #[default]
    All,
    /// Those for which an expression of ffmpeg's `select` is more than zero.
    Where(String),
    /// Those to which others refer, of a codec that [tells them](Probe::tells_references); no others are decoded, or counted.
    References,
    /// Key frames; no others are decoded, or counted.
    KeyFrames,
    /// Key frames as an [index](Probe::has_index) has them, which lie there in the file; nothing else is even read, or counted.
    /// Only the first that comes states its own time: ffmpeg's reader of MP4 keeps no account of what it leaves out.
    IndexedKeys(Arc<[Range<u64>]>),
}

/// Which frames of a video are wanted; by default all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Where the decoder begins: at the last key frame that is shown at this time or before. Without it, at the
    /// video's beginning. What it gives out from there on and is not kept costs its decoding.
    pub seek_us: Option<i64>,
    /// What is kept: frames that are shown in one of these times, which are in order and apart from each other. None at
    /// all means all frames, those without a time too.
    pub keep: Vec<Between>,
    /// So many of what is kept are left out at the beginning.
    pub skip: u64,
    /// So many are kept at most, those that are left out counted.
    pub most: Option<u64>,
}

/// A time in a video.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Between {
    /// Its first microsecond; without it, the video's beginning.
    pub from_us: Option<i64>,
    /// The first microsecond after it; without it, the video's end is in it.
    pub before_us: Option<i64>,
}
