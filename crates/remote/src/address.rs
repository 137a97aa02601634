//! Where a model is served, as people type it.

use std::fmt;
use std::str::FromStr;

use engine::{Error, Result};

/// How an endpoint is talked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// The Open Inference Protocol over gRPC: Packhorse, Triton, KServe.
    Oip,
    /// TensorFlow Serving over gRPC.
    TfsGrpc,
    /// TensorFlow Serving over REST, tensors as JSON numbers: fifty times the bytes, for what has nothing else.
    TfsHttp,
}

/// Each way, whether TLS is under it, and its scheme.
const SCHEMES: [(Wire, bool, &str); 6] = [
    (Wire::Oip, false, "grpc"),
    (Wire::Oip, true, "grpcs"),
    (Wire::TfsGrpc, false, "tfs+grpc"),
    (Wire::TfsGrpc, true, "tfs+grpcs"),
    (Wire::TfsHttp, false, "tfs+http"),
    (Wire::TfsHttp, true, "tfs+https"),
];

/// An endpoint: `SCHEME://HOST:PORT[/MODEL[:VERSION]]`; with TLS, the port may be left out and is 443.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    /// How it is talked to.
    pub wire: Wire,
    /// Whether TLS is under that.
    pub tls: bool,
    /// Host and port.
    pub authority: String,
    /// What the model is called there, when it is not what it is called here.
    pub model: Option<String>,
    /// Its version there; the server's choice when not given.
    pub version: Option<u64>,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of_this = |(wire, tls, _): &&(Wire, bool, &str)| (*wire, *tls) == (self.wire, self.tls);
        let scheme = SCHEMES.iter().find(of_this).map_or("", |(.., scheme)| scheme);
        write!(f, "{scheme}://{}", self.authority)?;
        if let Some(model) = &self.model {
            write!(f, "/{model}")?;
        }
        if let Some(version) = self.version {
            write!(f, ":{version}")?;
        }
        Ok(())
    }
}

impl FromStr for Address {
    type Err = Error;

    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), saying what is wrong and what is meant.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = |what: &str| {
            let form = "grpc://HOST:PORT[/MODEL[:VERSION]], tfs+grpc:// or tfs+http://, with TLS grpcs://, tfs+grpcs:// or tfs+https://";
            Error::invalid(format!("'{text}' is not where a model is served: {what}; give {form}"))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| wrong("it has no scheme"))?;
        let known = SCHEMES.iter().find(|(.., known)| *known == scheme);
        let (wire, tls, _) = *known.ok_or_else(|| wrong(&format!("'{scheme}' is no way to ask for one")))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let parsed: http::uri::Authority = authority.parse().map_err(|_| wrong("it has no host and port"))?;
        let has_port = parsed.port_u16().is_some() || (tls && parsed.host() == authority);
        if parsed.host().is_empty() || !has_port || authority.contains('@') {
            return Err(wrong("it has no host and port"));
        }
        let (model, version) = match path.rsplit_once(':') {
            Some((model, version)) => {
                (model, Some(version.parse().map_err(|_| wrong("the version is not a whole number"))?))
            }
            None => (path, None),
        };
        if model.contains(['/', '?', '#']) || (model.is_empty() && version.is_some()) {
            return Err(wrong("what follows the port is no model"));
        }
        let model = (!model.is_empty()).then(|| model.to_owned());
        Ok(Self { wire, tls, authority: authority.to_owned(), model, version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_typed_is_understood_or_refused() {
        let address = |wire, authority: &str, model: Option<&str>, version| {
            Some(Address {
                wire,
                tls: false,
                authority: authority.to_owned(),
                model: model.map(str::to_owned),
                version,
            })
        };
        let secured =
            |wire, authority: &str| Some(Address { tls: true, ..address(wire, authority, None, None).unwrap() });
        for (text, want) in [
            ("grpc://gpu:8001", address(Wire::Oip, "gpu:8001", None, None)),
            ("grpc://gpu:8001/yolo", address(Wire::Oip, "gpu:8001", Some("yolo"), None)),
            ("tfs+grpc://[::1]:8500/ssd:3", address(Wire::TfsGrpc, "[::1]:8500", Some("ssd"), Some(3))),
            ("tfs+http://127.0.0.1:8501/ssd", address(Wire::TfsHttp, "127.0.0.1:8501", Some("ssd"), None)),
            ("grpcs://gpu:8001", secured(Wire::Oip, "gpu:8001")),
            ("grpcs://gpu", secured(Wire::Oip, "gpu")),
            ("tfs+grpcs://[::1]", secured(Wire::TfsGrpc, "[::1]")),
            ("tfs+https://gpu.example", secured(Wire::TfsHttp, "gpu.example")),
            ("gpu:8001", None),
            ("http://gpu:8001", None),
            ("grpc://gpu", None),
            ("grpc://:8001", None),
            ("grpc://me@gpu:8001", None),
            ("grpc://gpu:80011", None),
            ("grpcs://gpu:80011", None),
            ("grpcs://gpu:", None),
            ("grpcs://:443", None),
            ("grpc://gpu:8001/a/b", None),
            ("grpc://gpu:8001/a?b", None),
            ("grpc://gpu:8001/:3", None),
            ("grpc://gpu:8001/yolo:new", None),
            ("grpc://gpu:8001/yolo:-1", None),
        ] {
            let got = text.parse::<Address>();
            assert_eq!(got.clone().ok(), want, "{text}: {got:?}");
            match got {
                Ok(address) => assert_eq!(address.to_string(), text),
                Err(error) => assert!(error.message.contains(text) && error.message.contains("grpc://HOST"), "{error}"),
            }
        }
    }
}
