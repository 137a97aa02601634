//! What programs of models that are loaded whole say of their tensors.

use engine::{Outlet, Result};
use serde::{Deserialize, Serialize};

use crate::manifest::Io;

/// A tensor of the signature, and what its runtime calls it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Place {
    pub(crate) io: Io,
    /// See [`Outlet::tensor`].
    pub(crate) tensor: String,
}

/// The same for the runtime.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) for a datatype that there is not.
pub(crate) fn outlets(places: &[Place]) -> Result<Vec<Outlet>> {
    let outlet = |place: &Place| Ok(Outlet { spec: place.io.to_spec()?, tensor: place.tensor.clone() });
    places.iter().map(outlet).collect()
}
