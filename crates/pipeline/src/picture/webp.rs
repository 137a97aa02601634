//! WebP, by image-webp. Of an animation, the first picture.

use std::io::Cursor;

use engine::Result;
use image_webp::WebPDecoder;

use super::Picture;
use super::decode::{Admit, Decoded, Promise, broken, zeroed};

pub(super) fn decode(file: &[u8], admit: Admit<'_>) -> Result<Decoded> {
    let mut decoder = WebPDecoder::new(Cursor::new(file)).map_err(broken)?;
    let (width, height) = decoder.dimensions();
    admit(Promise { width, height, bytes_per_pixel: 4 + 4 })?;
    // What a chunk beside the pixels says of its own length.
    decoder.set_memory_limit(file.len().max(1 << 20) * 2);
    let exif = decoder.exif_metadata().ok().flatten();
    let mut pixels = zeroed(decoder.output_buffer_size())?;
    decoder.read_image(&mut pixels).map_err(broken)?;
    if decoder.has_alpha() {
        pixels = pixels.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect();
    }
    Ok(Decoded { picture: Picture { width, height, pixels }, exif })
}
