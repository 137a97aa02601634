//! SIGTERM under load: clients that never pause lose nothing; and what the log says of a request.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};

use proto::inference::ModelInferRequest;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::inference::model_infer_request::InferInputTensor;
use rustix::process::Signal;
use tonic::transport::Endpoint;

use crate::harness::http::{get, post};
use crate::harness::{LIMIT, Place, Running, assert_says, eventually};

const FLOATS: usize = 3 * 416 * 416;

/// A server on free ports, and its addresses by name.
fn serve(place: &Place, options: &str) -> (Running, impl Fn(&str) -> String + use<>) {
    let free = "127.0.0.1:0";
    let line = format!("serve --store store --http {free} --grpc {free} --admin {free} {options}");
    let mut running = place.start(&line);
    let bound = running.first_line();
    (running, move |name: &str| bound[name].as_str().unwrap().to_owned())
}

/// One picture for the detector, as a whole request over HTTP/1.1.
fn picture() -> Vec<u8> {
    let bytes = FLOATS * 4;
    let json = format!(
        r#"{{"inputs":[{{"name":"input_1:0","datatype":"FP32","shape":[1,3,416,416],
        "parameters":{{"binary_data_size":{bytes}}}}}],"outputs":[{{"name":"Identity_2:0"}}]}}"#
    );
    let head = format!(
        "POST /v2/models/nanodet/infer HTTP/1.1\r\nhost: x\r\ninference-header-content-length: {}\r\ncontent-length: {}\r\n\r\n{json}",
        json.len(),
        json.len() + bytes
    );
    [head.into_bytes(), vec![0; bytes]].concat()
}

/// What became of a request.
enum Outcome {
    /// Answered in full with this status; the connection may be used again or not.
    Answered { status: u16, closes: bool },
    /// The connection ended before any byte of an answer.
    Nothing(std::io::Error),
    /// The connection ended within the answer.
    Broken(usize),
}

fn exchange(stream: &mut TcpStream, request: &[u8]) -> Outcome {
    // An answer may come, or have come, although the rest of the request finds nobody.
    let written = stream.write_all(request);
    let (mut answer, mut chunk) = (Vec::new(), [0; 4096]);
    loop {
        let whole = answer.windows(4).position(|four| four == b"\r\n\r\n").and_then(|end| {
            let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            (answer.len() >= end + 4 + length.unwrap()).then_some(head)
        });
        if let Some(head) = whole {
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            return Outcome::Answered { status, closes: head.contains("connection: close") };
        }
        match stream.read(&mut chunk) {
            Ok(read) if read > 0 => answer.extend_from_slice(&chunk[..read]),
            ended if answer.is_empty() => {
                let eof = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                return Outcome::Nothing(written.err().or(ended.err()).unwrap_or_else(eof));
            }
            _ => return Outcome::Broken(answer.len()),
        }
    }
}

/// Asks over REST without a pause, on one connection for as long as it is kept, until nobody listens any more. Every
/// request has to be answered, but one on a connection that nobody had taken yet when the listener closed.
fn rest_client(address: &str, request: &[u8], answered: &AtomicUsize) {
    let (mut kept, mut used) = (None, 0);
    loop {
        let stream = match &mut kept {
            Some(stream) => stream,
            None => {
                let Ok(stream) = TcpStream::connect(address) else { return };
                stream.set_read_timeout(Some(LIMIT)).unwrap();
                used = 0;
                kept.insert(stream)
            }
        };
        match exchange(stream, request) {
            Outcome::Answered { status: 200, closes } => {
                answered.fetch_add(1, Ordering::SeqCst);
                used += 1;
                if closes {
                    kept = None;
                }
            }
            Outcome::Nothing(_) if used == 0 && TcpStream::connect(address).is_err() => return,
            Outcome::Answered { status, .. } => panic!("answered with {status}"),
            Outcome::Nothing(error) => panic!("nothing came after {used} answers on this connection: {error}"),
            Outcome::Broken(bytes) => panic!("the answer broke off after {bytes} bytes"),
        }
    }
}

/// As [`rest_client`] over gRPC, on a channel that connects again by itself.
async fn grpc_client(address: String, answered: &AtomicUsize) {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = GrpcInferenceServiceClient::new(endpoint.connect().await.unwrap());
    let request = ModelInferRequest {
        model_name: "nanodet".to_owned(),
        inputs: vec![InferInputTensor {
            name: "input_1:0".to_owned(),
            datatype: "FP32".to_owned(),
            shape: vec![1, 3, 416, 416],
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![vec![0; FLOATS * 4].into()],
        ..ModelInferRequest::default()
    };
    loop {
        match client.model_infer(request.clone()).await {
            Ok(_) => answered.fetch_add(1, Ordering::SeqCst),
            // The listener is gone, so the call never left.
            Err(_) if TcpStream::connect(&address).is_err() => return,
            Err(lost) => panic!("while the server listens: {lost}"),
        };
    }
}

#[test]
fn a_server_that_is_asked_to_stop_under_load_loses_nothing() {
    let place = Place::with_store();
    let (running, address) = serve(&place, "--lame-duck-s 5");
    let (http, grpc, admin) = (address("http"), address("grpc"), address("admin"));
    let (answered, called, request) = (AtomicUsize::new(0), AtomicUsize::new(0), picture());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| rest_client(&http, &request, &answered));
        }
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(grpc_client(grpc.clone(), &called));
        });
        let count = || (answered.load(Ordering::SeqCst), called.load(Ordering::SeqCst));
        eventually("load from everybody", || (count().0 >= 12 && count().1 >= 3).then_some(()));
        running.signal(Signal::TERM);
        eventually("a server that is not ready", || (get(&admin, "/readyz").status == 503).then_some(()));
        // It says so, and serves all the same, old clients and new ones.
        let (rest, calls) = count();
        let health = get(&http, "/v2/health/ready");
        assert_eq!(health.status, 503);
        assert_says(&health.head, &["connection: close"]);
        eventually("answers after it said so", || (count().0 > rest && count().1 > calls).then_some(()));
    });
    let ran = running.end();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(TcpStream::connect(&http).is_err() && TcpStream::connect(&grpc).is_err(), "somebody still listens");
}

#[test]
fn a_grace_that_is_shorter_than_the_lame_duck_is_enough_for_nothing_to_do() {
    let place = Place::with_store();
    let (running, _) = serve(&place, "--grace-s 1");
    running.signal(Signal::TERM);
    let ran = running.end();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}

#[test]
fn a_person_does_not_wait_for_balancers() {
    let place = Place::with_store();
    let (running, _) = serve(&place, "--lame-duck-s 43200 --grace-s 86400");
    running.signal(Signal::INT);
    assert_eq!(running.end().code, Some(0));
}

#[test]
fn the_log_is_switched_and_tells_a_requests_trace() {
    let place = Place::with_store();
    let (running, address) = serve(&place, "--log-format json --lame-duck-s 0 --manage 0.0.0.0:0");
    assert_says(&running.err(), &["whoever reaches this address"]);
    let (http, manage) = (address("http"), address("manage").replace("0.0.0.0", "127.0.0.1"));
    let refused = |id: &str, traced: bool| {
        let body =
            format!(r#"{{"id":"{id}","inputs":[{{"name":"nothing","datatype":"FP32","shape":[1],"data":[1]}}]}}"#);
        let headers = match traced {
            true => "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n",
            false => "",
        };
        assert_eq!(post(&http, "/v2/models/nanodet/infer", headers, body.as_bytes()).answer().status, 400);
    };
    let switch = |body: &str| {
        let answer = post(&manage, "/v2/logging", "", body.as_bytes()).answer();
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    };
    refused("before", true);
    assert_eq!(switch(r#"{"log_verbose_level":1}"#)["log_verbose_level"], 1);
    refused("traced", true);
    refused("untraced", false);
    assert_eq!(switch(r#"{"log_verbose_level":0,"log_info":false}"#)["log_info"], false);
    refused("after", true);
    running.signal(Signal::TERM);
    let ran = running.end();
    let lines: Vec<serde_json::Value> = ran.err.lines().map(crate::harness::json).collect();
    let refusals: Vec<_> =
        lines.iter().filter(|line| line["fields"]["message"] == "an HTTP request was refused").collect();
    assert_eq!(refusals.len(), 2, "{}", ran.err);
    assert_eq!(refusals[0]["span"]["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(refusals[0]["span"]["request_id"], "traced");
    assert_eq!(refusals[0]["span"]["span_id"].as_str().unwrap().len(), 16);
    assert!(refusals[1].get("span").is_none(), "{}", refusals[1]);
    // The words that a drain begins with are of the level that was switched off.
    assert!(!ran.err.contains("asked to stop"), "{}", ran.err);
}

/// A run that fails for what a client sent is the client's to hear of, and no line of the runtime's own stands in the log.
#[test]
fn what_the_runtime_refuses_is_told_to_the_client_alone() {
    let place = Place::new();
    place.ok("pack assets/bert_tiny_qa.onnx --store store --name qa");
    let (running, address) = serve(&place, "--log-format json --lame-duck-s 0");
    let input =
        |name: &str, value: u64| format!(r#"{{"name":"{name}","datatype":"INT64","shape":[1,1],"data":[{value}]}}"#);
    let inputs = [input("input_ids", 1 << 40), input("attention_mask", 1), input("token_type_ids", 0)].join(",");
    let body = format!(r#"{{"inputs":[{inputs}]}}"#);
    let answer = post(&address("http"), "/v2/models/qa/infer", "", body.as_bytes()).answer();
    assert_eq!(answer.status, 400, "{}", answer.body);
    assert_says(&answer.body, &["out of data bounds"]);
    running.signal(Signal::TERM);
    let ran = running.end();
    ran.err.lines().for_each(|line| drop(crate::harness::json(line)));
    assert!(!ran.err.contains("out of data bounds"), "{}", ran.err);
}
