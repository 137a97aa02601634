//! The server under load and under bad requests: probes answer, refusals are at once and named, a drain loses nothing.

use std::net::TcpStream;
use std::thread::JoinHandle;

use rustix::process::Signal;

use crate::harness::http::{Answer, get, post};
use crate::harness::{Place, Running, assert_says, eventually};

const INFER: &str = "/v2/models/nanodet/infer";

/// A server on free ports, its detector ready.
struct Server {
    running: Running,
    http: String,
    admin: String,
    lanes: usize,
}

impl Server {
    fn start(place: &Place, options: &str) -> Self {
        let server = Self::cold(place, options);
        let warm = server.infer(1).join().unwrap();
        assert_eq!(warm.status, 200, "{}", warm.body);
        server
    }

    /// The same, which was asked nothing yet.
    fn cold(place: &Place, options: &str) -> Self {
        let free = "127.0.0.1:0";
        let line = format!("serve --store store --http {free} --grpc {free} --admin {free} --lame-duck-s 0 {options}");
        let mut running = place.start(&line);
        let bound = running.first_line();
        let [http, grpc, admin] = ["http", "grpc", "admin"].map(|name| bound[name].as_str().unwrap().to_owned());
        assert!(http != grpc && grpc != admin && admin != http, "{bound}");
        for address in [&http, &grpc, &admin] {
            TcpStream::connect(address).unwrap();
        }
        let mut server = Self { running, http, admin, lanes: 0 };
        server.lanes = server.metric("packhorse_lanes");
        server
    }

    /// A number from a scrape.
    fn metric(&self, name: &str) -> usize {
        let text = get(&self.admin, "/metrics").body;
        let line = text.lines().find(|line| line.split(' ').next() == Some(name));
        line.and_then(|line| line.split(' ').nth(1)?.parse().ok()).unwrap_or_else(|| panic!("no {name} in {text}"))
    }

    /// Sends `pictures` as one batch, from a thread that waits for the answer; each takes a lane tens of milliseconds.
    fn infer(&self, pictures: usize) -> JoinHandle<Answer> {
        let bytes = pictures * 3 * 416 * 416 * 4;
        let json = format!(
            r#"{{"inputs":[{{"name":"input_1:0","datatype":"FP32","shape":[{pictures},3,416,416],
            "parameters":{{"binary_data_size":{bytes}}}}}],"outputs":[{{"name":"Identity_2:0"}}]}}"#
        );
        let headers = format!("inference-header-content-length: {}\r\n", json.len());
        let body = [json.into_bytes(), vec![0; bytes]].concat();
        let http = self.http.clone();
        std::thread::spawn(move || post(&http, INFER, &headers, &body).answer())
    }

    /// Asks to stop, and waits for the end, which has to be a good one.
    #[track_caller]
    fn stop(self) {
        self.running.signal(Signal::TERM);
        let ran = self.running.end();
        assert_eq!((ran.code, ran.lines().len()), (Some(0), 1), "{}", ran.err);
    }
}

/// A batch that keeps a lane busy for a while.
const LONG: usize = 8;

#[test]
fn probes_and_metrics_answer_while_every_lane_is_busy() {
    let place = Place::with_store();
    let server = Server::start(&place, "");
    let total = 4 * server.lanes;
    let busy: Vec<_> = (0..total).map(|_| server.infer(LONG)).collect();
    // One waits, so every lane is busy, now and until none waits any more.
    eventually("a request that waits", || (server.metric("packhorse_requests_queued") > 0).then_some(()));
    let probes = [
        (&server.http, "/v2/health/live"),
        (&server.http, "/v2/health/ready"),
        (&server.http, "/v2/models/nanodet"),
        (&server.admin, "/livez"),
        (&server.admin, "/readyz"),
        (&server.admin, "/metrics"),
    ];
    for (address, path) in probes {
        assert_eq!(get(address, path).status, 200, "{path}");
    }
    let finished = busy.iter().filter(|busy| busy.is_finished()).count();
    assert!(finished < total - server.lanes, "{finished} of {total} requests were answered before the probes");
    for busy in busy {
        assert_eq!(busy.join().unwrap().status, 200);
    }
    server.stop();
}

#[test]
fn a_model_is_made_ready_while_its_request_is_still_on_its_way() {
    let place = Place::new();
    for name in ["a", "b", "c", "d"] {
        place.ok(&format!("pack assets/bert_tiny_qa.onnx --store store --name {name}"));
    }
    let server = Server::cold(&place, "");
    let mut begun = Vec::new();
    for path in ["/v2/models/a/infer", "/v1/models/b:predict", "/v1/models/c/versions/1:predict", "/predictions/d"] {
        assert_eq!(server.metric("packhorse_models_ready"), begun.len());
        begun.push(post(&server.http, path, "content-length: 9\r\n", b""));
        eventually(path, || (server.metric("packhorse_models_ready") == begun.len()).then_some(()));
    }
    drop(begun);
    server.stop();
}

#[test]
fn a_full_queue_refuses_at_once_and_answers_what_it_took() {
    let place = Place::with_store();
    let server = Server::start(&place, "--queue-capacity 1");
    let answers: Vec<_> = (0..4 * server.lanes + 4).map(|_| server.infer(LONG)).collect();
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.join().unwrap()).collect();
    let (taken, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
    assert!(!taken.is_empty() && !refused.is_empty(), "{} taken, {} refused", taken.len(), refused.len());
    for answer in refused {
        assert_eq!(answer.status, 429, "{}", answer.body);
        assert_says(&answer.head, &["retry-after: "]);
        assert_says(answer.json()["error"].as_str().unwrap(), &["nanodet"]);
    }
    assert_eq!(server.infer(1).join().unwrap().status, 200);
    server.stop();
}

#[test]
fn what_pictures_become_counts_while_they_wait_for_a_lane() {
    let place = Place::with_store();
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../pipeline/tests/fixtures/pictures/alpha-png.png");
    let file = std::fs::read(file).unwrap();
    // A file of seven kilobytes becomes two megabytes. The pictures of one request wait for one another.
    for (limit_bytes, pictures, status) in [(1_500_000, 1, 429), (5_000_000, 1, 200), (5_000_000, 6, 200)] {
        let server = Server::cold(&place, &format!("--bodies-bytes-max {limit_bytes}"));
        let bytes = [&(file.len() as u32).to_le_bytes()[..], &file].concat().repeat(pictures);
        let json = format!(
            r#"{{"inputs":[{{"name":"image","datatype":"BYTES","shape":[{pictures}],
            "parameters":{{"binary_data_size":{}}}}}]}}"#,
            bytes.len()
        );
        let headers = format!("inference-header-content-length: {}\r\n", json.len());
        let answer = post(&server.http, INFER, &headers, &[json.into_bytes(), bytes].concat()).answer();
        assert_eq!(answer.status, status, "{limit_bytes} {pictures}: {}", answer.body);
        if status == 429 {
            assert_says(answer.json()["error"].as_str().unwrap(), &["bodies-bytes-max"]);
        }
        assert_eq!(get(&server.http, "/v2/health/ready").status, 200);
        server.stop();
    }
}

#[test]
fn a_server_that_is_asked_to_stop_answers_what_it_took() {
    let place = Place::with_store();
    let server = Server::start(&place, "");
    let total = 2 * server.lanes;
    let answers: Vec<_> = (0..total).map(|_| server.infer(LONG)).collect();
    eventually("all to be taken", || {
        // The first one was to make the model ready.
        let answered = server.metric("packhorse_requests_answered_total") - 1;
        (server.metric("packhorse_requests_queued") + server.lanes + answered >= total).then_some(())
    });
    let http = server.http.clone();
    server.stop();
    for answer in answers {
        assert_eq!(answer.join().unwrap().status, 200);
    }
    assert!(TcpStream::connect(http).is_err(), "somebody still listens");
}

#[test]
fn bad_requests_are_refused_by_name() {
    let place = Place::with_store();
    let server = Server::start(&place, "");
    let input = |datatype: &str, shape: &str, rest: &str| {
        format!(r#"{{"inputs":[{{"name":"input_1:0","datatype":"{datatype}","shape":{shape},{rest}}}]}}"#)
    };
    // 517 pictures are a gigabyte.
    let gigabyte = r#""parameters":{"binary_data_size":1073639424}"#;
    let overflow = "[4611686018427387904,3,416,416]";
    let table = [
        (INFER, "", input("FP32", "[517,3,416,416]", gigabyte), 400, "input_1:0"),
        (INFER, "", input("FP32", "[517,3,416,416]", r#""data":[]"#), 400, "input_1:0"),
        (INFER, "content-length: 1073741824\r\n", String::new(), 413, "larger than"),
        (INFER, "", input("FP32", overflow, r#""parameters":{"binary_data_size":0}"#), 400, "input_1:0"),
        (INFER, "", input("FP32", overflow, r#""data":[1.0]"#), 400, "input_1:0"),
        (INFER, "", input("INT64", "[1,1]", r#""data":[1]"#), 400, "input_1:0"),
        (INFER, "", input("FP33", "[1,1]", r#""data":[1]"#), 400, "FP33"),
        (INFER, "", input("FP32", "[1,3,416,-416]", r#""data":[]"#), 400, "negative"),
        (INFER, "", "{".to_owned(), 400, "JSON"),
        (INFER, "inference-header-content-length: 999\r\n", "{}".to_owned(), 400, "999"),
        ("/v2/models/nobody/infer", "", input("FP32", "[1,1]", r#""data":[1]"#), 404, "nobody"),
        ("/v2/models/nanodet/versions/7/infer", "", input("FP32", "[1,1]", r#""data":[1]"#), 404, "7"),
        ("/v2/nothing", "", String::new(), 404, "/v2/nothing"),
    ];
    for (path, headers, body, status, says) in table {
        let answer = post(&server.http, path, headers, body.as_bytes()).answer();
        assert_eq!(answer.status, status, "{path} {headers}{body}: {}", answer.body);
        assert_says(answer.json()["error"].as_str().unwrap(), &[says]);
    }
    assert_eq!(get(&server.http, "/v2/health/ready").status, 200);
    assert_eq!(server.infer(1).join().unwrap().status, 200);
    server.stop();
}

#[test]
fn load_is_put_on_the_models_that_are_named() {
    let place = Place::with_store();
    for name in ["often", "seldom"] {
        place.ok(&format!("pack assets/bert_tiny_qa.onnx --store store --name {name}"));
    }
    let input = |name| format!(r#"{{"name":"{name}","datatype":"INT64","shape":[1,2],"data":[0,1]}}"#);
    let inputs = ["input_ids", "attention_mask", "token_type_ids"].map(input).join(",");
    std::fs::write(place.path("body"), format!(r#"{{"inputs":[{inputs}]}}"#)).unwrap();
    std::fs::write(place.path("names"), "often\nseldom\n").unwrap();
    std::fs::write(place.path("wrong"), "often\nnone\n").unwrap();
    std::fs::write(place.path("empty"), "\n").unwrap();
    let server = Server::start(&place, "");
    let load = |rest: &str| format!("load {} --body body {rest}", server.http);

    let asked = place.ok(&load("--models names --each")).lines()[0].clone();
    assert_eq!((&asked["answered"], asked["took_ms"].as_array().unwrap().len()), (&2.into(), 2), "{asked}");
    let loaded = place.ok(&load("--models names --zipf 9 --callers 2 --seconds 0.5")).lines()[0].clone();
    assert!(loaded["answered"].as_u64().unwrap() > 0 && loaded["refused"] == 0, "{loaded}");
    assert!(loaded["failed"].as_object().unwrap().is_empty(), "{loaded}");
    let answered = |model| {
        let statistics = get(&server.http, &format!("/v2/models/{model}/stats")).json();
        statistics["model_stats"][0]["inference_stats"]["success"]["count"].as_u64().unwrap()
    };
    assert!(answered("often") > answered("seldom"), "one is asked 512 times as often");

    let failed = place.ok(&load("--models wrong --seconds 0.5")).lines()[0].clone();
    assert!(failed["failed"]["HTTP 404"].as_u64().unwrap() > 0, "{failed}");
    let ran = place.run(&load("--models wrong --each"));
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_says(ran.complaint(), &["none", "404"]);
    for (rest, says) in [("--models empty", "no name"), ("--models names --seconds=-1", "--seconds")] {
        let ran = place.run(&load(rest));
        assert_eq!(ran.code, Some(2), "{}", ran.err);
        assert_says(ran.complaint(), &[says]);
    }
    server.stop();
}
