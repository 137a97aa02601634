//! ffprobe, and how it is asked: confined, watched, and without being led to other files.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use engine::{Error, Result};

use super::child::{CONTAINERS, Child, LOG_LEVEL, pipe_failed};
use super::{Input, Tools};
use crate::ranges::View;

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

/// What ffprobe answers.
///
/// # Errors
/// As [`listen`].
pub(super) fn ask(command: &mut Command, (tools, input): (&Tools, &Input)) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut take = |piece: &[u8]| {
        answer.extend_from_slice(piece);
        if answer.len() > ANSWER_BYTES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let told = listen(command, (tools, input, View::Whole), ANSWER_LIMIT, &mut take);
    if answer.len() > ANSWER_BYTES_MAX {
        return Err(too_large(input));
    }
    told.map(|()| answer)
}

/// Of headers without end.
pub(super) fn too_large(input: &Input) -> Error {
    Error::invalid(format!("the headers of '{input}' are too large to be a video's"))
}

/// Hands what ffprobe says of `input` to `take`, until that has enough.
///
/// # Errors
/// As [`probe`]; [`InvalidInput`](engine::ErrorKind::InvalidInput) when it says nothing for `limit`.
pub(super) fn listen(
    command: &mut Command,
    (tools, input, view): (&Tools, &Input, View),
    limit: Duration,
    take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<()> {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = Child::reading(command, tools, (input, view))?;
    let told = hear(&mut child, input, limit, take);
    // Whatever was told of a video that could not be read to its end may be no more than half of it.
    child.fault().map_or(told, Err)
}

fn hear(
    child: &mut Child,
    input: &Input,
    limit: Duration,
    take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<()> {
    let mut enough = false;
    let mut heed = |piece: &[u8]| {
        let flow = take(piece);
        enough = flow.is_break();
        flow
    };
    if !child.read_all(limit, &mut heed).map_err(|error| pipe_failed("ffprobe", error))? {
        return Err(Error::invalid(format!("ffprobe found no answer about '{input}' in {} s", limit.as_secs_f64())));
    }
    if enough {
        return Ok(());
    }
    let ended = child.end(limit).map_err(|error| pipe_failed("ffprobe", error))?;
    if ended.status.success() {
        return Ok(());
    }
    if let Some(cause) = ended.stopped_from_outside() {
        return Err(Error::unavailable(format!("ffprobe was {cause} while it read '{input}'")));
    }
    let reason = child.log().reason("ffprobe gave no reason");
    // It is named already, and not as ffprobe was told of it.
    let named = format!("{}: ", input.url().to_string_lossy());
    let reason = reason.strip_prefix(&named).unwrap_or(&reason);
    // All that is allowed follows, which is more than anybody reads.
    if let Some((format, _)) = reason.split_once(": Format not on whitelist") {
        let format = format.trim_end_matches("_pipe");
        return Err(Error::invalid(format!(
            "'{input}' is none of the containers of video that are read (ffmpeg takes it for {format}): convert it to MP4 or \
             Matroska"
        )));
    }
    Err(Error::invalid(format!(
        "'{input}' is no video that ffmpeg can read ({reason}): check that it is a whole video file"
    )))
}

/// ffprobe, which is to `show` some of the first video stream of `input` that is not cover art.
pub(super) fn ffprobe(tools: &Tools, input: &Input, show: &[&str]) -> Command {
    let mut command = Command::new(&tools.ffprobe);
    command.args(["-hide_banner", "-loglevel", LOG_LEVEL, "-format_whitelist", CONTAINERS]);
    command.args(["-select_streams", "V:0"]).args(show);
    input.give(&mut command, None);
    command
}
