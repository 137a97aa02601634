//! Results in a bucket, or whatever else holds objects.
//!
//! A bucket shows an object when it is whole, so there is nothing to sweep: what a writer that was killed sent of a large
//! object is nobody's to read, and goes by the bucket's own rule for unfinished uploads.

use std::io::{self, Read};

use bytes::Bytes;
use engine::{ErrorKind, Result};
use objects::{Object, Place, Upload, When};

use super::{Head, ObjectStore, ObjectWriter, Put, Stored, check_key};

/// What is read of an object at once.
const PIECE_BYTES: u64 = 4 << 20;

/// An [`ObjectStore`] in a bucket.
#[derive(Clone, Debug)]
pub struct BucketStore {
    place: Place,
}

impl BucketStore {
    /// Results below `place`.
    pub fn new(place: Place) -> Self {
        Self { place }
    }
}

impl ObjectStore for BucketStore {
    fn url(&self, key: &str) -> String {
        self.place.url(key)
    }

    fn put(&self, key: &str, bytes: &[u8], put: Put) -> Result<Stored> {
        check_key(key)?;
        stored(self.place.put(key, Bytes::copy_from_slice(bytes), &when(put)).map(drop), put)
    }

    fn create(&self, key: &str) -> Result<Box<dyn ObjectWriter>> {
        check_key(key)?;
        Ok(Box::new(Unfinished(self.place.upload(key, None)?)))
    }

    fn head(&self, key: &str) -> Result<Option<Head>> {
        check_key(key)?;
        match self.place.head(key) {
            Ok(object) => Ok(Some(Head { bytes: object.bytes })),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open(&self, key: &str) -> Result<Box<dyn Read + Send>> {
        check_key(key)?;
        let object = self.place.head(key)?;
        Ok(Box::new(Reader { place: self.place.clone(), object, next: 0, piece: Bytes::new() }))
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        check_key(folder)?;
        let mut keys = Vec::new();
        for page in self.place.list(&format!("{folder}/")) {
            keys.extend(page?.objects.into_iter().map(|object| object.key));
        }
        keys.sort_unstable();
        Ok(keys)
    }

    fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        self.place.delete(key)
    }

    fn sweep(&self, folder: &str) -> Result<()> {
        check_key(folder)
    }
}

fn when(put: Put) -> When {
    match put {
        Put::IfAbsent => When::Absent,
        Put::Replace => When::Always,
    }
}

fn stored(written: Result<()>, put: Put) -> Result<Stored> {
    match written {
        Err(error) if error.kind == ErrorKind::AlreadyExists && put == Put::IfAbsent => Ok(Stored::Before),
        written => written.map(|()| Stored::Now),
    }
}

/// An object that is being written.
struct Unfinished(Upload);

impl ObjectWriter for Unfinished {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.append(bytes)
    }

    fn commit(self: Box<Self>, put: Put) -> Result<Stored> {
        stored(self.0.finish(&when(put)).map(drop), put)
    }
}

/// An object that is read piece by piece, and is the same one in all of them.
struct Reader {
    place: Place,
    object: Object,
    next: u64,
    piece: Bytes,
}

impl Read for Reader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() && self.next < self.object.bytes {
            let end = self.object.bytes.min(self.next + PIECE_BYTES);
            self.piece = self.place.read(&self.object, self.next..end).map_err(io::Error::other)?;
            self.next = end;
        }
        let count = into.len().min(self.piece.len());
        into[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use objects::{Limits, Network, Variables};

    use super::*;
    use crate::servers::{self, KEY, SECRET};

    #[test]
    fn a_bucket_holds_results_as_a_folder_does() {
        let server = servers::ministack();
        server.make_bucket("results");
        let url = server.url();
        let keys = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_REGION", "us-east-1")];
        let variables = Variables::from([keys[0], keys[1], keys[2], ("AWS_ENDPOINT_URL", &url)]);
        let network: Arc<Network> = Network::start(Limits::default(), variables).unwrap();
        let store = BucketStore::new(network.place("s3://results/some/where").unwrap());
        assert_eq!(store.head("t/summary.json").unwrap(), None);
        assert_eq!(store.read("t/summary.json").unwrap_err().kind, ErrorKind::NotFound);
        assert_eq!(store.put("t/parts/b", b"one", Put::IfAbsent).unwrap(), Stored::Now);
        assert_eq!(store.put("t/parts/b", b"two", Put::IfAbsent).unwrap(), Stored::Before);
        assert_eq!(store.read("t/parts/b").unwrap(), b"one");
        assert_eq!(store.put("t/parts/b", b"", Put::Replace).unwrap(), Stored::Now);
        assert_eq!(store.read("t/parts/b").unwrap(), b"");
        store.put("t/parts/a", b"first", Put::Replace).unwrap();
        store.put("t/partsy", b"elsewhere", Put::Replace).unwrap();
        assert_eq!(store.list("t/parts").unwrap(), ["t/parts/a", "t/parts/b"]);
        store.delete("t/parts/a").unwrap();
        store.delete("t/parts/a").unwrap();
        assert_eq!(store.list("t/parts").unwrap(), ["t/parts/b"]);
        // Longer than a part of an upload and than a piece of a read.
        let line = b"what was seen in one frame\n".repeat(1000);
        let mut writer = store.create("t/results.jsonl").unwrap();
        let whole: Vec<u8> = (0..400).flat_map(|_| line.clone()).collect();
        whole.chunks(line.len()).for_each(|piece| writer.append(piece).unwrap());
        assert_eq!(store.head("t/results.jsonl").unwrap(), None);
        assert_eq!(writer.commit(Put::Replace).unwrap(), Stored::Now);
        assert!(store.read("t/results.jsonl").unwrap() == whole);
        drop(store.create("t/never").unwrap());
        store.sweep("t").unwrap();
        assert_eq!(store.head("t/never").unwrap(), None);
        for key in ["../a", "/a", "a//b", "a/../b", ""] {
            assert_eq!(store.put(key, b"", Put::Replace).unwrap_err().kind, ErrorKind::InvalidInput, "{key}");
        }
    }
}
