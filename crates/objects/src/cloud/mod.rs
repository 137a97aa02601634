//! Buckets of the three clouds, by way of `object_store`.

mod google;
mod multipart;
mod open;
mod service;
pub(crate) mod trace;

pub(crate) use service::read as read_complaint;

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;
use engine::{Error, ErrorKind, Result};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};

use crate::address::Scheme;
use crate::error::convert;
use crate::fetch::{self, Source};
use crate::place::{Ask, Backend, Sink};
use crate::{Address, Network, Object, Page, Tag, Upload, When, aws};

/// What is asked of a cloud's store.
pub(crate) trait Vendor: ObjectStore + MultipartStore + PaginatedListStore {}

impl<T: ObjectStore + MultipartStore + PaginatedListStore> Vendor for T {}

/// Whose credentials are used, for errors.
pub(crate) enum Asker {
    Aws(Arc<aws::Account>),
    Named(String),
}

impl Asker {
    fn description(&self) -> String {
        match self {
            Self::Aws(account) => account.description(),
            Self::Named(name) => name.clone(),
        }
    }

    /// The service did not take what it was asked with: look again before the next time.
    async fn refused(&self) {
        if let Self::Aws(account) = self {
            account.held.forget().await;
        }
    }
}

/// A bucket.
#[derive(Clone)]
pub(crate) struct Cloud {
    store: Arc<dyn Vendor>,
    asker: Arc<Asker>,
    network: Arc<Network>,
    address: Address,
}

impl Cloud {
    /// Runs `task`, which is about the object called `key`, to its end.
    fn run<T>(&self, key: &str, task: impl Future<Output = object_store::Result<T>>) -> Result<T> {
        let asked = async {
            match task.await {
                Ok(done) => Ok(done),
                Err(error) => Err(explain(&self.asker, &error).await),
            }
        };
        self.network.run(|| self.address.url_of(key), asked)
    }

    /// Writes an object in one request.
    fn put_at(&self, path: &Path, bytes: Bytes, when: &When) -> Result<Tag> {
        let mode = match self.comparable(path, when)? {
            When::Always => PutMode::Overwrite,
            When::Absent => PutMode::Create,
            When::Same(tag) => PutMode::Update(UpdateVersion { e_tag: tag.etag, version: tag.version }),
        };
        let put = self.store.put_opts(path, bytes.into(), PutOptions::from(mode));
        let written = self.run(path.as_ref(), put).map_err(|error| unmet(when, error))?;
        Ok(tag(written.e_tag, written.version))
    }

    fn path(&self, key: &str) -> Result<Path> {
        let path = Path::parse(key).ok().filter(|path| path.as_ref() == key && !key.is_empty());
        path.ok_or_else(|| {
            let url = self.address.url_of(key);
            Error::unsupported(format!(
                "{url}: a key with an empty segment, dots or control characters; give another name"
            ))
        })
    }
}

/// `error` as one of ours, by what the service said.
async fn explain(asker: &Asker, error: &object_store::Error) -> Error {
    let error = convert(error, trace::said(), &asker.description());
    if error.kind == ErrorKind::Forbidden {
        asker.refused().await;
    }
    error
}

fn object(key: &str, meta: ObjectMeta) -> Object {
    let modified = SystemTime::from(meta.last_modified);
    Object { key: key.to_owned(), bytes: meta.size, tag: tag(meta.e_tag, meta.version), modified: Some(modified) }
}

/// The tag in the form that HTTP gives it: Azure's listings leave its quotes out.
fn tag(etag: Option<String>, version: Option<String>) -> Tag {
    let quoted = |etag: String| if etag.contains('"') { etag } else { format!("\"{etag}\"") };
    Tag { etag: etag.map(quoted), version }
}

impl Backend for Cloud {
    fn head(&self, key: &str) -> Result<Object> {
        let path = self.path(key)?;
        Ok(object(key, self.run(key, self.store.head(&path))?))
    }

    fn get(&self, key: &str, bytes_max: u64, unless: Option<&Tag>) -> Result<Option<(Object, Bytes)>> {
        let path = self.path(key)?;
        let options = GetOptions { if_none_match: unless.and_then(|tag| tag.etag.clone()), ..GetOptions::default() };
        let read = async {
            let answer = match self.store.get_opts(&path, options).await {
                Err(object_store::Error::NotModified { .. }) => return Ok(None),
                answer => answer?,
            };
            let object = object(key, answer.meta.clone());
            if object.bytes > bytes_max {
                return Ok(Some((object, None)));
            }
            let bytes = answer.bytes().await?;
            Ok(Some((object, Some(bytes))))
        };
        match self.run(key, read)? {
            None => Ok(None),
            // Not every service heeds the condition.
            Some((object, _)) if unless.is_some_and(|known| known.etag.is_some() && known.etag == object.tag.etag) => {
                Ok(None)
            }
            Some((object, Some(bytes))) if bytes.len() as u64 == object.bytes => Ok(Some((object, bytes))),
            Some((object, Some(bytes))) => {
                let (is, said) = (bytes.len(), object.bytes);
                Err(Error::unavailable(format!("{}: {is} bytes came of {said}", self.address.url_of(key))))
            }
            Some((object, None)) => Err(too_large(&self.address.url_of(key), object.bytes, bytes_max)),
        }
    }

    fn peek(&self, key: &str, range: Range<u64>) -> Result<(Object, Bytes)> {
        let path = self.path(key)?;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let read = async {
            let answer = self.store.get_opts(&path, options).await?;
            Ok((object(key, answer.meta.clone()), answer.bytes().await?))
        };
        self.run(key, read)
    }

    fn fetch(&self, object: &Object, ranges: Vec<Range<u64>>, parallel: usize, sink: Sink<'_>) -> Result<()> {
        let source: Arc<dyn Source> = Arc::new(Reader {
            store: Arc::clone(&self.store),
            path: self.path(&object.key)?,
            asker: Arc::clone(&self.asker),
        });
        let fetched = fetch::fetch(&self.network, &source, object, ranges, parallel, sink);
        fetched.map_err(|error| error.context(self.address.url_of(&object.key)))
    }

    fn page(&self, ask: &Ask) -> Result<(Page, Option<String>)> {
        let options = PaginatedListOptions {
            offset: ask.after.clone(),
            delimiter: ask.folders.then_some("/".into()),
            page_token: ask.token.clone(),
            ..PaginatedListOptions::default()
        };
        let prefix = Some(ask.prefix.as_str()).filter(|prefix| !prefix.is_empty());
        let listed = self.run(&ask.prefix, self.store.list_paginated(prefix, options))?;
        let folder = |path: Path| Some(path.as_ref().strip_prefix(&ask.prefix)?.trim_end_matches('/').to_owned());
        let folders = listed.result.common_prefixes.into_iter().filter(|path| !self.is_staged(path)).filter_map(folder);
        // Azure's listings are in order, and not all that speak its protocol know where to begin.
        let after = ask.after.as_deref().filter(|_| self.address.scheme == Scheme::Azure).unwrap_or_default();
        let wanted = |meta: &ObjectMeta| !self.is_staged(&meta.location) && meta.location.as_ref() > after;
        let objects = listed.result.objects.into_iter().filter(wanted).map(|meta| {
            let key = meta.location.as_ref().to_owned();
            object(&key, meta)
        });
        Ok((Page { objects: objects.collect(), folders: folders.collect() }, listed.page_token))
    }

    fn put(&self, key: &str, bytes: Bytes, when: &When) -> Result<Tag> {
        self.put_at(&self.path(key)?, bytes, when)
    }

    fn upload(&self, key: &str, bytes: Option<u64>) -> Result<Upload> {
        Ok(Upload::new(multipart::Multipart::new(self.clone(), self.path(key)?, bytes)?))
    }

    fn delete(&self, key: &str) -> Result<()> {
        let path = self.path(key)?;
        match self.run(key, self.store.delete(&path)) {
            Err(error) if error.kind == ErrorKind::NotFound && !error.message.contains("bucket") => Ok(()),
            other => other,
        }
    }
}

/// `error` of a write under `when`: whatever word the service has for a condition that does not hold.
fn unmet(when: &When, error: Error) -> Error {
    match (when, error.kind) {
        (When::Absent, ErrorKind::FailedPrecondition | ErrorKind::AlreadyExists) => {
            Error { kind: ErrorKind::AlreadyExists, ..error }
        }
        (When::Same(_), ErrorKind::NotFound) => Error { kind: ErrorKind::FailedPrecondition, ..error },
        _ => error,
    }
}

pub(crate) fn too_large(url: &str, bytes: u64, bytes_max: u64) -> Error {
    Error::invalid(format!("{url}: it has {bytes} bytes, and at most {bytes_max} are taken here"))
}

/// Reads one object.
struct Reader {
    store: Arc<dyn Vendor>,
    path: Path,
    asker: Arc<Asker>,
}

#[async_trait]
impl Source for Reader {
    async fn open(&self, object: &Object, range: Range<u64>) -> Result<(Object, BoxStream<'static, Result<Bytes>>)> {
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: object.tag.etag.clone(),
            ..GetOptions::default()
        };
        let answer = match self.store.get_opts(&self.path, options).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.gone(explain(&self.asker, &error).await).await),
        };
        let found = self::object(&object.key, answer.meta.clone());
        let asker = Arc::clone(&self.asker);
        let pieces = answer.into_stream().map_err(move |error| convert(&error, trace::said(), &asker.description()));
        Ok((found, pieces.boxed()))
    }
}

impl Reader {
    /// `error`, unless there is no object any more: of one that is gone, Azure says that its tag is another.
    async fn gone(&self, error: Error) -> Error {
        if error.kind != ErrorKind::FailedPrecondition {
            return error;
        }
        match self.store.head(&self.path).await {
            Err(missing @ object_store::Error::NotFound { .. }) => explain(&self.asker, &missing).await,
            _ => error,
        }
    }
}
