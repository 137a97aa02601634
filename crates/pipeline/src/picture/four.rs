//! Scaling as graphs do it that bring pictures to their size themselves: each pixel is made of the four around its place,
//! however many lie between.

use store::picture::Resample;

/// One pixel's place along a side: the two pixels around it, and how near it is to the second.
struct Between {
    first: usize,
    second: usize,
    share: f32,
}

/// The places of `to` pixels along a side of `from`, as ONNX's `Resize` and TensorFlow's `ResizeBilinear` reckon them.
fn places(resample: Resample, from: u32, to: u32) -> Vec<Between> {
    let (scale, last) = (from as f32 / to as f32, from.saturating_sub(1));
    let place = |at: u32| {
        let at = match resample {
            Resample::HalfPixel => ((at as f32 + 0.5) * scale - 0.5).max(0.0),
            _ => at as f32 * scale,
        };
        let first = (at as u32).min(last);
        let second = (first + 1).min(last);
        Between { first: first as usize, second: second as usize, share: at - first as f32 }
    };
    (0..to).map(place).collect()
}

/// `pixels` of `size_px` with `CHANNELS` bytes each, row by row, at the size `to_px`, appended to `scaled`.
///
/// Both sizes are at least 1, and `pixels` are as many as the size says.
pub(super) fn scale<const CHANNELS: usize>(
    pixels: &[u8],
    size_px: (u32, u32),
    to_px: (u32, u32),
    resample: Resample,
    scaled: &mut Vec<u8>,
) {
    let (pixels, _) = pixels.as_chunks::<CHANNELS>();
    let across = places(resample, size_px.0, to_px.0);
    let width = size_px.0 as usize;
    let begin = scaled.len();
    scaled.resize(begin + to_px.0 as usize * to_px.1 as usize * CHANNELS, 0);
    let rows = scaled[begin..].chunks_exact_mut(across.len() * CHANNELS);
    for (down, to) in places(resample, size_px.1, to_px.1).into_iter().zip(rows) {
        let row = |at: usize| &pixels[at * width..][..width];
        let (above, below) = (row(down.first), row(down.second));
        for (place, to) in across.iter().zip(to.as_chunks_mut::<CHANNELS>().0) {
            let (a, b, c, d) = (above[place.first], above[place.second], below[place.first], below[place.second]);
            *to = std::array::from_fn(|channel| {
                let between = |one: u8, other: u8| f32::from(one) + (f32::from(other) - f32::from(one)) * place.share;
                let (top, bottom) = (between(a[channel], b[channel]), between(c[channel], d[channel]));
                rounded(top + (bottom - top) * down.share)
            });
        }
    }
}

/// `level`, which is from 0 to 255, to the nearest whole one, and from the middle to an even one. Beside this number a
/// float has no room for parts of one, so that the lowest bits are what it was rounded to: in a third less time than by
/// asking for it, which on older processors is a call.
fn rounded(level: f32) -> u8 {
    (level + 8_388_608.0).to_bits() as u8
}
