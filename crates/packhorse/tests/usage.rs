//! Wrong commands and wrong surroundings: one clear line, the right exit code, nothing on standard output.

use std::net::TcpListener;

use crate::harness::{Place, Running, assert_says};

/// A command line, what the environment has, the exit code, and what the complaint has to say.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], i32, &'a [&'a str]);

#[track_caller]
fn check(place: &Place, &(line, environment, code, says): &Case<'_>) {
    let ran = Running::start(place.packhorse(line).envs(environment.iter().copied())).end();
    assert_eq!((ran.code, &*ran.out), (Some(code), ""), "packhorse {line}: {}", ran.err);
    assert_says(ran.complaint(), says);
}

#[test]
fn what_is_typed_wrong_is_named() {
    let place = Place::with_store();
    std::fs::write(place.path("garbage"), "not a queue at all").unwrap();
    std::fs::write(place.path("odd.txt"), "1: a\n1: b\n").unwrap();
    rusqlite::Connection::open(place.path("foreign")).unwrap().execute_batch("CREATE TABLE songs (title)").unwrap();
    place.clip("clip.mp4", 2);
    let cases: &[Case<'_>] = &[
        // What is typed.
        ("serve --stor store", &[], 2, &["--stor"]),
        ("work --queue queue --store store", &[], 2, &["required"]),
        ("submit clip.mp4 --queue queue --model nanodet --threshold 7", &[], 2, &["threshold", "0 to 1"]),
        ("pack assets/nanodet_g_coco80.onnx --store new --version 0", &[], 2, &["--version"]),
        ("pack assets/nanodet_g_coco80.onnx --store new --task guesswork", &[], 2, &["guesswork", "object-detection"]),
        ("pack assets/nanodet_g_coco80.onnx --store new --name ../up", &[], 2, &["../up", "path segment"]),
        ("pack assets/nanodet_g_coco80.onnx --store new --labels none.txt", &[], 2, &["none.txt", "label file"]),
        ("pack assets/nanodet_g_coco80.onnx --store new --labels odd.txt", &[], 2, &["odd.txt", "line 2"]),
        ("pack none.onnx --store new", &[], 2, &["none.onnx", "no such file"]),
        ("submit none.mp4 --queue new-queue --model nanodet", &[], 2, &["none.mp4", "no such file"]),
        ("submit clip.mp4 tmp --queue new-queue --model nanodet", &[], 2, &["tmp", "is a folder"]),
        // Places.
        ("models --store none", &[], 2, &["none", "packhorse pack"]),
        ("serve --store none", &[], 2, &["none", "packhorse pack"]),
        ("work --queue queue --store none --output new", &[], 2, &["none", "packhorse pack"]),
        ("work --queue none/queue --store store --output new", &[], 2, &["none/queue", "make it"]),
        ("work --queue tmp --store store --output new", &[], 2, &["tmp is a folder", "a file in it"]),
        ("work --queue garbage --store store --output new", &[], 2, &["garbage", "move the file away"]),
        ("work --queue foreign --store store --output new", &[], 2, &["foreign", "another program's", "another path"]),
        ("submit clip.mp4 --queue garbage --model nanodet", &[], 2, &["garbage", "move the file away"]),
        ("work --queue queue --store store --output garbage", &[], 2, &["garbage", "another place"]),
        // The work itself.
        ("pack assets/coco80.txt --store store", &[], 1, &["coco80.txt", "no ONNX model"]),
    ];
    for case in cases {
        check(&place, case);
    }
    let models = place.ok("models --store store --json").lines();
    assert_eq!(models.len(), 1, "something was packed: {models:?}");
    assert!(!place.path("new-queue").exists(), "half of a submission is in a queue");
}

#[test]
fn what_this_build_or_this_machine_lacks_is_named() {
    let place = Place::with_store();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    place.clip("clip.mp4", 2);
    let serve_taken = format!("serve --store store --http 127.0.0.1:0 --grpc 127.0.0.1:0 --admin {taken}");
    let cases: &[Case<'_>] = &[
        (
            "pack assets/nanodet_g_coco80.onnx --store s3://bucket/store",
            &[],
            2,
            &["s3://bucket/store", "give a folder"],
        ),
        ("serve --store s3://bucket/store", &[], 2, &["s3://bucket/store", "give a folder"]),
        ("work --queue queue --store s3://bucket/store --output new", &[], 2, &["s3://bucket/store", "give a folder"]),
        ("work --queue queue --store store --output s3://bucket/out", &[], 2, &["s3://bucket/out", "give a folder"]),
        (
            "work --queue https://sqs.example/q --store store --output new",
            &[],
            2,
            &["https://sqs.example/q", "file path"],
        ),
        ("submit clip.mp4 --queue s3://bucket/q --model nanodet", &[], 2, &["s3://bucket/q", "file path"]),
        (&serve_taken, &[], 2, &[&taken, "port 0"]),
        (
            "pack assets/nanodet_g_coco80.onnx --store new",
            &[("PACKHORSE_ONNXRUNTIME", "/nonexistent.so")],
            2,
            &["/nonexistent.so", "set PACKHORSE_ONNXRUNTIME"],
        ),
        ("serve --store store", &[("PACKHORSE_ONNXRUNTIME", "/nonexistent.so")], 2, &["/nonexistent.so"]),
        (
            "work --queue queue --store store --output new",
            &[("PATH", "/none")],
            2,
            &["ffprobe", "apt-get install ffmpeg"],
        ),
        (
            "work --queue queue --store store --output new",
            &[("PACKHORSE_FFMPEG", "/none/ffmpeg")],
            2,
            &["/none/ffmpeg", "apt-get install ffmpeg", "PACKHORSE_FFMPEG"],
        ),
        ("demo --out new", &[("PATH", "/none")], 2, &["ffprobe", "apt-get install ffmpeg"]),
        ("demo --out new --assets none", &[], 2, &["--assets"]),
    ];
    for case in cases {
        check(&place, case);
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
