//! How a picture becomes a model's input: the part of a task that says it.

use serde::{Deserialize, Serialize};

/// How a picture is brought to the size that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "to", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fit {
    /// As it is displayed.
    Source,
    /// Stretched to exactly this many pixels.
    Exact {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// Scaled until it just fits, and the rest filled, as YOLO's families do.
    Letterbox {
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
        /// The value of every channel of what is filled.
        #[serde(default = "grey")]
        fill: u8,
        /// Where in the box the picture lies.
        #[serde(default)]
        lies: Lies,
    },
    /// Scaled until its shorter side has `short` pixels, and the middle cut out, as classifiers do; where the middle
    /// reaches beyond the picture it is black.
    Crop {
        /// Pixels of the shorter side.
        short: u32,
        /// Pixels across.
        width: u32,
        /// Pixels down.
        height: u32,
    },
    /// Scaled until its shorter side has `short` pixels, or its longer one `long` if that comes first, as DETR does;
    /// its proportions stay.
    Within {
        /// Pixels of the shorter side.
        short: u32,
        /// Pixels of the longer side at most.
        long: u32,
    },
}

/// What the families of YOLO fill their boxes with.
fn grey() -> u8 {
    114
}

/// Where a picture lies in a box that is larger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lies {
    /// In the middle; of an odd pixel, the larger half is right and below.
    #[default]
    Centre,
    /// In the upper left corner, as in YOLOX.
    Corner,
}

/// What a pixel of a scaled picture is made of. `bilinear`, `bicubic` and `lanczos` widen as a picture shrinks, as
/// Pillow's filters do. `asymmetric` and `half-pixel` never do: a pixel is made of the four around its place, as graphs
/// do it that bring pictures to their size themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resample {
    /// The one pixel that is nearest.
    Nearest,
    /// A triangle.
    #[default]
    Bilinear,
    /// Catmull-Rom's cubic.
    Bicubic,
    /// Lanczos's window of three lobes.
    Lanczos,
    /// Four pixels, edge on edge: ONNX's `Resize` of mode `linear` with the coordinates of that name, and TensorFlow's
    /// `ResizeBilinear` as it was in its first versions.
    Asymmetric,
    /// Four pixels, middle on middle: the same with ONNX's `half_pixel` and TensorFlow's `half_pixel_centers`.
    HalfPixel,
}

impl Resample {
    /// Whether a pixel is made of the four around its place, however small the picture becomes.
    pub fn is_of_four(self) -> bool {
        matches!(self, Self::Asymmetric | Self::HalfPixel)
    }
}

/// How a picture becomes the tensor that a model takes. The tensor's datatype is the signature's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PictureInput {
    /// Its size.
    pub fit: Fit,
    /// What a pixel is made of when the size changes.
    #[serde(default)]
    pub resample: Resample,
    /// What there is of each pixel, in this order.
    #[serde(default)]
    pub channels: Channels,
    /// The order of the dimensions.
    #[serde(default)]
    pub layout: Layout,
    /// Each byte is multiplied by this first: 1 leaves 0 to 255, 1/255 makes 0 to 1.
    pub scale: f32,
    /// Subtracted then, in the order of `channels`.
    #[serde(default)]
    pub mean: [f32; 3],
    /// Divides then, in the order of `channels`.
    #[serde(default = "ones")]
    pub std: [f32; 3],
}

fn ones() -> [f32; 3] {
    [1.0; 3]
}

impl PictureInput {
    /// Bytes as they are, of a picture as it is.
    pub fn raw() -> Self {
        Self {
            fit: Fit::Source,
            resample: Resample::default(),
            channels: Channels::default(),
            layout: Layout::default(),
            scale: 1.0,
            mean: [0.0; 3],
            std: ones(),
        }
    }
}

/// What there is of each pixel, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channels {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red, as OpenCV reads pictures.
    Bgr,
    /// Its lightness alone, by BT.601 as in Pillow's `L`.
    Grey,
}

/// The order of a picture's dimensions in a tensor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layout {
    /// A plane a channel: batch, channels, height, width.
    #[default]
    Nchw,
    /// All channels of a pixel together: batch, height, width, channels.
    Nhwc,
}
