//! The contact sheet: a handful of frames, evenly spread over a video, side by side in one PNG.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use engine::{Error, ErrorKind, Result};
use pipeline::Picture;
use pipeline::picture::draw::{Canvas, Figure, GLYPH_PX, Mark};

use super::Frame;

const COLUMNS: usize = 4;
const ROWS: usize = 3;
/// A thumbnail fits into a square of this side.
const THUMB_PX: usize = 400;
const GAP_PX: usize = 12;
const CAPTION_ZOOM: i64 = 2;
/// The height of the caption's letters.
const CAPTION_PX: usize = (GLYPH_PX * CAPTION_ZOOM) as usize;
const BACKGROUND: [u8; 3] = [24, 26, 30];
const INK: [u8; 3] = [220, 220, 220];

/// A contact sheet to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SheetPlan {
    /// The PNG to write.
    pub path: PathBuf,
    /// Frames in the video, as an earlier pass counted them; the sheet takes twelve of them.
    pub frames: u64,
}

/// A contact sheet that fills up as the frames go by.
pub(super) struct Sheet {
    path: PathBuf,
    picks: Vec<u64>,
    thumb: [usize; 2],
    size: [usize; 2],
    pixels: Vec<u8>,
}

impl Sheet {
    /// An empty sheet for a video of `width` x `height`.
    pub(super) fn new(plan: &SheetPlan, width: usize, height: usize) -> Self {
        let cells = COLUMNS * ROWS;
        let picks = picks(plan.frames, cells as u64);
        let longer = width.max(height).max(1);
        let thumb = [width, height].map(|side| (side * THUMB_PX / longer).max(1));
        let columns = picks.len().clamp(1, COLUMNS);
        let rows = picks.len().div_ceil(COLUMNS).max(1);
        let cell = cell(thumb);
        let size = [columns * cell[0] + GAP_PX, rows * cell[1] + GAP_PX];
        let pixels = BACKGROUND.repeat(size[0] * size[1]);
        Self { path: plan.path.clone(), picks, thumb, size, pixels }
    }

    /// Takes `frame` in when it is one of the chosen. The marks are drawn on the thumbnail, not on the frame, so that
    /// their letters keep their size.
    pub(super) fn offer(&mut self, frame: &Frame, figures: &[Figure], marks: &[Mark]) {
        let Ok(place) = self.picks.binary_search(&frame.index) else {
            return;
        };
        let [width, height] = self.thumb;
        let mut thumb = shrink(&frame.planes.to_picture(), width, height);
        let scale = [width as f32 / frame.planes.width as f32, height as f32 / frame.planes.height as f32];
        let mut canvas = Canvas::new(&mut thumb, width, height);
        canvas.figures(figures, scale, 1);
        canvas.marks(marks, scale, 1);
        let cell = cell(self.thumb);
        let [left, top] = [GAP_PX + place % COLUMNS * cell[0], GAP_PX + place / COLUMNS * cell[1]];
        for (row, line) in thumb.chunks_exact(width * 3).enumerate() {
            let start = ((top + row) * self.size[0] + left) * 3;
            self.pixels[start..start + line.len()].copy_from_slice(line);
        }
        let caption = format!("{}  #{}", clock(frame.pts_s()), frame.index);
        let mut canvas = Canvas::new(&mut self.pixels, self.size[0], self.size[1]);
        let [x, y] = [left, top + height + GAP_PX / 2].map(|place| i64::try_from(place).unwrap_or(0));
        canvas.text(x, y, &caption, INK, CAPTION_ZOOM);
    }

    /// Writes the PNG.
    pub(super) fn write(self) -> Result<()> {
        write_png(&self.path, self.size, &self.pixels)
    }
}

/// Writes a picture of `size`, three bytes a pixel, over whatever is at `path`.
///
/// # Errors
/// [`Exhausted`](ErrorKind::Exhausted) when the disk is full, [`Internal`](ErrorKind::Internal) when it cannot be written.
pub fn write_png(path: &Path, size: [usize; 2], pixels: &[u8]) -> Result<()> {
    let failed = |error: png::EncodingError| write_failed(path, &error);
    let file = File::create(path).map_err(|error| failed(error.into()))?;
    let side = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let mut encoder = png::Encoder::new(BufWriter::new(file), side(size[0]), side(size[1]));
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(pixels).map_err(failed)?;
    writer.finish().map_err(failed)
}

fn write_failed(path: &Path, error: &png::EncodingError) -> Error {
    let full = matches!(error, png::EncodingError::IoError(error) if error.kind() == std::io::ErrorKind::StorageFull);
    let kind = if full { ErrorKind::Exhausted } else { ErrorKind::Internal };
    Error::new(kind, format!("cannot write the picture '{}': {error}", path.display()))
}

/// A thumbnail's place with its caption and the gap before it.
fn cell(thumb: [usize; 2]) -> [usize; 2] {
    [thumb[0] + GAP_PX, thumb[1] + GAP_PX + CAPTION_PX + GAP_PX / 2]
}

/// The frames in the middles of `cells` equal parts of the video, each once.
fn picks(frames: u64, cells: u64) -> Vec<u64> {
    let middle = |part: u64| (u128::from(frames) * u128::from(2 * part + 1) / u128::from(2 * cells)) as u64;
    let mut picks: Vec<u64> = (0..cells).map(middle).filter(|&index| index < frames).collect();
    picks.dedup();
    picks
}

/// Minutes, seconds and milliseconds.
fn clock(pts_s: f64) -> String {
    let (sign, millis) = (if pts_s < 0.0 { "-" } else { "" }, (pts_s.abs() * 1000.0).round() as u64);
    format!("{sign}{}:{:02}.{:03}", millis / 60_000, millis / 1000 % 60, millis % 1000)
}

/// `picture` at another size: each pixel is the mean of the pixels it covers, at least one.
fn shrink(picture: &Picture, width: usize, height: usize) -> Vec<u8> {
    let (source_width, source_height) = (picture.width as usize, picture.height as usize);
    let covered = |at: usize, size: usize, source: usize| {
        let start = at * source / size;
        start..((at + 1) * source / size).max(start + 1)
    };
    let mut pixels = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        let rows = covered(y, height, source_height);
        for x in 0..width {
            let columns = covered(x, width, source_width);
            let count = (rows.len() * columns.len()) as u32;
            let mut sums = [0u32; 3];
            for row in rows.clone() {
                let line = &picture.pixels[(row * source_width + columns.start) * 3..][..columns.len() * 3];
                for pixel in line.chunks_exact(3) {
                    sums.iter_mut().zip(pixel).for_each(|(sum, &value)| *sum += u32::from(value));
                }
            }
            pixels.extend(sums.map(|sum| ((sum + count / 2) / count) as u8));
        }
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_are_spread_and_each_once() {
        let table: [(u64, &[u64]); 6] =
            [(0, &[]), (1, &[0]), (2, &[0, 1]), (4, &[0, 1, 2, 3]), (8, &[1, 3, 5, 7]), (795, &[99, 298, 496, 695])];
        for (frames, want) in table {
            assert_eq!(picks(frames, 4), want, "{frames}");
        }
        assert_eq!(picks(u64::MAX, 2).len(), 2);
    }

    #[test]
    fn times_are_written_for_people() {
        for (pts_s, want) in [(0.0, "0:00.000"), (75.5, "1:15.500"), (-0.04, "-0:00.040"), (3600.0004, "60:00.000")] {
            assert_eq!(clock(pts_s), want);
        }
    }

    #[test]
    fn a_thumbnail_is_the_mean_of_what_it_covers() {
        let pixels = [[0u8; 3], [10; 3], [20; 3], [30; 3], [0; 3], [10; 3], [20; 3], [31; 3]].concat();
        let picture = Picture { width: 4, height: 2, pixels };
        let table: [(usize, usize, &[u8]); 4] =
            [(1, 1, &[15]), (2, 1, &[5, 25]), (4, 1, &[0, 10, 20, 31]), (8, 1, &[0, 0, 10, 10, 20, 20, 31, 31])];
        for (width, height, want) in table {
            let got: Vec<u8> = shrink(&picture, width, height).chunks(3).map(|pixel| pixel[0]).collect();
            assert_eq!(got, want, "{width}x{height}");
        }
    }
}
