//! Pictures as models take them.

/// A picture of three channels.
#[derive(Clone, Debug, PartialEq)]
pub struct Picture {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// Three bytes a pixel, row by row from the top, no padding, in the order that was asked for.
    pub pixels: Vec<u8>,
}

/// How a picture is brought to the size that a model takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}
