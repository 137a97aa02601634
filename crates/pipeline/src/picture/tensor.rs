//! From a picture's bytes to the numbers that a model takes.

use bytes::Bytes;
use engine::blocks::written;
use engine::{DataType, Error, Result, Tensor};
use half::f16;
use store::manifest::Io;
use store::picture::{Channels, Layout, PictureInput};

use super::{Picture, Placement, Planes, fit};

/// The way of pictures into one input.
pub struct PictureTensor {
    spec: PictureInput,
    dtype: DataType,
    /// For each channel of the input, what each byte becomes.
    values: Vec<[f32; 256]>,
}

impl PictureTensor {
    /// The way that `spec` says into `input`.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the input is of another datatype or shape than a picture
    /// can be, or a number is none.
    pub fn new(spec: &PictureInput, input: &Io) -> Result<Self> {
        let refuse = |what: String| {
            Error::invalid(format!("{what}: pack the model again, with a task file that says how pictures go in"))
        };
        let dtype = DataType::from_name(&input.datatype)
            .filter(|dtype| matches!(dtype, DataType::U8 | DataType::F16 | DataType::F32))
            .ok_or_else(|| refuse(format!("input '{}' is {}, which no picture is", input.name, input.datatype)))?;
        let numbers = spec.mean.iter().chain(&spec.std).chain([&spec.scale]);
        if numbers.clone().any(|number| !number.is_finite()) || spec.std.contains(&0.0) || spec.scale == 0.0 {
            return Err(refuse("its scale, mean or standard deviation cannot be".to_owned()));
        }
        let channels = if spec.channels == Channels::Grey { 1 } else { 3 };
        let is_raw = spec.scale == 1.0
            && spec.mean[..channels] == [0.0; 3][..channels]
            && spec.std[..channels] == [1.0; 3][..channels];
        if dtype == DataType::U8 && !is_raw {
            return Err(refuse(format!("input '{}' takes bytes, which are not scaled", input.name)));
        }
        let at = if spec.layout == Layout::Nchw { 1 } else { 3 };
        let fits = input.any_rank
            || input.shape.len() == 4 && (input.shape[at] == -1 || usize::try_from(input.shape[at]) == Ok(channels));
        if !fits {
            let (name, shape, layout) = (&input.name, &input.shape, spec.layout);
            return Err(refuse(format!(
                "input '{name}' is of shape {shape:?}, not {layout:?} with {channels} channels"
            )));
        }
        let value = |channel: usize, byte: usize| (byte as f32 * spec.scale - spec.mean[channel]) / spec.std[channel];
        let values = (0..channels).map(|channel| std::array::from_fn(|byte| value(channel, byte))).collect();
        Ok(Self { spec: *spec, dtype, values })
    }

    /// How pictures go in.
    pub fn spec(&self) -> &PictureInput {
        &self.spec
    }

    /// `picture`, brought to its size, and where it lies.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is of a size that cannot be fitted.
    pub fn fit(&self, picture: &Picture) -> Result<(Picture, Placement)> {
        let placement = Placement::of(self.spec.fit, (picture.width, picture.height))?;
        Ok((fit(picture, &placement, self.spec.resample)?, placement))
    }

    /// The tensor for a picture that is brought to its size, a batch of one.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it has not the pixels that its size says.
    pub fn tensor(&self, fitted: &Picture) -> Result<Tensor> {
        let shape = self.shape((fitted.width, fitted.height), fitted.pixels.len())?;
        let data = match self.dtype {
            DataType::F32 => {
                return Tensor::from_f32(shape, self.arranged(fitted, |channel, byte| self.value(channel, byte)));
            }
            DataType::F16 => {
                let halves = self.arranged(fitted, |channel, byte| f16::from_f32(self.value(channel, byte)));
                halves.iter().flat_map(|half| half.to_le_bytes()).collect()
            }
            _ if self.is_as_stored() => Bytes::copy_from_slice(&fitted.pixels),
            _ => self.arranged(fitted, |_, byte| byte).into(),
        };
        Tensor::new(self.dtype, shape, data)
    }

    /// As [`tensor`](Self::tensor), for a picture whose colours lie apart: the same numbers.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor).
    pub fn tensor_of_planes(&self, fitted: &Planes) -> Result<Tensor> {
        let shape = self.shape((fitted.width, fitted.height), fitted.bytes.len())?;
        match (self.dtype, self.spec.layout, self.spec.channels) {
            (DataType::F32, Layout::Nchw, order @ (Channels::Rgb | Channels::Bgr)) => {
                let PictureInput { scale, mean, std, .. } = self.spec;
                let mut planes = fitted.rgb();
                if order == Channels::Bgr {
                    planes.reverse();
                }
                let arrange = |bytes: &mut [u8]| {
                    let mut values = bytes.as_chunks_mut().0;
                    for (channel, plane) in planes.into_iter().enumerate() {
                        // What `values` holds, reckoned again, which a processor does for many bytes at a time.
                        let (mean, std) = (mean[channel], std[channel]);
                        let (first, rest) = values.split_at_mut(plane.len());
                        for (value, byte) in first.iter_mut().zip(plane) {
                            *value = ((f32::from(*byte) * scale - mean) / std).to_le_bytes();
                        }
                        values = rest;
                    }
                };
                Tensor::new(self.dtype, shape, written(fitted.bytes.len() * size_of::<f32>(), arrange)?)
            }
            (DataType::U8, ..) if self.is_as_stored() => {
                Tensor::new(self.dtype, shape, written(fitted.bytes.len(), |bytes| fitted.interleave(bytes))?)
            }
            _ => self.tensor(&fitted.to_picture()),
        }
    }

    /// The shape of a picture that has so many bytes.
    fn shape(&self, (width, height): (u32, u32), bytes: usize) -> Result<Vec<usize>> {
        let (across, down) = (width as usize, height as usize);
        let wanted = across.checked_mul(down).and_then(|pixels| pixels.checked_mul(3));
        if wanted != Some(bytes) || bytes == 0 {
            return Err(Error::invalid(format!(
                "the picture is {width}x{height} in {bytes} bytes, not 3 bytes a pixel"
            )));
        }
        let channels = self.values.len();
        Ok(match self.spec.layout {
            Layout::Nchw => vec![1, channels, down, across],
            Layout::Nhwc => vec![1, down, across, channels],
        })
    }

    fn value(&self, channel: usize, byte: u8) -> f32 {
        self.values[channel][usize::from(byte)]
    }

    /// Whether the input's bytes are the picture's.
    fn is_as_stored(&self) -> bool {
        (self.spec.channels, self.spec.layout) == (Channels::Rgb, Layout::Nhwc)
    }

    /// What `value` makes of each channel of each pixel, in the order of the tensor. A byte has 256 values, so what each
    /// becomes is looked up; a load and a store are all there is to it.
    fn arranged<T>(&self, picture: &Picture, value: impl Fn(usize, u8) -> T) -> Vec<T> {
        let (pixels, _) = picture.pixels.as_chunks::<3>();
        let mut values = Vec::with_capacity(pixels.len() * self.values.len());
        match (self.spec.channels, self.spec.layout) {
            (Channels::Grey, _) => values.extend(pixels.iter().map(|pixel| value(0, lightness(*pixel)))),
            (order, Layout::Nchw) => {
                for channel in 0..3 {
                    let from = if order == Channels::Bgr { 2 - channel } else { channel };
                    values.extend(pixels.iter().map(|pixel| value(channel, pixel[from])));
                }
            }
            (Channels::Rgb, Layout::Nhwc) => {
                values.extend(pixels.iter().flat_map(|&[r, g, b]| [value(0, r), value(1, g), value(2, b)]));
            }
            (Channels::Bgr, Layout::Nhwc) => {
                values.extend(pixels.iter().flat_map(|&[r, g, b]| [value(0, b), value(1, g), value(2, r)]));
            }
        }
        values
    }
}

/// BT.601's weights in sixteenths of bits, as Pillow's `L` has them.
fn lightness([red, green, blue]: [u8; 3]) -> u8 {
    let weighted = 19_595 * u32::from(red) + 38_470 * u32::from(green) + 7_471 * u32::from(blue) + 0x8000;
    (weighted >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::picture::Fit;

    fn io(datatype: &str, shape: &[i64]) -> Io {
        Io { name: "in".to_owned(), datatype: datatype.to_owned(), shape: shape.to_vec(), any_rank: false }
    }

    #[test]
    fn pixels_become_numbers_in_their_order() {
        let picture = Picture { width: 2, height: 1, pixels: vec![10, 20, 30, 40, 50, 60] };
        let planes = Planes { width: 2, height: 1, bytes: vec![20, 50, 30, 60, 10, 40] };
        assert_eq!(planes.to_picture(), picture);
        let spec = |channels, layout| PictureInput { channels, layout, ..PictureInput::raw() };
        type Row<'a> = (Channels, Layout, &'a [i64], &'a [usize], &'a [u8]);
        let table: [Row<'_>; 6] = [
            (Channels::Rgb, Layout::Nchw, &[-1, 3, -1, -1], &[1, 3, 1, 2], &[10, 40, 20, 50, 30, 60]),
            (Channels::Bgr, Layout::Nchw, &[1, 3, 1, 2], &[1, 3, 1, 2], &[30, 60, 20, 50, 10, 40]),
            (Channels::Rgb, Layout::Nhwc, &[1, -1, -1, 3], &[1, 1, 2, 3], &[10, 20, 30, 40, 50, 60]),
            (Channels::Bgr, Layout::Nhwc, &[1, -1, -1, 3], &[1, 1, 2, 3], &[30, 20, 10, 60, 50, 40]),
            // As Pillow says: Image.new("RGB", ...).convert("L").
            (Channels::Grey, Layout::Nchw, &[1, 1, -1, -1], &[1, 1, 1, 2], &[18, 48]),
            (Channels::Grey, Layout::Nhwc, &[1, -1, -1, 1], &[1, 1, 2, 1], &[18, 48]),
        ];
        for (channels, layout, declared, shape, want) in table {
            let spec = spec(channels, layout);
            let both = |way: PictureTensor| {
                let tensor = way.tensor(&picture).unwrap();
                let apart = way.tensor_of_planes(&planes).unwrap();
                assert_eq!((apart.shape(), apart.data()), (tensor.shape(), tensor.data()), "{spec:?}");
                tensor
            };
            let bytes = both(PictureTensor::new(&spec, &io("UINT8", declared)).unwrap());
            assert_eq!((bytes.shape(), &bytes.data()[..]), (shape, want), "{spec:?}");
            let halves = both(PictureTensor::new(&spec, &io("FP16", declared)).unwrap());
            let halves: Vec<u8> =
                halves.data().chunks(2).map(|half| f16::from_le_bytes([half[0], half[1]]).to_f32() as u8).collect();
            assert_eq!(halves, want, "{spec:?}");
            let scaled = PictureInput { scale: 0.5, mean: [1.0, 2.0, 3.0], std: [2.0, 4.0, 8.0], ..spec };
            let floats = both(PictureTensor::new(&scaled, &io("FP32", declared)).unwrap());
            let count = if channels == Channels::Grey { 1 } else { 3 };
            let channel = |at: usize| if layout == Layout::Nchw { at / 2 } else { at % count };
            for (at, (&got, &byte)) in floats.as_f32().unwrap().iter().zip(want).enumerate() {
                let channel = channel(at);
                assert_eq!(got, (f32::from(byte) * 0.5 - scaled.mean[channel]) / scaled.std[channel], "{spec:?} {at}");
            }
        }
    }

    #[test]
    fn inputs_that_take_no_pictures_are_refused() {
        let raw = PictureInput::raw();
        for (spec, input, says) in [
            (raw, io("INT64", &[1, 3, 4, 4]), "INT64"),
            (raw, io("FP32", &[1, 4, 4, 3]), "Nchw with 3 channels"),
            (raw, io("FP32", &[1, 3]), "shape [1, 3]"),
            (PictureInput { scale: 0.5, ..raw }, io("UINT8", &[1, 3, 4, 4]), "takes bytes"),
            (PictureInput { std: [1.0, 0.0, 1.0], ..raw }, io("FP32", &[1, 3, 4, 4]), "cannot be"),
            (PictureInput { scale: f32::NAN, ..raw }, io("FP32", &[1, 3, 4, 4]), "cannot be"),
        ] {
            let error = PictureTensor::new(&spec, &input).err().unwrap();
            assert!(error.message.contains(says), "{error}");
        }
        let way = PictureTensor::new(&raw, &io("FP32", &[1, 3, -1, -1])).unwrap();
        let short = Picture { width: 2, height: 2, pixels: vec![0; 11] };
        assert!(way.tensor(&short).is_err() && way.fit(&short).is_err());
        for bytes in [0, 1, 11, 13] {
            assert!(way.tensor_of_planes(&Planes { width: 2, height: 2, bytes: vec![0; bytes] }).is_err());
        }
        let spec = PictureInput { fit: Fit::Exact { width: 3, height: 5 }, ..raw };
        let way = PictureTensor::new(&spec, &io("FP32", &[1, 3, -1, -1])).unwrap();
        let (fitted, placement) = way.fit(&Picture { width: 2, height: 2, pixels: vec![7; 12] }).unwrap();
        assert_eq!((fitted.width, fitted.height, placement.canvas_px), (3, 5, (3, 5)));
    }
}
