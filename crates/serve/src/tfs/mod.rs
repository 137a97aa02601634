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

use engine::{Error, Result};

/// The one signature that a model has.
pub(crate) const SIGNATURE: &str = "serving_default";

/// The signature's method, as TensorFlow names it.
pub(crate) const PREDICT_METHOD: &str = "tensorflow/serving/predict";

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
