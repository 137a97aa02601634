//! Wrong commands and wrong surroundings: one clear line, the right exit code, nothing on standard output.

use std::net::TcpListener;

use crate::harness::{Place, Running, assert_says};

/// Runs `line` where the environment says `environment` besides, and looks at how it ends.
#[track_caller]
fn check(place: &Place, line: &str, environment: &[(&str, &str)], says: &[&str]) {
    let ran = Running::start(place.packhorse(line).envs(environment.iter().copied())).end();
    assert_eq!((ran.code, &*ran.out), (Some(2), ""), "packhorse {line}: {}", ran.err);
    assert_says(ran.complaint(), says);
}

#[test]
fn wrong_usage_and_configuration_are_named() {
    let place = Place::with_store();
    std::fs::write(place.path("garbage"), "not a queue at all").unwrap();
    std::fs::write(place.path("odd.txt"), "1: a\n1: b\n").unwrap();
    for (model, file) in [("fleet/a", "config.json"), ("fleet/b", "model.safetensors")] {
        std::fs::create_dir_all(place.path(model)).unwrap();
        std::fs::write(place.path(model).join(file), "{}").unwrap();
    }
    rusqlite::Connection::open(place.path("foreign")).unwrap().execute_batch("CREATE TABLE songs (title)").unwrap();
    place.clip("clip.mp4", 2);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let serve_taken = format!("serve --store store --http 127.0.0.1:0 --grpc 127.0.0.1:0 --admin {taken}");
    let cases: &[(&str, &[&str])] = &[
        // What is typed.
        ("serve --stor store", &["--stor"]),
        ("work --queue queue --store store", &["required"]),
        ("work --queue queue --store store --output out --visibility 43200", &["43200", "21600"]),
        ("submit clip.mp4 --queue queue --model nanodet --threshold 7", &["threshold", "0 to 1"]),
        ("pack assets/nanodet_g_coco80.onnx --store new --version 0", &["--version"]),
        ("pack assets/nanodet_g_coco80.onnx --store new --task guesswork", &["guesswork", "object-detection"]),
        ("pack assets/nanodet_g_coco80.onnx --store new --name ../up", &["../up", "path segment"]),
        ("pack assets/nanodet_g_coco80.onnx --store new --labels none.txt", &["none.txt", "label file"]),
        ("pack assets/nanodet_g_coco80.onnx --store new --labels odd.txt", &["odd.txt", "line 2"]),
        ("pack none.onnx --store new", &["none.onnx", "no such file"]),
        ("pack tmp --store new", &["tmp", "ends in .onnx"]),
        ("pack fleet --store new", &["holds folders of models", "fleet/*"]),
        ("pack fleet/b --store new", &["no config.json"]),
        ("submit none.mp4 --queue new-queue --model nanodet", &["none.mp4", "no such file"]),
        ("submit clip.mp4 tmp --queue new-queue --model nanodet", &["tmp", "no video in it"]),
        // Places.
        ("models --store none", &["none", "packhorse pack"]),
        ("serve --store none", &["none", "packhorse pack"]),
        ("work --queue never --store none --output never-out", &["none", "packhorse pack"]),
        ("work --queue none/queue --store store --output new", &["none/queue", "make it"]),
        ("work --queue tmp --store store --output new", &["tmp is a folder", "a file in it"]),
        ("work --queue garbage --store store --output new", &["garbage", "move the file away"]),
        ("work --queue foreign --store store --output new", &["foreign", "another program's", "another path"]),
        ("submit clip.mp4 --queue garbage --model nanodet", &["garbage", "move the file away"]),
        ("work --queue queue --store store --output garbage", &["garbage", "another place"]),
        ("demo --out new --assets none", &["--assets"]),
        (&serve_taken, &[&taken, "port 0"]),
        // What this build cannot do yet.
        ("pack assets/nanodet_g_coco80.onnx --store s3://bucket/store", &["s3://bucket/store", "packhorse push"]),
        // Services, as far as can be told without asking them.
        (
            "work --queue queue --store store --output https://host/out",
            &["https://host/out", "give a folder, or s3://"],
        ),
        (
            "work --queue https://host/ --store store --output new",
            &["https://host/", "it names no queue", "sqs://NAME"],
        ),
        ("work --queue sqs://videos.fifo --store store --output new", &["videos.fifo", "a standard queue"]),
        ("submit clip.mp4 --queue s3://bucket/q --model nanodet", &["s3://bucket/q", "sqs://NAME"]),
        ("queue --queue amqp://host/q", &["amqp://host/q", "sqs://NAME"]),
        ("queue --queue queue redrive", &["required"]),
        ("doctor none.mp4 nanodet --store store", &["none.mp4", "no such file"]),
        ("doctor clip.mp4 nanodet --store store --picture none/x.png", &["none", "no such folder", "--picture"]),
        ("doctor tmp nanodet --store store", &["tmp", "this is a folder"]),
        ("doctor s3://bucket nanodet --store store", &["s3://bucket", "field 'input'"]),
        ("serve --store store --check --grace-s 2 --lame-duck-s 2", &["lame-duck-s is 2", "grace-s, 2"]),
        ("serve --store store --memory-budget-bytes 2000000", &["memory-budget-bytes is 2000000", "the server itself"]),
        ("pack assets/nanodet_g_coco80.onnx --store garbage", &["garbage", "a file", "a folder"]),
        // Whoever only looks makes nothing.
        ("queue --queue new-queue", &["new-queue", "does not exist", "packhorse submit"]),
        ("queue dead --queue new-queue", &["new-queue", "does not exist"]),
        ("pull none new-store", &["none", "no model here"]),
    ];
    for (line, says) in cases {
        check(&place, line, &[], says);
    }
    let models = place.ok("models --store store --json").lines();
    assert_eq!(models.len(), 1, "something was packed: {models:?}");
    assert!(!place.path("new-queue").exists(), "half of a submission is in a queue");
    assert!(!place.path("never").exists() && !place.path("never-out").exists(), "made for a store that is not there");
}

#[test]
fn credentials_that_are_nowhere_are_one_line() {
    let place = Place::new();
    let mut command = place.packhorse("queue --queue http://127.0.0.1:1/123456789012/videos");
    for (variable, _) in std::env::vars_os().filter(|(variable, _)| variable.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(variable);
    }
    let ran = Running::start(command.env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")).end();
    assert_eq!((ran.code, &*ran.out, ran.err.lines().count()), (Some(2), "", 1), "{}", ran.err);
    assert_says(ran.complaint(), &["there are no AWS credentials", "set AWS_ACCESS_KEY_ID"]);
}

#[test]
fn a_filter_of_the_log_that_is_none_is_named() {
    let place = Place::with_store();
    let ran = Running::start(place.packhorse("models --store store").env("PACKHORSE_LOG", "serve=nope")).end();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_says(&ran.err, &["PACKHORSE_LOG is no filter", "warn,serve=debug"]);
}

#[test]
fn what_the_machine_lacks_is_named() {
    let place = Place::with_store();
    let (runtime, path, ffmpeg) =
        (("PACKHORSE_ONNXRUNTIME", "/none/lib.so"), ("PATH", "/none"), ("PACKHORSE_FFMPEG", "/none/ffmpeg"));
    let cases: &[(&str, (&str, &str), &[&str])] = &[
        (
            "pack assets/nanodet_g_coco80.onnx --store new",
            runtime,
            &["/none/lib.so", "No such file", "set PACKHORSE_ONNXRUNTIME"],
        ),
        ("serve --store store", runtime, &["/none/lib.so", "set PACKHORSE_ONNXRUNTIME"]),
        ("work --queue queue --store store --output new", runtime, &["/none/lib.so", "set PACKHORSE_ONNXRUNTIME"]),
        ("work --queue queue --store store --output new", path, &["ffprobe", "apt-get install ffmpeg"]),
        ("work --queue queue --store store --output new", ffmpeg, &["/none/ffmpeg", "PACKHORSE_FFMPEG"]),
        ("demo --out new", path, &["ffprobe", "apt-get install ffmpeg"]),
        ("demo --out new", runtime, &["/none/lib.so", "set PACKHORSE_ONNXRUNTIME"]),
    ];
    for &(line, variable, says) in cases {
        check(&place, line, &[variable], says);
    }
}

#[test]
fn a_locked_queue_is_named() {
    let place = Place::with_store();
    place.clip("clip.mp4", 2);
    place.submit("clip.mp4 --model nanodet");
    let holder = rusqlite::Connection::open(place.path("queue")).unwrap();
    holder.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let says = ["queue", "is locked by another program", "try again"];
    let commands = [
        "submit clip.mp4 --queue queue --model nanodet",
        "work --queue queue --store store --output out --mode drain-once",
    ];
    // Side by side: each waits for the lock as long as it can.
    let running = commands.map(|line| place.start(line));
    for (line, running) in commands.iter().zip(running) {
        let ran = running.end();
        assert_eq!((ran.code, &*ran.out), (Some(1), ""), "packhorse {line}: {}", ran.err);
        assert_says(ran.complaint(), &says);
    }
    holder.execute_batch("ROLLBACK").unwrap();
    place.ok(commands[1]);
}
