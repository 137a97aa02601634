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

/// What a pixel of a scaled picture is made of. All but `nearest` widen as a picture shrinks, as Pillow's filters do.
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
}
