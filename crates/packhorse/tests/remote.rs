//! Workers whose frames are inferred by a server on another port: the same bytes over every protocol, whatever becomes of
//! the server; and what is not the same model is refused.

use std::fs;
use std::net::TcpListener;

use serde_json::Value;

use crate::harness::http::get;
use crate::harness::wire::Wire;
use crate::harness::{Place, Running, assert_says, eventually, json};

const WORK: &str = "work --queue queue --store store --output out --infer-timeout 60";

/// A server of the place's store, and its addresses by API.
struct Server {
    running: Running,
    bound: Value,
}

impl Server {
    /// gRPC is served on `grpc_port`, or on a free one where it is 0.
    fn start(place: &Place, grpc_port: u16) -> Self {
        let free = "127.0.0.1:0";
        let line =
            format!("serve --store store --http {free} --grpc 127.0.0.1:{grpc_port} --admin {free} --lame-duck-s 0");
        let mut running = place.start(&line);
        let bound = running.first_line();
        Self { running, bound }
    }

    fn at(&self, api: &str) -> &str {
        self.bound[api].as_str().unwrap()
    }

    /// Waits until it has answered some frames, besides what it was tried out with.
    fn wait_until_asked(&self) {
        eventually("a frame that the server answered", || {
            (number(self.at("admin"), "requests_answered_total") >= 4.0).then_some(())
        });
    }

    fn kill(self) {
        self.running.signal(rustix::process::Signal::KILL);
        self.running.end();
    }
}

/// A sample of a scrape.
#[track_caller]
fn number(admin: &str, sample: &str) -> f64 {
    let text = get(admin, "/metrics").body;
    let found = text.lines().find_map(|line| line.strip_prefix("packhorse_")?.strip_prefix(sample));
    found.unwrap_or_else(|| panic!("no {sample} in {text}")).trim().parse().unwrap()
}

/// Works what is submitted, and gives the task's id.
fn worked(place: &Place, submission: &str, options: &str) -> String {
    let id = place.submit(submission);
    place.ok(&format!("{WORK} --mode drain-once {options}"));
    id
}

fn told(place: &Place, id: &str, file: &str) -> Value {
    json(&fs::read_to_string(place.path(&format!("out/{id}/{file}"))).unwrap())
}

/// Where the task's frames were worked: elsewhere, and here.
fn frames(place: &Place, id: &str) -> (u64, u64) {
    let cost = told(place, id, "cost.json");
    let count = |name: &str| cost["spent"]["remote"][name].as_u64().unwrap();
    (count("frames_remote"), count("frames_local"))
}

/// What is the same of two tasks on one video: every byte of the lines, and all of the summary but the task's name.
fn results(place: &Place, id: &str) -> (Vec<u8>, Value) {
    let mut summary = told(place, id, "summary.json");
    summary["task"] = Value::Null;
    (fs::read(place.path(&format!("out/{id}/results.jsonl"))).unwrap(), summary)
}

#[track_caller]
fn same(place: &Place, id: &str, want: &str) {
    assert!(results(place, id) == results(place, want), "the results of {id} are not those of {want}");
}

#[test]
fn results_are_the_same_bytes_over_every_protocol() {
    const FRAMES: u64 = 4;
    const SUBMISSION: &str = "clip.mp4 --model nanodet --threshold 0.05";
    let place = Place::with_store();
    place.clip("clip.mp4", 4);
    let want = worked(&place, SUBMISSION, "");
    let server = Server::start(&place, 0);
    let (grpc, http) = (server.at("grpc"), server.at("http"));
    for url in [
        format!("grpc://{grpc}"),
        format!("tfs+grpc://{grpc}/nanodet:1"),
        format!("tfs+http://{http}/nanodet --infer-in-flight 1"),
    ] {
        let id = worked(&place, SUBMISSION, &format!("--infer {url}"));
        same(&place, &id, &want);
        assert_eq!(frames(&place, &id), (FRAMES, 0), "{url}");
        assert_eq!(told(&place, &id, "summary.json").get("inference"), None, "what is the same is not told apart");
        let remote = &told(&place, &id, "cost.json")["spent"]["remote"];
        let (sent, calls) = (remote["sent_bytes"].as_u64().unwrap(), remote["calls"].as_u64().unwrap());
        assert!(calls == FRAMES && sent > FRAMES * 3 * 416 * 416 * 4, "{url}: {remote}");
    }
}

#[test]
fn a_server_that_is_killed_costs_no_frame_and_is_asked_again_when_it_is_back() {
    const FRAMES: u32 = 60;
    let place = Place::with_store();
    place.clip("clip.mp4", FRAMES);
    place.clip("short.mp4", 5);
    let want = worked(&place, "clip.mp4 --model nanodet", "");
    let server = Server::start(&place, 0);
    let grpc = server.at("grpc").to_owned();
    let id = place.submit("clip.mp4 --model nanodet");
    let line = format!("{WORK} --mode serve --admin 127.0.0.1:0 --infer grpc://{grpc}");
    let mut worker = place.start(&line);
    let admin = worker.first_line()["admin"].as_str().unwrap().to_owned();
    server.wait_until_asked();
    server.kill();
    let is_done = |id: &str| place.path(&format!("out/{id}/summary.json")).exists().then_some(());
    eventually("the end of the video", || is_done(&id));
    let (elsewhere, here) = frames(&place, &id);
    assert!(elsewhere > 0 && here > 0 && elsewhere + here == u64::from(FRAMES), "{elsewhere} {here}");
    same(&place, &id, &want);
    for (sample, want) in [
        (r#"worker_frames_total{at="remote"}"#, elsewhere),
        (r#"worker_frames_total{at="local"}"#, here),
        (r#"remote_endpoints{state="in"}"#, 0),
        (r#"remote_endpoints{state="out"}"#, 1),
    ] {
        assert_eq!(number(&admin, sample), want as f64, "{sample}");
    }
    assert!(
        number(&admin, "remote_calls_total") >= elsewhere as f64 && number(&admin, "remote_wait_seconds_total") > 0.0
    );
    let told_last = format!("{elsewhere} frames on other machines, {here} here");
    let err = eventually("the line for people", || Some(worker.err()).filter(|err| err.contains(&told_last)));
    assert_eq!(err.matches("no endpoint is left to ask").count(), 1, "told once: {err}");

    let port = grpc.rsplit(':').next().unwrap().parse().unwrap();
    let server = Server::start(&place, port);
    eventually("a video that is worked elsewhere again", || {
        let id = place.submit("short.mp4 --model nanodet");
        eventually("its end", || is_done(&id));
        (frames(&place, &id) == (5, 0)).then_some(())
    });
    worker.signal(rustix::process::Signal::TERM);
    let ran = worker.end();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let told = ran.lines().pop().unwrap();
    assert!(told["remote"]["frames_remote"].as_u64().unwrap() >= elsewhere + 5, "{told}");
    drop(server);
}

#[test]
fn a_connection_that_goes_silent_costs_its_deadline_and_no_frame() {
    const FRAMES: u32 = 40;
    let place = Place::with_store();
    place.clip("clip.mp4", FRAMES);
    let want = worked(&place, "clip.mp4 --model nanodet", "");
    let server = Server::start(&place, 0);
    let wire = Wire::to(server.at("grpc").parse().unwrap());
    let id = place.submit("clip.mp4 --model nanodet");
    let line = WORK.replace("--infer-timeout 60", "--infer-timeout 2");
    let worker = place.start(&format!("{line} --mode drain-once --infer-in-flight 2 --infer grpc://{}", wire.address));
    server.wait_until_asked();
    wire.hold();
    let ran = worker.end();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let (elsewhere, here) = frames(&place, &id);
    assert!(elsewhere > 0 && here > 0 && elsewhere + here == u64::from(FRAMES), "{elsewhere} {here}");
    same(&place, &id, &want);
    assert_says(&ran.err, &["no answer within 2 s"]);
}

#[test]
fn what_is_another_model_is_refused_and_who_is_not_there_is_not_waited_for() {
    let place = Place::with_store();
    place.ok("pack assets/person_ssdlite_odapi.onnx --store store --name person --task object-detection --labels assets/person.txt");
    place.clip("clip.mp4", 5);
    let server = Server::start(&place, 0);
    let grpc = server.at("grpc");
    let work = |options: &str| place.run(&format!("{WORK} --mode drain-once --model nanodet {options}"));
    for (options, said) in [
        (format!("--infer grpc://{grpc}/person"), "cannot stand in for model 'nanodet': its input"),
        (format!("--infer tfs+grpc://{grpc}/person"), "cannot stand in for model 'nanodet'"),
        (format!("--infer grpc://{grpc}/nobody"), "'nobody'"),
        (format!("--infer grpc://{grpc}/nanodet:7"), "7"),
        (format!("--infer http://{grpc}"), "grpc://HOST:PORT"),
        (format!("--infer grpc://{grpc} --infer-tolerance 2"), "0 to 1"),
    ] {
        let ran = work(&options);
        assert_eq!(ran.code, Some(2), "{options}: {}", ran.err);
        assert_says(&ran.err, &[said]);
    }
    // A port that was free a moment ago, and that nobody is told of.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let id = place.submit("clip.mp4 --model nanodet");
    let ran = work(&format!("--infer grpc://{nobody} --infer grpc://{grpc}"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(frames(&place, &id), (5, 0));
    let id = place.submit("clip.mp4 --model nanodet");
    let ran = work(&format!("--infer grpc://{nobody} --infer-tolerance 0.001"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(frames(&place, &id), (0, 5));
    let inferred = told(&place, &id, "summary.json")["inference"].clone();
    assert_eq!(inferred, serde_json::json!({ "tolerance": 0.001, "frames_remote": 0, "frames_local": 5 }));
}
