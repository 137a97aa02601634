//! The server over real sockets, in front of a model that gives back what it got.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::fixture::Gate;
use crate::{Control, Metrics, Network, QueueLimits, Residency, admin, fixture};

/// A server on a port of its own, with one lane.
struct Served {
    network: Network,
    scheduler: Arc<Scheduler>,
    address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    serving: JoinHandle<()>,
    gate: Gate,
    _store: tempfile::TempDir,
}

fn served(limits: HttpLimits) -> Served {
    let (folder, store) = fixture::store();
    let tensor = |name| json!([{"name": name, "datatype": "FP32", "shape": [-1]}]);
    for (name, version) in [("echo", 1), ("echo", 12), ("a b", 1)] {
        fixture::add(&store, name, version, tensor("x"), tensor("y"));
    }
    let (engine, gate) = fixture::gated();
    let residency = Arc::new(Residency::open(store, Arc::new(engine), 1, Control::None).unwrap());
    let metrics = Arc::new(Metrics::default());
    let scheduler = Scheduler::start(residency, &[0], QueueLimits::default(), metrics).unwrap();
    let network = Network::start(&scheduler, 1).unwrap();
    let listener = network.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, told) = oneshot::channel();
    let at = network.connections().clone();
    let serving = network.spawn(serve(listener, Arc::clone(&scheduler), limits, at, async {
        let _ = told.await;
    }));
    Served { network, scheduler, address, shutdown, serving, gate, _store: folder }
}

/// Sends `request` as it stands, on a connection of its own.
fn send(address: SocketAddr, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request).unwrap();
    stream
}

/// Everything that comes until the server closes; the server's answer to a request that says `Connection: close`.
fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is as good an end as any.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn get(address: SocketAddr, path: &str) -> String {
    rest(send(address, format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes()))
}

fn post(path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
}

#[track_caller]
fn check(answer: &str, status: u16, says: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "not {status}: {answer}");
    assert!(answer.contains(says), "{answer} does not say {says}");
}

const INFER: &str = "/v2/models/echo/infer";
const ONE: &str = r#"{"id":"i","inputs":[{"name":"x","datatype":"FP32","shape":[2],"data":[1.5,2]}]}"#;
const WAITING: &str = r#"{"inputs":[{"name":"x","datatype":"FP32","shape":[0],"data":[]}]}"#;

#[test]
fn every_path_over_a_socket() {
    let served = served(HttpLimits { body_bytes: 1000, ..HttpLimits::default() });
    for (path, status, says) in [
        ("/v2/health/live", 200, r#"{"live":true}"#),
        ("/v2/health/ready", 200, r#"{"ready":true}"#),
        ("/v2", 200, r#""binary_tensor_data","statistics"]"#),
        ("/v2/models", 200, r#"{"models":["a b","echo"]}"#),
        ("/v2/models/echo", 200, r#""platform":"onnxruntime_onnx","versions":["1","12"]"#),
        ("/v2/models/a%20b/versions/1", 200, r#""inputs":[{"datatype":"FP32","name":"x","shape":[-1]}]"#),
        ("/v2/models/echo/ready", 200, r#""ready":true"#),
        ("/v2/models/echo/versions/2/ready", 400, r#""ready":false"#),
        ("/v2/models/none/ready", 400, r#""ready":false"#),
        ("/v2/models/none", 404, r#"{"error":"model 'none'"#),
        ("/v2/none", 404, r#"{"error":"no such path"#),
        ("/v2/models/echo/versions/x", 404, "a version is a whole number"),
        ("/v2/trace/setting", 501, "traces are not kept here"),
        (INFER, 405, "allow: POST"),
        ("/-/healthz", 200, r#"{"live":true}"#),
        ("/v2/models/echo/config", 200, r#""versions":[1,12]"#),
        ("/v2/models/echo/versions/3/config", 404, "no version 3"),
        ("/v2/models/stats", 200, r#"{"model_stats":[{"name":"a b","version":"1","last_inference":0,"#),
        ("/v2/models/echo/versions/12/stats", 200, r#""cache_miss":{"count":0,"ns":0}},"response_stats":{}"#),
        ("/v2/models/none/stats", 404, "model 'none'"),
        ("/v2/systemsharedmemory/status", 501, "--shared-memory PREFIX"),
    ] {
        check(&get(served.address, path), status, says);
    }
    let head = rest(send(served.address, b"HEAD /v2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"));
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn every_body_over_a_socket() {
    let served = served(HttpLimits { body_bytes: 1000, ..HttpLimits::default() });
    let head = format!(
        r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1],{}}}]}}"#,
        r#""parameters":{"binary_data_size":4}"#
    );
    let binary = format!("{head}abcd");
    let json_bytes = format!("Inference-Header-CONTENT-Length: {}\r\n", head.len());
    let chunked = "transfer-encoding: chunked\r\n\r\n3e8\r\n";
    let chunked = format!("POST {INFER} HTTP/1.1\r\nhost: x\r\n{chunked}{}\r\n1\r\na\r\n", "a".repeat(1000));
    let classes = ONE.replace("]}]}", r#"]}],"outputs":[{"name":"y","parameters":{"classification":1}}]}"#);
    let shared =
        ONE.replace(r#""data":[1.5,2]"#, r#""parameters":{"shared_memory_region":"r","shared_memory_byte_size":8}"#);
    for (request, status, says) in [
        (post(INFER, "", &classes), 200, r#""datatype":"BYTES","shape":[1],"data":["2:1:cat"]"#),
        (post(INFER, "", &shared), 501, "input 'x': shared memory is off"),
        (post("/v2/repository/index", "", ""), 200, r#"[{"name":"a b","version":"1","state":"READY","reason":""},"#),
        (post("/v2/repository/index", "", "{"), 400, "the request's JSON"),
        (post("/v2/repository/models/echo/load", "", r#"{"parameters":{"file:1/m":"AA=="}}"#), 501, "'file:1/m'"),
        (post("/v2/repository/models/echo/unload", "", ""), 501, "explicit"),
        (post("/v2/systemsharedmemory/region/r/register", "", "{}"), 501, "--shared-memory PREFIX"),
        (
            post(INFER, "", ONE),
            200,
            r#""model_version":"12","id":"i","outputs":[{"name":"y","datatype":"FP32","shape":[2],"data":[1.5,2.0]}]"#,
        ),
        (post("/v2/models/echo/versions/1/infer", "", ONE), 200, r#""model_version":"1""#),
        (post(INFER, &json_bytes, &binary), 200, r#""data":[1.6777999e+22]"#),
        (
            post(INFER, "inference-header-content-length: 0\r\n", "abcdefgh"),
            200,
            r#""parameters":{"binary_data_size":8}}]}abcdefgh"#,
        ),
        (post(INFER, "inference-header-content-length: -1\r\n", ONE), 400, "not a number of bytes"),
        (post(INFER, "Grpc-Timeout: 60S\r\n", ONE), 200, r#""model_version":"12""#),
        (post(INFER, "Grpc-Timeout: 0m\r\n", ONE), 504, "deadline passed"),
        (post(INFER, "grpc-timeout: soon\r\n", ONE), 400, "grpc-timeout 'soon'"),
        (post(INFER, "X-Envoy-Expected-Rq-Timeout-Ms: soon\r\n", ONE), 400, "not a number of milliseconds"),
        (post(INFER, "", "{"), 400, "the request's JSON"),
        (post(INFER, "", r#"{"inputs":[]}"#), 400, "'x'"),
        (post("/v2/models/none/infer", "", "{"), 404, "model 'none'"),
        (post(INFER, "content-encoding: br\r\n", ONE), 415, "br"),
        (post(INFER, "content-encoding: gzip\r\n", ONE), 400, "Content-Encoding gzip"),
        (format!("POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 1001\r\n\r\n"), 413, "larger than 1000 bytes"),
        (chunked, 413, "larger than 1000 bytes"),
    ] {
        check(&rest(send(served.address, request.as_bytes())), status, says);
    }
}

#[test]
fn deadlines_in_the_head() {
    let served = served(HttpLimits::default());
    for (request, status, says) in [
        (post(INFER, "Grpc-Timeout: 60S\r\n", ONE), 200, r#""model_version":"12""#),
        (post(INFER, "Grpc-Timeout: 0m\r\n", ONE), 504, "deadline passed"),
        (post(INFER, "grpc-timeout: soon\r\n", ONE), 400, "grpc-timeout 'soon'"),
        (post(INFER, "X-Envoy-Expected-Rq-Timeout-Ms: soon\r\n", ONE), 400, "not a number of milliseconds"),
    ] {
        check(&rest(send(served.address, request.as_bytes())), status, says);
    }
}

#[test]
fn a_drain_finishes_what_is_held_while_the_admin_thread_answers() {
    let served = served(HttpLimits::default());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let probes = listener.local_addr().unwrap();
    let admin = admin::spawn(listener, Arc::clone(&served.scheduler)).unwrap();

    let held = send(served.address, post(INFER, "", WAITING).as_bytes());
    served.gate.entered.recv().unwrap();
    // The one lane is busy until the gate opens.
    check(&get(probes, "/metrics"), 200, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    check(&get(probes, "/metrics"), 200, "# EOF");
    check(&get(probes, "/readyz"), 200, r#"{"ready":true}"#);
    check(&get(probes, "/v2"), 404, "no such path");
    check(&get(probes, INFER), 405, "allow: POST");
    check(&get(served.address, "/readyz"), 200, r#"{"ready":true}"#);

    served.shutdown.send(()).unwrap();
    let scheduler = Arc::clone(&served.scheduler);
    let drain = std::thread::spawn(move || scheduler.drain(Duration::from_secs(60)));
    while served.scheduler.is_ready() || TcpStream::connect(served.address).is_ok() {
        std::thread::yield_now();
    }
    check(&get(probes, "/livez"), 200, r#"{"live":true}"#);
    check(&get(probes, "/readyz"), 503, r#"{"ready":false}"#);
    assert!(!served.serving.is_finished());

    served.gate.open.send(()).unwrap();
    check(&rest(held), 200, r#""shape":[0],"data":[]"#);
    served.network.block_on(served.serving).unwrap();
    assert!(drain.join().unwrap());
    admin.stop();
    assert!(TcpStream::connect(probes).is_err());
}

#[test]
fn a_peer_that_says_nothing_is_let_go() {
    let short = Duration::from_millis(50);
    let listen = ListenLimits { header_timeout: short, body_pause: short, ..ListenLimits::default() };
    let served = served(HttpLimits { listen, ..HttpLimits::default() });
    // Each of these ends because the server closes; the test's own end is the check.
    for head in ["", "P", "PRI * HTT", "POST / HTTP/1.1\r\nhost", "GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let answer = rest(send(served.address, head.as_bytes()));
        assert_eq!(answer.contains("packhorse"), head.starts_with("GET"), "{answer}");
    }
    let halved = format!("POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf");
    check(&rest(send(served.address, halved.as_bytes())), 408, "4 bytes had come");
}
