//! From a file's bytes to its picture. What a header promises is checked before anything is allocated for it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use engine::{Error, Result};

use super::{Picture, gif, jpeg, orient, png, webp};

/// What is taken of a picture that somebody sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Pixels in all: three bytes each when decoded, and up to three times that on the way.
    pub pixels_max: u64,
    /// Pixels of a side.
    pub side_px_max: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { pixels_max: 64 << 20, side_px_max: 32_768 }
    }
}

/// What one format's decoder made of a file.
pub(super) struct Decoded {
    pub(super) picture: Picture,
    /// The Exif block, from its TIFF header on.
    pub(super) exif: Option<Vec<u8>>,
}

/// Told the size that a header promises and the bytes that decoding takes at its height; an error ends the decoding.
pub(super) type Admit<'a> = &'a mut dyn FnMut(Promise) -> Result<()>;

/// What a header promises.
#[derive(Clone, Copy)]
pub(super) struct Promise {
    pub(super) width: u32,
    pub(super) height: u32,
    /// What decoding takes for each pixel when it takes most, the picture itself among it.
    pub(super) bytes_per_pixel: u64,
}

/// The picture in `file`, a JPEG, PNG, WebP or GIF (of which it is the first), turned as its Exif block says, in RGB;
/// transparency is dropped, 16 bits become 8, and colour profiles are not applied, as in Pillow's `convert("RGB")`.
/// `reserve` is told the bytes that it takes, before they are allocated.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is none of these, is broken or cut off, or beyond `bounds`;
/// and those of `reserve`.
pub fn decode(file: &[u8], bounds: &Bounds, reserve: &mut dyn FnMut(usize) -> Result<()>) -> Result<Picture> {
    let (name, decode) = format_of(file)?;
    let mut admit = |promise: Promise| {
        let bytes = bounds.admit(promise)?;
        reserve(bytes)
    };
    // The decoders are others', and hostile bytes are what they are given: a bug of theirs costs this picture alone. What
    // it leaves half done is its own.
    let decoded = catch_unwind(AssertUnwindSafe(|| decode(file, &mut admit)));
    let decoded = decoded.unwrap_or_else(|_| Err(broken("its bytes lead the decoder astray")));
    let Decoded { picture, exif } =
        decoded.map_err(|error| error.context(format_args!("this {name} picture cannot be decoded")))?;
    match exif.as_deref().and_then(orient::orientation) {
        Some(orientation) => Ok(orient::turn(picture, orientation)),
        None => Ok(picture),
    }
}

type Decode = fn(&[u8], Admit<'_>) -> Result<Decoded>;

/// The format that `file` begins like.
fn format_of(file: &[u8]) -> Result<(&'static str, Decode)> {
    match file {
        [0xff, 0xd8, 0xff, ..] => Ok(("JPEG", jpeg::decode)),
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Ok(("PNG", png::decode)),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Ok(("WebP", webp::decode)),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Ok(("GIF", gif::decode)),
        [] => Err(Error::invalid("the picture has no bytes")),
        _ => Err(Error::invalid(format!(
            "these {} bytes are no picture that can be read: it may be a JPEG, PNG, WebP or GIF file",
            file.len()
        ))),
    }
}

impl Bounds {
    /// The bytes that decoding `promise` takes.
    fn admit(&self, promise: Promise) -> Result<usize> {
        let Promise { width, height, bytes_per_pixel } = promise;
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 {
            return Err(Error::invalid(format!("it is of {width}x{height} pixels")));
        }
        if width.max(height) > self.side_px_max || pixels > self.pixels_max {
            let (side, pixels_max) = (self.side_px_max, self.pixels_max);
            return Err(Error::invalid(format!(
                "it is of {width}x{height} pixels, but at most {side} a side and {pixels_max} in all are taken; scale it down"
            )));
        }
        usize::try_from(pixels * bytes_per_pixel).map_err(|_| Error::invalid("it is beyond this machine's memory"))
    }
}

/// An error that says what a decoder said.
pub(super) fn broken(reason: impl std::fmt::Display) -> Error {
    Error::invalid(reason.to_string())
}

/// `count` bytes of zeros; the count is within bounds that were checked.
pub(super) fn zeroed(count: Option<usize>) -> Result<Vec<u8>> {
    count.map(|count| vec![0; count]).ok_or_else(|| broken("its size is beyond this machine's memory"))
}
