//! Pictures: from the bytes that people send to the pixels that models take, and back.

mod decode;
pub use decode::{Bounds, decode};

mod gif;
mod jpeg;
mod png;
pub use png::to_png;
mod webp;

mod orient;

mod place;
pub use place::Placement;

mod planes;
pub use planes::Planes;

mod fit;
mod four;
pub use fit::{fit, fit_planes};

mod tensor;
pub use tensor::PictureTensor;

pub mod draw;

/// A picture of three channels, as it is to be looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Three bytes a pixel, red first, row by row from the top, no padding.
    pub pixels: Vec<u8>,
}

#[cfg(test)]
mod tests;
