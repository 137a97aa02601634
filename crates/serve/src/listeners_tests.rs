//! The public listeners and that for management over real sockets: who may do what, what peers may hold, and when they
//! are let go. No clock decides: limits are short, and the end of a connection is waited for.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::inference::log_settings_request::SettingValue;
use proto::inference::log_settings_request::setting_value::ParameterChoice;
use proto::inference::model_infer_request::InferInputTensor;
use proto::inference::*;
use proto::tensorflow::serving::model_service_client::ModelServiceClient;
use proto::tensorflow::serving::{ModelConfigList, ReloadConfigRequest, model_server_config};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};

use crate::fixture::{self, Gate, Log};
use crate::grpc::GrpcLimits;
use crate::http::HttpLimits;
use crate::{Bodies, Control, ListenLimits, Management, Metrics, Network, QueueLimits, Residency, Scheduler};

/// All listeners in front of two lanes, so that one is free while the other waits at the gate.
struct Node {
    network: Network,
    scheduler: Arc<Scheduler>,
    bodies: Arc<Bodies>,
    gate: Gate,
    http: SocketAddr,
    grpc: SocketAddr,
    manage: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    _store: tempfile::TempDir,
}

/// `echo` takes `x`, FP32 of any length, and gives `y`; `pair` takes `p` and `q` alike and gives the same.
fn node(control: Control, listen: ListenLimits, bodies_bytes: usize) -> Node {
    let (folder, store) = fixture::store();
    let io = |name: &str| json!({"name": name, "datatype": "FP32", "shape": [-1]});
    fixture::add(&store, "echo", 1, json!([io("x")]), json!([io("y")]));
    fixture::add(&store, "pair", 1, json!([io("p"), io("q")]), json!([io("p"), io("q")]));
    let (engine, gate) = fixture::gated();
    let residency = Arc::new(Residency::open(store, Arc::new(engine), 2, control).unwrap());
    let scheduler = Scheduler::start(residency, &[0, 0], QueueLimits::default(), Arc::new(Metrics::default())).unwrap();
    let network = Network::start(&scheduler, 2).unwrap();
    let bodies = Bodies::new(bodies_bytes);
    let http =
        HttpLimits { body_bytes: 5000, listen: listen.clone(), bodies: Arc::clone(&bodies), ..HttpLimits::default() };
    let grpc = GrpcLimits { message_bytes_max: 5000, listen, bodies: Arc::clone(&bodies), ..GrpcLimits::default() };
    let management = Some(Management::new(Arc::new(Log::default())));
    let managing =
        (HttpLimits { management: management.clone(), ..http.clone() }, GrpcLimits { management, ..grpc.clone() });
    let [public, calls, manage] = [(); 3].map(|()| network.block_on(TcpListener::bind("127.0.0.1:0")).unwrap());
    let [http_at, grpc_at, manage_at] = [&public, &calls, &manage].map(|listener| listener.local_addr().unwrap());
    let (stop, stopping) = watch::channel(false);
    let asked = || {
        let mut stopping = stopping.clone();
        async move { drop(stopping.wait_for(|&stop| stop).await) }
    };
    let (of, at) = (|| Arc::clone(&scheduler), || network.connections().clone());
    let tasks = vec![
        network.spawn(crate::http::serve(public, of(), http, at(), asked())),
        network.spawn({
            let served = crate::grpc::serve(calls, of(), grpc, at(), asked());
            async { served.await.unwrap() }
        }),
        network.spawn({
            let served = crate::manage::serve(manage, of(), managing.0, managing.1, at(), asked());
            async { served.await.unwrap() }
        }),
    ];
    let (http, grpc, manage) = (http_at, grpc_at, manage_at);
    Node { network, scheduler, bodies, gate, http, grpc, manage, stop, tasks, _store: folder }
}

impl Node {
    fn channel(&self, address: SocketAddr) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        self.network.block_on(endpoint.connect()).unwrap()
    }

    fn client(&self, address: SocketAddr) -> GrpcInferenceServiceClient<Channel> {
        GrpcInferenceServiceClient::new(self.channel(address))
    }

    /// Ends what is served; every connection has to end by itself.
    fn end(self) {
        self.scheduler.leave();
        self.stop.send_replace(true);
        for task in self.tasks {
            self.network.block_on(task).unwrap();
        }
        assert!(self.scheduler.drain(Duration::from_secs(60)));
        assert_eq!(self.bodies.held_bytes(), 0);
    }
}

/// Sends `request` as it stands, on a connection of its own.
fn send(address: SocketAddr, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request).unwrap();
    stream
}

/// Everything that comes until the server closes.
fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer is as good an end as any.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn ask(address: SocketAddr, method: &str, path: &str, headers: &str, body: &[u8]) -> String {
    let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}");
    let head = format!("{head}content-length: {}\r\n\r\n", body.len());
    rest(send(address, &[head.as_bytes(), body].concat()))
}

#[track_caller]
fn check(answer: &str, status: u16, says: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "not {status}: {answer}");
    assert!(answer.contains(says), "{answer} does not say {says}");
}

const INFER: &str = "/v2/models/echo/infer";
const ONE: &[u8] = br#"{"id":"i","inputs":[{"name":"x","datatype":"FP32","shape":[2],"data":[1.5,2]}]}"#;

/// A request of `floats` floats that waits at the gate.
fn waiting(floats: usize) -> Vec<u8> {
    let data = vec!["1"; floats].join(",");
    format!(
        r#"{{"inputs":[{{"name":"p","datatype":"FP32","shape":[0],"data":[]}},
        {{"name":"q","datatype":"FP32","shape":[{floats}],"data":[{data}]}}]}}"#
    )
    .into_bytes()
}

/// As [`waiting`] over gRPC, but that it waits only when `p` is empty.
fn pair(p: usize, q: usize) -> ModelInferRequest {
    let input = |name: &str, floats: usize| InferInputTensor {
        name: name.to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![i64::try_from(floats).unwrap()],
        ..InferInputTensor::default()
    };
    ModelInferRequest {
        model_name: "pair".to_owned(),
        inputs: vec![input("p", p), input("q", q)],
        raw_input_contents: vec![Bytes::from(vec![0; p * 4]), Bytes::from(vec![0; q * 4])],
        ..ModelInferRequest::default()
    }
}

#[test]
fn only_the_management_listener_changes_the_server() {
    let node = node(Control::Explicit, ListenLimits::default(), 1 << 20);
    let (load, unload) = ("/v2/repository/models/echo/load", "/v2/repository/models/echo/unload");
    for (address, method, path, body, status, says) in [
        (node.http, "POST", load, "", 403, "--manage"),
        (node.http, "POST", load, "not even read", 403, "--manage"),
        (node.http, "POST", unload, "", 403, "--manage"),
        (node.http, "GET", "/v2/logging", "", 403, "--manage"),
        (node.http, "POST", "/v2/logging", r#"{"log_info":false}"#, 403, "--manage"),
        (node.http, "POST", "/v2/repository/index", "", 200, r#""state":"UNAVAILABLE""#),
        (node.http, "GET", "/v2", "", 200, r#""binary_tensor_data","statistics"]"#),
        (node.manage, "GET", "/v2", "", 200, r#""logging","model_repository","model_repository(unload_dependents)""#),
        (node.manage, "POST", load, "", 200, ""),
        (node.manage, "POST", INFER, str::from_utf8(ONE).unwrap(), 200, r#""data":[1.5,2.0]"#),
        (node.http, "POST", INFER, str::from_utf8(ONE).unwrap(), 200, r#""data":[1.5,2.0]"#),
        (node.manage, "GET", "/v2/logging", "", 200, r#""log_error":true,"log_file":"","log_format":"ISO8601""#),
        (node.manage, "POST", "/v2/logging", r#"{"log_info":false,"log_verbose_level":2}"#, 200, r#""log_info":false"#),
        (node.manage, "GET", "/v2/logging", "", 200, r#""log_verbose_level":2,"log_warning":true"#),
        (node.manage, "POST", "/v2/logging", r#"{"log_verbose_level":-1}"#, 400, "log_verbose_level"),
        (node.manage, "POST", "/v2/logging", "[]", 400, "no object"),
        (node.manage, "PUT", "/v2/logging", "", 405, "allow: GET, HEAD, POST"),
        (node.manage, "POST", unload, "", 200, ""),
        (node.http, "POST", INFER, str::from_utf8(ONE).unwrap(), 404, "not loaded"),
    ] {
        check(&ask(address, method, path, "", body.as_bytes()), status, says);
    }
    let (mut public, mut manage) = (node.client(node.grpc), node.client(node.manage));
    let (mut tfs, mut tfs_manage) =
        (ModelServiceClient::new(node.channel(node.grpc)), ModelServiceClient::new(node.channel(node.manage)));
    node.network.block_on(async {
        let load = RepositoryModelLoadRequest { model_name: "echo".to_owned(), ..Default::default() };
        let unload = RepositoryModelUnloadRequest { model_name: "echo".to_owned(), ..Default::default() };
        let level = SettingValue { parameter_choice: Some(ParameterChoice::Uint32Param(1)) };
        let log = LogSettingsRequest { settings: [("log_verbose_level".to_owned(), level)].into() };
        let list = model_server_config::Config::ModelConfigList(ModelConfigList { config: Vec::new() });
        let config = Some(proto::tensorflow::serving::ModelServerConfig { config: Some(list) });
        let reload = ReloadConfigRequest { config };
        for refused in [
            public.repository_model_load(load.clone()).await.map(drop),
            public.repository_model_unload(unload.clone()).await.map(drop),
            public.log_settings(log.clone()).await.map(drop),
            tfs.handle_reload_config_request(reload.clone()).await.map(drop),
        ] {
            let refused = refused.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
            assert!(refused.message().contains("--manage"), "{refused}");
        }
        manage.repository_model_load(load).await.unwrap();
        assert!(node.scheduler.residency().is_ready("echo", None));
        manage.repository_model_unload(unload).await.unwrap();
        let told = manage.log_settings(log).await.unwrap().into_inner().settings;
        let names = ["log_error", "log_file", "log_format", "log_info", "log_verbose_level", "log_warning"];
        let mut told: Vec<_> = told.keys().map(String::as_str).collect();
        told.sort_unstable();
        assert_eq!(told, names);
        tfs_manage.handle_reload_config_request(reload).await.unwrap();
        let extensions = |metadata: ServerMetadataResponse| metadata.extensions.join(" ");
        assert!(
            !extensions(public.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner()).contains("log")
        );
        assert!(
            extensions(manage.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner()).contains("log")
        );
    });
    drop((public, manage, tfs, tfs_manage));
    node.end();
}

#[test]
fn where_nobody_may_load_the_reason_is_that() {
    let node = node(Control::None, ListenLimits::default(), 1 << 20);
    for address in [node.http, node.manage] {
        check(&ask(address, "POST", "/v2/repository/models/echo/load", "", b""), 501, "--control explicit");
    }
    assert!(!ask(node.manage, "GET", "/v2", "", b"").contains("model_repository"));
    node.end();
}

#[test]
fn a_slow_load_is_felt_by_its_own_model_alone() {
    let node = node(Control::Explicit, ListenLimits::default(), 1 << 20);
    check(&ask(node.manage, "POST", "/v2/repository/models/echo/load", "", b""), 200, "");
    node.gate.loading.store(true, Ordering::Relaxed);
    let manage = node.manage;
    let load = std::thread::spawn(move || ask(manage, "POST", "/v2/repository/models/pair/load", "", b""));
    node.gate.entered.recv().unwrap();
    for (address, method, path, body, status, says) in [
        (node.http, "GET", "/v2/health/live", &b""[..], 200, "true"),
        (node.http, "GET", "/v2/health/ready", b"", 200, "true"),
        (node.http, "GET", "/v2/models/echo/ready", b"", 200, "true"),
        (node.http, "GET", "/v2/models/pair/ready", b"", 400, "false"),
        (node.http, "POST", INFER, ONE, 200, r#""data":[1.5,2.0]"#),
        (node.http, "POST", "/v2/models/pair/infer", b"{}", 404, "not loaded"),
        (node.http, "POST", "/v2/repository/index", b"", 200, r#""name":"echo","version":"1","state":"READY""#),
        (node.manage, "GET", "/v2/logging", b"", 200, "log_info"),
    ] {
        check(&ask(address, method, path, "", body), status, says);
    }
    assert!(!load.is_finished());
    node.gate.open.send(()).unwrap();
    check(&load.join().unwrap(), 200, "");
    check(&ask(node.http, "GET", "/v2/models/pair/ready", "", b""), 200, "true");
    node.end();
}

#[test]
fn what_all_bodies_take_is_bounded() {
    let node = node(Control::None, ListenLimits::default(), 1000);
    let (http, full) = (node.http, "bodies-bytes-max");
    // 800 bytes of floats wait at the gate, whoever sent them.
    let held = std::thread::spawn(move || ask(http, "POST", "/v2/models/pair/infer", "", &waiting(200)));
    node.gate.entered.recv().unwrap();
    assert_eq!(node.bodies.held_bytes(), 800);
    let answer = ask(http, "POST", INFER, "", &[ONE, &[b' '; 200]].concat());
    check(&answer, 429, full);
    assert!(answer.contains("retry-after: "), "{answer}");
    // What was never announced is counted as it comes.
    let chunks =
        format!("connection: close\r\ntransfer-encoding: chunked\r\n\r\n12c\r\n{}\r\n0\r\n\r\n", " ".repeat(300));
    check(&rest(send(http, format!("POST {INFER} HTTP/1.1\r\nhost: x\r\n{chunks}").as_bytes())), 429, full);
    check(&ask(http, "POST", INFER, "", ONE), 200, r#""data":[1.5,2.0]"#);
    let mut client = node.client(node.grpc);
    let refused = node.network.block_on(client.model_infer(pair(1, 100))).unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains(full), "{refused}");
    node.network.block_on(client.model_infer(pair(1, 1))).unwrap();
    node.gate.open.send(()).unwrap();
    check(&held.join().unwrap(), 200, "");
    assert_eq!(node.bodies.held_bytes(), 0);

    // A client that went away has taken its request's memory with it only when the lane lets go of it.
    let gone = node.network.spawn({
        let mut client = client.clone();
        async move { client.model_infer(pair(0, 200)).await }
    });
    node.gate.entered.recv().unwrap();
    gone.abort();
    check(&ask(http, "POST", INFER, "", &[ONE, &[b' '; 200]].concat()), 429, full);
    node.gate.open.send(()).unwrap();
    while node.bodies.held_bytes() > 0 {
        std::thread::yield_now();
    }

    // Who announces much and sends little holds what was sent.
    let slow = send(http, format!("POST {INFER} HTTP/1.1\r\nhost: x\r\ncontent-length: 900\r\n\r\n{{").as_bytes());
    while node.bodies.held_bytes() != 1 {
        std::thread::yield_now();
    }
    check(&ask(http, "POST", INFER, "", &[ONE, &[b' '; 800]].concat()), 200, r#""data":[1.5,2.0]"#);
    drop(slow);
    while node.bodies.held_bytes() > 0 {
        std::thread::yield_now();
    }

    // What is small when it is sent may be too much when it is inflated, and when it is read.
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(&[ONE, &[b' '; 2000]].concat()).unwrap();
    let bomb = encoder.finish().unwrap();
    check(&ask(http, "POST", INFER, "content-encoding: gzip\r\n", &bomb), 429, full);
    let many = format!(r#"{{"instances":[{}]}}"#, vec!["1"; 300].join(","));
    check(&ask(http, "POST", "/v1/models/echo:predict", "", many.as_bytes()), 429, full);
    assert_eq!(node.bodies.held_bytes(), 0);
    drop(client);
    node.end();
}

/// What a client of HTTP/2 says first: the preface and settings of its own, none of them.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A frame of HTTP/2 (RFC 9113, section 4.1) on stream 1.
fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
}

/// The head of a call, in literals that need no table (RFC 7541, section 6.2.2).
fn call_head(call: &str) -> Vec<u8> {
    path_head(&format!("/inference.GRPCInferenceService/{call}"))
}

fn path_head(path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "x"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let literal = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let block = fields.iter().flat_map(|(name, value)| [vec![0], literal(name), literal(value)].concat());
    frame(1, 4, &block.collect::<Vec<_>>())
}

/// Reads frames until one of `kind` with `flag` comes; false when the server closes before.
fn await_frame(stream: &mut TcpStream, kind: u8, flag: u8) -> bool {
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).is_err() {
            return false;
        }
        if head[3] == kind && head[4] & flag == flag {
            return true;
        }
    }
    false
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;

fn short() -> ListenLimits {
    let short = Duration::from_millis(50);
    ListenLimits { header_timeout: short, body_pause: short, ..ListenLimits::default() }
}

#[test]
fn a_peer_that_asks_for_nothing_is_let_go_on_every_listener() {
    let node = node(Control::None, short(), 1 << 20);
    for address in [node.grpc, node.manage] {
        // Each of these ends because the server closes; the test's own end is the check.
        for hello in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\n", &HELLO[..30]] {
            rest(send(address, hello));
        }
        // A peer that speaks HTTP/2 is told.
        assert!(await_frame(&mut send(address, HELLO), GOAWAY, 0));
    }
    rest(send(node.grpc, b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n"));
    node.end();
}

#[test]
fn a_message_that_stands_still_is_given_up() {
    let node = node(Control::None, short(), 1 << 20);
    // A message of 100 bytes of which 5 come; over a stream as well, where a pause between messages is no pause.
    let begun = frame(DATA, 0, b"\0\0\0\0\x64begun");
    for (call, bytes) in [("ModelInfer", &begun[..]), ("ModelInfer", b""), ("ModelStreamInfer", &begun)] {
        for address in [node.grpc, node.manage] {
            let mut stream = send(address, &[HELLO, &call_head(call), bytes].concat());
            assert!(await_frame(&mut stream, HEADERS, END_STREAM), "{call}");
        }
    }
    assert_eq!(node.bodies.held_bytes(), 0);
    node.end();
}

#[test]
fn a_dead_peer_is_noticed() {
    let short = Duration::from_millis(50);
    let listen = ListenLimits { keepalive_interval: short, keepalive_timeout: short, ..ListenLimits::default() };
    let node = node(Control::None, listen, 1 << 20);
    for address in [node.grpc, node.manage, node.http] {
        let call = [HELLO, &call_head("ServerLive"), &frame(DATA, END_STREAM, &[0; 5])].concat();
        let mut stream = send(address, &call);
        // It is answered, and then never answers the server's pings.
        assert!(await_frame(&mut stream, HEADERS, 0));
        rest(stream);
    }
    node.end();
}

#[test]
fn connections_past_the_limit_wait_on_every_listener() {
    let node = node(Control::None, ListenLimits { connections: 1, ..ListenLimits::default() }, 1 << 20);
    let live = [HELLO, &call_head("ServerLive"), &frame(DATA, END_STREAM, &[0; 5])].concat();
    for address in [node.grpc, node.manage] {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut first = send(address, &live);
        assert!(await_frame(&mut first, HEADERS, 0));
        let second = std::thread::spawn({
            let (order, live) = (Arc::clone(&order), live.clone());
            move || {
                assert!(await_frame(&mut send(address, &live), HEADERS, 0));
                order.lock().unwrap().push("answered");
            }
        });
        // Time enough for an answer that should not come: the other listener answers many.
        for _ in 0..50 {
            check(&ask(node.http, "GET", "/v2/health/live", "", b""), 200, "true");
        }
        order.lock().unwrap().push("closed");
        drop(first);
        second.join().unwrap();
        assert_eq!(*order.lock().unwrap(), ["closed", "answered"]);
    }
    node.end();
}

#[test]
fn who_is_asked_to_go_is_told_in_the_protocol() {
    let node = node(Control::None, ListenLimits::default(), 1 << 20);
    let keep = |stream: &mut TcpStream, path: &str| {
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        String::from_utf8(answer).unwrap()
    };
    let mut kept = TcpStream::connect(node.http).unwrap();
    assert!(!keep(&mut kept, "/v2/health/ready").contains("connection: close"));
    let mut client = node.client(node.grpc);
    node.network.block_on(client.server_live(ServerLiveRequest {})).unwrap();
    let mut raw = send(node.grpc, &[HELLO, &call_head("ServerLive"), &frame(DATA, END_STREAM, &[0; 5])].concat());
    assert!(await_frame(&mut raw, HEADERS, 0));
    node.scheduler.leave();
    // Still served, on old connections and new ones, and told to go.
    let told = keep(&mut kept, "/v2/health/live");
    check(&told, 200, "connection: close");
    assert_eq!(kept.read(&mut [0]).unwrap(), 0, "the connection stays open");
    check(&ask(node.http, "POST", INFER, "", ONE), 200, "connection: close");
    check(&ask(node.http, "GET", "/ping", "", b""), 503, "Unhealthy");
    node.network.block_on(client.server_live(ServerLiveRequest {})).unwrap();
    node.stop.send(true).unwrap();
    assert!(await_frame(&mut raw, GOAWAY, 0));
    drop((client, raw));
    node.end();
}

#[test]
fn a_trace_is_answered_with_a_step_of_ones_own() {
    let node = node(Control::None, ListenLimits::default(), 1 << 20);
    let (trace, good) = ("0af7651916cd43dd8448eb211c80319c", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let told = format!("traceresponse: 00-{trace}-");
    let headers = format!("traceparent: {good}\r\ntracestate: a=1\r\n");
    check(&ask(node.http, "POST", INFER, &headers, ONE), 200, &told);
    check(&ask(node.http, "GET", "/v2/nothing", &headers, b""), 404, &told);
    for headers in ["", "traceparent: 00-xyz\r\n", "tracestate: a=1\r\n"] {
        assert!(!ask(node.http, "POST", INFER, headers, ONE).contains("traceresponse"), "{headers}");
    }
    let mut client = node.client(node.grpc);
    node.network.block_on(async {
        for (parent, traced) in [(good, true), ("00-xyz", false)] {
            let mut request = Request::new(pair(1, 1));
            request.metadata_mut().insert("traceparent", parent.parse().unwrap());
            let answer = client.model_infer(request).await.unwrap();
            let response = answer.metadata().get("traceresponse").map(|value| value.to_str().unwrap());
            assert_eq!(response.is_some_and(|response| response.starts_with(&format!("00-{trace}-"))), traced);
            assert_ne!(response, Some(good));
        }
    });
    drop(client);
    node.end();
}

#[test]
fn a_health_watch_ends_with_the_server() {
    let node = node(Control::None, ListenLimits::default(), 1 << 20);
    let mut raw = send(
        node.grpc,
        &[HELLO, &path_head("/grpc.health.v1.Health/Watch"), &frame(DATA, END_STREAM, &[0; 5])].concat(),
    );
    assert!(await_frame(&mut raw, DATA, 0));
    node.stop.send_replace(true);
    // The stream would outlive the server if nobody ended it.
    assert!(await_frame(&mut raw, HEADERS, END_STREAM));
    drop(raw);
    node.end();
}
