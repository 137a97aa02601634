//! What secures the way to endpoints: whom we trust, who we are, and what lets us in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::{Error, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::address::Address;
use crate::token::Token;

/// What is known here for the way to endpoints; the files are PEM and, but for the token, read once.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// The authorities whose certificates are trusted; those of this machine when not given.
    pub authorities: Option<PathBuf>,
    /// The certificate that this side shows, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// What is sent as `authorization: Bearer` with every call; read anew, since it is replaced.
    pub token: Option<PathBuf>,
    /// Whether the token may be sent where there is no TLS.
    pub token_in_clear: bool,
}

/// The same, read.
pub(crate) struct Secured {
    /// For every connection; without authorities where no endpoint has TLS.
    config: ClientConfig,
    pub(crate) token: Option<Arc<Token>>,
}

impl Secured {
    /// Reads what is needed for `addresses`.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a file that is not what it should be, for a token that would be
    /// sent in the clear, and where TLS is wanted and nobody is trusted.
    pub(crate) fn new(security: &Security, addresses: &[Address]) -> Result<Self> {
        let with_tls = addresses.iter().any(|address| address.tls);
        let roots = match &security.authorities {
            Some(path) => given(path)?,
            None if with_tls => of_this_machine()?,
            None => RootCertStore::empty(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder =
            builder.map_err(|error| Error::internal(format!("no TLS: {error}")))?.with_root_certificates(roots);
        let config = match &security.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates("--infer-cert", certificate)?;
                let path = key;
                let key = PrivateKeyDer::from_pem_file(path).map_err(|error| unread("--infer-key", path, &error))?;
                builder.with_client_auth_cert(chain, key).map_err(|error| {
                    let (certificate, key) = (certificate.display(), path.display());
                    Error::invalid(format!("--infer-key {key} is not the key of --infer-cert {certificate}: {error}"))
                })?
            }
        };
        let overheard = addresses.iter().find(|address| !address.tls && security.token.is_some());
        if let Some(plain) = overheard.filter(|_| !security.token_in_clear) {
            let fix = "give an address with TLS (grpcs://, tfs+grpcs://, tfs+https://), or --infer-token-in-clear";
            let why = "has no TLS, and everybody on the way could read --infer-token-file";
            return Err(Error::invalid(format!("{plain} {why}: {fix}")));
        }
        let token = security.token.as_deref().map(Token::read).transpose()?.map(Arc::new);
        Ok(Self { config, token })
    }

    /// TLS that offers `protocol` alone.
    pub(crate) fn config(&self, protocol: &[u8]) -> ClientConfig {
        let mut config = self.config.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        config
    }
}

fn given(path: &Path) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("--infer-ca", path)? {
        roots.add(certificate).map_err(|error| unread("--infer-ca", path, &error))?;
    }
    Ok(roots)
}

fn of_this_machine() -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Machines have old ones among theirs that nobody can read.
    let (taken, _) = roots.add_parsable_certificates(found.certs);
    if taken == 0 {
        let why = found.errors.first().map_or_else(String::new, |error| format!(" ({error})"));
        let fix = "install its ca-certificates, name them by SSL_CERT_FILE, or give --infer-ca";
        return Err(Error::invalid(format!("this machine has no certificates of authorities{why}: {fix}")));
    }
    Ok(roots)
}

/// Those in a file, of which there is one at least.
fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let all = all.map_err(|error| unread(setting, path, &error))?;
    if all.is_empty() {
        return Err(unread(setting, path, &"it has no certificate"));
    }
    Ok(all)
}

fn unread(setting: &str, path: &Path, why: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!("{setting} {}: {why}; give a file in PEM", path.display()))
}
