//! The HTTP clients, and any web server as a place: read only, an object at a time.

use std::ops::Range;
use std::sync::{Arc, Once};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use engine::{Error, ErrorKind, Result};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, Method, StatusCode};
use object_store::client::HttpErrorKind;
use reqwest::redirect::Policy;

use crate::cloud::trace::Said;
use crate::error::{answered, causes};
use crate::fetch::{self, Source};
use crate::place::{Ask, Backend, Sink};
use crate::{Address, Limits, Network, Object, Page, Tag, Upload, Variables, When, cloud};

/// One client for each way in which servers are asked; they share nothing but the certificates that are trusted.
pub(crate) struct Clients {
    /// Signed requests, which go where they were signed for.
    pub(crate) cloud: reqwest::Client,
    /// Plain ones, which follow where they are sent.
    pub(crate) web: reqwest::Client,
    /// The AWS SDK's, which may wait long for an answer.
    pub(crate) sdk: reqwest::Client,
}

/// Lets TLS use `ring`, unless something else was chosen already.
pub(crate) fn install_crypto() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

impl Clients {
    pub(crate) fn new(limits: &Limits, variables: &Variables) -> Result<Self> {
        install_crypto();
        let extra = match variables.get("AWS_CA_BUNDLE") {
            Some(path) => certificates(path)?,
            None => Vec::new(),
        };
        let client = || plain(limits).tls_certs_merge(extra.clone());
        let build = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|error| Error::internal(format!("no HTTP client: {}", causes(&error))))
        };
        let follow = Policy::custom(|attempt| {
            let downgrade = attempt.previous().last().is_some_and(|last| last.scheme() == "https")
                && attempt.url().scheme() == "http";
            match attempt.previous().len() {
                _ if downgrade => attempt.error("it sends from https to http"),
                0..=5 => attempt.follow(),
                _ => attempt.error("it sends from one address to the next without an end"),
            }
        });
        Ok(Self {
            cloud: build(client().read_timeout(limits.silence))?,
            web: build(client().read_timeout(limits.silence).redirect(follow))?,
            sdk: build(client())?,
        })
    }
}

/// What all clients have in common. None follows where it is sent, unless it says so.
pub(crate) fn plain(limits: &Limits) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .user_agent(concat!("packhorse/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(limits.connect)
        .pool_idle_timeout(Duration::from_secs(30))
        .tcp_nodelay(true);
    builder.redirect(Policy::none())
}

fn certificates(path: &str) -> Result<Vec<reqwest::Certificate>> {
    let wrong =
        |why: String| Error::invalid(format!("AWS_CA_BUNDLE names {path}: {why}; give a file of certificates in PEM"));
    let text = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    reqwest::Certificate::from_pem_bundle(&text).map_err(|error| wrong(causes(&error)))
}

/// A web server, and the path in it.
pub(crate) struct Web {
    network: Arc<Network>,
    address: Address,
}

impl Web {
    pub(crate) fn new(network: Arc<Network>, address: Address) -> Self {
        Self { network, address }
    }

    fn reader(&self, key: &str) -> Reader {
        let (client, retry) = (self.network.clients.web.clone(), self.network.limits.retry);
        Reader { client, url: format!("{}/{key}", self.address.root), retry }
    }

    fn read_only<T>(&self, key: &str) -> Result<T> {
        Err(Error::unsupported(format!(
            "{}: a web server is only read from; give a bucket or a folder",
            self.address.url_of(key)
        )))
    }
}

impl Backend for Web {
    fn head(&self, key: &str) -> Result<Object> {
        let reader = self.reader(key);
        self.network.run(|| self.address.url_of(key), reader.head(key))
    }

    fn get(&self, key: &str, bytes_max: u64, unless: Option<&Tag>) -> Result<Option<(Object, Bytes)>> {
        let reader = self.reader(key);
        let got = async {
            let response = reader.ask(|| reader.client.get(&reader.url)).await?;
            let tag = object(key, response.headers(), 0).tag;
            if unless.is_some_and(|known| known.etag.is_some() && *known == tag) {
                return Ok(None);
            }
            let mut found = object(key, response.headers(), length(response.headers()).unwrap_or(bytes_max));
            if found.bytes > bytes_max {
                return Err(cloud::too_large(&self.address.url_of(key), found.bytes, bytes_max));
            }
            let declared = length(response.headers());
            let mut pieces = response.bytes_stream();
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.try_next().await.map_err(cut)? {
                bytes.extend_from_slice(&piece);
                if bytes.len() as u64 > bytes_max {
                    return Err(cloud::too_large(&self.address.url_of(key), bytes.len() as u64, bytes_max));
                }
            }
            found.bytes = bytes.len() as u64;
            if declared.is_some_and(|declared| declared != found.bytes) {
                return Err(Error::unavailable(format!(
                    "{} bytes came of {}",
                    bytes.len(),
                    declared.unwrap_or_default()
                )));
            }
            Ok(Some((found, bytes.into())))
        };
        self.network.run(|| self.address.url_of(key), got)
    }

    fn peek(&self, key: &str, range: Range<u64>) -> Result<(Object, Bytes)> {
        let object = self.head(key)?;
        if range.end > object.bytes {
            return Err(Error::invalid(format!("{}: it has no such bytes", self.address.url_of(key))));
        }
        let mut gathered = Vec::new();
        self.fetch(&object, vec![range], 1, &mut |_, bytes| {
            gathered.extend_from_slice(&bytes);
            Ok(())
        })?;
        Ok((object, gathered.into()))
    }

    fn fetch(&self, object: &Object, ranges: Vec<Range<u64>>, parallel: usize, sink: Sink<'_>) -> Result<()> {
        let pinned = object.tag.etag.is_some() || object.modified.is_some();
        let whole = ranges.iter().all(|range| *range == (0..object.bytes));
        let source: Arc<dyn Source> = Arc::new(self.reader(&object.key));
        let fetched = if pinned || whole {
            fetch::fetch(&self.network, &source, object, ranges, parallel, sink)
        } else {
            let fix = "copy it into a bucket or a folder";
            Err(Error::unsupported(format!(
                "the server says neither ETag nor Last-Modified, so parts of it may not fit together; {fix}"
            )))
        };
        fetched.map_err(|error| error.context(self.address.url_of(&object.key)))
    }

    fn page(&self, ask: &Ask) -> Result<(Page, Option<String>)> {
        let url = self.address.url_of(&ask.prefix);
        Err(Error::unsupported(format!("{url}: a web server has no list of what it holds; give the URL of one object")))
    }

    fn put(&self, key: &str, _: Bytes, _: &When) -> Result<Tag> {
        self.read_only(key)
    }

    fn upload(&self, key: &str, _: Option<u64>) -> Result<Upload> {
        self.read_only(key)
    }

    fn delete(&self, key: &str) -> Result<()> {
        self.read_only(key)
    }
}

/// Reads one object of a web server.
struct Reader {
    client: reqwest::Client,
    url: String,
    retry: Duration,
}

impl Reader {
    /// Asks until there is an answer that another try would not change.
    async fn ask(&self, request: impl Fn() -> reqwest::RequestBuilder) -> Result<reqwest::Response> {
        let deadline = tokio::time::Instant::now() + self.retry;
        let mut pause = Duration::from_millis(50);
        loop {
            let error = match request().send().await {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response) => complaint(&response),
                Err(error) => unreachable(error),
            };
            let passing = matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Exhausted);
            if !passing || tokio::time::Instant::now() + pause > deadline {
                return Err(error);
            }
            tokio::time::sleep(error.retry_after.unwrap_or(pause).min(self.retry)).await;
            pause = (pause * 2).min(Duration::from_secs(8));
        }
    }

    async fn head(&self, key: &str) -> Result<Object> {
        match self.ask(|| self.client.head(&self.url)).await {
            Ok(response) if length(response.headers()).is_some() => {
                let bytes = length(response.headers()).unwrap_or_default();
                return Ok(object(key, response.headers(), bytes));
            }
            Err(error) if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Exhausted | ErrorKind::NotFound) => {
                return Err(error);
            }
            // A URL that is signed is signed for reading alone, and some servers know no HEAD.
            Ok(_) | Err(_) => {}
        }
        let response = self.ask(|| self.client.get(&self.url).header(RANGE, "bytes=0-0")).await?;
        let headers = response.headers();
        let bytes = if response.status() == StatusCode::PARTIAL_CONTENT { total(headers) } else { length(headers) };
        let bytes = bytes
            .ok_or_else(|| Error::unsupported("the server does not say its size; copy it into a bucket or a folder"))?;
        Ok(object(key, headers, bytes))
    }
}

#[async_trait]
impl Source for Reader {
    async fn open(&self, wanted: &Object, range: Range<u64>) -> Result<(Object, BoxStream<'static, Result<Bytes>>)> {
        let strong = wanted.tag.etag.as_deref().filter(|etag| !etag.starts_with("W/"));
        let since = wanted.modified.filter(|_| strong.is_none()).map(chrono::DateTime::<chrono::Utc>::from);
        let whole = range == (0..wanted.bytes);
        let response = self
            .ask(|| {
                let mut request = self.client.request(Method::GET, &self.url);
                if !whole {
                    request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
                }
                if let Some(etag) = strong {
                    request = request.header(IF_MATCH, etag);
                }
                if let Some(since) = since {
                    request =
                        request.header(IF_UNMODIFIED_SINCE, since.format("%a, %d %b %Y %H:%M:%S GMT").to_string());
                }
                request
            })
            .await?;
        let bytes = match response.status() {
            StatusCode::PARTIAL_CONTENT => total(response.headers()),
            _ if whole => length(response.headers()).or(Some(wanted.bytes)),
            _ => return Err(Error::unsupported("the server gives no ranges; copy it into a bucket or a folder")),
        };
        if response.status() == StatusCode::PARTIAL_CONTENT && start(response.headers()) != Some(range.start) {
            return Err(Error::corrupt("the server gave another range than was asked for"));
        }
        let found = object(&wanted.key, response.headers(), bytes.unwrap_or(wanted.bytes));
        Ok((found, response.bytes_stream().map_err(cut).boxed()))
    }
}

fn object(key: &str, headers: &HeaderMap, bytes: u64) -> Object {
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let modified =
        text(LAST_MODIFIED).and_then(|text| chrono::DateTime::parse_from_rfc2822(text).ok()).map(SystemTime::from);
    let tag = Tag { etag: text(ETAG).map(str::to_owned), version: None };
    if text(ACCEPT_RANGES) == Some("none") {
        tracing::debug!(key, "the server says that it gives no ranges");
    }
    Object { key: key.to_owned(), bytes, tag, modified }
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The object's size in `bytes 0-0/SIZE`.
fn total(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.rsplit_once('/')?.1.parse().ok()
}

/// Where the range begins in `bytes START-END/SIZE`.
fn start(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

fn complaint(response: &reqwest::Response) -> Error {
    let retry_after = response.headers().get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
    let said = Said { status: response.status().as_u16(), retry_after, ..Said::default() };
    answered(&said, "no credentials but those in the URL")
}

fn unreachable(error: reqwest::Error) -> Error {
    let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
    let kind = if error.is_timeout() { HttpErrorKind::Timeout } else { kind };
    if error.is_redirect() {
        return Error::invalid(causes(&error.without_url()));
    }
    crate::error::unreachable(&object_store::client::HttpError::new(kind, error.without_url()))
}

fn cut(error: reqwest::Error) -> Error {
    Error::unavailable(format!("the connection was cut: {}", causes(&error.without_url())))
}
