//! Connections to endpoints, over TLS where their address says so; and why there is none, so that somebody can do something
//! about it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription as Alert, CertificateError as Bad, ClientConfig, Error as Tls, SignatureScheme};
use tokio::net::TcpStream;
use tonic::codegen::Service;

use super::status::{Cause, causes};
use crate::failure::{Failure, FailureKind};

/// As TLS calls HTTP/2.
pub(super) const H2: &[u8] = b"h2";
/// As TLS calls HTTP/1.1.
pub(super) const HTTP_1_1: &[u8] = b"http/1.1";

/// What connects.
#[derive(Clone)]
pub(super) struct Connector {
    inner: HttpsConnector<HttpConnector>,
    wants_h2: bool,
    door: Door,
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

impl Connector {
    /// With the one protocol that `tls` offers; a connection may take `within` to be made.
    pub(super) fn new(mut tls: ClientConfig, door: &Door, within: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(within));
        // What is not plain is the other one's.
        tcp.enforce_http(false);
        let wants_h2 = tls.alpn_protocols.iter().any(|protocol| protocol == H2);
        let (shown, door) = (Arc::clone(&tls.client_auth_cert_resolver), door.clone());
        tls.client_auth_cert_resolver = Arc::new(Noted { shown, door: door.clone() });
        Self { inner: HttpsConnector::from((tcp, tls)), wants_h2, door }
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = Failed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Failed>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.door.asked.store(false, Ordering::Relaxed);
        let connecting = self.inner.call(uri.clone());
        let wants_h2 = self.wants_h2;
        Box::pin(async move {
            let host = uri.host().unwrap_or_default();
            let told = |error: Failed| match secured(error.as_ref()) {
                Some(why) => Distrust(reason(why, host)).into(),
                None => error,
            };
            let stream = connecting.await.map_err(told)?;
            if let MaybeHttpsStream::Https(tls) = &stream
                && wants_h2
                && tls.inner().get_ref().1.alpn_protocol() != Some(H2)
            {
                return Err(Distrust(NO_H2.to_owned()).into());
            }
            Ok(stream)
        })
    }
}

/// How an endpoint lets people in. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Door {
    /// It asked for a certificate of this side when it was connected to last; set during the handshake.
    asked: Arc<AtomicBool>,
    /// It has let us in once; guards no other data, as the other does not.
    was_open: Arc<AtomicBool>,
}

impl Door {
    /// What came of a look at the endpoint. With TLS 1.3 it says what it thinks of our certificate after the handshake, and
    /// often hangs up before that is heard: what looks like an outage is none then.
    pub(super) fn looked_at<T>(&self, looked: Result<T, Failure>) -> Result<T, Failure> {
        match looked {
            Ok(found) => {
                self.was_open.store(true, Ordering::Relaxed);
                Ok(found)
            }
            Err(failure)
                if failure.kind == FailureKind::Lost
                    && self.asked.load(Ordering::Relaxed)
                    && !self.was_open.load(Ordering::Relaxed) =>
            {
                Err(Failure::wrong(format!(
                    "it asks for a certificate of this side and hangs up ({failure}): {IDENTITY}"
                )))
            }
            failed => failed,
        }
    }
}

/// Shows what is shown anyway, and notes that it was asked for.
#[derive(Debug)]
struct Noted {
    shown: Arc<dyn ResolvesClientCert>,
    door: Door,
}

impl ResolvesClientCert for Noted {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.door.asked.store(true, Ordering::Relaxed);
        self.shown.resolve(authorities, schemes)
    }

    fn only_raw_public_keys(&self) -> bool {
        self.shown.only_raw_public_keys()
    }

    fn has_certs(&self) -> bool {
        self.shown.has_certs()
    }
}

/// A connection that was made and is of no use, in words for people.
#[derive(Debug)]
pub(super) struct Distrust(String);

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Distrust {}

/// Why an endpoint that is there is not to be asked as things are, if that is why `error` came.
pub(super) fn distrust(error: &Cause) -> Option<String> {
    causes(error).find_map(|cause| cause.downcast_ref()).map(|Distrust(why)| why.clone())
}

const IDENTITY: &str = "give one that it takes as --infer-cert, and its key as --infer-key";
const NO_H2: &str = "it has no HTTP/2 on that port, which gRPC needs: give its port for gRPC, or tfs+https://";

/// The error of TLS that `error` is.
fn secured(error: &Cause) -> Option<&Tls> {
    causes(error).find_map(|cause| {
        let mut at: &Cause = cause;
        loop {
            if let Some(found) = at.downcast_ref() {
                return Some(found);
            }
            // What is in an error of the system is not among its sources.
            at = at.downcast_ref::<io::Error>()?.get_ref()?;
        }
    })
}

/// A name in a certificate without the library's word for what it is.
fn bare(name: &str) -> &str {
    name.strip_prefix("DnsName(\"").and_then(|name| name.strip_suffix("\")")).unwrap_or(name)
}

/// What TLS says, and what is to be done about it.
fn reason(error: &Tls, host: &str) -> String {
    match error {
        Tls::InvalidCertificate(Bad::UnknownIssuer) => {
            "its certificate is of an authority that is not trusted here: give that authority's certificate as --infer-ca".to_owned()
        }
        Tls::InvalidCertificate(Bad::NotValidForNameContext { presented, .. }) => {
            let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            let names = if names.is_empty() { "nobody".to_owned() } else { names.join(", ") };
            format!("its certificate is for {names} and not for {host}: call it by a name that is in its certificate")
        }
        Tls::InvalidCertificate(why @ Bad::Other(_)) if why.to_string().contains("CaUsedAsEndEntity") => {
            let fix = "have it show one that an authority gave it, or one of its own without CA:TRUE";
            format!("its certificate is an authority's, which is no server's: {fix}")
        }
        Tls::InvalidCertificate(why @ (Bad::Expired | Bad::ExpiredContext { .. })) => {
            format!("its certificate is over ({why}): have it renewed, or set this machine's clock")
        }
        Tls::InvalidCertificate(why @ (Bad::NotValidYet | Bad::NotValidYetContext { .. })) => {
            format!("its certificate is not valid yet ({why}): set this machine's clock, or its authority's")
        }
        Tls::InvalidCertificate(why) => format!("its certificate is refused ({why}): have it show another"),
        Tls::InvalidMessage(_) => format!("it does not speak TLS on that port ({error}): give its port for TLS, or an address without"),
        Tls::AlertReceived(Alert::NoApplicationProtocol) => NO_H2.to_owned(),
        Tls::AlertReceived(
            alert @ (Alert::HandshakeFailure
            | Alert::BadCertificate
            | Alert::UnknownCA
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied),
        ) => format!("it hangs up ({alert:?}), and may want another certificate of this side: {IDENTITY}"),
        other => format!("no TLS with it: {other}"),
    }
}
