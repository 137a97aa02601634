//! The frames of a video or of a span of it, in order, each with the time at which it is to be shown.
//!
//! One ffmpeg decodes and scales. Its standard output carries the pixels, its standard error the complaints, and the
//! times come on a third pipe. All three are read by one `poll` in the caller's own thread, so there is nothing to
//! join; when the caller is slow the pipes fill up and ffmpeg waits.

use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Error, Result};
use pipeline::Planes;

use super::child::{CONTAINERS, Child, Ended, LOG_LEVEL, pipe_failed, read_some, readable};
use super::filters::filters;
use super::probe::FRAME_PIXELS_MAX;
use super::scaling::Scaling;
use super::stamps::{Stamp, Stamps};
use super::{Choice, Decode, Input, Probe, Tools};
use crate::ranges::View;

/// Bytes of pixels that may wait in the pipe; what an ordinary user may ask of the kernel.
const PIPE_BYTES: usize = 1 << 20;
/// Buffers kept for the next frames.
const SPARE_BUFFERS_MAX: usize = 8;

/// One picture of a video.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Counts the frames of the span in the order of presentation, those that were skipped or not chosen too; from 0.
    pub index: u64,
    /// When it is to be shown, in microseconds on the file's own clock; what ffprobe calls `pts_time`.
    pub pts_us: i64,
    /// When the frame of the span before it is; `None` for the first.
    pub previous_us: Option<i64>,
    /// Of the size that [`Decode`] asked for.
    pub planes: Planes,
}

impl Frame {
    /// When it is to be shown, in seconds.
    pub fn pts_s(&self) -> f64 {
        // Below 2^53 microseconds, which is 285 years, the conversion is exact.
        self.pts_us as f64 / 1e6
    }
}

/// What decoding a video came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DecodeReport {
    /// Frames of the span, those that were skipped or not chosen too.
    pub frames: u64,
    /// When the last of them is shown, in microseconds.
    pub last_us: Option<i64>,
    /// Errors that the decoder passed over. Some containers lose their tail in silence, so compare the number of
    /// frames with [`Probe::frames_declared`] as well.
    pub damage_count: u64,
    /// The first of them, in ffmpeg's words.
    pub first_damage: Option<String>,
    /// The decoder's CPU time, scaling included, to 10 ms.
    pub cpu: Duration,
}

/// The frames of one video, from a decoder that runs until this is dropped.
pub struct Frames {
    input: Input,
    child: Child,
    pixels: Option<ChildStdout>,
    stamps: Stamps,
    /// Bytes of a frame that was cut off when the decoder ended.
    left_over_bytes: usize,
    width: u32,
    height: u32,
    frame_bytes: usize,
    /// What is done with a frame that the decoder gives out as it is.
    scaling: Option<Scaling>,
    stall_limit: Duration,
    /// Frames of the span up to the last that was given out.
    given: u64,
    /// Whether the span begins where the video does.
    from_beginning: bool,
    spare: Vec<Vec<u8>>,
}

impl Frames {
    /// Starts to decode the video `input`, which `probe` describes.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a frame size of zero or beyond reason,
    /// [`Unavailable`](engine::ErrorKind::Unavailable) when ffmpeg is missing.
    pub fn open(tools: &Tools, input: impl Into<Input>, probe: &Probe, decode: &Decode) -> Result<Self> {
        let input = input.into();
        let (decode, scaling) = Scaling::of(decode)?;
        let (width, height) = decode.placement.canvas_px;
        let pixel_count = u64::from(width) * u64::from(height);
        if pixel_count == 0 || pixel_count > FRAME_PIXELS_MAX {
            return Err(Error::invalid(format!("cannot decode '{input}' to frames of {width}x{height}")));
        }
        let frame_bytes = usize::try_from(pixel_count * 3).map_err(|error| pipe_failed("ffmpeg", error))?;
        let (stamps, stamps_out) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| Error::unavailable(format!("cannot make a pipe for ffmpeg: {error}")))?;
        let mut command = Command::new(&tools.ffmpeg);
        command.args(["-nostdin", "-hide_banner", "-nostats", "-loglevel", LOG_LEVEL]);
        command.args(["-format_whitelist", CONTAINERS]);
        command.args(["-threads", "1", "-filter_threads", "1", "-copyts", "-noautorotate"]);
        command.arg("-max_pixels").arg(FRAME_PIXELS_MAX.to_string());
        if let Some(from_us) = decode.span.seek_us {
            // Absolute, and what comes before the wanted time is taken out by its time and not by ffmpeg's reckoning.
            command.args(["-seek_timestamp", "1", "-noaccurate_seek", "-ss"]).arg(format!("{from_us}us"));
        }
        if probe.in_fragments && decode.span.seek_us.is_none() && !matches!(decode.choice, Choice::IndexedKeys(_)) {
            // Without a look at every fragment first, which only serves to find one.
            command.args(["-fflags", "+ignidx"]);
        }
        match decode.choice {
            Choice::All | Choice::Where(_) => &mut command,
            Choice::References => command.args(["-skip_frame", "noref"]),
            Choice::KeyFrames => command.args(["-skip_frame", "nokey"]),
            Choice::IndexedKeys(_) => command.args(["-skip_frame", "nokey", "-discard", "nokey"]),
        };
        input.give(&mut command, Some("-i"));
        command.args(["-map", "0:V:0", "-an", "-sn", "-dn"]);
        command.arg("-vf").arg(filters(probe, &decode));
        command.args(["-fps_mode", "passthrough", "-f", "rawvideo", "pipe:1"]);
        // Standard input is free under -nostdin, and it is the one descriptor besides the outputs that a child can be
        // handed without unsafe code: it becomes the pipe on which the filter writes the times.
        let view = match &decode.choice {
            Choice::IndexedKeys(keys) => View::Frames(Arc::clone(keys)),
            _ => View::Whole,
        };
        let mut child =
            Child::reading(command.stdin(Stdio::from(stamps_out)).stdout(Stdio::piped()), tools, (&input, view))?;
        let pixels = child.take_stdout();
        if let Some(pipe) = &pixels {
            // A wish: fewer switches between the two programs. Refused when the user's pipes hold too much already.
            let _ = rustix::pipe::fcntl_setpipe_size(pipe, PIPE_BYTES);
        }
        Ok(Self {
            input,
            child,
            pixels,
            stamps: Stamps::new(stamps, probe.frame_rate, decode.span.skip),
            left_over_bytes: 0,
            width,
            height,
            frame_bytes,
            scaling,
            stall_limit: decode.stall_limit,
            given: decode.span.skip,
            from_beginning: decode.span.seek_us.is_none() && decode.span.skip == 0,
            spare: Vec::new(),
        })
    }

    /// The next frame, or `None` after the last; then [`Frames::finish`] says whether all went well.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when no pixel came for the stall limit; the decoder is dead
    /// then. Of a video that is elsewhere also what keeps it from being read.
    #[expect(clippy::should_implement_trait, reason = "it can fail, and a caller must not walk past that")]
    pub fn next(&mut self) -> Result<Option<Frame>> {
        let next = self.take_next();
        // What it complains of, and what looks like the end, may come of a place that fails.
        let is_in_doubt = !matches!(next, Ok(Some(_))) || self.complaint().is_some();
        match self.child.fault().filter(|_| is_in_doubt) {
            Some(fault) => Err(fault),
            None => next,
        }
    }

    fn take_next(&mut self) -> Result<Option<Frame>> {
        let spare = self.spare.pop().unwrap_or_default();
        let Some(planes) = self.take_planes(spare)? else { return Ok(None) };
        let Some(Stamp { index, pts_us, previous_us }) = self.stamps.kept.pop_front() else {
            return Err(Error::internal(format!(
                "ffmpeg gave no time for frame {} of '{}'",
                self.stamps.frames, self.input
            )));
        };
        self.given = index + 1;
        Ok(Some(Frame { index, pts_us, previous_us, planes }))
    }

    /// The next frame's pixels at their size, in the memory of `bytes`; `None` after the last.
    fn take_planes(&mut self, mut bytes: Vec<u8>) -> Result<Option<Planes>> {
        let Some(mut scaling) = self.scaling.take() else {
            bytes.resize(self.frame_bytes, 0);
            let is_there = self.fill(&mut bytes)?;
            return Ok(is_there.then_some(Planes { width: self.width, height: self.height, bytes }));
        };
        scaling.whole.resize(self.frame_bytes, 0);
        let is_there = self.fill(&mut scaling.whole)?;
        let planes = is_there.then(|| scaling.fitted(bytes));
        self.scaling = Some(scaling);
        planes.transpose()
    }

    /// Takes back the bytes of a frame that is done with, so that their memory serves again.
    pub fn recycle(&mut self, bytes: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS_MAX {
            self.spare.push(bytes);
        }
    }

    /// What the decoder has complained about so far.
    pub fn complaint(&self) -> Option<&str> {
        self.child.log().first()
    }

    /// Waits for the decoder's end and says what it came to. Before the last frame was taken, it stops the decoder.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when a video that was decoded from its beginning has not one
    /// frame, or the decoder crashed, with ffmpeg's first complaint; [`Unavailable`](engine::ErrorKind::Unavailable)
    /// when it was stopped from outside; of a video that is elsewhere also what keeps it from being read.
    pub fn finish(mut self) -> Result<DecodeReport> {
        let limit = if self.pixels.is_some() { Duration::ZERO } else { self.stall_limit };
        let stopped_here = self.pixels.take().is_some();
        let ended = self.child.end(limit).map_err(|error| pipe_failed("ffmpeg", error))?;
        // Of frames that were not chosen it may have spoken after its last picture.
        while !stopped_here && self.stamps.pipe.is_some() {
            self.stamps.read().map_err(|error| pipe_failed("ffmpeg", error))?;
        }
        if let Some(fault) = self.child.fault() {
            return Err(fault);
        }
        if !stopped_here {
            self.check_end(&ended)?;
        }
        let cut_off = u64::from(self.left_over_bytes > 0);
        let failed = u64::from(!stopped_here && !ended.status.success());
        let damage_count = self.child.log().errors().max(cut_off).max(failed);
        let words = || self.child.log().reason(&format!("ffmpeg ended with {}", ended.status));
        Ok(DecodeReport {
            // One that was stopped was ahead of whoever took its frames.
            frames: if stopped_here { self.given } else { self.stamps.frames },
            last_us: self.stamps.last_us,
            damage_count,
            first_damage: (damage_count > 0).then(words),
            cpu: ended.cpu,
        })
    }

    fn check_end(&self, ended: &Ended) -> Result<()> {
        use std::os::unix::process::ExitStatusExt;
        let (shown, frames) = (&self.input, self.stamps.frames);
        if let Some(cause) = ended.stopped_from_outside() {
            return Err(Error::unavailable(format!("ffmpeg was {cause} after {frames} frames of '{shown}'")));
        }
        if let Some(signal) = ended.status.signal() {
            let reason = self.child.log().reason("it said nothing before");
            return Err(Error::invalid(format!(
                "ffmpeg crashed (signal {signal}) after {frames} frames of '{shown}' ({reason}): re-encode the video"
            )));
        }
        if frames == 0 && self.from_beginning {
            let reason = self.child.log().reason("its video stream is empty");
            return Err(Error::invalid(format!(
                "no frame of '{shown}' can be decoded ({reason}): check that the video plays"
            )));
        }
        Ok(())
    }

    /// Fills `frame`; `false` when the decoder ended first.
    fn fill(&mut self, frame: &mut [u8]) -> Result<bool> {
        let failed = |error| pipe_failed("ffmpeg", error);
        let mut filled = 0;
        let mut deadline = Instant::now() + self.stall_limit;
        while filled < frame.len() {
            let Some(pixels) = &mut self.pixels else {
                return Ok(false);
            };
            let watched = [Some(readable(pixels)), self.stamps.pipe.as_ref().map(readable)];
            let Some([has_pixels, has_stamps]) = self.child.wait(watched, deadline).map_err(failed)? else {
                self.pixels = None;
                return Err(self.stalled());
            };
            if has_stamps {
                self.stamps.read().map_err(failed)?;
                // Frames that are not chosen are progress as well.
                deadline = Instant::now() + self.stall_limit;
            }
            if has_pixels {
                match read_some(pixels, &mut frame[filled..]).map_err(failed)? {
                    0 => {
                        self.pixels = None;
                        self.left_over_bytes = filled;
                    }
                    count => filled += count,
                }
                deadline = Instant::now() + self.stall_limit;
            }
        }
        // A time is written before its frame, so it is in the pipe by now.
        while self.stamps.kept.is_empty() && self.stamps.pipe.is_some() {
            let watched = [self.stamps.pipe.as_ref().map(readable)];
            match self.child.wait(watched, deadline).map_err(failed)? {
                Some([true]) => self.stamps.read().map_err(failed)?,
                Some([false]) => {}
                None => return Err(self.stalled()),
            }
        }
        Ok(true)
    }

    fn stalled(&self) -> Error {
        let (limit_s, index) = (self.stall_limit.as_secs_f64(), self.stamps.frames);
        let shown = &self.input;
        let reason = self.child.log().reason("ffmpeg gave no reason");
        Error::invalid(format!(
            "decoding of '{shown}' made no progress for {limit_s} s at frame {index} ({reason}): re-encode the video"
        ))
    }
}
