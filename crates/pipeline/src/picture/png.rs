//! PNG, by the png crate. Of an animation, the picture that is shown where animations are not.

use std::io::Cursor;

use engine::{Error, Result};
use png::{BitDepth, ColorType, Decoder, Encoder, EncodingError, Limits, Transformations};

use super::Picture;
use super::decode::{Admit, Decoded, Promise, broken, zeroed};

pub(super) fn decode(file: &[u8], admit: Admit<'_>) -> Result<Decoded> {
    // The limit is for what comes beside the pixels, whose own size is checked below.
    let mut decoder = Decoder::new_with_limits(Cursor::new(file), Limits { bytes: file.len().max(1 << 20) * 2 });
    decoder.set_transformations(Transformations::normalize_to_color8());
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    let header = decoder.read_header_info().map_err(broken)?;
    let (width, height) = (header.width, header.height);
    admit(Promise { width, height, bytes_per_pixel: 4 + 3 })?;
    let mut reader = decoder.read_info().map_err(broken)?;
    let mut bytes = zeroed(reader.output_buffer_size())?;
    let frame = reader.next_frame(&mut bytes).map_err(broken)?;
    bytes.truncate(frame.buffer_size());
    let pixels = match frame.color_type {
        ColorType::Rgb => bytes,
        ColorType::Rgba => bytes.chunks_exact(4).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect(),
        ColorType::Grayscale => bytes.iter().flat_map(|&grey| [grey; 3]).collect(),
        ColorType::GrayscaleAlpha => bytes.chunks_exact(2).flat_map(|pixel| [pixel[0]; 3]).collect(),
        ColorType::Indexed => return Err(broken("its palette was not applied")),
    };
    if (frame.width, frame.height) != (width, height) {
        return Err(broken(format!(
            "its first picture is of {}x{} pixels, not {width}x{height}",
            frame.width, frame.height
        )));
    }
    let exif = reader.info().exif_metadata.as_deref().map(<[u8]>::to_vec);
    Ok(Decoded { picture: Picture { width, height, pixels }, exif })
}

/// `picture` as a PNG file.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it has not the pixels that its size says.
pub fn to_png(picture: &Picture) -> Result<Vec<u8>> {
    let failed = |error: EncodingError| Error::invalid(format!("a picture cannot be written: {error}"));
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, picture.width, picture.height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&picture.pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(file)
}
