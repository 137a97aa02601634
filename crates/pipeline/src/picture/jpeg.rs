//! JPEG, by zune-jpeg.

use engine::Result;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::Picture;
use super::decode::{Admit, Decoded, Promise, broken};

/// Cameras and web sites write ten scans; a file of many costs as many times its size to decode.
const SCANS_MAX: usize = 40;

pub(super) fn decode(file: &[u8], admit: Admit<'_>) -> Result<Decoded> {
    // Sizes are checked here, all in one place.
    let side_px_max = usize::from(u16::MAX);
    let options = DecoderOptions::default()
        .set_max_width(side_px_max)
        .set_max_height(side_px_max)
        .jpeg_set_max_scans(SCANS_MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(file), options);
    decoder.decode_headers().map_err(broken)?;
    let info = decoder.info().ok_or_else(|| broken("it has no frame"))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    // Of a progressive picture all coefficients are kept, two bytes each, until the last scan.
    admit(Promise { width, height, bytes_per_pixel: if is_progressive(file) { 9 } else { 3 } })?;
    if !ends(file) {
        return Err(broken("it is cut off: the mark of its end is missing"));
    }
    let pixels = decoder.decode().map_err(broken)?;
    let exif = decoder.exif().cloned();
    Ok(Decoded { picture: Picture { width, height, pixels }, exif })
}

/// Whether the file has a progressive frame; what merely looks like one makes the reservation larger than it need be.
fn is_progressive(file: &[u8]) -> bool {
    file.windows(2).any(|marker| marker == [0xff, 0xc2])
}

/// Whether the end is marked after the last scan's beginning. Within a scan no byte of data after 0xff is anything but
/// zero, so the mark is never data; a decoder alone would fill what is missing with grey.
fn ends(file: &[u8]) -> bool {
    let last = |marker: [u8; 2]| file.windows(2).rposition(|bytes| bytes == marker);
    last([0xff, 0xd9]).is_some_and(|end| last([0xff, 0xda]).is_some_and(|scan| scan < end))
}
