//! Services of Amazon's that are asked by forms and answer in XML (the Query protocol): for a single call of one, where a
//! client of its own would cost more to build than the rest of this crate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use bytes::Bytes;
use engine::{Error, Result};
use http::Request;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::{answered, causes};
use crate::{Caller, Network, cloud};

const FORM: &str = "application/x-www-form-urlencoded; charset=utf-8";

/// Which service is asked.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// As the SDKs call it, `Auto Scaling` for one; of it is the name of the variable that says where it is.
    pub id: &'static str,
    /// As its addresses and signatures have it.
    pub name: &'static str,
    /// The version of its interface.
    pub version: &'static str,
}

/// A service in a region.
pub struct Query {
    network: Arc<Network>,
    caller: Caller,
    service: Service,
    region: String,
    endpoint: String,
}

impl Query {
    /// `service` in `region`; without it, in the one that the environment or the profile names.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when nobody names a region, or for a broken profile.
    pub fn new(network: &Arc<Network>, service: Service, region: Option<&str>) -> Result<Self> {
        let account = network.aws()?;
        let region = region.or(account.region()).ok_or_else(|| Error::invalid("in which region? set AWS_REGION"))?;
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let own = || format!("https://{}.{region}.{domain}", service.name);
        let endpoint = network.aws_endpoint(service.id)?.unwrap_or_else(own);
        let endpoint = format!("{}/", endpoint.trim_end_matches('/'));
        let (network, caller) = (Arc::clone(network), Caller::far(network));
        Ok(Self { network, caller, service, region: region.to_owned(), endpoint })
    }

    /// The XML that the service answers to `action` with `fields`. Nothing is tried again.
    ///
    /// # Errors
    /// [`Exhausted`](engine::ErrorKind::Exhausted) when it wants to be asked less often,
    /// [`Forbidden`](engine::ErrorKind::Forbidden) when whoever asks may not, [`Unavailable`](engine::ErrorKind::Unavailable)
    /// when it did not answer within `limit`, and whatever else it says.
    pub fn ask(&self, action: &str, fields: &[(&str, &str)], limit: Duration) -> Result<String> {
        let asked = self.signed(action, fields).and_then(|request| self.caller.call(request, limit));
        let answer = asked.map_err(|error| error.context(action))?;
        if answer.status().is_success() {
            return Ok(String::from_utf8_lossy(answer.body()).into_owned());
        }
        let said = cloud::read_complaint(answer.status().as_u16(), answer.headers(), answer.body());
        Err(answered(&said, &self.network.aws_asker()).context(action))
    }

    fn signed(&self, action: &str, fields: &[(&str, &str)]) -> Result<Request<Bytes>> {
        let all = [("Action", action), ("Version", self.service.version)].into_iter().chain(fields.iter().copied());
        let field = |(name, value)| format!("{}={}", encoded(name), encoded(value));
        let body = all.map(field).collect::<Vec<_>>().join("&");
        let credentials = self.network.aws()?.credentials(&self.network)?;
        let wrong = |error: &dyn std::error::Error| Error::internal(format!("it cannot be signed: {}", causes(error)));
        let identity = credentials.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service.name)
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| wrong(&error))?;
        let headers = [("content-type", FORM)];
        let signable =
            SignableRequest::new("POST", &self.endpoint, headers.into_iter(), SignableBody::Bytes(body.as_bytes()));
        let signed = sign(signable.map_err(|error| wrong(&error))?, &params.into()).map_err(|error| wrong(&error))?;
        let request = Request::post(&self.endpoint).header(headers[0].0, headers[0].1).body(Bytes::from(body));
        let mut request = request.map_err(|error| Error::invalid(format!("{}: {error}", self.endpoint)))?;
        signed.into_parts().0.apply_to_request_http1x(&mut request);
        Ok(request)
    }
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
