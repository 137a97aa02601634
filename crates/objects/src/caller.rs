//! Plain calls to services that keep no objects: a request, an answer, a limit of time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::{Error, Result};
use futures_util::TryStreamExt;
use http::{Request, Response};

use crate::error::causes;
use crate::{Network, http as web};

/// No answer that anybody asks for here is longer.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Asks services over HTTP.
pub struct Caller {
    network: Arc<Network>,
    client: reqwest::Client,
}

impl Caller {
    /// For services far away, by way of a proxy where the environment names one.
    pub fn far(network: &Arc<Network>) -> Self {
        Self { network: Arc::clone(network), client: network.clients.cloud.clone() }
    }

    /// For services beside this process, which no proxy reaches. With `roots`, certificates in PEM, no others are trusted.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for certificates that are none.
    pub fn near(network: &Arc<Network>, roots: Option<&[u8]>) -> Result<Self> {
        let mut builder = web::plain(&network.limits).no_proxy();
        if let Some(pem) = roots {
            let roots = reqwest::Certificate::from_pem_bundle(pem);
            let roots =
                roots.map_err(|error| Error::invalid(format!("these are no certificates: {}", causes(&error))))?;
            builder = builder.tls_certs_only(roots);
        }
        let client = builder.build().map_err(|error| Error::invalid(format!("no HTTP client: {}", causes(&error))))?;
        Ok(Self { network: Arc::clone(network), client })
    }

    /// The answer to `request`, whatever its status. Redirects are not followed, and nothing is tried again.
    ///
    /// # Errors
    /// [`Unavailable`](engine::ErrorKind::Unavailable) when none came within `limit`,
    /// [`Unsupported`](engine::ErrorKind::Unsupported) when it is longer than a mebibyte.
    pub fn call(&self, request: Request<Bytes>, limit: Duration) -> Result<Response<Bytes>> {
        let answer = self.network.run_while(limit, &|| true, self.answer(request))?;
        answer.ok_or_else(|| Error::internal("a call that is wanted was given up"))
    }

    async fn answer(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let failed = |error: reqwest::Error| Error::unavailable(causes(&error.without_url()));
        let request = reqwest::Request::try_from(request).map_err(|error| Error::invalid(causes(&error)))?;
        let response = self.client.execute(request).await.map_err(failed)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let (mut pieces, mut bytes) = (response.bytes_stream(), Vec::new());
        while let Some(piece) = pieces.try_next().await.map_err(failed)? {
            bytes.extend_from_slice(&piece);
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(Error::unsupported(format!("the answer has more than {ANSWER_BYTES_MAX} bytes")));
            }
        }
        let mut answer = Response::new(Bytes::from(bytes));
        (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
        Ok(answer)
    }
}
