//! What is left to do with frames that the decoder gives out as they are, where ffmpeg has not the way to scale them.

use engine::Result;
use pipeline::{Fit, Placement, Planes, Resample, fit_planes};

use super::Decode;

/// How frames are brought to their size.
pub(super) struct Scaling {
    placement: Placement,
    resample: Resample,
    /// The memory of the last frame as it came.
    pub(super) whole: Vec<u8>,
}

impl Scaling {
    /// What the decoder is to give out for `decode`, and what is done with it here; nothing, where ffmpeg scales.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a frame size of zero or beyond reason.
    pub(super) fn of(decode: &Decode) -> Result<(Decode, Option<Self>)> {
        let Decode { placement, resample, .. } = *decode;
        if !resample.is_of_four() {
            return Ok((decode.clone(), None));
        }
        let as_it_is = Decode { placement: Placement::of(Fit::Source, placement.source_px)?, ..decode.clone() };
        Ok((as_it_is, Some(Self { placement, resample, whole: Vec::new() })))
    }

    /// The frame in [`whole`](Self::whole) at its size, in the memory of `bytes`.
    ///
    /// # Errors
    /// As [`fit_planes`].
    pub(super) fn fitted(&self, bytes: Vec<u8>) -> Result<Planes> {
        fit_planes(&self.whole, &self.placement, self.resample, bytes)
    }
}
