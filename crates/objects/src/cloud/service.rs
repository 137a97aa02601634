//! The HTTP client under the object stores: adds what their interfaces have no words for, and takes down what the service
//! says, so that an error can tell it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_RANGE, DATE, IF_MATCH, IF_NONE_MATCH, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Uri};
use object_store::ClientOptions;
use object_store::azure::{AzureAuthorizer, AzureCredential, AzureCredentialProvider};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};

use super::trace::{self, Condition, Said};
use crate::address::Scheme;

/// As much of a complaint as is read.
const COMPLAINT_BYTES_MAX: usize = 64 << 10;
/// Google's headers: which writing of an object an answer is about, and a write's condition on it, 0 for there being none
/// (<https://cloud.google.com/storage/docs/xml-api/reference-headers>).
const GENERATION: &str = "x-goog-generation";
const IF_GENERATION: &str = "x-goog-if-generation-match";

/// The client of one place.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) client: reqwest::Client,
    pub(super) scheme: Scheme,
    /// The one host that may be asked without TLS, because somebody named it so; beside those that are this machine's own.
    pub(super) plain: Option<String>,
    /// Azure signs conditions, so what is added has to be signed again.
    pub(super) azure: Arc<OnceLock<Azure>>,
}

/// What signing for Azure takes.
#[derive(Debug)]
pub(super) struct Azure {
    pub(super) credentials: AzureCredentialProvider,
    pub(super) account: String,
}

/// Hands the one client to whatever part of a store asks for one.
#[derive(Debug)]
pub(super) struct Connector(pub(super) Arc<Service>);

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Shared(Arc::clone(&self.0))))
    }
}

#[derive(Debug)]
struct Shared(Arc<Service>);

#[async_trait]
impl HttpService for Shared {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let service = &self.0;
        if request.uri().scheme_str() == Some("http") && !service.may_be_plain(request.uri()) {
            let host = request.uri().host().unwrap_or_default().to_owned();
            let refused =
                std::io::Error::other(format!("{host} is asked with TLS only; give https:// for its address"));
            return Err(HttpError::new(HttpErrorKind::Unknown, refused));
        }
        let finishes = service.finishes(&request);
        if let Some(condition) = trace::condition().filter(|_| finishes) {
            service.add(&mut request, &condition).await?;
        }
        // What nobody is to sign is written with a token that is empty.
        if request.headers().get(AUTHORIZATION).is_some_and(|token| token.as_bytes().trim_ascii() == b"Bearer") {
            request.headers_mut().remove(AUTHORIZATION);
        }
        let mut response = service.client.call(request).await.inspect_err(|_| trace::note(None))?;
        if let Some(length) = untold_length(response.headers()) {
            response.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        if response.status().is_success() || response.status() == http::StatusCode::NOT_MODIFIED {
            trace::note(None);
            if let Some(generation) = response.headers().get(GENERATION).filter(|_| finishes) {
                generation.to_str().into_iter().for_each(trace::note_generation);
            }
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let complaint = beginning(body).await;
        trace::note(Some(read(parts.status.as_u16(), &parts.headers, &complaint)));
        Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(complaint)))
    }
}

impl Service {
    fn may_be_plain(&self, uri: &Uri) -> bool {
        // Instances and pods have their credentials from addresses of this machine's own that speak no TLS.
        let own = ["169.254.169.254", "metadata.google.internal", "metadata", "localhost", "127.0.0.1"];
        let host = uri.host().unwrap_or_default();
        own.contains(&host)
            || self.plain.as_deref().is_some_and(|plain| host == plain || host.ends_with(&format!(".{plain}")))
    }

    /// Whether `request` makes an object appear that was uploaded in parts. Google takes no conditions with the end of such
    /// an upload, so there it is the copy that follows (<https://cloud.google.com/storage/docs/multipart-uploads>).
    fn finishes(&self, request: &HttpRequest) -> bool {
        let query = request.uri().query().unwrap_or_default();
        let has = |name: &str| query.split('&').any(|pair| pair.split('=').next() == Some(name));
        match self.scheme {
            Scheme::S3 => request.method() == Method::POST && has("uploadId"),
            Scheme::Gcs => request.method() == Method::PUT && request.headers().contains_key("x-goog-copy-source"),
            Scheme::Azure => request.method() == Method::PUT && query.split('&').any(|pair| pair == "comp=blocklist"),
            Scheme::Http | Scheme::Folder => false,
        }
    }

    async fn add(&self, request: &mut HttpRequest, condition: &Condition) -> Result<(), HttpError> {
        let text =
            |value: &str| HeaderValue::from_str(value).map_err(|error| HttpError::new(HttpErrorKind::Unknown, error));
        let headers = request.headers_mut();
        match (self.scheme, condition) {
            (Scheme::Gcs, Condition::IfNoneMatch) => {
                headers.insert(IF_GENERATION, HeaderValue::from_static("0"));
            }
            (Scheme::Gcs, Condition::IfMatch { generation, .. }) => {
                headers.insert(IF_GENERATION, text(generation.as_deref().unwrap_or_default())?);
            }
            (_, Condition::IfNoneMatch) => {
                headers.insert(IF_NONE_MATCH, HeaderValue::from_static("*"));
            }
            (_, Condition::IfMatch { etag, .. }) => {
                headers.insert(IF_MATCH, text(etag)?);
            }
        }
        let Some(azure) = self.azure.get() else { return Ok(()) };
        let failed = |error: object_store::Error| HttpError::new(HttpErrorKind::Unknown, error);
        let credential = azure.credentials.get_credential().await.map_err(failed)?;
        if let AzureCredential::AccessKey(_) = *credential {
            for header in [AUTHORIZATION, DATE] {
                request.headers_mut().remove(header);
            }
            request.headers_mut().remove("x-ms-date");
            request.headers_mut().remove("x-ms-version");
            AzureAuthorizer::new(&credential, &azure.account).try_authorize(request).map_err(failed)?;
        }
        Ok(())
    }
}

/// The length of a part of an object that comes in chunks, as proxies like to have it: its range tells it as well.
fn untold_length(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(CONTENT_RANGE).filter(|_| !headers.contains_key(CONTENT_LENGTH))?;
    let (start, end) = range.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?.0.split_once('-')?;
    end.parse::<u64>().ok()?.checked_sub(start.parse().ok()?)?.checked_add(1)
}

/// What `body` begins with; all of it, if it is no larger than a complaint should be.
async fn beginning(body: HttpResponseBody) -> Bytes {
    let mut stream = body.bytes_stream();
    let mut read = Vec::new();
    while let Some(Ok(piece)) = stream.next().await {
        read.extend_from_slice(&piece[..piece.len().min(COMPLAINT_BYTES_MAX - read.len())]);
        if read.len() == COMPLAINT_BYTES_MAX {
            break;
        }
    }
    read.into()
}

/// What a complaint says, in XML as S3, Google and Azure write it, or nowhere but in its head.
pub(crate) fn read(status: u16, headers: &HeaderMap, complaint: &[u8]) -> Said {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let text = String::from_utf8_lossy(complaint);
    let element = |name: &str| {
        let after = text.split_once(&format!("<{name}>"))?.1;
        Some(after.split_once(&format!("</{name}>"))?.0.trim().to_owned())
    };
    Said {
        status,
        code: element("Code").or_else(|| header("x-ms-error-code")).unwrap_or_default(),
        message: element("Message").unwrap_or_default(),
        region: header("x-amz-bucket-region").or_else(|| element("Region")),
        retry_after: header(RETRY_AFTER.as_str()).and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_read() {
        let s3 =
            b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>The key is not there.</Message></Error>";
        let said = read(404, &HeaderMap::new(), s3);
        assert_eq!((said.status, &*said.code, &*said.message), (404, "NoSuchKey", "The key is not there."));
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-error-code", HeaderValue::from_static("BlobNotFound"));
        headers.insert("x-amz-bucket-region", HeaderValue::from_static("eu-west-1"));
        headers.insert("retry-after", HeaderValue::from_static("7"));
        let said = read(503, &headers, b"");
        let (region, wait) = (said.region.as_deref(), said.retry_after);
        assert_eq!((&*said.code, region, wait), ("BlobNotFound", Some("eu-west-1"), Some(Duration::from_secs(7))));
        for soup in [&b"<Code>"[..], b"</Code><Code>", b"\xff\xfe<Code>\xff</Code>", b"<Code></Code>"] {
            let _ = read(500, &HeaderMap::new(), soup);
        }
    }

    #[test]
    fn a_condition_goes_to_the_request_that_finishes_and_to_no_other() {
        let service = |scheme| Service { client: reqwest::Client::new(), scheme, plain: None, azure: Arc::default() };
        for (scheme, method, uri, want) in [
            (Scheme::S3, Method::POST, "https://h/k?uploadId=1", true),
            (Scheme::S3, Method::PUT, "https://h/k?partNumber=1&uploadId=1", false),
            (Scheme::S3, Method::POST, "https://h/k?uploads", false),
            (Scheme::Gcs, Method::POST, "https://h/k?uploadId=1", false),
            (Scheme::Azure, Method::PUT, "https://h/k?comp=blocklist", true),
            (Scheme::Azure, Method::PUT, "https://h/k?comp=block&blockid=1", false),
        ] {
            crate::http::install_crypto();
            let request = http::Request::builder().method(method).uri(uri);
            let request = request.body(object_store::client::HttpRequestBody::empty()).unwrap();
            assert_eq!(service(scheme).finishes(&request), want, "{uri}");
        }
    }

    #[test]
    fn only_hosts_that_were_named_so_are_asked_without_tls() {
        crate::http::install_crypto();
        let plain = Some("s3.local".to_owned());
        let service = Service { client: reqwest::Client::new(), scheme: Scheme::S3, plain, azure: Arc::default() };
        for (uri, want) in [
            ("http://s3.local:9000/b/k", true),
            ("http://b.s3.local/k", true),
            ("http://evils3.local/k", false),
            ("http://169.254.169.254/latest", true),
            ("http://s3.amazonaws.com/b/k", false),
        ] {
            assert_eq!(service.may_be_plain(&uri.parse().unwrap()), want, "{uri}");
        }
    }
}
