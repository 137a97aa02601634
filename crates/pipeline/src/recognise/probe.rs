//! Running a model once to see what it answers.

use engine::{DataType, Error, Result, Tensor};
use half::f16;
use store::manifest::Io;
use store::picture::{Layout, PictureInput};
use store::specimen::Specimen;

use super::pixels;
use super::wish::somebody;
use crate::picture::{Picture, PictureTensor};

/// The one input of `specimen`, which takes a picture.
pub(super) struct PictureIn {
    pub(super) io: Io,
    pub(super) layout: Layout,
    /// Width and height where the graph states them.
    pub(super) size_px: (Option<u32>, Option<u32>),
    pub(super) is_bytes: bool,
    pub(super) channels: i64,
}

impl PictureIn {
    /// The input of `specimen`.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it has not one input that a picture could be.
    pub(super) fn of(specimen: &Specimen) -> Result<Self> {
        let signature = specimen.signature();
        let [input] = &signature.inputs[..] else {
            let names: Vec<&str> = signature.inputs.iter().map(|input| input.name.as_str()).collect();
            return Err(Error::invalid(format!(
                "pictures go into one input, but this model has {names:?}; export it with the picture alone"
            )));
        };
        let io = Io::from_spec(input);
        let is_picture = matches!(input.dtype, DataType::U8 | DataType::F16 | DataType::F32);
        let channels = |at: usize| input.shape.get(at).copied().filter(|channels| matches!(channels, 1 | 3));
        let planes = channels(1).map(|channels| (Layout::Nchw, channels, [2, 3]));
        let found = planes.or_else(|| channels(3).map(|channels| (Layout::Nhwc, channels, [1, 2])));
        let (layout, channels, [down, across]) =
            found.filter(|_| is_picture && input.shape.len() == 4).ok_or_else(|| {
                Error::invalid(format!(
                    "input '{}' is {} {:?}, and a picture is UINT8, FP16 or FP32 of [N,3,H,W] or [N,H,W,3], or 1 for 3",
                    input.name, input.dtype, input.shape
                ))
            })?;
        let size_px = (pixels(input.shape[across]), pixels(input.shape[down]));
        Ok(Self { io, layout, size_px, is_bytes: input.dtype == DataType::U8, channels })
    }
}

/// What `specimen` answers when it is shown a picture of somebody, and when it is shown noise.
///
/// # Errors
/// The runtime's refusal.
pub(super) fn answers(specimen: &mut Specimen, input: &PictureInput, io: &Io) -> Result<[Vec<Tensor>; 2]> {
    let way = PictureTensor::new(input, io)?;
    let somebody = somebody()?;
    // Xorshift (Marsaglia, 2003): any spread of values will do, as long as it is the same every time.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as u8
    };
    let noise = Picture { pixels: somebody.pixels.iter().map(|_| noise()).collect(), ..somebody };
    let mut answer = |picture: &Picture| {
        let (fitted, _) = way.fit(picture)?;
        specimen.run(&[way.tensor(&fitted)?]).map_err(|error| error.context("it cannot be shown a picture"))
    };
    Ok([answer(&somebody)?, answer(&noise)?])
}

/// The values of a floating-point output.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is none.
pub(super) fn floats(name: &str, tensor: &Tensor) -> Result<Vec<f32>> {
    if let Some(values) = tensor.as_f32() {
        return Ok(values.to_vec());
    }
    if tensor.dtype() == DataType::F16 {
        return Ok(tensor.data().as_chunks().0.iter().map(|half| f16::from_le_bytes(*half).to_f32()).collect());
    }
    Err(Error::invalid(format!("output '{name}' is {}, not FP32 or FP16", tensor.dtype())))
}

/// Whether all of `values` are from 0 to 1, give or take rounding.
pub(super) fn are_shares<'a>(values: impl IntoIterator<Item = &'a f32>) -> bool {
    values.into_iter().all(|value| (-1e-4..=1.0 + 1e-4).contains(value))
}
