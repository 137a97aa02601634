//! A picture whose colours lie apart, as a decoder of videos gives it out.

use super::Picture;

/// A picture of three channels, each by itself: what ffmpeg calls `gbrp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planes {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// A byte a pixel, row by row from the top, no padding: first all that is green, then blue, then red.
    pub bytes: Vec<u8>,
}

impl Planes {
    /// What is red, what is green and what is blue, equally long.
    pub fn rgb(&self) -> [&[u8]; 3] {
        let (green, rest) = self.bytes.split_at(self.bytes.len() / 3);
        let (blue, red) = rest.split_at(green.len());
        [&red[..green.len()], green, blue]
    }

    /// The same picture, pixel by pixel.
    pub fn to_picture(&self) -> Picture {
        let mut pixels = vec![0; self.rgb()[0].len() * 3];
        self.interleave(&mut pixels);
        Picture { width: self.width, height: self.height, pixels }
    }

    /// The same picture's bytes, pixel by pixel, into as many.
    pub(super) fn interleave(&self, pixels: &mut [u8]) {
        let [red, green, blue] = self.rgb();
        for (pixel, ((red, green), blue)) in
            pixels.as_chunks_mut::<3>().0.iter_mut().zip(red.iter().zip(green).zip(blue))
        {
            *pixel = [*red, *green, *blue];
        }
    }
}
