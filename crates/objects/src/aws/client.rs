//! The AWS SDK over the network's own HTTP client, so that there is one of TLS, proxies and connections.

use std::time::Duration;

use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;

/// The client, for whoever builds on the SDK.
#[derive(Clone, Debug)]
pub(super) struct Sdk {
    client: reqwest::Client,
}

impl Sdk {
    pub(super) fn new(client: reqwest::Client) -> Self {
        Self { client }
    }
}

impl HttpClient for Sdk {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        // The SDK counts the time until the first byte, which is all that its answers have time for.
        let wait = settings.read_timeout().map(|read| read + settings.connect_timeout().unwrap_or_default());
        SharedHttpConnector::new(Connector { client: self.client.clone(), wait })
    }
}

#[derive(Debug)]
struct Connector {
    client: reqwest::Client,
    wait: Option<Duration>,
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (client, wait) = (self.client.clone(), self.wait);
        HttpConnectorFuture::new(async move {
            let answer = answer(&client, request);
            let Some(wait) = wait else { return answer.await };
            let timed = tokio::time::timeout(wait, answer).await;
            timed.unwrap_or_else(|_| Err(ConnectorError::timeout(format!("no answer within {wait:?}").into())))
        })
    }
}

async fn answer(client: &reqwest::Client, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
    let user = |error: Box<dyn std::error::Error + Send + Sync>| ConnectorError::user(error);
    let request = request.try_into_http1x().map_err(|error| user(error.into()))?;
    let (parts, body) = request.into_parts();
    let body = body.bytes().ok_or_else(|| user("a request whose body is a stream".into()))?.to_vec();
    let request =
        reqwest::Request::try_from(http::Request::from_parts(parts, body)).map_err(|error| user(error.into()))?;
    let response = client.execute(request).await.map_err(failed)?;
    let mut built = http::Response::builder().status(response.status());
    if let Some(headers) = built.headers_mut() {
        headers.clone_from(response.headers());
    }
    let body = response.bytes().await.map_err(failed)?;
    let response = built.body(SdkBody::from(body)).map_err(|error| ConnectorError::other(error.into(), None))?;
    HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
}

fn failed(error: reqwest::Error) -> ConnectorError {
    if error.is_timeout() { ConnectorError::timeout(error.into()) } else { ConnectorError::io(error.into()) }
}
