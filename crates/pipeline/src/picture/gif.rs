//! The first picture of a GIF, by the gif crate.

use engine::Result;
use gif::{ColorOutput, DecodeOptions, MemoryLimit};

use super::Picture;
use super::decode::{Admit, Decoded, Promise, broken, zeroed};

pub(super) fn decode(file: &[u8], admit: Admit<'_>) -> Result<Decoded> {
    let mut options = DecodeOptions::new();
    options.set_color_output(ColorOutput::RGBA);
    // The screen's size is checked below, and a picture that is larger than its screen is refused.
    options.set_memory_limit(MemoryLimit::Unlimited);
    options.check_frame_consistency(true);
    let mut decoder = options.read_info(file).map_err(broken)?;
    let (width, height) = (u32::from(decoder.width()), u32::from(decoder.height()));
    admit(Promise { width, height, bytes_per_pixel: 4 + 3 })?;
    let canvas = width as usize * height as usize * 3;
    let mut pixels = zeroed(Some(canvas))?;
    let frame = decoder.read_next_frame().map_err(broken)?.ok_or_else(|| broken("it has no picture"))?;
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let frame_width = usize::from(frame.width).max(1);
    // A picture may be a part of its screen, the rest of which stays black.
    let rows = pixels.chunks_exact_mut(width as usize * 3).skip(top);
    for (row, from) in rows.zip(frame.buffer.chunks_exact(frame_width * 4)) {
        for (to, from) in row.chunks_exact_mut(3).skip(left).zip(from.chunks_exact(4)) {
            to.copy_from_slice(&from[..3]);
        }
    }
    Ok(Decoded { picture: Picture { width, height, pixels }, exif: None })
}
