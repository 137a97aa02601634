//! An object in parts: a few of them on their way at once, and the end of it under a condition.

use std::sync::Arc;

use engine::{Error, Result};
use object_store::MultipartId;
use object_store::multipart::PartId;
use object_store::path::Path;
use tokio::task::JoinSet;

use super::trace::{self, Condition};
use super::{Cloud, explain, tag, unmet};
use crate::upload::Uploading;
use crate::{Tag, When};

/// All parts but the last have at least 5 MiB, as the services want it.
const PART_BYTES_MIN: usize = 8 << 20;
/// The services take 10,000.
const PARTS_MAX: u64 = 9_000;
/// Parts on their way at once.
const PARALLEL: usize = 4;

/// An upload; what fits into one part is written in one request when it is finished.
pub(super) struct Multipart {
    cloud: Cloud,
    /// Where it is to appear.
    path: Path,
    /// Where its parts are put together.
    staged: Path,
    part_bytes: usize,
    buffer: Vec<u8>,
    /// Once the first part was full.
    id: Option<MultipartId>,
    sending: JoinSet<Result<(usize, PartId)>>,
    sent: Vec<(usize, PartId)>,
    parts: usize,
}

impl Multipart {
    pub(super) fn new(cloud: Cloud, path: Path, bytes: Option<u64>) -> Result<Self> {
        let least = bytes.unwrap_or(0).div_ceil(PARTS_MAX);
        let part_bytes = usize::try_from(least).unwrap_or(usize::MAX).max(PART_BYTES_MIN);
        let (buffer, sending, sent) = (Vec::new(), JoinSet::new(), Vec::new());
        let staged = cloud.stage(&path)?;
        Ok(Self { cloud, path, staged, part_bytes, buffer, id: None, sending, sent, parts: 0 })
    }

    fn begun(&mut self) -> Result<MultipartId> {
        if let Some(id) = &self.id {
            return Ok(id.clone());
        }
        let id = self.cloud.run(self.path.as_ref(), self.cloud.store.create_multipart(&self.staged))?;
        self.id = Some(id.clone());
        Ok(id)
    }

    /// Sends what is gathered, and waits while too much is on its way.
    fn send(&mut self) -> Result<()> {
        let id = self.begun()?;
        if self.parts as u64 >= 10_000 {
            let fix = "say its size when it is begun, so that its parts are large enough";
            return Err(Error::unsupported(format!("{}: more than 10000 parts; {fix}", self.url())));
        }
        let bytes = std::mem::take(&mut self.buffer);
        let (index, store, path) = (self.parts, Arc::clone(&self.cloud.store), self.staged.clone());
        let (asker, limit) = (Arc::clone(&self.cloud.asker), self.cloud.network.limits.total);
        self.parts += 1;
        let put = async move {
            let put = trace::scope(async {
                match store.put_part(&path, &id, index, bytes.into()).await {
                    Ok(part) => Ok((index, part)),
                    Err(error) => Err(explain(&asker, &error).await),
                }
            });
            tokio::time::timeout(limit, put).await.unwrap_or_else(|_| Err(crate::network::too_slow(limit)))
        };
        self.sending.spawn_on(put, self.cloud.network.handle());
        self.wait(PARALLEL - 1)
    }

    /// Waits until no more than `left` parts are on their way.
    fn wait(&mut self, left: usize) -> Result<()> {
        let network = Arc::clone(&self.cloud.network);
        while self.sending.len() > left {
            let sent = network.block_on(network.while_there_is_time(self.sending.join_next()));
            let sent = sent.and_then(|sent| {
                let sent = sent.transpose();
                sent.map_err(|error| Error::internal(format!("a part's task ended: {error}")))?.transpose()
            });
            self.sent.extend(sent.map_err(|error| error.context(self.url()))?);
        }
        Ok(())
    }

    fn complete(&mut self, id: &MultipartId, when: &When) -> Result<Tag> {
        self.sent.sort_unstable_by_key(|(index, _)| *index);
        let parts = std::mem::take(&mut self.sent).into_iter().map(|(_, part)| part).collect();
        let condition = if self.staged == self.path { condition(when)? } else { None };
        let complete = async {
            trace::set_condition(condition);
            self.cloud.store.complete_multipart(&self.staged, id, parts).await
        };
        let written = self.cloud.run(self.path.as_ref(), complete).map_err(|error| unmet(when, error))?;
        if self.staged == self.path {
            return Ok(tag(written.e_tag, written.version));
        }
        self.id = None;
        self.cloud.appear(&self.staged, &self.path, when)
    }

    fn url(&self) -> String {
        self.cloud.address.url_of(self.path.as_ref())
    }
}

impl Uploading for Multipart {
    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            // Full parts leave only when more comes, so that the last one is never empty.
            if self.buffer.len() == self.part_bytes {
                self.send()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.part_bytes - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, when: &When) -> Result<Tag> {
        if self.id.is_none() {
            let bytes = std::mem::take(&mut self.buffer);
            return self.cloud.put_at(&self.path, bytes.into(), when);
        }
        self.send()?;
        self.wait(0)?;
        let id = self.begun()?;
        let tag = self.complete(&id, when)?;
        self.id = None;
        Ok(tag)
    }
}

impl Drop for Multipart {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        self.sending.abort_all();
        // Parts that stay cost money and nothing else; the bucket's own rule takes them when this fails.
        let (store, path) = (Arc::clone(&self.cloud.store), self.staged.clone());
        self.cloud.network.handle().spawn(async move {
            let _ = store.abort_multipart(&path, &id).await;
        });
    }
}

/// `when` in the words of HTTP.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for an object of which nothing is known to compare.
pub(super) fn condition(when: &When) -> Result<Option<Condition>> {
    match when {
        When::Always => Ok(None),
        When::Absent => Ok(Some(Condition::IfNoneMatch)),
        When::Same(Tag { etag: None, version: None }) => {
            Err(Error::invalid("an object without a tag cannot be compared"))
        }
        When::Same(Tag { etag, version }) => {
            Ok(Some(Condition::IfMatch { etag: etag.clone().unwrap_or_default(), generation: version.clone() }))
        }
    }
}
