//! Weights that are mapped where they lie, and a user who writes their file while they are served: what is answered is what
//! the model that was packed answers, or nothing. It costs that model, until the file is back, and nobody else.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::process::Signal;

use crate::harness::http::{Answer, post};
use crate::harness::{Place, assert_says, eventually, workspace};

const QUESTION: &str = r#"{"inputs":[
    {"name":"input_ids","datatype":"INT64","shape":[1,4],"data":[2,3,4,5]},
    {"name":"attention_mask","datatype":"INT64","shape":[1,4],"data":[1,1,1,1]},
    {"name":"token_type_ids","datatype":"INT64","shape":[1,4],"data":[0,0,1,1]}]}"#;

/// What somebody does to a file of so many bytes, last written at that time; and whether it is another one then.
type Case = (&'static str, fn(&Path, &[u8], SystemTime), bool);

const CASES: [Case; 6] = [
    ("left", |_, _, _| {}, false),
    ("touched", |path, _, before| set_modified(path, before - Duration::from_secs(3600)), false),
    ("written-again", |path, bytes, before| write(path, bytes, before - Duration::from_secs(60)), false),
    ("cut", |path, _, _| File::options().write(true).open(path).unwrap().set_len(4096).unwrap(), true),
    ("other", |path, bytes, _| fs::write(path, other(bytes)).unwrap(), true),
    ("other-with-its-time", |path, bytes, before| write(path, &other(bytes), before), true),
];

#[test]
fn a_file_of_weights_that_is_written_costs_its_model_and_nobody_else() {
    let place = Place::new();
    let file = |what: &str| place.path(what).join("model.safetensors");
    // Long enough ago for nobody to be still writing it.
    let written = SystemTime::now() - Duration::from_secs(86400);
    for (what, ..) in CASES {
        fs::create_dir(place.path(what)).unwrap();
        for entry in fs::read_dir(workspace().join("crates/store/tests/fixtures/hf/bert-qa")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), place.path(what).join(entry.file_name())).unwrap();
        }
        set_modified(&file(what), written);
        place.ok(&format!("pack {what} --store store"));
    }
    let free = "127.0.0.1:0";
    let line = format!("serve --store store --http {free} --grpc {free} --admin {free} --lame-duck-s 0");
    let mut running = place.start(&line);
    let http = running.first_line()["http"].as_str().unwrap().to_owned();
    let ask = |model: &str| -> Answer {
        let answer = post(&http, &format!("/v2/models/{model}/infer"), "", QUESTION.as_bytes()).answer();
        Answer { body: answer.body.replace(model, "MODEL"), ..answer }
    };
    let before = ask("left");
    assert_eq!(before.status, 200, "{}", before.body);
    CASES.iter().for_each(|(what, ..)| assert_eq!(ask(what).body, before.body, "{what}"));

    let bytes = fs::read(file("left")).unwrap();
    CASES.iter().for_each(|(what, change, _)| change(&file(what), &bytes, written));
    for (what, _, is_another) in CASES {
        let answer = ask(what);
        if is_another {
            assert_eq!(answer.status, 500, "{what}: {}", answer.body);
            assert_says(&answer.body, &["model.safetensors", "pack the model again"]);
        } else {
            assert_eq!(answer.body, before.body, "{what}");
        }
    }

    CASES.iter().for_each(|(what, ..)| write(&file(what), &bytes, written));
    for (what, ..) in CASES {
        let after = eventually("the model again", || Some(ask(what)).filter(|answer| answer.status == 200));
        assert_eq!(after.body, before.body, "{what}");
    }
    place.ok("verify --store store");
    running.signal(Signal::TERM);
    let ran = running.end();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}

fn other(bytes: &[u8]) -> Vec<u8> {
    let half = bytes.len() / 2;
    bytes.iter().enumerate().map(|(at, byte)| if at < half { *byte } else { byte ^ 0x15 }).collect()
}

fn write(path: &Path, bytes: &[u8], modified: SystemTime) {
    fs::write(path, bytes).unwrap();
    set_modified(path, modified);
}

fn set_modified(path: &Path, to: SystemTime) {
    File::options().write(true).open(path).unwrap().set_modified(to).unwrap();
}
