//! Real services that start here: S3 by three independent servers, Azure's blobs by its maker's, Google's as far as anybody's
//! has them, and a proxy that does what networks do.
//!
//! `scripts/setup.sh test` fetches them. A server is started on a port that is free, and ends with the process that started
//! it however that ends: it is held by a pipe.

#![allow(dead_code, unreachable_pub, reason = "each test binary that stands on this uses a part of it")]

pub mod google;
pub mod own;

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use object_store::azure::{AzureAccessKey, AzureAuthorizer, AzureCredential};
use tempfile::TempDir;

/// The longest that a server may take to answer; far more than any takes on a busy machine.
const START_MAX: Duration = Duration::from_secs(120);

/// The key that the servers know.
pub const KEY: &str = "AKIAPACKHORSETESTKEY";
/// Its secret.
pub const SECRET: &str = "packhorse/test+secret";
/// The account that Azurite has, as everybody knows it: <https://learn.microsoft.com/azure/storage/common/storage-use-azurite>.
pub const ACCOUNT: &str = "devstoreaccount1";
/// Its key.
pub const ACCOUNT_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// A running server.
pub struct Server {
    pub address: SocketAddr,
    name: &'static str,
    /// Ends the server when its input is closed, by whatever way this process goes.
    holder: Child,
    folder: TempDir,
}

impl Server {
    /// Starts the program `name` of the environment of services; `arguments` and `variables` come of its port and folder.
    fn start(
        name: &'static str,
        arguments: impl FnOnce(u16, &Path) -> String,
        variables: impl FnOnce(u16) -> Vec<(&'static str, String)>,
    ) -> Self {
        Self::start_by(&[cache("venv-services/bin").join(name)], name, arguments, variables)
    }

    /// Likewise, by the command that begins with `words`.
    fn start_by(
        words: &[PathBuf],
        name: &'static str,
        arguments: impl FnOnce(u16, &Path) -> String,
        variables: impl FnOnce(u16) -> Vec<(&'static str, String)>,
    ) -> Self {
        let last = words.last().unwrap();
        assert!(last.exists(), "{}: 'scripts/setup.sh test' fetches it", last.display());
        let (folder, address) = (tempfile::tempdir().unwrap(), free());
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let script = r#"
            "$@" </dev/null & server=$!
            cat >/dev/null
            kill $server
            tries=0
            while kill -0 $server 2>/dev/null && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
            kill -9 $server 2>/dev/null"#;
        let arguments = arguments(address.port(), folder.path());
        let mut command = Command::new("sh");
        command.args(["-c", script, "sh"]).args(words).args(arguments.split_whitespace());
        command.stdin(Stdio::piped()).stdout(log.try_clone().unwrap()).stderr(log).current_dir(folder.path());
        command.env("HOME", folder.path()).env("TMPDIR", folder.path()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.envs(variables(address.port()));
        let server = Self { address, name, holder: command.spawn().unwrap(), folder };
        let deadline = Instant::now() + START_MAX;
        while ask(address, "GET", "/", "").is_none() {
            assert!(Instant::now() < deadline, "{name} does not answer: {}", server.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        server
    }

    /// SeaweedFS: an S3 server on disk, written in Go, that checks signatures and makes buckets as they are needed.
    pub fn weed() -> Self {
        let arguments = |port: u16, folder: &Path| {
            let credentials = format!(r#"[{{"accessKey": "{KEY}", "secretKey": "{SECRET}"}}]"#);
            let actions = r#"["Admin", "Read", "Write", "List", "Tagging"]"#;
            let identity = format!(r#"{{"name": "test", "credentials": {credentials}, "actions": {actions}}}"#);
            std::fs::write(folder.join("identity.json"), format!(r#"{{"identities": [{identity}]}}"#)).unwrap();
            // Nothing of it looks at the outside but the port for S3, and it reports to nobody.
            let [a, b, c, d, e, f, g] = [(); 7].map(|()| free().port());
            format!(
                "server -dir=. -ip=127.0.0.1 -ip.bind=127.0.0.1 -master.telemetry=false -master.volumeSizeLimitMB=64 \
                 -master.port={a} -master.port.grpc={b} -volume.port={c} -volume.port.grpc={d} -volume.max=100 \
                 -filer -filer.port={e} -filer.port.grpc={f} -s3 -s3.port={port} -s3.port.grpc={g} \
                 -s3.port.iceberg=0 -s3.port.lance=0 -s3.config=identity.json"
            )
        };
        Self::start("weed", arguments, |_| Vec::new())
    }

    /// MiniStack: S3, SQS, STS and more, written in Python. Takes any credentials.
    pub fn ministack() -> Self {
        let variables = |port: u16| {
            let host = || "127.0.0.1".to_owned();
            vec![("BIND_HOST", host()), ("MINISTACK_HOST", host()), ("GATEWAY_PORT", port.to_string())]
        };
        Self::start("ministack", |_, _| String::new(), variables)
    }

    /// Moto: likewise, by others; after [`Server::guard`] it checks signatures and permissions.
    pub fn moto() -> Self {
        Self::start("moto_server", |port, _| format!("-H 127.0.0.1 -p {port}"), |_| Vec::new())
    }

    /// A proxy before the server at `upstream` that does what networks do, as rules tell it.
    pub fn faults(upstream: &str) -> Self {
        let arguments = |port: u16, _: &Path| format!("--upstream {upstream} --host 127.0.0.1 --port {port}");
        Self::start("microburst", arguments, |_| Vec::new())
    }

    /// Azurite: Azure's blobs by its maker, in Node. Checks signatures. `None` where the set-up could not fetch it.
    pub fn azurite() -> Option<Self> {
        let words: [PathBuf; 2] = ["node".into(), cache("azurite/node_modules/azurite/dist/src/blob/main.js")];
        let arguments = |port: u16, _: &Path| {
            format!("--blobHost 127.0.0.1 --blobPort {port} --inMemoryPersistence --silent --disableTelemetry")
        };
        if !words[1].exists() {
            eprintln!("left out: Azurite is not there, 'scripts/setup.sh services' tells why");
            return None;
        }
        Some(Self::start_by(&words, "azurite", arguments, |_| Vec::new()))
    }

    /// Google's Cloud Storage as far as fake-gcs-server has it: no writing in the way that clients here write.
    pub fn fake_gcs() -> Self {
        let arguments = |port: u16, _: &Path| {
            format!("-backend memory -scheme http -host 127.0.0.1 -port {port} -public-host 127.0.0.1:{port}")
        };
        Self::start_by(&[cache("fake-gcs-server")], "fake-gcs-server", arguments, |_| Vec::new())
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a container of Azure's.
    pub fn make_container(&self, name: &str) {
        let uri = format!("{}/{ACCOUNT}/{name}?restype=container", self.url());
        let mut request = http::Request::builder().method("PUT").uri(uri);
        request = request.header("content-length", "0");
        let mut request = request.body(object_store::client::HttpRequestBody::empty()).unwrap();
        let key = AzureCredential::AccessKey(AzureAccessKey::try_new(ACCOUNT_KEY).unwrap());
        AzureAuthorizer::new(&key, ACCOUNT).try_authorize(&mut request).unwrap();
        let mut headers = String::new();
        for (name, value) in request.headers().iter().filter(|(name, _)| *name != "content-length") {
            let _ = write!(headers, "{name}: {}\r\n", value.to_str().unwrap());
        }
        let path = request.uri().path_and_query().unwrap().as_str();
        let (status, body) = ask_with(self.address, "PUT", path, &headers, "").unwrap();
        assert_eq!(status, 201, "{body}");
    }

    /// Makes a bucket, where nobody asks who does.
    pub fn make_bucket(&self, name: &str) {
        let (status, body) = ask(self.address, "PUT", &format!("/{name}"), "").unwrap();
        assert_eq!(status, 200, "{body}");
    }

    /// Makes a queue of SQS, whose messages go to the queue called `dead` when they were received more than so many times.
    /// Says its URL.
    pub fn make_queue(&self, name: &str, dead: Option<(&str, u32)>) -> String {
        let arn = |name: &str| format!("arn:aws:sqs:us-east-1:{}:{name}", self.account());
        let policy = dead.map(|(dead, receives_max)| {
            format!(r#"{{\"deadLetterTargetArn\": \"{}\", \"maxReceiveCount\": {receives_max}}}"#, arn(dead))
        });
        let attributes = policy.map_or_else(String::new, |policy| format!(r#""RedrivePolicy": "{policy}""#));
        let body = format!(r#"{{"QueueName": "{name}", "Attributes": {{{attributes}}}}}"#);
        let scope = format!("AWS4-HMAC-SHA256 Credential={KEY}/20260101/us-east-1/sqs/aws4_request");
        let headers = format!(
            "X-Amz-Target: AmazonSQS.CreateQueue\r\nAuthorization: {scope}, SignedHeaders=host, Signature=0\r\n\
             Content-Type: application/x-amz-json-1.0\r\n"
        );
        let (status, answer) = ask_with(self.address, "POST", "/", &headers, &body).unwrap();
        assert_eq!(status, 200, "{answer}");
        let (_, url) = answer.split_once(r#""QueueUrl""#).unwrap();
        url.split('"').nth(1).unwrap().to_owned()
    }

    /// The account that the server says everything belongs to.
    fn account(&self) -> &'static str {
        if self.name == "moto_server" { "123456789012" } else { "000000000000" }
    }

    /// Replaces the proxy's rules, a list in JSON.
    pub fn rules(&self, rules: &str) {
        let (status, body) = ask(self.address, "POST", "/_microburst/rules", rules).unwrap();
        assert!(status < 300, "{status} {body}");
    }

    /// What the proxy's rules did, in JSON.
    pub fn fired(&self) -> String {
        ask(self.address, "GET", "/_microburst/fired", "").unwrap().1
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Ends the server, in the middle of whatever it does.
    pub fn stop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// The one that a test binary's tests share.
pub fn weed() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::weed)
}

/// The one that a test binary's tests share.
pub fn ministack() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::ministack)
}

/// The one that a test binary's tests share.
pub fn moto() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::moto)
}

/// The one that a test binary's tests share, where there is one.
pub fn azurite() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    SERVER.get_or_init(Server::azurite).as_ref()
}

/// An address that nobody has at the moment.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// What the set-up fetched.
fn cache(name: &str) -> PathBuf {
    std::path::absolute(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache").join(name)).unwrap()
}

/// Status and body of an answer; `None` without one.
pub fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
    ask_with(address, method, path, "Content-Type: application/json\r\n", body)
}

/// As [`ask`], with more headers, each with its line's end.
pub fn ask_with(address: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n");
    write!(stream, "{head}{headers}\r\n{body}").ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())))
}
