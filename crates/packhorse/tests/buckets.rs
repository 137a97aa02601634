//! Stores in buckets of real S3 servers: what is pushed is served from a node's cache, through everything that networks, disks
//! and strangers do.

use std::path::Path;
use std::process::Command;

use objects::{Limits, Network, Variables, When};
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::http::{Answer, get, post};
use crate::harness::wire::Wire;
use crate::harness::{Place, Ran, Running, assert_says, eventually, workspace};
use crate::servers::{KEY, SECRET, Server, weed};
use crate::upkeep::fine_tune;

/// Token ids that are in any vocabulary.
const QUESTION: &str = r#"{"inputs":[
    {"name":"input_ids","datatype":"INT64","shape":[1,6],"data":[2,31,42,32,3,7]},
    {"name":"attention_mask","datatype":"INT64","shape":[1,6],"data":[1,1,1,1,1,1]},
    {"name":"token_type_ids","datatype":"INT64","shape":[1,6],"data":[0,0,0,0,1,1]}]}"#;

/// `command`, sent to `s3` for its buckets.
fn with_s3(mut command: Command, s3: String) -> Command {
    command.env("AWS_ACCESS_KEY_ID", KEY).env("AWS_SECRET_ACCESS_KEY", SECRET).env("AWS_REGION", "us-east-1");
    command.env("AWS_ENDPOINT_URL_S3", s3);
    command
}

fn run(place: &Place, s3: String, line: &str) -> Ran {
    Running::start(&mut with_s3(place.packhorse(line), s3)).end()
}

#[track_caller]
fn ok(place: &Place, s3: String, line: &str) -> Value {
    let ran = run(place, s3, line);
    assert_eq!(ran.code, Some(0), "packhorse {line}: {}", ran.err);
    ran.lines().pop().unwrap_or_default()
}

/// The bucket itself, by the way that no test is about.
fn bucket(s3: &Server, url: &str) -> objects::Place {
    let endpoint = s3.url();
    let variables = Variables::from([
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL_S3", &endpoint),
    ]);
    Network::start(Limits::default(), variables).unwrap().place(url).unwrap()
}

/// A server on free ports.
pub(crate) struct Serving {
    running: Running,
    http: String,
    admin: String,
}

impl Serving {
    pub(crate) fn start(mut command: Command) -> Self {
        let free = "127.0.0.1:0";
        command.args(["--http", free, "--grpc", free, "--admin", free, "--lame-duck-s", "0"]);
        let mut running = Running::start(&mut command);
        let bound = running.first_line();
        let [http, admin] = ["http", "admin"].map(|name| bound[name].as_str().unwrap().to_owned());
        Self { running, http, admin }
    }

    /// Of the store at `url`, with its cache in the folder `cache` of `place`.
    fn from(place: &Place, s3: String, url: &str, options: &str) -> Self {
        Self::start(with_s3(place.packhorse(&format!("serve --store {url} --cache cache {options}")), s3))
    }

    pub(crate) fn ask(&self, model: &str) -> Answer {
        post(&self.http, &format!("/v2/models/{model}/infer"), "", QUESTION.as_bytes()).answer()
    }

    #[track_caller]
    pub(crate) fn answer(&self, model: &str) -> Value {
        let answer = self.ask(model);
        assert_eq!(answer.status, 200, "{model}: {}", answer.body);
        answer.json()["outputs"].clone()
    }

    /// The sum of the series of this name, with this in their labels.
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        let text = get(&self.admin, "/metrics").body;
        let of = |line: &&str| line.split(['{', ' ']).next() == Some(name) && line.contains(label);
        let values: Vec<u64> = text
            .lines()
            .filter(of)
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64)
            .collect();
        assert!(!values.is_empty(), "no {name} in {text}");
        values.iter().sum()
    }

    #[track_caller]
    pub(crate) fn stop(self) {
        self.running.signal(Signal::TERM);
        let ran = self.running.end();
        assert_eq!(ran.code, Some(0), "{}", ran.err);
    }
}

#[test]
fn the_doctor_sees_in_a_bucket_what_it_sees_in_a_file() {
    let (place, s3) = (Place::with_store(), weed());
    place.clip("clip.mp4", 20);
    let video = std::fs::read(place.path("clip.mp4")).unwrap();
    bucket(s3, "s3://fleet").put("some/clip.mp4", video.into(), &When::Always).unwrap();
    let here = place.ok("doctor clip.mp4 nanodet --store store").lines().remove(0);
    for options in ["--spool-whole 0", ""] {
        let line = format!("doctor s3://fleet/some/clip.mp4 nanodet --store store --spool spool {options}");
        let there = ok(&place, s3.url(), &line);
        assert_eq!(there["video"], "s3://fleet/some/clip.mp4");
        for told in ["frames", "segments", "quality", "at_s", "detections"] {
            assert_eq!(there[told], here[told], "{told} {options}");
        }
    }
    let none = run(&place, s3.url(), "doctor s3://fleet/none.mp4 nanodet --store store --spool spool");
    assert_eq!(none.code, Some(2), "{}", none.err);
    assert_says(&none.err, &["s3://fleet/none.mp4"]);
}

/// A store of two fine-tunes of one trunk and an unrelated network, and what the first two answer.
pub(crate) fn packed(place: &Place) -> [Value; 2] {
    fine_tune(place, "one.onnx", 1);
    fine_tune(place, "two.onnx", 2);
    place.ok("pack one.onnx two.onnx --store store");
    let serving = Serving::start(place.packhorse("serve --store store"));
    let answers = ["one", "two"].map(|name| serving.answer(name));
    assert_ne!(answers[0], answers[1]);
    serving.stop();
    answers
}

fn bytes_of(place: &Place, folder: &str) -> u64 {
    let size = |file: &String| std::fs::metadata(place.path(folder).join(file)).map_or(0, |about| about.len());
    place.files(folder).iter().map(size).sum()
}

#[test]
fn a_store_in_a_bucket_answers_as_the_folder_it_came_from() {
    const URL: &str = "s3://fleet/one";
    let (place, s3) = (Place::new(), Server::weed());
    let want = packed(&place);
    let pushed = ok(&place, s3.url(), "push store s3://fleet/one");
    assert_eq!((&pushed["models"], &pushed["same"]), (&2.into(), &0.into()), "{pushed}");
    let again = ok(&place, s3.url(), "push store s3://fleet/one");
    assert_eq!((&again["models"], &again["same"], &again["bytes"]), (&0.into(), &2.into(), &0.into()), "{again}");

    let serving = Serving::from(&place, s3.url(), URL, "");
    std::thread::scope(|scope| {
        for number in 0..12 {
            let (serving, want) = (&serving, &want);
            scope.spawn(move || assert_eq!(serving.answer(["one", "two"][number % 2]), want[number % 2]));
        }
    });
    // One download did for all who asked: a program, a trunk, and two heads and tables.
    assert_eq!(serving.metric("packhorse_cache_files_total", "miss"), pushed["files"].as_u64().unwrap());
    let fetched = serving.metric("packhorse_cache_fetched_bytes_total", "");
    assert!(fetched <= pushed["bytes"].as_u64().unwrap(), "{fetched} of {pushed}");
    assert_eq!(serving.metric("packhorse_cache_evictions_total", ""), 0);
    serving.stop();

    // What came is there after a restart, with the store or without it.
    let serving = Serving::from(&place, s3.url(), URL, "");
    assert_eq!(serving.answer("two"), want[1]);
    assert_eq!(serving.metric("packhorse_cache_files_total", "miss"), 0);
    serving.stop();
    let pulled = ok(&place, s3.url(), "pull s3://fleet/one copy one");
    assert_eq!(pulled["models"], 1);
    place.ok("verify --store copy");
    let mut s3 = s3;
    s3.stop();
    let serving = Serving::from(&place, s3.url(), URL, "");
    assert_eq!(["one", "two"].map(|name| serving.answer(name)), want);
    serving.stop();
    let ran = run(&place, s3.url(), "models --store s3://fleet/one");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_says(ran.complaint(), &[URL]);
}

#[test]
fn a_checkpoint_that_is_mapped_in_place_goes_along_into_the_bucket() {
    const URL: &str = "s3://fleet/checkpoint";
    let (place, s3) = (Place::new(), weed());
    let fixture = workspace().join("crates/store/tests/fixtures/hf/bert-qa");
    std::fs::create_dir(place.path("folder")).unwrap();
    for entry in std::fs::read_dir(fixture).unwrap().map(Result::unwrap) {
        std::fs::copy(entry.path(), place.path("folder").join(entry.file_name())).unwrap();
    }
    place.ok("pack folder --store store --name qa");
    let serving = Serving::start(place.packhorse("serve --store store"));
    let want = serving.answer("qa");
    serving.stop();
    assert!(place.files("store/segments").is_empty(), "it was copied, not mapped");
    ok(&place, s3.url(), "push store s3://fleet/checkpoint");
    std::fs::remove_dir_all(place.path("folder")).unwrap();
    let serving = Serving::from(&place, s3.url(), URL, "");
    assert_eq!(serving.answer("qa"), want);
    serving.stop();
}

#[test]
fn a_cache_smaller_than_what_is_asked_for_goes_on() {
    const URL: &str = "s3://fleet/small";
    const CACHE_BYTES: u64 = 25_000_000;
    let (place, s3) = (Place::new(), weed());
    // Each of them takes most of the cache.
    place.ok("pack assets/bert_tiny_qa.onnx --store store --name one");
    place.ok("pack assets/person_ssdlite_odapi.onnx --store store --name other");
    ok(&place, s3.url(), "push store s3://fleet/small");
    let serving = Serving::from(&place, s3.url(), URL, &format!("--cache-bytes-max {CACHE_BYTES}"));
    let want = serving.answer("one");
    for _ in 0..3 {
        // A picture of one black pixel.
        let body = br#"{"inputs":[{"name":"image_tensor:0","datatype":"UINT8","shape":[1,1,1,3],"data":[0,0,0]}]}"#;
        let other = post(&serving.http, "/v2/models/other/infer", "", body).answer();
        assert_eq!(other.status, 200, "{}", other.body);
        assert_eq!(serving.answer("one"), want);
        let bytes = serving.metric("packhorse_cache_bytes", "");
        assert!(bytes <= CACHE_BYTES, "{bytes}");
    }
    assert!(serving.metric("packhorse_cache_evictions_total", "") >= 4);
    serving.stop();
    assert!(bytes_of(&place, "cache") < CACHE_BYTES + 1_000_000);
}

#[test]
fn what_is_damaged_or_gone_is_refused_with_the_reason_and_the_rest_is_served() {
    const URL: &str = "s3://fleet/damaged";
    let (place, s3) = (Place::new(), weed());
    let want = packed(&place);
    ok(&place, s3.url(), "push store s3://fleet/damaged");
    let bucket = bucket(s3, URL);
    let heads = |name: &str| -> Vec<String> {
        let text = bucket.get(&format!("models/{name}/1.json"), 1 << 20).unwrap().1;
        let manifest: Value = serde_json::from_slice(&text).unwrap();
        let segments = manifest["weights"]["segments"].as_array().unwrap().iter();
        segments.map(|segment| format!("segments/{}.seg", segment["hash"].as_str().unwrap())).collect()
    };
    // The segment that is the second's alone.
    let own = heads("two").into_iter().find(|segment| !heads("one").contains(segment)).unwrap();
    let (object, bytes) = bucket.get(&own, 64 << 20).unwrap();
    let mut damaged = bytes.to_vec();
    damaged[5] ^= 1;
    bucket.put(&own, damaged.into(), &When::Same(object.tag)).unwrap();

    let serving = Serving::from(&place, s3.url(), URL, "");
    assert_eq!(serving.answer("one"), want[0]);
    let refused = serving.ask("two");
    assert_eq!(refused.status, 500, "{}", refused.body);
    assert_says(refused.json()["error"].as_str().unwrap(), &["'two' version 1", &own, "hash", "push"]);
    assert!(!Path::new(&place.path("cache")).join(&own).exists());
    assert_eq!(serving.metric("packhorse_cache_files_total", "corrupt"), 1);
    let ran = run(&place, s3.url(), "verify --store s3://fleet/damaged");
    assert_eq!((ran.code, ran.lines().len()), (Some(1), 1), "{}", ran.err);
    assert_says(&ran.err, &["two version 1", &own, "--again"]);

    ok(&place, s3.url(), "push store s3://fleet/damaged two --again");
    eventually("the model that was mended", || (serving.ask("two").status == 200).then_some(()));
    assert_eq!(["one", "two"].map(|name| serving.answer(name)), want);
    serving.stop();
}

#[test]
fn a_store_that_vanishes_while_it_is_read_harms_nobody_else() {
    const URL: &str = "s3://fleet/vanishing";
    let (place, s3) = (Place::new(), weed());
    let want = packed(&place);
    ok(&place, s3.url(), "push store s3://fleet/vanishing");
    let wire = Wire::to(s3.address);
    let serving = Serving::from(&place, format!("http://{}", wire.address), URL, "--queue-time-limit-s 3");
    assert_eq!(serving.answer("one"), want[0]);
    // What is asked for now does not come: its requests wait no longer than they may, and others do not wait for it.
    wire.hold();
    let waiting = post(&serving.http, "/v2/models/two/infer", "", QUESTION.as_bytes());
    assert_eq!(serving.answer("one"), want[0]);
    let refused = waiting.answer();
    assert_eq!(refused.status, 504, "{}", refused.body);
    assert_eq!(serving.answer("one"), want[0]);
    wire.cut();
    let refused = eventually("a refusal that says why", || {
        let answer = serving.ask("two");
        (answer.status == 503).then_some(answer)
    });
    assert_says(refused.json()["error"].as_str().unwrap(), &["'two' version 1 cannot be fetched", URL]);
    assert_eq!(serving.answer("one"), want[0]);
    assert_eq!(get(&serving.http, "/v2/health/ready").status, 200);
    serving.stop();
}

/// A folder of a model of texts, whose tokenizer is another file for each `number`.
fn text_folder(place: &Place, name: &str, number: usize) {
    let fixtures = workspace().join("crates/pipeline/tests/fixtures/text");
    let folder = place.path(name);
    std::fs::create_dir(&folder).unwrap();
    for from in ["models/bert-sequence", "tokenizers/wordpiece"] {
        for file in std::fs::read_dir(fixtures.join(from)).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
    }
    let tokenizer = folder.join("tokenizer.json");
    let text = std::fs::read_to_string(&tokenizer).unwrap();
    std::fs::write(tokenizer, text + &"\n".repeat(number)).unwrap();
}

#[test]
fn texts_do_not_wait_for_files_of_other_models() {
    const URL: &str = "s3://fleet/texts";
    let (place, s3) = (Place::new(), weed());
    // One more than there are threads that make tensors of texts.
    let threads = std::thread::available_parallelism().unwrap().get();
    let names: Vec<String> = (0..threads + 2).map(|number| format!("texts-{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        text_folder(&place, name, number);
    }
    place.ok(&format!("pack {} --store store", names.join(" ")));
    ok(&place, s3.url(), &format!("push store {URL}"));
    let asked = |serving: &Serving, name: &str| {
        post(&serving.http, &format!("/predictions/{name}"), "content-type: text/plain\r\n", b"A long way up.")
    };
    let serving = Serving::start(place.packhorse("serve --store store"));
    let want = asked(&serving, &names[0]).answer();
    assert_eq!(want.status, 200, "{}", want.body);
    serving.stop();

    let wire = Wire::to(s3.address);
    let serving = Serving::from(&place, format!("http://{}", wire.address), URL, "");
    let (warm, cold) = names.split_first().unwrap();
    assert_eq!(asked(&serving, warm).answer().body, want.body);
    wire.hold();
    let waiting: Vec<_> = cold.iter().map(|name| asked(&serving, name)).collect();
    eventually("all that wait for files", || {
        let queued = serving.metric("packhorse_tasks_queued", "");
        (queued == cold.len() as u64).then_some(())
    });
    for _ in 0..3 {
        assert_eq!(asked(&serving, warm).answer().body, want.body);
    }
    wire.let_go();
    for waiting in waiting {
        let answer = waiting.answer();
        assert_eq!((answer.status, &answer.body), (200, &want.body));
    }
    serving.stop();
}

#[test]
fn a_push_and_a_pull_that_were_killed_go_on() {
    const URL: &str = "s3://fleet/resumed";
    let (place, s3) = (Place::new(), weed());
    let want = packed(&place);
    // Its bucket is there.
    bucket(s3, URL).put("other", "".into(), &When::Always).unwrap();
    for (round, line) in ["push store s3://fleet/resumed", "pull s3://fleet/resumed copy"].into_iter().enumerate() {
        let start = || Running::start(&mut with_s3(place.packhorse(line), s3.url()));
        let bucket = bucket(s3, URL);
        let running = start();
        eventually("something that was written", || {
            let there = match round {
                0 => bucket.list("segments/").any(|page| !page.unwrap().objects.is_empty()),
                _ => place.files("copy").iter().any(|file| file.starts_with("segments/")),
            };
            there.then_some(())
        });
        running.signal(Signal::KILL);
        running.end();
        let ran = start().end();
        assert_eq!(ran.code, Some(0), "{line}: {}", ran.err);
        let line = ran.lines().pop().unwrap();
        assert_eq!(line["models"].as_u64().unwrap() + line["same"].as_u64().unwrap(), 2, "{line}");
    }
    let ran = run(&place, s3.url(), "verify --store s3://fleet/resumed");
    assert_eq!((ran.code, &*ran.out), (Some(0), ""), "{}", ran.err);
    place.ok("verify --store copy");
    let serving = Serving::start(place.packhorse("serve --store copy"));
    assert_eq!(["one", "two"].map(|name| serving.answer(name)), want);
    serving.stop();
    assert!(!place.files("copy").iter().any(|file| file.contains(".part-")), "{:?}", place.files("copy"));
}
