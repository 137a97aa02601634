//! What an instance of EC2 is told about itself: the metadata service, version 2, which wants a token for every question.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use engine::{Error, Result};
use http::{Request, StatusCode};

use crate::{Caller, Network};

/// Where the service is, unless the environment says otherwise.
const ENDPOINT: &str = "http://169.254.169.254";
/// The same for instances that know IPv6 alone.
const ENDPOINT_IPV6: &str = "http://[fd00:ec2::254]";
/// How long a token holds, as long as the service allows.
const TOKEN_S: &str = "21600";
/// The service is on the same machine, and silence means that there is none.
const WAIT: Duration = Duration::from_secs(2);

/// The metadata service of the instance that this process runs on.
pub struct Instance {
    caller: Caller,
    endpoint: String,
    /// The token that the service gave last; taken away when it refuses it.
    token: Mutex<Option<String>>,
}

impl Instance {
    /// Asks nothing yet.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) without an HTTP client.
    pub fn new(network: &Arc<Network>) -> Result<Self> {
        let variables = &network.variables;
        let endpoint = variables.get("AWS_EC2_METADATA_SERVICE_ENDPOINT").unwrap_or_else(|| {
            let mode = variables.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE").unwrap_or_default();
            if mode.eq_ignore_ascii_case("ipv6") { ENDPOINT_IPV6 } else { ENDPOINT }
        });
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Ok(Self { caller: Caller::near(network, None)?, endpoint, token: Mutex::new(None) })
    }

    /// What the service says at `path`, such as `meta-data/instance-id`; `None` where it has nothing to say.
    ///
    /// # Errors
    /// [`Unavailable`](engine::ErrorKind::Unavailable) when it does not answer, or refuses; the next call asks anew.
    pub fn get(&self, path: &str) -> Result<Option<String>> {
        self.ask(path).map_err(|error| error.context(format!("the instance's metadata at {}", self.endpoint)))
    }

    fn ask(&self, path: &str) -> Result<Option<String>> {
        let kept = self.kept().clone();
        let mut fresh = kept.is_none();
        let mut token = kept.map_or_else(|| self.renew(), Ok)?;
        loop {
            let answer = self.call("GET", path, ("x-aws-ec2-metadata-token", &token))?;
            let body = || String::from_utf8_lossy(answer.body()).trim().to_owned();
            match answer.status() {
                StatusCode::OK => return Ok(Some(body())),
                StatusCode::NOT_FOUND => return Ok(None),
                // A token may end before its time, when the instance was moved for one.
                StatusCode::UNAUTHORIZED if !fresh => {
                    (token, fresh) = (self.renew()?, true);
                }
                status => {
                    *self.kept() = None;
                    return Err(Error::unavailable(format!("the answer to {path} is {status}")));
                }
            }
        }
    }

    /// A new token.
    fn renew(&self) -> Result<String> {
        *self.kept() = None;
        let answer = self.call("PUT", "api/token", ("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_S))?;
        if answer.status() != StatusCode::OK {
            return Err(Error::unavailable(format!("it gives no token: {}", answer.status())));
        }
        let token = String::from_utf8_lossy(answer.body()).trim().to_owned();
        *self.kept() = Some(token.clone());
        Ok(token)
    }

    fn call(&self, method: &str, path: &str, (name, value): (&str, &str)) -> Result<http::Response<Bytes>> {
        let request = Request::builder().method(method).uri(format!("{}/latest/{path}", self.endpoint));
        let request = request.header(name, value).body(Bytes::new());
        self.caller.call(request.map_err(|error| Error::invalid(error.to_string()))?, WAIT)
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
