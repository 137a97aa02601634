//! Writing an object piece by piece: it appears whole when it is finished, or not at all.

use engine::Result;

use crate::{Tag, When};

/// What a back end does with the pieces.
pub(crate) trait Uploading: Send {
    fn append(&mut self, bytes: &[u8]) -> Result<()>;
    fn finish(self: Box<Self>, when: &When) -> Result<Tag>;
}

/// An object that is being written. Dropped before it is finished, it leaves nothing behind that anybody sees; parts of it
/// that a killed process leaves in a bucket go by the bucket's own rule for unfinished uploads.
pub struct Upload(Box<dyn Uploading>);

impl Upload {
    pub(crate) fn new(uploading: impl Uploading + 'static) -> Self {
        Self(Box::new(uploading))
    }

    /// Adds `bytes` at the end. Blocks while too much is on its way.
    ///
    /// # Errors
    /// As [`Place::put`](crate::Place::put); the upload is then of no more use.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.append(bytes)
    }

    /// Makes the object appear under its key, durable, if `when` holds.
    ///
    /// # Errors
    /// As [`Place::put`](crate::Place::put).
    pub fn finish(self, when: &When) -> Result<Tag> {
        self.0.finish(when)
    }
}
