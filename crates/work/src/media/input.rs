//! Where a video is read: a file, or a place elsewhere that a child reaches by way of us.

use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use engine::confine::LOOPBACK;
use engine::{Error, Result};

use super::ffprobe::input_url;
use crate::ranges::{Boxes, Ranges, boxes};

/// ffprobe lists so much in about the time that it takes to start.
const SHORT_BYTES_MAX: u64 = 64 << 20;

/// A video that can be decoded.
#[derive(Clone, Debug)]
pub enum Input {
    /// On this machine.
    File(PathBuf),
    /// Elsewhere, and fetched whole into a file; with what people call it.
    Fetched(PathBuf, String),
    /// Elsewhere, read in ranges.
    Elsewhere(Arc<Ranges>),
}

impl From<&Path> for Input {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<&PathBuf> for Input {
    fn from(path: &PathBuf) -> Self {
        Self::File(path.clone())
    }
}

impl From<&Self> for Input {
    fn from(input: &Self) -> Self {
        input.clone()
    }
}

/// As people call it.
impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Fetched(_, shown) => f.write_str(shown),
            Self::Elsewhere(ranges) => f.write_str(ranges.shown()),
        }
    }
}

impl Input {
    /// The file that it is in, unless it is read where it is.
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) | Self::Fetched(path, _) => Some(path),
            Self::Elsewhere(_) => None,
        }
    }

    /// That nobody reads it any more, so that whoever waits for more of it ends.
    pub(crate) fn close(&self) {
        if let Self::Elsewhere(ranges) = self {
            ranges.close();
        }
    }

    /// Whether its list is all that is waited for, and goes on before anybody decodes what it has read.
    pub(crate) fn awaits_list(&self, is: bool) {
        if let Self::Elsewhere(ranges) = self {
            ranges.awaits_list(is);
        }
    }

    /// Whether it is here, and of a size that is read in a moment.
    pub(super) fn is_short(&self) -> bool {
        self.file().and_then(|path| std::fs::metadata(path).ok()).is_some_and(|file| file.len() <= SHORT_BYTES_MAX)
    }

    /// What ffmpeg calls it.
    pub(super) fn url(&self) -> OsString {
        let Self::Elsewhere(ranges) = self else { return self.file().map(input_url).unwrap_or_default() };
        // An ending tells some containers apart, as it does of a file.
        let ending = Path::new(ranges.shown()).extension().and_then(|ending| ending.to_str());
        let plain = |ending: &&str| ending.len() <= 8 && ending.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let ending = ending.filter(plain).map(|ending| format!(".{ending}")).unwrap_or_default();
        format!("http://{LOOPBACK}/video{ending}").into()
    }

    /// Tells `command`, an ffmpeg or ffprobe, that it is its input and what it may read for that. ffprobe has no `flag`
    /// before it.
    pub(super) fn give(&self, command: &mut Command, flag: Option<&str>) {
        match self {
            Self::File(_) | Self::Fetched(..) => {
                command.args(["-protocol_whitelist", "file,pipe"]);
            }
            Self::Elsewhere(_) => {
                // Whatever the environment says of proxies is of another network.
                for name in ["http_proxy", "no_proxy", "HTTP_PROXY", "NO_PROXY"] {
                    command.env_remove(name);
                }
                command.args(["-protocol_whitelist", "http,tcp,pipe", "-seekable", "1", "-icy", "0"]);
            }
        }
        command.args(flag).arg(self.url());
    }

    /// That there is something to be read.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound), [`InvalidInput`](engine::ErrorKind::InvalidInput).
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::File(path) | Self::Fetched(path, _) => check_file(path, self),
            Self::Elsewhere(ranges) if ranges.bytes() == 0 => Err(empty(self)),
            Self::Elsewhere(_) => Ok(()),
        }
    }

    /// Whether it begins as an MP4 does: with a box that says which kind of one it is.
    ///
    /// # Errors
    /// What keeps it from being read.
    pub(super) fn is_mp4(&self) -> Result<bool> {
        let mut head = [0; 8];
        match self {
            // One that cannot be read says so to whoever decodes it, in words of its own.
            Self::File(path) | Self::Fetched(path, _) => {
                drop(File::open(path).and_then(|file| file.read_exact_at(&mut head, 0)));
            }
            Self::Elsewhere(ranges) if ranges.bytes() >= 8 => ranges.read_exact_at(&mut head, 0)?,
            Self::Elsewhere(_) => {}
        }
        Ok(head.ends_with(b"ftyp"))
    }

    /// Whether it is an MP4 in fragments.
    ///
    /// # Errors
    /// What keeps it from being read.
    pub(super) fn is_in_fragments(&self) -> Result<bool> {
        match self {
            // As above.
            Self::File(path) | Self::Fetched(path, _) => Ok(is_in_fragments(path).unwrap_or(false)),
            Self::Elsewhere(ranges) => {
                let boxes = boxes(ranges.bytes(), &|into, at| ranges.read_exact_at(into, at))?;
                Ok(boxes == Boxes::Fragments)
            }
        }
    }
}

/// Whether a file is an MP4 in fragments.
fn is_in_fragments(path: &Path) -> std::io::Result<bool> {
    let file = File::open(path)?;
    let read = |into: &mut [u8], at: u64| {
        file.read_exact_at(into, at).map_err(|error| Error::unavailable(format!("{}: {error}", path.display())))
    };
    let boxes = boxes(file.metadata()?.len(), &read).map_err(std::io::Error::other)?;
    Ok(boxes == Boxes::Fragments)
}

fn check_file(path: &Path, shown: &Input) -> Result<()> {
    let metadata = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::not_found(format!("video '{shown}' does not exist: check the path")),
        _ => Error::invalid(format!("video '{shown}' cannot be read: {error}")),
    })?;
    if metadata.is_dir() {
        return Err(Error::invalid(format!("'{shown}' is a folder: name a video file in it")));
    }
    if !metadata.is_file() {
        return Err(Error::invalid(format!("'{shown}' is not a regular file: save the video to disk first")));
    }
    if metadata.len() == 0 {
        return Err(empty(shown));
    }
    Ok(())
}

fn empty(shown: &Input) -> Error {
    Error::invalid(format!("video '{shown}' is empty (0 bytes): upload it again"))
}
