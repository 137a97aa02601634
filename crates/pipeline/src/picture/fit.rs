//! Scaling a picture and putting it where it belongs, by fast_image_resize.

use engine::{Error, Result};
use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use store::picture::Resample;

use super::{Picture, Placement, Planes, four};

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
    let Some(algorithm) = algorithm(resample) else {
        let mut pixels = Vec::new();
        of_four::<3>(&picture.pixels, placement, resample, &mut pixels);
        let (width, height) = placement.canvas_px;
        return Ok(Picture { width, height, pixels });
    };
    // Across first and then down, each rounded to bytes, as Pillow does (its release 13 in this order only where it costs
    // less): filters with negative lobes are cut off in
    // between, and in the other order they are cut off elsewhere.
    let across = scale(picture, (placement.scaled_px.0, picture.height), algorithm)?;
    let scaled = scale(across.as_ref().unwrap_or(picture), placement.scaled_px, algorithm)?.or(across);
    if placement.is_all() {
        return Ok(scaled.unwrap_or_else(|| picture.clone()));
    }
    let scaled = scaled.as_ref().unwrap_or(picture);
    let (width, height) = placement.canvas_px;
    let mut pixels = Vec::new();
    paste::<3>(&scaled.pixels, placement, &mut pixels);
    Ok(Picture { width, height, pixels })
}

/// The planes of a picture on the canvas of `placement`, which is of a picture of this size, into the memory of `canvas`;
/// a pixel is made of [four](Resample::is_of_four).
///
/// # Errors
/// As [`fit`]; [`Internal`](engine::ErrorKind::Internal) for ways to scale that are the decoder's.
pub fn fit_planes(source: &[u8], placement: &Placement, resample: Resample, mut canvas: Vec<u8>) -> Result<Planes> {
    if !resample.is_of_four() {
        return Err(Error::internal(format!("planes were to be scaled in the way {resample:?}")));
    }
    let (width, height) = placement.source_px;
    let bytes = width as usize * height as usize;
    if source.len() != bytes * 3 {
        return Err(Error::invalid(format!("planes of {width}x{height} pixels came in {} bytes", source.len())));
    }
    canvas.clear();
    for plane in source.chunks_exact(bytes) {
        of_four::<1>(plane, placement, resample, &mut canvas);
    }
    let (width, height) = placement.canvas_px;
    Ok(Planes { width, height, bytes: canvas })
}

/// What is in `pixels`, scaled and put in its place, appended to `canvas`.
fn of_four<const CHANNELS: usize>(pixels: &[u8], placement: &Placement, resample: Resample, canvas: &mut Vec<u8>) {
    let Placement { source_px, scaled_px, .. } = *placement;
    if placement.is_all() {
        return four::scale::<CHANNELS>(pixels, source_px, scaled_px, resample, canvas);
    }
    let mut scaled = Vec::new();
    four::scale::<CHANNELS>(pixels, source_px, scaled_px, resample, &mut scaled);
    paste::<CHANNELS>(&scaled, placement, canvas);
}

/// The library's way to scale; `None` where it has none.
fn algorithm(resample: Resample) -> Option<ResizeAlg> {
    Some(match resample {
        Resample::Nearest => ResizeAlg::Nearest,
        Resample::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Resample::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Resample::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
        Resample::Asymmetric | Resample::HalfPixel => return None,
    })
}

/// `picture` at `size_px`; `None` when that is its size.
fn scale(picture: &Picture, size_px: (u32, u32), algorithm: ResizeAlg) -> Result<Option<Picture>> {
    let (width, height) = size_px;
    if (picture.width, picture.height) == size_px {
        return Ok(None);
    }
    let failed = |error: &dyn std::fmt::Display| Error::internal(format!("a picture cannot be scaled: {error}"));
    let options = ResizeOptions::new().resize_alg(algorithm).use_alpha(false);
    let from = ImageRef::new(picture.width, picture.height, &picture.pixels, PixelType::U8x3);
    let from = from.map_err(|error| failed(&error))?;
    let mut to = Image::new(width, height, PixelType::U8x3);
    Resizer::new().resize(&from, &mut to, &options).map_err(|error| failed(&error))?;
    Ok(Some(Picture { width, height, pixels: to.into_vec() }))
}

/// The canvas with what of a scaled picture's `pixels` lies on it, appended to `canvas`.
fn paste<const CHANNELS: usize>(pixels: &[u8], placement: &Placement, canvas: &mut Vec<u8>) {
    let (width, height) = (placement.canvas_px.0 as usize, placement.canvas_px.1 as usize);
    let begin = canvas.len();
    canvas.resize(begin + width * height * CHANNELS, placement.fill);
    // For each direction: where the picture's visible part begins on the canvas, in the picture, and how long it is.
    let part = |at: i32, side: u32, canvas: u32| {
        let (to, from) = (at.max(0).unsigned_abs(), at.min(0).unsigned_abs());
        let length = side.saturating_sub(from).min(canvas.saturating_sub(to));
        (to as usize, from as usize, length as usize)
    };
    let (left, from_left, across) = part(placement.at_px.0, placement.scaled_px.0, placement.canvas_px.0);
    let (top, from_top, down) = part(placement.at_px.1, placement.scaled_px.1, placement.canvas_px.1);
    let rows = canvas[begin..].chunks_exact_mut(width * CHANNELS).skip(top).take(down);
    for (to, from) in rows.zip(pixels.chunks_exact(placement.scaled_px.0 as usize * CHANNELS).skip(from_top)) {
        to[left * CHANNELS..][..across * CHANNELS].copy_from_slice(&from[from_left * CHANNELS..][..across * CHANNELS]);
    }
}
