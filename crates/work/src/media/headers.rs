//! ffprobe's answer, read: nothing in it is taken on trust.

use engine::{Error, Result};
use serde::Deserialize;

use super::probe::FRAME_PIXELS_MAX;
use super::{Colour, Input, Orientation, Probe};

/// The codecs that are decoded: those of cameras, archives and the web. A decoder that nobody needs is one more that a
/// stranger's file could be made for.
const CODECS: &[&str] = &[
    "h264",
    "hevc",
    "vp8",
    "vp9",
    "av1",
    "mpeg1video",
    "mpeg2video",
    "mpeg4",
    "msmpeg4v1",
    "msmpeg4v2",
    "msmpeg4v3",
    "h261",
    "h263",
    "h263p",
    "flv1",
    "vc1",
    "wmv1",
    "wmv2",
    "wmv3",
    "vp3",
    "theora",
    "vp6",
    "vp6a",
    "vp6f",
    "vp7",
    "rv10",
    "rv20",
    "rv30",
    "rv40",
    "mjpeg",
    "mjpegb",
    "jpeg2000",
    "png",
    "apng",
    "gif",
    "cinepak",
    "svq1",
    "svq3",
    "indeo3",
    "indeo4",
    "indeo5",
    "msvideo1",
    "msrle",
    "qtrle",
    "rpza",
    "8bps",
    "dvvideo",
    "rawvideo",
    "v210",
    "v308",
    "v410",
    "yuv4",
    "ffv1",
    "ffvhuff",
    "huffyuv",
    "utvideo",
    "magicyuv",
    "lagarith",
    "zmbv",
    "prores",
    "dnxhd",
    "cfhd",
    "dirac",
    "flashsv",
];

/// What ffprobe's answer says of `input`.
pub(super) fn understand(answer: &[u8], input: &Input) -> Result<Probe> {
    let answer: Answer = serde_json::from_slice(answer)
        .map_err(|error| Error::internal(format!("ffprobe's answer about '{input}' is no JSON: {error}")))?;
    answer.into_probe(input)
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

#[derive(Default, Deserialize)]
#[serde(default)]
struct Stream {
    codec_name: Option<String>,
    width: Option<i64>,
    height: Option<i64>,
    sample_aspect_ratio: Option<String>,
    pix_fmt: Option<String>,
    color_space: Option<String>,
    color_range: Option<String>,
    color_transfer: Option<String>,
    field_order: Option<String>,
    avg_frame_rate: Option<String>,
    r_frame_rate: Option<String>,
    time_base: Option<String>,
    duration: Option<String>,
    nb_frames: Option<String>,
    side_data_list: Vec<SideData>,
}

#[derive(Deserialize)]
struct SideData {
    displaymatrix: Option<String>,
}

impl Answer {
    fn into_probe(self, input: &Input) -> Result<Probe> {
        let Format { format_name, duration: format_duration } = self.format;
        let Some(stream) = self.streams.into_iter().next() else {
            return Err(Error::invalid(format!("'{input}' has no video stream: choose a file that holds video")));
        };
        let (codec, stored_px) = stream.decodable(input)?;
        let sample_aspect = stream.sample_aspect_ratio.as_deref().and_then(aspect).unwrap_or((1, 1));
        let orientation = stream.orientation();
        let (width, height) = displayed(stored_px, sample_aspect, orientation.unwrap_or_default());
        for (width, height) in [stored_px, (width, height)] {
            if u64::from(width) * u64::from(height) > FRAME_PIXELS_MAX {
                return Err(Error::invalid(format!(
                    "the frames of '{input}' have {width}x{height} pixels, more than {FRAME_PIXELS_MAX} in all: scale the video down"
                )));
            }
        }
        let rate = |text: &Option<String>| text.as_deref().and_then(ratio);
        let seconds = |text: Option<String>| text?.parse().ok().filter(|s: &f64| s.is_finite() && *s > 0.0);
        let said = |text: Option<String>| text.filter(|text| text != "unknown" && text != "unspecified");
        Ok(Probe {
            container: format_name.unwrap_or_else(|| "unknown".to_owned()),
            codec,
            tick_s: stream.time_base.as_deref().and_then(fraction).unwrap_or((1, 1_000_000)),
            stored_px,
            sample_aspect,
            orientation,
            width,
            height,
            frame_rate: rate(&stream.avg_frame_rate).or_else(|| rate(&stream.r_frame_rate)),
            colour: Colour {
                layout: said(stream.pix_fmt),
                matrix: said(stream.color_space),
                range: said(stream.color_range),
                transfer: said(stream.color_transfer),
            },
            interlaced: said(stream.field_order).is_some_and(|order| order != "progressive"),
            duration_s: seconds(stream.duration).or_else(|| seconds(format_duration)),
            in_fragments: false,
            frames_declared: stream.nb_frames.and_then(|text| text.parse().ok()),
        })
    }
}

impl Stream {
    /// Codec and stored size, when there is something to decode and a decoder that may.
    fn decodable(&self, input: &Input) -> Result<(String, (u32, u32))> {
        let side = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok()).unwrap_or(0);
        let (width, height) = (side(self.width), side(self.height));
        if width == 0 || height == 0 {
            return Err(Error::invalid(format!(
                "the video stream of '{input}' states no picture size: it is damaged or holds no frames"
            )));
        }
        let codec = self.codec_name.as_deref().unwrap_or("unknown");
        match CODECS.contains(&codec) {
            true => Ok((codec.to_owned(), (width, height))),
            false => Err(Error::unsupported(format!(
                "the video of '{input}' is coded as {codec}, which is not decoded here: re-encode it, e.g. \
                 ffmpeg -i IN -c:v libx264 OUT"
            ))),
        }
    }

    /// As the display matrix says; a video without one is upright.
    fn orientation(&self) -> Option<Orientation> {
        let Some(matrix) = self.side_data_list.iter().find_map(|data| data.displaymatrix.as_deref()) else {
            return Some(Orientation::default());
        };
        // Three lines, each with its number and a colon before it.
        let rows = matrix.lines().filter_map(|line| line.split_once(':'));
        let numbers = rows.flat_map(|(_, row)| row.split_whitespace()).filter_map(|number| number.parse().ok());
        Orientation::of_matrix(&numbers.collect::<Vec<_>>())
    }
}

/// Pixels are made square by their width, as players do.
fn displayed((width, height): (u32, u32), (wide, high): (u32, u32), orientation: Orientation) -> (u32, u32) {
    let width = (f64::from(width) * f64::from(wide) / f64::from(high)).round().max(1.0);
    // A cast from a float saturates, and what is too wide is refused.
    let width = width as u32;
    if orientation.is_sideways() { (height, width) } else { (width, height) }
}

/// The parts of `16:15`; `None` for one that is not known, as `0:1` says, and for one that no camera ever had.
fn aspect(text: &str) -> Option<(u32, u32)> {
    const EXTREME: u32 = 8;
    let (wide, high) = text.split_once(':')?;
    let (wide, high): (u32, u32) = (wide.parse().ok()?, high.parse().ok()?);
    let likely = wide > 0 && high > 0 && wide / high < EXTREME && high / wide < EXTREME;
    likely.then_some((wide, high))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_are_made_square_and_upright() {
        let turned = Orientation { mirrored: false, clockwise_degrees: 90 };
        let upright = Orientation::default();
        let table = [
            ((720, 576), "16:15", upright, (768, 576)),
            ((720, 576), "64:45", upright, (1024, 576)),
            ((720, 480), "8:9", upright, (640, 480)),
            ((720, 576), "16:15", turned, (576, 768)),
            ((720, 576), "0:1", upright, (720, 576)),
            ((720, 576), "1:9", upright, (720, 576)),
            ((720, 576), "4000000000:1", upright, (720, 576)),
            ((1, 1), "1:7", upright, (1, 1)),
        ];
        for (stored_px, said, orientation, want) in table {
            let sample_aspect = aspect(said).unwrap_or((1, 1));
            assert_eq!(displayed(stored_px, sample_aspect, orientation), want, "{stored_px:?} {said}");
        }
    }
}
