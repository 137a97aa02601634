//! The video again, with the detections drawn on it: H.264 in MP4 that browsers play, and the contact sheet with it.

use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use engine::{Error, ErrorKind, Result};
use pipeline::picture::draw::{Canvas, Figure, Mark, zoom_for};
use pipeline::{Fit, Placement, Resample};
use rustix::event::PollFlags;

use super::child::{Child, LOG_LEVEL, pipe_failed};
use super::ffprobe::input_url;
use super::sheet::{Sheet, SheetPlan};
use super::{Choice, Decode, Frames, Input, Probe, Span, Tools};

/// The longest wait for a sign of life from decoder or encoder.
const STALL_LIMIT: Duration = Duration::from_secs(60);
/// The end takes longer: the encoder empties its look-ahead and moves the index to the front of the file.
const END_LIMIT: Duration = Duration::from_secs(600);
/// The encoder's clock; MPEG's own, so that a player gets it without rounding of its own.
const ENCODER_TICKS_PER_S: f64 = 90_000.0;

/// Threads of the encoder, on any machine.
const ENCODER_THREADS: &str = "4";

/// A second pass over a video.
#[derive(Clone, Debug)]
pub struct Annotate<'a> {
    /// The programs.
    pub tools: &'a Tools,
    /// The video that was scored.
    pub source: Input,
    /// What [`super::probe()`] said of it.
    pub probe: &'a Probe,
    /// The MP4 to write, over whatever is there.
    pub video: Option<&'a Path>,
    /// What is drawn on every frame.
    pub figures: &'a [Figure],
    /// The contact sheet to write in the same pass.
    pub sheet: Option<&'a SheetPlan>,
}

/// Draws what `marks` answers for each frame's index, keeps every frame and its time (counted from the first frame),
/// and tells `progress` how many frames are done. Returns their number. An error of `marks` ends it. A side of odd length gains a black line.
///
/// # Errors
/// Those of [`Frames`]; [`Exhausted`](ErrorKind::Exhausted) when the disk is full; [`Internal`](ErrorKind::Internal)
/// with the encoder's reason when it fails. What was written so far is removed.
pub fn annotate(
    job: &Annotate<'_>,
    marks: &mut dyn FnMut(u64) -> Result<Vec<Mark>>,
    progress: &mut dyn FnMut(u64),
) -> Result<u64> {
    let done = run(job, marks, progress);
    if done.is_err() {
        for path in [job.video, job.sheet.map(|plan| plan.path.as_path())].into_iter().flatten() {
            // It may not have come to be; the error that matters is the one in hand.
            let _ = std::fs::remove_file(path);
        }
    }
    done
}

fn run(
    job: &Annotate<'_>,
    marks: &mut dyn FnMut(u64) -> Result<Vec<Mark>>,
    progress: &mut dyn FnMut(u64),
) -> Result<u64> {
    let placement = Placement::of(Fit::Source, (job.probe.width, job.probe.height))?;
    let (span, choice) = (Span::default(), Choice::All);
    let decode = Decode { placement, resample: Resample::Bilinear, stall_limit: STALL_LIMIT, span, choice };
    let (width, height) = (job.probe.width as usize, job.probe.height as usize);
    let mut frames = Frames::open(job.tools, &job.source, job.probe, &decode)?;
    let mut encoder = job.video.map(|video| Encoder::start(job, video)).transpose()?;
    let mut sheet = job.sheet.map(|plan| Sheet::new(plan, width, height));
    while let Some(frame) = frames.next()? {
        let marks = marks(frame.index)?;
        if let Some(sheet) = &mut sheet {
            sheet.offer(&frame, job.figures, &marks);
        }
        if let Some(encoder) = &mut encoder {
            let mut picture = frame.planes.to_picture();
            let zoom = zoom_for(picture.width, picture.height);
            let mut canvas = Canvas::new(&mut picture.pixels, width, height);
            canvas.figures(job.figures, [1.0, 1.0], zoom);
            canvas.marks(&marks, [1.0, 1.0], zoom);
            encoder.write(frame.pts_s(), &picture.pixels)?;
        }
        progress(frame.index + 1);
        frames.recycle(frame.planes.bytes);
    }
    let report = frames.finish()?;
    encoder.map_or(Ok(()), Encoder::finish)?;
    sheet.map_or(Ok(()), Sheet::write)?;
    Ok(report.frames)
}

/// An ffmpeg that compresses the frames written to it.
///
/// They travel as IVF, the smallest container that has a time for each frame: 12 bytes before the pixels. It knows
/// RGB only with a fourth byte.
struct Encoder<'a> {
    child: Child,
    stdin: Option<ChildStdin>,
    video: &'a Path,
    packet: Vec<u8>,
    first_s: Option<f64>,
    next_tick: u64,
}

impl<'a> Encoder<'a> {
    fn start(job: &Annotate<'_>, video: &'a Path) -> Result<Self> {
        let mut command = Command::new(&job.tools.ffmpeg);
        command.args(["-y", "-hide_banner", "-nostats", "-loglevel", LOG_LEVEL, "-f", "ivf", "-i", "pipe:0"]);
        // Colours are converted as the tags say, or a browser would guess by the picture's size.
        let filters = "pad=ceil(iw/2)*2:ceil(ih/2)*2,scale=out_color_matrix=bt709:out_range=tv,format=yuv420p";
        command.args(["-vf", filters, "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]);
        command.args(["-color_range", "tv", "-fps_mode", "passthrough", "-enc_time_base", "1:90000"]);
        command.args(["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]);
        // What comes out depends on the number of threads, which must not depend on the machine.
        command.args(["-threads", ENCODER_THREADS, "-fflags", "+bitexact", "-flags:v", "+bitexact"]);
        command.args(["-video_track_timescale", "90000", "-f", "mp4"]).arg(input_url(video));
        let mut child = Child::spawn(command.stdin(Stdio::piped()).stdout(Stdio::null()))?;
        let stdin = child.take_stdin();
        if let Some(pipe) = &stdin {
            // Never wait in a write: the encoder's complaints are to be read meanwhile.
            rustix::io::ioctl_fionbio(pipe, true).map_err(|error| pipe_failed("ffmpeg", error))?;
        }
        let mut encoder = Self { child, stdin, video, packet: Vec::new(), first_s: None, next_tick: 0 };
        encoder.packet.extend(ivf_header(job.probe)?);
        encoder.send()?;
        Ok(encoder)
    }

    fn write(&mut self, pts_s: f64, pixels: &[u8]) -> Result<()> {
        let since_s = pts_s - *self.first_s.get_or_insert(pts_s);
        // Times that do not rise are nudged: the encoder takes none twice.
        let tick = ((since_s * ENCODER_TICKS_PER_S).round() as u64).max(self.next_tick);
        self.next_tick = tick + 1;
        let bytes = u32::try_from(pixels.len() / 3 * 4).map_err(|error| pipe_failed("ffmpeg", error))?;
        self.packet.clear();
        self.packet.extend(bytes.to_le_bytes());
        self.packet.extend(tick.to_le_bytes());
        self.packet.extend(pixels.chunks_exact(3).flat_map(|pixel| [pixel[0], pixel[1], pixel[2], 255]));
        self.send()
    }

    /// Writes the packet.
    fn send(&mut self) -> Result<()> {
        let mut sent = 0;
        while sent < self.packet.len() {
            let Some(stdin) = &mut self.stdin else {
                return Err(self.failed());
            };
            match stdin.write(&self.packet[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    let watched = [Some((stdin.as_fd(), PollFlags::OUT))];
                    let ready = self.child.wait(watched, Instant::now() + STALL_LIMIT);
                    if ready.map_err(|error| pipe_failed("ffmpeg", error))?.is_none() {
                        return Err(self.failed());
                    }
                }
                // The encoder has gone; it says why on the other pipe.
                Err(_) => return Err(self.failed()),
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.stdin = None;
        let ended = self.child.end(END_LIMIT).map_err(|error| pipe_failed("ffmpeg", error))?;
        if ended.status.success() { Ok(()) } else { Err(self.failed()) }
    }

    fn failed(&mut self) -> Error {
        self.stdin = None;
        // Collects the last words; there is nothing more to be done about a failure to do so.
        let _ = self.child.end(Duration::from_secs(5));
        let reason = self.child.log().reason("it gave no reason; is this ffmpeg built with libx264?");
        let kind = if reason.contains("No space left") { ErrorKind::Exhausted } else { ErrorKind::Internal };
        Error::new(kind, format!("ffmpeg cannot write the video '{}': {reason}", self.video.display()))
    }
}

/// The file header of IVF for RGBA frames on the encoder's clock.
fn ivf_header(probe: &Probe) -> Result<[u8; 32]> {
    let side = |pixels: u32| {
        u16::try_from(pixels).map(u16::to_le_bytes).map_err(|_| {
            Error::unsupported(format!("a video of {}x{} is too large to be annotated", probe.width, probe.height))
        })
    };
    let mut header = [0; 32];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"DKIF");
    put(6, &32u16.to_le_bytes());
    put(8, b"RGBA");
    put(12, &side(probe.width)?);
    put(14, &side(probe.height)?);
    put(16, &(ENCODER_TICKS_PER_S as u32).to_le_bytes());
    put(20, &1u32.to_le_bytes());
    Ok(header)
}
