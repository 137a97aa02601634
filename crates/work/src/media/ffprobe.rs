//! ffprobe, and how it is asked: confined, watched, and without being led to other files.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use engine::{Error, Result};

use super::Tools;
use super::child::{CONTAINERS, Child, LOG_LEVEL, pipe_failed};

/// How long ffprobe may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The answer is a few kilobytes; more than this is an attack.
pub(super) const ANSWER_BYTES_MAX: usize = 4 << 20;
/// `path` as ffmpeg takes it: nothing in a name can make it an option or another protocol.
pub(super) fn input_url(path: &Path) -> OsString {
    let mut url = OsString::from("file:");
    url.push(path);
    url
}

pub(super) fn check_file(path: &Path) -> Result<()> {
    let shown = path.display();
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
        return Err(Error::invalid(format!("video '{shown}' is empty (0 bytes): upload it again")));
    }
    Ok(())
}

/// What ffprobe answers.
///
/// # Errors
/// As [`listen`].
pub(super) fn ask(command: &mut Command, (tools, path): (&Tools, &Path)) -> Result<Vec<u8>> {
    let shown = path.display();
    let mut answer = Vec::new();
    let mut take = |piece: &[u8]| {
        answer.extend_from_slice(piece);
        if answer.len() > ANSWER_BYTES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let told = listen(command, (tools, path), ANSWER_LIMIT, &mut take);
    if answer.len() > ANSWER_BYTES_MAX {
        return Err(Error::invalid(format!("the headers of '{shown}' are too large to be a video's")));
    }
    told.map(|()| answer)
}

/// Hands what ffprobe says of the file at `path` to `take`, until that has enough.
///
/// # Errors
/// As [`probe`]; [`InvalidInput`](engine::ErrorKind::InvalidInput) when it says nothing for `limit`.
pub(super) fn listen(
    command: &mut Command,
    (tools, path): (&Tools, &Path),
    limit: Duration,
    take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<()> {
    let shown = path.display();
    let mut child = Child::confined(command.stdin(Stdio::null()).stdout(Stdio::piped()), tools)?;
    let mut enough = false;
    let mut heed = |piece: &[u8]| {
        let flow = take(piece);
        enough = flow.is_break();
        flow
    };
    if !child.read_all(limit, &mut heed).map_err(|error| pipe_failed("ffprobe", error))? {
        return Err(Error::invalid(format!("ffprobe found no answer about '{shown}' in {} s", limit.as_secs_f64())));
    }
    if enough {
        return Ok(());
    }
    let ended = child.end(limit).map_err(|error| pipe_failed("ffprobe", error))?;
    if ended.status.success() {
        return Ok(());
    }
    if let Some(cause) = ended.stopped_from_outside() {
        return Err(Error::unavailable(format!("ffprobe was {cause} while it read '{shown}'")));
    }
    let reason = child.log().reason("ffprobe gave no reason");
    Err(Error::invalid(format!(
        "'{shown}' is no video that ffmpeg can read ({reason}): check that it is a whole video file"
    )))
}

/// ffprobe on the first video stream of the file at `path` that is not cover art; what to show of it is still to be said.
pub(super) fn ffprobe(tools: &Tools, path: &Path) -> Command {
    let mut command = Command::new(&tools.ffprobe);
    command.args(["-hide_banner", "-loglevel", LOG_LEVEL, "-protocol_whitelist", "file,pipe"]);
    command.args(["-format_whitelist", CONTAINERS, "-select_streams", "V:0"]).arg(input_url(path));
    command
}
