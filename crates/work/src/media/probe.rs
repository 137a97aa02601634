//! What a video file says of itself, by ffprobe.

use std::ffi::OsString;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use engine::{Error, Result};
use serde::Deserialize;

use super::Tools;
use super::child::{CONTAINERS, Child, LOG_LEVEL, pipe_failed};

/// How long ffprobe may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The answer is a few kilobytes; more than this is an attack.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// The largest frame that is decoded: twice 8K.
pub(super) const FRAME_PIXELS_MAX: u64 = 64 << 20;

/// The first video stream of a file that is not cover art.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// ffmpeg's names of the container, with commas between them, for example `matroska,webm`.
    pub container: String,
    /// ffmpeg's name of the codec, for example `h264`.
    pub codec: String,
    /// What the container counts time in: seconds a tick, as a fraction.
    pub tick_s: (i64, i64),
    /// Pixels across as displayed: after rotation; the sample aspect ratio is not applied.
    pub width: u32,
    /// Pixels down, likewise.
    pub height: u32,
    /// The display matrix's rotation as ffprobe states it, -180 to 180; the decoder applies it.
    pub rotation_degrees: f64,
    /// Average frames per second.
    pub frame_rate: Option<f64>,
    /// Of the stream, else of the file, in seconds.
    pub duration_s: Option<f64>,
    /// The number of frames that the file claims to have; what is decoded may differ.
    pub frames_declared: Option<u64>,
}

#[cfg(test)]
impl Probe {
    /// An H.264 video in MP4.
    pub(crate) fn example() -> Self {
        Self {
            container: "mov,mp4,m4a,3gp,3g2,mj2".to_owned(),
            codec: "h264".to_owned(),
            tick_s: (1, 12_800),
            width: 64,
            height: 48,
            rotation_degrees: 0.0,
            frame_rate: Some(25.0),
            duration_s: Some(10.0),
            frames_declared: Some(250),
        }
    }
}

/// Reads the headers of the video at `path`.
///
/// # Errors
/// [`NotFound`](engine::ErrorKind::NotFound) when there is no such file, [`InvalidInput`](engine::ErrorKind::InvalidInput) when it
/// holds no video that can be decoded, [`Unavailable`](engine::ErrorKind::Unavailable) when ffprobe is missing.
pub fn probe(tools: &Tools, path: &Path) -> Result<Probe> {
    check_file(path)?;
    let answer = ask(ffprobe(tools, path).args(["-show_streams", "-show_format", "-of", "json"]), path)?;
    let answer: Answer = serde_json::from_slice(&answer)
        .map_err(|error| Error::internal(format!("ffprobe's answer about '{}' is no JSON: {error}", path.display())))?;
    answer.into_probe(path)
}

/// `path` as ffmpeg takes it: nothing in a name can make it an option or another protocol.
pub(super) fn input_url(path: &Path) -> OsString {
    let mut url = OsString::from("file:");
    url.push(path);
    url
}

fn check_file(path: &Path) -> Result<()> {
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

fn ask(command: &mut Command, path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let mut answer = Vec::new();
    let mut take = |piece: &[u8]| {
        answer.extend_from_slice(piece);
        if answer.len() > ANSWER_BYTES_MAX { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let told = listen(command, path, ANSWER_LIMIT, &mut take);
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
    path: &Path,
    limit: Duration,
    take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
) -> Result<()> {
    let shown = path.display();
    let mut child = Child::spawn(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
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

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    streams: Vec<Stream>,
    #[serde(default)]
    format: Format,
}

#[derive(Default, Deserialize)]
struct Format {
    format_name: Option<String>,
    duration: Option<String>,
}

#[derive(Deserialize)]
struct Stream {
    codec_name: Option<String>,
    width: Option<i64>,
    height: Option<i64>,
    avg_frame_rate: Option<String>,
    r_frame_rate: Option<String>,
    time_base: Option<String>,
    duration: Option<String>,
    nb_frames: Option<String>,
    #[serde(default)]
    side_data_list: Vec<SideData>,
}

#[derive(Deserialize)]
struct SideData {
    rotation: Option<f64>,
}

impl Answer {
    fn into_probe(self, path: &Path) -> Result<Probe> {
        let shown = path.display();
        let Format { format_name, duration: format_duration } = self.format;
        let Some(stream) = self.streams.into_iter().next() else {
            return Err(Error::invalid(format!("'{shown}' has no video stream: choose a file that holds video")));
        };
        let side = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
        let (width, height) = (side(stream.width), side(stream.height));
        if width == 0 || height == 0 {
            return Err(Error::invalid(format!(
                "the video stream of '{shown}' states no picture size: it is damaged or holds no frames"
            )));
        }
        if u64::from(width) * u64::from(height) > FRAME_PIXELS_MAX {
            return Err(Error::invalid(format!(
                "the frames of '{shown}' have {width}x{height} pixels, more than {FRAME_PIXELS_MAX} in all: scale the video down"
            )));
        }
        let rotation_degrees = stream.side_data_list.iter().find_map(|data| data.rotation).unwrap_or(0.0);
        let (width, height) = if turns_sideways(rotation_degrees) { (height, width) } else { (width, height) };
        let rate = |text: &Option<String>| text.as_deref().and_then(ratio);
        let seconds = |text: Option<String>| text?.parse().ok().filter(|s: &f64| s.is_finite() && *s > 0.0);
        Ok(Probe {
            container: format_name.unwrap_or_else(|| "unknown".to_owned()),
            tick_s: stream.time_base.as_deref().and_then(fraction).unwrap_or((1, 1_000_000)),
            codec: stream.codec_name.unwrap_or_else(|| "unknown".to_owned()),
            width,
            height,
            rotation_degrees,
            frame_rate: rate(&stream.avg_frame_rate).or_else(|| rate(&stream.r_frame_rate)),
            duration_s: seconds(stream.duration).or_else(|| seconds(format_duration)),
            frames_declared: stream.nb_frames.and_then(|text| text.parse().ok()),
        })
    }
}

/// Whether ffmpeg swaps the sides when it honours this rotation: it takes a quarter turn within one degree for one.
fn turns_sideways(degrees: f64) -> bool {
    (degrees.rem_euclid(180.0) - 90.0).abs() < 1.0
}

/// The parts of `1/90000`, when both are above zero.
fn fraction(text: &str) -> Option<(i64, i64)> {
    let (above, below) = text.split_once('/')?;
    let (above, below) = (above.parse().ok()?, below.parse().ok()?);
    (above > 0 && below > 0).then_some((above, below))
}

/// The value of `30000/1001`, when it is a number above zero.
fn ratio(text: &str) -> Option<f64> {
    let (above, below) = text.split_once('/')?;
    let value = above.parse::<f64>().ok()? / below.parse::<f64>().ok()?;
    (value.is_finite() && value > 0.0).then_some(value)
}
