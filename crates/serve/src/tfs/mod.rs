//! What TensorFlow Serving's two edges, REST and gRPC, share: names, types, examples and their results, statuses.
//! No wire type is known here.

mod example;
pub(crate) use example::{Example, Feature, merge, tensors};

mod names;
pub(crate) use names::{alias, infos, resolve, wire_type};

mod result;
pub(crate) use result::{LabelScore, classify, regress};

mod status;
pub(crate) use status::{VersionState, VersionStatus, statuses};

use std::time::Instant;

use engine::{Error, Result, Tensor};

use crate::Origin;

/// The one signature that a model has.
pub(crate) const SIGNATURE: &str = "serving_default";

/// The signature's method, as TensorFlow names it.
pub(crate) const PREDICT_METHOD: &str = "tensorflow/serving/predict";

/// What comes with a request besides its content.
pub(crate) struct Terms {
    /// When the call's own time limit runs out. The transport may end the call then; the scheduler must know it before,
    /// so that nothing is computed for nobody.
    pub(crate) deadline: Option<Instant>,
    pub(crate) origin: Origin,
}

impl Terms {
    /// The same, with what `inputs` take counted.
    pub(crate) fn with_inputs(self, inputs: &[(String, Tensor)]) -> Result<Self> {
        Ok(Self { origin: self.origin.with_inputs(inputs)?, ..self })
    }
}

/// Checks the signature that a client asks for; an empty name is the default's.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for any but [`SIGNATURE`].
pub(crate) fn check_signature(name: &str) -> Result<()> {
    if name.is_empty() || name == SIGNATURE {
        return Ok(());
    }
    Err(Error::invalid(format!("the model has no signature '{name}'; leave it out or ask for '{SIGNATURE}'")))
}
