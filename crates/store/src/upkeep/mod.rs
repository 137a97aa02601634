//! Keeping a store: removing models, collecting what none of them needs, checking every byte, gathering what is scattered.
//!
//! All of it may run while packers pack and servers serve. Files that are mapped are only ever unlinked, so whoever has
//! them goes on; what a packer relies on it marks as used first, under the store's lock, and gc leaves alone what was
//! used within its grace period.

mod compact;
pub(crate) mod gc;
mod remove;
#[cfg(test)]
pub(crate) mod tests;
mod verify;

pub use compact::{Compacted, compact};
pub use gc::{Collected, Garbage, collect};
pub use remove::remove;
pub use verify::{Damage, Verified, verify};

use engine::{Error, Result};

use crate::{Manifest, Store};

/// Every manifest of `store`; what cannot be read may need anything, so whoever removes things must not go on.
fn readable(store: &Store) -> Result<Vec<Manifest>> {
    let (mut manifests, mut broken) = (Vec::new(), Vec::new());
    for listed in store.list()? {
        match listed.manifest.and_then(|manifest| manifest.content().map(|_| manifest)) {
            Ok(manifest) => manifests.push(manifest),
            Err(error) => broken.push(error.message),
        }
    }
    if broken.is_empty() {
        return Ok(manifests);
    }
    Err(Error::corrupt(format!(
        "what these manifests need is not known, so nothing is touched; 'packhorse remove' removes them: {}",
        broken.join("; ")
    )))
}
