//! Files of weights that are not the store's own and are mapped where they lie: what is served from them has to be what was
//! packed.
//!
//! A file that is, by its length, times and number, what was packed is believed to be that. One of the same length that was
//! only touched, copied or put back may be it as well: it is read once, and its hash tells.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use engine::map::{Map, Stamp};
use engine::{Error, Result};

use crate::atomic::io_error;
use crate::manifest::{External, SegmentRef};
use crate::maps::Maps;

/// What was written so shortly ago may still be written: reading it would be for nothing.
const SETTLED: Duration = Duration::from_secs(2);

/// The hashes of files that were looked into, and what they were then.
#[derive(Debug, Default)]
pub(crate) struct Outside(Mutex<HashMap<PathBuf, (Stamp, String)>>);

impl Outside {
    /// The file `external` that `segment` names, mapped, and watched from then on.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound), or [`Corrupt`](engine::ErrorKind::Corrupt) for a file that is not the one
    /// that was packed.
    pub(crate) fn map(&self, maps: &Maps, segment: &SegmentRef, external: &External) -> Result<Bytes> {
        let other = || {
            let reason = "it is another file than the one the model was packed from; pack the model again, or put the old \
                          file back";
            Err(Error::corrupt(reason))
        };
        // What it is may change until it is mapped: what is mapped is looked at again.
        let metadata = std::fs::metadata(&external.path).map(|metadata| Stamp::of(&metadata));
        let looked_into = metadata.ok().filter(|now| !is_as_packed(now, segment, external));
        let same = match &looked_into {
            Some(now) => self.is_same(&external.path, now, segment)?,
            None => true,
        };
        // One that is mapped already goes on being what was packed when its file has another in its place.
        maps.open_watched_if(&external.path, |map: &Map| {
            let stamp = map.stamp();
            let is_it = is_as_packed(&stamp, segment, external) || (same && looked_into == Some(stamp));
            if is_it { Ok(()) } else { other() }
        })
    }

    /// Whether the file at `path`, which is `now`, has the bytes of `segment`.
    fn is_same(&self, path: &Path, now: &Stamp, segment: &SegmentRef) -> Result<bool> {
        // A manifest of the first format says no length, and a pack that is being made no hash yet.
        if segment.hash.is_empty() || (segment.bytes != 0 && now.len_bytes != segment.bytes) {
            return Ok(false);
        }
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned();
        if let Some((_, hash)) = known.filter(|(stamp, _)| stamp == now) {
            return Ok(hash == segment.hash);
        }
        let written = SystemTime::UNIX_EPOCH + Duration::from_nanos(now.modified_ns);
        if written.elapsed().unwrap_or(SETTLED) < SETTLED {
            return Ok(false);
        }
        // Read and not mapped: a file that is cut meanwhile ends, and a page that is not there ends the process.
        let unreadable = |source: std::io::Error| io_error(path, "cannot be read", &source);
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(path).map_err(unreadable)?).map_err(unreadable)?;
        let hash = hasher.finalize().to_hex().to_string();
        let is_same = hash == segment.hash;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned(), (*now, hash));
        Ok(is_same)
    }
}

/// Whether a file that is `now` is what was packed, as far as that can be told from outside.
fn is_as_packed(now: &Stamp, segment: &SegmentRef, external: &External) -> bool {
    let known = |then: u64, now: u64| then == 0 || then == now;
    known(segment.bytes, now.len_bytes)
        && now.modified_ns == external.modified_ns
        && known(external.changed_ns, now.changed_ns)
        && known(external.inode, now.inode)
}
