//! A bucket or folder and a prefix in it: what can be done there.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use engine::Result;

use crate::{Address, Object, Page, Tag, Upload, When};

/// What takes the pieces of an object that is read: offset and bytes.
pub(crate) type Sink<'a> = &'a mut dyn FnMut(u64, Bytes) -> Result<()>;

/// One kind of place. Keys are whole, the place's prefix included; errors name the object.
pub(crate) trait Backend: Send + Sync {
    fn head(&self, key: &str) -> Result<Object>;
    /// The whole object, unless it still is the one with this tag.
    fn get(&self, key: &str, bytes_max: u64, unless: Option<&Tag>) -> Result<Option<(Object, Bytes)>>;
    /// The bytes in `range`, which is not empty, of whatever the object is now.
    fn peek(&self, key: &str, range: Range<u64>) -> Result<(Object, Bytes)>;
    /// The sink is given a piece without bytes, too, while none comes, so that it can end it at any time.
    fn fetch(&self, object: &Object, ranges: Vec<Range<u64>>, parallel: usize, sink: Sink<'_>) -> Result<()>;
    fn page(&self, ask: &Ask) -> Result<(Page, Option<String>)>;
    fn put(&self, key: &str, bytes: Bytes, when: &When) -> Result<Tag>;
    fn upload(&self, key: &str, bytes: Option<u64>) -> Result<Upload>;
    fn delete(&self, key: &str) -> Result<()>;
}

/// What a listing is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// What keys begin with.
    pub(crate) prefix: String,
    /// Only keys after this one.
    pub(crate) after: Option<String>,
    /// Where the last page ended, in the place's own words.
    pub(crate) token: Option<String>,
    /// Whether what lies in folders below is only named by its folder.
    pub(crate) folders: bool,
}

/// A bucket or folder and a prefix in it. Cheap to clone.
#[derive(Clone)]
pub struct Place {
    address: Arc<Address>,
    back: Arc<dyn Backend>,
}

impl Place {
    pub(crate) fn new(address: Address, back: Arc<dyn Backend>) -> Self {
        Self { address: Arc::new(address), back }
    }

    /// Where it is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// What the object called `key` is called elsewhere.
    pub fn url(&self, key: &str) -> String {
        self.address.url(key)
    }

    /// Size, content's tag and time of the object called `key`.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound) without it; [`Forbidden`](engine::ErrorKind::Forbidden), naming whose
    /// credentials were used; [`Unavailable`](engine::ErrorKind::Unavailable) when the place does not answer, and
    /// [`Exhausted`](engine::ErrorKind::Exhausted) when it wants fewer requests, both after having tried for a while.
    pub fn head(&self, key: &str) -> Result<Object> {
        self.own(self.back.head(&self.address.full(key))?)
    }

    /// The whole of a small object of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// As [`head`](Self::head), and [`InvalidInput`](engine::ErrorKind::InvalidInput) for one that is larger.
    pub fn get(&self, key: &str, bytes_max: u64) -> Result<(Object, Bytes)> {
        let got = self.back.get(&self.address.full(key), bytes_max, None)?;
        let (object, bytes) = got.ok_or_else(|| engine::Error::internal(format!("{}: no answer", self.url(key))))?;
        Ok((self.own(object)?, bytes))
    }

    /// As [`get`](Self::get), but `None` when the object still is the one with the tag `known`.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn get_unless(&self, key: &str, bytes_max: u64, known: &Tag) -> Result<Option<(Object, Bytes)>> {
        let got = self.back.get(&self.address.full(key), bytes_max, Some(known))?;
        got.map(|(object, bytes)| Ok((self.own(object)?, bytes))).transpose()
    }

    /// The bytes in `range` of what the object called `key` is now, and what it is, in one request. Whoever reads more of
    /// it reads it by that.
    ///
    /// # Errors
    /// As [`head`](Self::head), and [`InvalidInput`](engine::ErrorKind::InvalidInput) for a range that is empty or not in it.
    pub fn peek(&self, key: &str, range: Range<u64>) -> Result<(Object, Bytes)> {
        if range.is_empty() {
            return Err(engine::Error::invalid(format!("{}: a range without a byte", self.url(key))));
        }
        let wanted = range.end - range.start;
        let (object, bytes) = self.back.peek(&self.address.full(key), range)?;
        if bytes.len() as u64 != wanted {
            let came = bytes.len();
            return Err(engine::Error::unavailable(format!("{}: {came} bytes came of {wanted}", self.url(key))));
        }
        Ok((self.own(object)?, bytes))
    }

    /// The bytes in `range` of `object`, and no fewer; in one request, tried again from where it was cut.
    ///
    /// # Errors
    /// As [`head`](Self::head); [`FailedPrecondition`](engine::ErrorKind::FailedPrecondition) when the object was replaced
    /// since it was looked at, [`Corrupt`](engine::ErrorKind::Corrupt) when other bytes come than were asked for,
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a range that is not in it.
    pub fn read(&self, object: &Object, range: Range<u64>) -> Result<Bytes> {
        let mut pieces = Vec::new();
        let start = range.start;
        self.fetch(object, vec![range], 1, &mut |_, bytes| {
            pieces.push(bytes);
            Ok(())
        })?;
        tracing::trace!(key = %object.key, start, pieces = pieces.len(), "read");
        if let [_] = &*pieces {
            return Ok(pieces.swap_remove(0));
        }
        Ok(pieces.concat().into())
    }

    /// Reads `ranges` of `object`, at most `parallel` at once, and gives each piece with its offset to `sink`, on the calling
    /// thread: in order within a range, in no order between them. When `sink` fails, everything ends with its error.
    ///
    /// # Errors
    /// As [`read`](Self::read). What was given to `sink` before the error is right.
    pub fn fetch(
        &self,
        object: &Object,
        ranges: Vec<Range<u64>>,
        parallel: usize,
        sink: &mut dyn FnMut(u64, Bytes) -> Result<()>,
    ) -> Result<()> {
        self.fetch_while(object, ranges, parallel, &|| true, sink)
    }

    /// As [`fetch`](Self::fetch), for as long as `wanted` says so, which is asked at every piece and a few times a second.
    ///
    /// # Errors
    /// [`Cancelled`](engine::ErrorKind::Cancelled) when it is not wanted any more.
    pub fn fetch_while(
        &self,
        object: &Object,
        ranges: Vec<Range<u64>>,
        parallel: usize,
        wanted: &dyn Fn() -> bool,
        sink: &mut dyn FnMut(u64, Bytes) -> Result<()>,
    ) -> Result<()> {
        let object = Object { key: self.address.full(&object.key), ..object.clone() };
        if let Some(range) = ranges.iter().find(|range| range.start > range.end || range.end > object.bytes) {
            return Err(engine::Error::invalid(format!(
                "bytes {}..{} are not in it: it has {}",
                range.start, range.end, object.bytes
            ))
            .context(self.address.url_of(&object.key)));
        }
        let ranges: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        let mut sink = |offset: u64, bytes: Bytes| match () {
            () if !wanted() => Err(engine::Error::new(engine::ErrorKind::Cancelled, "it is not wanted any more")),
            () if bytes.is_empty() => Ok(()),
            () => sink(offset, bytes),
        };
        if ranges.is_empty() { Ok(()) } else { self.back.fetch(&object, ranges, parallel.max(1), &mut sink) }
    }

    /// What begins with `prefix`, page by page; a page is one request, made when it is asked for.
    pub fn list(&self, prefix: &str) -> Listing<'_> {
        self.listing(prefix, None, false)
    }

    /// As [`list`](Self::list), of what comes after the key `after` as bytes compare.
    pub fn list_after(&self, prefix: &str, after: &str) -> Listing<'_> {
        self.listing(prefix, Some(after), false)
    }

    /// As [`list`](Self::list), of what lies in `folder` itself; of folders below only the names.
    pub fn list_folder(&self, folder: &str) -> Listing<'_> {
        let folder = folder.trim_end_matches('/');
        self.listing(&if folder.is_empty() { String::new() } else { format!("{folder}/") }, None, true)
    }

    fn listing(&self, prefix: &str, after: Option<&str>, folders: bool) -> Listing<'_> {
        let full = |key: &str| if key.is_empty() { self.below() } else { self.address.full(key) };
        let ask = Ask { prefix: full(prefix), after: after.map(full), token: None, folders };
        Listing { place: self, next: Some(ask) }
    }

    /// Writes `bytes` as the object called `key`, in one request, if `when` holds. Durable on return.
    ///
    /// # Errors
    /// As [`head`](Self::head), and what [`When`] says; [`Unsupported`](engine::ErrorKind::Unsupported) where nothing can be
    /// written.
    pub fn put(&self, key: &str, bytes: Bytes, when: &When) -> Result<Tag> {
        self.back.put(&self.address.full(key), bytes, when)
    }

    /// Begins an object that is written piece by piece; `bytes`, where it is known, is its size.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn upload(&self, key: &str, bytes: Option<u64>) -> Result<Upload> {
        self.back.upload(&self.address.full(key), bytes)
    }

    /// Removes the object called `key`; one that is not there is removed already.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub fn delete(&self, key: &str) -> Result<()> {
        self.back.delete(&self.address.full(key))
    }

    /// What the keys of this place begin with.
    fn below(&self) -> String {
        match &*self.address.prefix {
            "" => String::new(),
            prefix if self.address.as_folder().is_some() && prefix == "/" => prefix.to_owned(),
            prefix => format!("{prefix}/"),
        }
    }

    /// `object` under the key that it has here.
    fn own(&self, object: Object) -> Result<Object> {
        let key = object.key.strip_prefix(&self.below()).map(str::to_owned);
        let key =
            key.ok_or_else(|| engine::Error::corrupt(format!("{}: it is not in {}", object.key, self.address)))?;
        Ok(Object { key, ..object })
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Place({})", self.address)
    }
}

/// A listing that goes on page by page. After an error it is at its end.
pub struct Listing<'a> {
    place: &'a Place,
    next: Option<Ask>,
}

impl Iterator for Listing<'_> {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        let ask = self.next.take()?;
        let listed = self.place.back.page(&ask).and_then(|(page, token)| {
            self.next = token.map(|token| Ask { token: Some(token), ..ask });
            let objects = page.objects.into_iter().map(|object| self.place.own(object)).collect::<Result<_>>()?;
            Ok(Page { objects, ..page })
        });
        Some(listed)
    }
}
