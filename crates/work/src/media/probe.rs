//! What a video file says of itself.

use engine::Result;
use serde::Serialize;

use super::ffprobe::{ask, ffprobe};
use super::headers::understand;
use super::{Input, Orientation, Tools};

/// The largest frame that is decoded: twice 8K.
pub(super) const FRAME_PIXELS_MAX: u64 = 64 << 20;

/// Codecs of which an MP4's own index says every frame, and where a decoder may begin, as they lie in it. Of others a frame
/// may come in several pieces, which a parser puts together.
const INDEXED: &[&str] = &["h264", "hevc", "av1", "vp9", "mpeg4", "mjpeg", "prores"];

/// Codecs whose frames say whether others refer to them, and whose decoders were seen to pass over such as do not when they
/// are asked to. Of VP8, VP9 and AV1 they passed over none, and where every frame is a key frame they would over all.
const TELLING_REFERENCES: &[&str] = &["h264", "hevc", "mpeg2video", "mpeg4"];

/// The first video stream of a file that is not cover art.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Probe {
    /// ffmpeg's names of the container, with commas between them, for example `matroska,webm`.
    pub container: String,
    /// ffmpeg's name of the codec, for example `h264`.
    pub codec: String,
    /// What the container counts time in: seconds a tick, as a fraction.
    pub tick_s: (i64, i64),
    /// Width and height as stored.
    pub stored_px: (u32, u32),
    /// A stored pixel's width to its height.
    pub sample_aspect: (u32, u32),
    /// What is to be done so that it is upright; `None` when the container asks for a turn that is none of the eight, and
    /// nothing is done then.
    pub orientation: Option<Orientation>,
    /// Pixels across as displayed: with square pixels, upright.
    pub width: u32,
    /// Pixels down, likewise.
    pub height: u32,
    /// What its numbers mean as colours.
    pub colour: Colour,
    /// Whether a frame is two fields, which are of two times.
    pub interlaced: bool,
    /// Average frames per second.
    pub frame_rate: Option<f64>,
    /// Of the stream, else of the file, in seconds.
    pub duration_s: Option<f64>,
    /// The number of frames that the file claims to have; what is decoded may differ.
    pub frames_declared: Option<u64>,
    /// Whether it is an MP4 in fragments, of which each has an index of its own.
    pub in_fragments: bool,
}

/// What the numbers of a picture mean, in ffmpeg's words; `None` where the file does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Colour {
    /// How the numbers lie in memory, for example `yuv420p`.
    pub layout: Option<String>,
    /// How luma and chroma come of red, green and blue, for example `bt709`.
    pub matrix: Option<String>,
    /// `tv` for numbers that leave room at both ends, `pc` for all of them.
    pub range: Option<String>,
    /// How numbers come of light, for example `smpte2084`.
    pub transfer: Option<String>,
}

impl Probe {
    /// Whether an index in the file says all of its frames that their list needs.
    pub fn has_index(&self) -> bool {
        self.container.starts_with("mov,mp4") && INDEXED.contains(&&*self.codec)
    }

    /// Whether a decoder can be asked for those frames alone to which others refer.
    pub fn tells_references(&self) -> bool {
        TELLING_REFERENCES.contains(&&*self.codec)
    }

    /// What of it decides on what is decoded, of a video that says when each frame is shown or does not.
    pub(crate) fn essence(&self, is_timed: bool) -> Self {
        let frame_rate = self.frame_rate.filter(|_| !is_timed);
        Self { frame_rate, duration_s: None, frames_declared: None, ..self.clone() }
    }

    /// `ticks` of its container in microseconds, as ffmpeg's `settb=AVTB` says them: to the nearest one, and half of one
    /// away from zero (`av_rescale_q` in libavutil/mathematics.c). `None` when that is beyond reason.
    pub fn microseconds(&self, ticks: i64) -> Option<i64> {
        let (above, below) = (i128::from(self.tick_s.0), i128::from(self.tick_s.1));
        let product = (i128::from(ticks) * above).checked_mul(1_000_000)?;
        let half = if product < 0 { -(below / 2) } else { below / 2 };
        i64::try_from((product + half) / below).ok()
    }

    /// `ticks` of its container in seconds.
    pub fn seconds(&self, ticks: i64) -> f64 {
        ticks as f64 * self.tick_s.0 as f64 / self.tick_s.1 as f64
    }

    /// What the colours of a video mean that does not say so: the matrix that players take for its size. `None` when it
    /// says, or has no luma and chroma.
    pub fn matrix_assumed(&self) -> Option<&'static str> {
        let Colour { layout, matrix, .. } = &self.colour;
        let by_luma = layout.as_deref().is_some_and(|layout| layout.starts_with("yuv") || layout.starts_with("nv"));
        let (width, height) = self.stored_px;
        match by_luma && matrix.is_none() {
            true if width >= 1280 || height > 576 => Some("bt709"),
            true => Some("bt601"),
            false => None,
        }
    }
}

#[cfg(test)]
impl Probe {
    /// An H.264 video in MP4.
    pub(crate) fn example() -> Self {
        Self {
            container: "mov,mp4,m4a,3gp,3g2,mj2".to_owned(),
            codec: "h264".to_owned(),
            tick_s: (1, 12_800),
            stored_px: (64, 48),
            sample_aspect: (1, 1),
            orientation: Some(Orientation::default()),
            width: 64,
            height: 48,
            colour: Colour { layout: Some("yuv420p".to_owned()), ..Colour::default() },
            interlaced: false,
            frame_rate: Some(25.0),
            duration_s: Some(10.0),
            frames_declared: Some(250),
            in_fragments: false,
        }
    }
}

/// Reads the headers of a video.
///
/// # Errors
/// [`NotFound`](engine::ErrorKind::NotFound) when there is no such file, [`InvalidInput`](engine::ErrorKind::InvalidInput) when it
/// holds no video that can be decoded, [`Unavailable`](engine::ErrorKind::Unavailable) when ffprobe is missing; of a video
/// that is elsewhere also what keeps it from being read.
pub fn probe(tools: &Tools, input: impl Into<Input>) -> Result<Probe> {
    let input = input.into();
    input.check()?;
    let in_fragments = input.is_in_fragments()?;
    headers(tools, &input, &[], in_fragments)
}

/// The same, without a look at every fragment of one that is in fragments: how long it is is not told then.
///
/// # Errors
/// As [`probe`].
pub(super) fn first_headers(tools: &Tools, input: &Input) -> Result<Probe> {
    let in_fragments = input.is_in_fragments()?;
    headers(tools, input, if in_fragments { &["-fflags", "+ignidx"] } else { &[] }, in_fragments)
}

fn headers(tools: &Tools, input: &Input, flags: &[&str], in_fragments: bool) -> Result<Probe> {
    let show = [flags, &["-show_streams", "-show_format", "-of", "json"]].concat();
    let answer = ask(&mut ffprobe(tools, input, &show), (tools, input))?;
    Ok(Probe { in_fragments, ..understand(&answer, input)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_that_ffmpeg_reckons() {
        let table = [
            (0, (1, 25), Some(0)),
            (1, (1, 25), Some(40_000)),
            (1, (1001, 30_000), Some(33_367)),
            (2, (1001, 30_000), Some(66_733)),
            (-1, (1001, 30_000), Some(-33_367)),
            (1, (1, 90_000), Some(11)),
            (1, (1, 2_000_000), Some(1)),
            (-1, (1, 2_000_000), Some(-1)),
            (i64::MAX, (i64::MAX, 1), None),
        ];
        for (ticks, tick_s, want) in table {
            assert_eq!(Probe { tick_s, ..Probe::example() }.microseconds(ticks), want, "{ticks} {tick_s:?}");
        }
    }

    #[test]
    fn colours_are_assumed_only_where_nothing_is_said() {
        let table = [
            ("yuv420p", None, (1280, 720), Some("bt709")),
            ("yuv420p", None, (1920, 800), Some("bt709")),
            ("yuvj420p", None, (720, 576), Some("bt601")),
            ("nv12", None, (720, 480), Some("bt601")),
            ("yuv420p", Some("bt470bg"), (1280, 720), None),
            ("gbrp", None, (1280, 720), None),
            ("rgb24", None, (64, 48), None),
            ("gray", None, (64, 48), None),
        ];
        for (layout, matrix, stored_px, want) in table {
            let colour =
                Colour { layout: Some(layout.to_owned()), matrix: matrix.map(str::to_owned), ..Colour::default() };
            assert_eq!(
                Probe { colour, stored_px, ..Probe::example() }.matrix_assumed(),
                want,
                "{layout} {stored_px:?}"
            );
        }
    }
}
