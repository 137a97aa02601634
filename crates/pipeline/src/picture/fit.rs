//! Scaling a picture and putting it where it belongs, by fast_image_resize.

use engine::{Error, Result};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use store::picture::Resample;

use super::{Picture, Placement};

/// `picture` on the canvas of `placement`, which is of a picture of this size.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the picture's size is not the placement's, or its pixels are not
/// as many as its size says.
pub fn fit(picture: &Picture, placement: &Placement, resample: Resample) -> Result<Picture> {
    let bytes = u64::from(picture.width) * u64::from(picture.height) * 3;
    if (picture.width, picture.height) != placement.source_px || picture.pixels.len() as u64 != bytes {
        return Err(Error::invalid(format!(
            "a picture of {}x{} pixels in {} bytes was put where one of {:?} belongs",
            picture.width,
            picture.height,
            picture.pixels.len(),
            placement.source_px
        )));
    }
    // Across first and then down, each rounded to bytes, as Pillow does (its release 13 in this order only where it costs
    // less): filters with negative lobes are cut off in
    // between, and in the other order they are cut off elsewhere.
    let across = scale(picture, (placement.scaled_px.0, picture.height), resample)?;
    let scaled = scale(across.as_ref().unwrap_or(picture), placement.scaled_px, resample)?.or(across);
    if placement.scaled_px == placement.canvas_px && placement.at_px == (0, 0) {
        return Ok(scaled.unwrap_or_else(|| picture.clone()));
    }
    Ok(paste(scaled.as_ref().unwrap_or(picture), placement))
}

/// `picture` at `size_px`; `None` when that is its size.
fn scale(picture: &Picture, size_px: (u32, u32), resample: Resample) -> Result<Option<Picture>> {
    let (width, height) = size_px;
    if (picture.width, picture.height) == size_px {
        return Ok(None);
    }
    let failed = |error: &dyn std::fmt::Display| Error::internal(format!("a picture cannot be scaled: {error}"));
    let algorithm = match resample {
        Resample::Nearest => ResizeAlg::Nearest,
        Resample::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Resample::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Resample::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
    };
    let options = ResizeOptions::new().resize_alg(algorithm).use_alpha(false);
    let from = ImageRef::new(picture.width, picture.height, &picture.pixels, PixelType::U8x3);
    let from = from.map_err(|error| failed(&error))?;
    let mut to = Image::new(width, height, PixelType::U8x3);
    Resizer::new().resize(&from, &mut to, &options).map_err(|error| failed(&error))?;
    Ok(Some(Picture { width, height, pixels: to.into_vec() }))
}

/// The canvas with what of `picture` lies on it.
fn paste(picture: &Picture, placement: &Placement) -> Picture {
    let (width, height) = placement.canvas_px;
    let mut pixels = vec![placement.fill; width as usize * height as usize * 3];
    // For each direction: where the picture's visible part begins on the canvas, in the picture, and how long it is.
    let part = |at: i32, side: u32, canvas: u32| {
        let (to, from) = (at.max(0).unsigned_abs(), at.min(0).unsigned_abs());
        let length = side.saturating_sub(from).min(canvas.saturating_sub(to));
        (to as usize, from as usize, length as usize)
    };
    let (left, from_left, across) = part(placement.at_px.0, picture.width, width);
    let (top, from_top, down) = part(placement.at_px.1, picture.height, height);
    let rows = pixels.chunks_exact_mut(width as usize * 3).skip(top).take(down);
    for (to, from) in rows.zip(picture.pixels.chunks_exact(picture.width as usize * 3).skip(from_top)) {
        to[left * 3..][..across * 3].copy_from_slice(&from[from_left * 3..][..across * 3]);
    }
    Picture { width, height, pixels }
}
