//! Endpoints behind TLS, with certificates that were made a moment ago: right ones, and each way in which one can be wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use remote::{Remote, Security, Settings};
use tokio::runtime::Runtime;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::server::Server;
use crate::{Place, patient};

/// Who gives certificates, and a folder for what is in files.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

/// A certificate and its key.
struct Pair {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Each is called otherwise.
        params.distinguished_name.push(DnType::CommonName, folder.path().display().to_string());
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer, folder }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Its own certificate, in a file.
    fn file(&self) -> PathBuf {
        self.write("ca.pem", &self.issuer.pem())
    }

    fn gives(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = CertificateParams::new(names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>()).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Pair { certificate, key }
    }

    /// A pair in files, as a client shows it.
    fn identity(&self) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(Vec::new()).unwrap().signed_by(&key, &self.issuer).unwrap();
        (self.write("client.pem", &certificate.pem()), self.write("client.key", &key.serialize_pem()))
    }
}

impl Pair {
    /// As a server has it; with `clients`, those have to show a certificate of that authority.
    fn serves(&self, protocols: &[&str], clients: Option<&Authority>) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let builder = match clients {
            None => builder.unwrap().with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.issuer.der().clone()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.unwrap().with_client_cert_verifier(verifier.unwrap())
            }
        };
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).unwrap();
        let mut config = builder.with_single_cert(vec![self.certificate.clone()], key).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Arc::new(config)
    }
}

const HERE: [&str; 2] = ["127.0.0.1", "localhost"];

/// A server with `tls`, called by `host`, and what was prepared for the way there.
fn place(tls: Option<Arc<ServerConfig>>, host: &str, security: Security, entry: Option<&str>) -> Place {
    let runtime = Runtime::new().unwrap();
    let server = runtime.block_on(Server::start_with(tls));
    if let Some(entry) = entry {
        server.let_in(entry);
    }
    let url = format!("grpcs://{host}:{}/sum", server.address.port());
    Place::at(&[url], vec![server], Settings { limits: patient(), security, ..Settings::default() }, runtime)
}

fn trusting(authority: &Authority) -> Security {
    Security { authorities: Some(authority.file()), ..Security::default() }
}

#[test]
fn an_endpoint_with_a_right_certificate_is_asked_and_told_which_one_is_meant() {
    let authority = Authority::new();
    for host in HERE {
        let tls = authority.gives(&HERE, |_| {}).serves(&["h2", "http/1.1"], None);
        let place = place(Some(tls), host, trusting(&authority), None);
        assert_eq!(place.attachment.mismatches(), []);
        place.answered(1.0);
        // An address is no name that could be asked for.
        let name = Some(host.to_owned()).filter(|_| host == "localhost");
        assert!(place.servers[0].names().iter().all(|seen| *seen == name), "{:?}", place.servers[0].names());
    }
}

/// That the endpoint is not asked, and what is said of it.
#[track_caller]
fn refused(place: &Place, says: &[&str]) {
    let mismatches = place.attachment.mismatches();
    let [(address, why)] = &mismatches[..] else { panic!("one refusal, and not {mismatches:?}") };
    assert!(address.starts_with("grpcs://") && !place.attachment.anybody_in());
    assert!(says.iter().all(|part| why.contains(part)), "{why}");
    assert_eq!(place.servers[0].calls(), 0, "nothing was sent");
}

#[test]
fn whoever_cannot_prove_who_it_is_gets_nothing_and_says_why() {
    let (authority, other) = (Authority::new(), Authority::new());
    let right = || authority.gives(&HERE, |_| {});
    let elsewhere = authority.gives(&["elsewhere.example"], |_| {});
    let over = authority.gives(&HERE, |params| params.not_after = date_time_ymd(2020, 1, 2));
    let early = authority.gives(&HERE, |params| params.not_before = date_time_ymd(4000, 1, 2));
    let h2 = &["h2"][..];
    for (tls, trusted, says) in [
        (Some(right().serves(h2, None)), &other, &["not trusted here", "--infer-ca"][..]),
        (Some(elsewhere.serves(h2, None)), &authority, &["is for elsewhere.example and not for 127.0.0.1"]),
        (Some(over.serves(h2, None)), &authority, &["is over", "renewed"]),
        (Some(early.serves(h2, None)), &authority, &["not valid yet", "clock"]),
        (Some(right().serves(&["http/1.1"], None)), &authority, &["no HTTP/2", "tfs+https://"]),
        (Some(right().serves(&[], None)), &authority, &["no HTTP/2"]),
        (Some(right().serves(h2, Some(&authority))), &authority, &["--infer-cert"]),
        (None, &authority, &["does not speak TLS"]),
    ] {
        refused(&place(tls, "127.0.0.1", trusting(trusted), None), says);
    }
    // Those of this machine, where there are any, do not know an authority that was made a moment ago.
    let nobody = Remote::start(&["grpcs://127.0.0.1:1".parse().unwrap()], Settings::default());
    match nobody.map(drop) {
        Ok(()) => {
            refused(&place(Some(right().serves(h2, None)), HERE[0], Security::default(), None), &["not trusted here"]);
        }
        Err(error) => assert!(error.message.contains("ca-certificates"), "{error}"),
    }
}

#[test]
fn a_certificate_that_vouches_for_itself_is_trusted_where_it_is_named_unless_it_is_an_authority() {
    for (is_ca, says) in [(false, None), (true, Some("CA:TRUE"))] {
        let mut params = CertificateParams::new(vec![HERE[0].to_owned()]).unwrap();
        params.is_ca = if is_ca { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::NoCa };
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, certificate.pem()).unwrap();
        let tls = Pair { certificate: certificate.der().clone(), key }.serves(&["h2"], None);
        let security = Security { authorities: Some(file.path().to_owned()), ..Security::default() };
        let place = place(Some(tls), HERE[0], security, None);
        match says {
            None => drop(place.answered(1.0)),
            Some(says) => refused(&place, &[says]),
        }
    }
}

#[test]
fn who_asks_is_proved_where_that_is_wanted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let tls = || authority.gives(&HERE, |_| {}).serves(&["h2"], Some(&authority));
    let with = |identity| Security { identity: Some(identity), ..trusting(&authority) };
    place(Some(tls()), "127.0.0.1", with(authority.identity()), None).answered(1.0);
    refused(&place(Some(tls()), "127.0.0.1", with(other.identity()), None), &["--infer-cert"]);
}

#[test]
fn a_token_lets_in_and_nobody_overhears_it() {
    let authority = Authority::new();
    let tls = || Some(authority.gives(&HERE, |_| {}).serves(&["h2"], None));
    let token = authority.write("token", "a-token\n");
    let with = |token: &Path| Security { token: Some(token.to_owned()), ..trusting(&authority) };
    place(tls(), "127.0.0.1", with(&token), Some("Bearer a-token")).answered(1.0);
    for security in [trusting(&authority), with(&authority.write("other", "another"))] {
        refused(&place(tls(), "127.0.0.1", security, Some("Bearer a-token")), &["--infer-token-file"]);
    }
}

#[test]
fn what_cannot_be_had_is_said_before_anybody_is_called() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (mine, theirs) = (authority.identity(), other.identity());
    let nothing = authority.write("nothing.pem", "no certificate\n");
    let token = authority.write("token", "a-token");
    let here = || Security { authorities: Some(authority.file()), ..Security::default() };
    let missing = PathBuf::from("/nowhere/at/all");
    for (url, security, says) in [
        ("grpcs://gpu", Security { authorities: Some(missing.clone()), ..here() }, "--infer-ca /nowhere/at/all"),
        ("grpcs://gpu", Security { authorities: Some(nothing.clone()), ..here() }, "it has no certificate"),
        (
            "grpcs://gpu",
            Security { identity: Some((mine.0.clone(), theirs.1)), ..here() },
            "is not the key of --infer-cert",
        ),
        ("grpcs://gpu", Security { identity: Some((nothing, mine.1)), ..here() }, "--infer-cert"),
        (
            "grpcs://gpu",
            Security { identity: Some((mine.0, missing.clone())), ..here() },
            "--infer-key /nowhere/at/all",
        ),
        ("grpcs://gpu", Security { token: Some(missing), ..here() }, "--infer-token-file /nowhere/at/all"),
        ("grpc://gpu:1", Security { token: Some(token.clone()), ..here() }, "--infer-token-in-clear"),
        ("grpc://gpu:1", Security { token: Some(token), token_in_clear: true, ..here() }, ""),
    ] {
        let started = Remote::start(&[url.parse().unwrap()], Settings { security, ..Settings::default() }).map(drop);
        match started {
            Ok(()) => assert_eq!(says, ""),
            Err(error) => assert!(!says.is_empty() && error.message.contains(says), "{says}: {error}"),
        }
    }
}
