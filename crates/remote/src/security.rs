//! What secures the way to endpoints: whom we trust, who we are, and what lets us in.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use engine::{Error, Result};
use http::HeaderValue;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error as Tls, RootCertStore, SignatureScheme};

use crate::address::Address;
use crate::renewed::Renewed;

/// What is known here for the way to endpoints: files that may be replaced at any time. All but the token are PEM.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// The authorities whose certificates are trusted; those of this machine at the start when not given.
    pub authorities: Option<PathBuf>,
    /// The certificate that this side shows, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// What is sent as `authorization: Bearer` with every call.
    pub token: Option<PathBuf>,
    /// Whether the token may be sent where there is no TLS.
    pub token_in_clear: bool,
}

/// The same, read.
pub(crate) struct Secured {
    /// For every connection; without authorities where no endpoint has TLS.
    config: ClientConfig,
    pub(crate) token: Option<Arc<Renewed<HeaderValue>>>,
}

impl Secured {
    /// Reads what is needed for `addresses`.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a file that is not what it should be, for a token that would be
    /// sent in the clear, and where TLS is wanted and nobody is trusted.
    pub(crate) fn new(security: &Security, addresses: &[Address]) -> Result<Self> {
        let with_tls = addresses.iter().any(|address| address.tls);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| Error::internal(format!("no TLS: {error}")))?;
        let builder = match &security.authorities {
            Some(path) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Trust::new(path.clone(), Arc::clone(&provider))?)),
            None if with_tls => builder.with_root_certificates(of_this_machine()?),
            None => builder.with_root_certificates(RootCertStore::empty()),
        };
        let config = match &security.identity {
            None => builder.with_no_client_auth(),
            Some(files) => builder.with_client_cert_resolver(Arc::new(Identity::new(files.clone(), provider)?)),
        };
        let overheard = addresses.iter().find(|address| !address.tls && security.token.is_some());
        if let Some(plain) = overheard.filter(|_| !security.token_in_clear) {
            let fix = "give an address with TLS (grpcs://, tfs+grpcs://, tfs+https://), or --infer-token-in-clear";
            let why = "has no TLS, and everybody on the way could read --infer-token-file";
            return Err(Error::invalid(format!("{plain} {why}: {fix}")));
        }
        let token = security.token.clone().map(|path| Renewed::new(move || token(&path))).transpose()?.map(Arc::new);
        Ok(Self { config, token })
    }

    /// TLS that offers `protocol` alone.
    pub(crate) fn config(&self, protocol: &[u8]) -> ClientConfig {
        let mut config = self.config.clone();
        config.alpn_protocols = vec![protocol.to_vec()];
        config
    }
}

/// Whom we trust: rustls's own judgement, by the authorities that are in a file at the time.
#[derive(Debug)]
struct Trust(Renewed<Arc<WebPkiServerVerifier>>);

impl Trust {
    fn new(path: PathBuf, provider: Arc<CryptoProvider>) -> Result<Self> {
        let read = move || {
            let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(given(&path)?), Arc::clone(&provider));
            verifier.build().map_err(|error| unread("--infer-ca", &path, &error))
        };
        Renewed::new(read).map(Self)
    }

    fn now(&self) -> Arc<WebPkiServerVerifier> {
        self.0.at_best(Instant::now())
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, Tls> {
        self.now().verify_server_cert(shown, between, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Tls> {
        self.now().verify_tls12_signature(message, shown, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, Tls> {
        self.now().verify_tls13_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.now().supported_verify_schemes()
    }
}

/// Who we are: the certificate and key that are in two files at the time.
#[derive(Debug)]
struct Identity(Renewed<Arc<CertifiedKey>>);

impl Identity {
    fn new((certificate, key): (PathBuf, PathBuf), provider: Arc<CryptoProvider>) -> Result<Self> {
        let read = move || {
            let chain = certificates("--infer-cert", &certificate)?;
            let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| unread("--infer-key", &key, &error))?;
            CertifiedKey::from_der(chain, private, &provider).map(Arc::new).map_err(|error| {
                let (certificate, key) = (certificate.display(), key.display());
                Error::invalid(format!("--infer-key {key} is not the key of --infer-cert {certificate}: {error}"))
            })
        };
        Renewed::new(read).map(Self)
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.at_best(Instant::now())).filter(|own| own.key.choose_scheme(schemes).is_some())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The header's value of the token in a file.
fn token(path: &Path) -> Result<HeaderValue> {
    let wrong = |why: &dyn std::fmt::Display| Error::invalid(format!("--infer-token-file {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
    let token = text.trim();
    if token.is_empty() || token.contains(char::is_whitespace) {
        return Err(wrong(&"it is not one token and nothing else"));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| wrong(&"it is no token"))?;
    // Nothing that prints headers prints this one.
    value.set_sensitive(true);
    Ok(value)
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

    use super::*;

    fn provider() -> Arc<CryptoProvider> {
        Arc::new(rustls::crypto::ring::default_provider())
    }

    fn authority() -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn authorities_are_those_that_are_in_the_file_by_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let (old, new) = (authority(), authority());
        let shown = |authority: &CertifiedIssuer<'static, KeyPair>| {
            let params = CertificateParams::new(vec!["gpu".to_owned()]).unwrap();
            params.signed_by(&KeyPair::generate().unwrap(), authority).unwrap().der().clone()
        };
        let (of_old, of_new) = (shown(&old), shown(&new));
        std::fs::write(&path, old.pem()).unwrap();
        let trust = Trust::new(path.clone(), provider()).unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        let trusted = |shown: &CertificateDer<'_>| {
            trust.verify_server_cert(shown, &[], &"gpu".try_into().unwrap(), &[], now).is_ok()
        };
        assert!(trusted(&of_old) && !trusted(&of_new));
        for (text, trusts_new) in [(new.pem(), true), (String::new(), true), (old.pem(), false)] {
            std::fs::write(&path, &text).unwrap();
            assert_eq!(trusted(&of_new), !trusted(&of_old), "not both");
            trust.0.expire();
            assert_eq!((trusted(&of_old), trusted(&of_new)), (!trusts_new, trusts_new), "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_what_is_in_the_files_by_now() {
        let folder = tempfile::tempdir().unwrap();
        let files = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let make = || {
            let key = KeyPair::generate().unwrap();
            (CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap(), key.serialize_pem())
        };
        let ((first, first_key), (second, second_key)) = (make(), make());
        std::fs::write(&files.0, first.pem()).unwrap();
        std::fs::write(&files.1, first_key).unwrap();
        let identity = Identity::new(files.clone(), provider()).unwrap();
        let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
        let shows = || identity.resolve(&[], &schemes).unwrap().cert[0].clone();
        std::fs::write(&files.0, second.pem()).unwrap();
        identity.0.expire();
        assert_eq!(shows(), *first.der(), "its key is not there yet");
        std::fs::write(&files.1, second_key).unwrap();
        assert_eq!(shows(), *first.der(), "it was tried a moment ago");
        identity.0.expire();
        assert_eq!(shows(), *second.der());
        assert!(identity.resolve(&[], &[SignatureScheme::ED25519]).is_none(), "not a kind that is taken");
    }

    #[test]
    fn a_token_is_one_word() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        write("first\n");
        let first = token(&path).unwrap();
        assert!(first == "Bearer first" && first.is_sensitive());
        for text in ["", " \n", "two words", "line\nline"] {
            write(text);
            let error = token(&path).unwrap_err();
            assert!(error.message.contains("--infer-token-file") && error.message.contains("one token"), "{error}");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(token(&path).unwrap_err().message.contains("No such file"));
    }
}
