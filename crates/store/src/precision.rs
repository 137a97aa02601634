//! In how many bits a model's weights are kept, and what that is said of.

use serde::{Deserialize, Serialize};

/// What large matrices and tables are kept as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precision {
    /// As the source has them.
    #[default]
    Float,
    /// Eight bits, and products of whole numbers: a quarter of the bytes, and several times as fast.
    Int8,
    /// Eight bits, widened at each request: a quarter of the bytes, nearer to the original, and slower.
    Int8Weights,
}

impl Precision {
    pub(crate) fn is_float(&self) -> bool {
        *self == Self::Float
    }
}
