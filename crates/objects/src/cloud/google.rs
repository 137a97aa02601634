//! What Google's interface lacks: a condition on a tag, which takes a generation there, and one on an upload in parts,
//! which is therefore put together under another name and copied to its own under the condition.

use std::hash::{BuildHasher, RandomState};

use engine::{Error, ErrorKind, Result};
use object_store::path::Path;
use object_store::{GetOptions, ObjectStoreExt};

use super::multipart::condition;
use super::{Cloud, object, trace, unmet};
use crate::address::Scheme;
use crate::{Object, Tag, When};

/// The folder in a place where uploads in parts are put together.
const STAGED: &str = ".unfinished";

impl Cloud {
    /// `when`, with what the service compares by. Where only a tag is known and it wants a generation, that is the
    /// generation of the object that has the tag now.
    ///
    /// # Errors
    /// [`FailedPrecondition`](ErrorKind::FailedPrecondition) when no object has it, or the service's.
    pub(super) fn comparable(&self, path: &Path, when: &When) -> Result<When> {
        let When::Same(Tag { etag, version: None }) = when else { return Ok(when.clone()) };
        if self.address.scheme != Scheme::Gcs {
            return Ok(when.clone());
        }
        let found = self.look(path, None).map_err(|error| unmet(when, error))?;
        if etag.is_none() || found.tag.etag != *etag {
            let url = self.address.url_of(path.as_ref());
            let why = format!("{url}: it is not what it was: it was replaced meanwhile");
            return Err(Error::new(ErrorKind::FailedPrecondition, why));
        }
        Ok(When::Same(found.tag))
    }

    /// Where an upload of what is to be `path` is put together.
    pub(super) fn stage(&self, path: &Path) -> Result<Path> {
        if self.address.scheme != Scheme::Gcs {
            return Ok(path.clone());
        }
        let [one, two] = [(); 2].map(|()| RandomState::new().hash_one(path.as_ref()));
        self.path(&self.address.full(&format!("{STAGED}/{one:016x}{two:016x}")))
    }

    /// Whether an object is an upload that has not come to its name, or a folder holds nothing else.
    pub(super) fn is_staged(&self, path: &Path) -> bool {
        let staged = || self.address.full(STAGED);
        self.address.scheme == Scheme::Gcs
            && path.as_ref().strip_prefix(&*staged()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Makes what was put together at `staged` appear at `path`, if `when` holds; nothing is left at `staged`.
    pub(super) fn appear(&self, staged: &Path, path: &Path, when: &When) -> Result<Tag> {
        let copied = self.comparable(path, when).and_then(|when| {
            let condition = condition(&when)?;
            let copy = async {
                trace::set_condition(condition);
                self.store.copy(staged, path).await?;
                Ok(trace::generation())
            };
            self.run(path.as_ref(), copy)
        });
        if let Err(error) = self.run(staged.as_ref(), self.store.delete(staged)) {
            tracing::warn!(%error, "an upload that is done with was left behind");
        }
        let generation = copied.map_err(|error| unmet(when, error))?;
        // It is there; whoever writes it again needs its generation alone.
        let tag = self.look(path, generation.clone()).map(|found| found.tag);
        Ok(tag.unwrap_or(Tag { etag: None, version: generation }))
    }

    /// What there is of the object at `path`: of this generation, or whatever it is now.
    fn look(&self, path: &Path, generation: Option<String>) -> Result<Object> {
        let options = GetOptions { head: true, version: generation, ..GetOptions::default() };
        let found = self.run(path.as_ref(), self.store.get_opts(path, options))?;
        Ok(object(path.as_ref(), found.meta))
    }
}
