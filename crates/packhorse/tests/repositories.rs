//! Another server's repository where nothing may be kept: what is asked for is packed for the run, and goes with it.

use rustix::process::Signal;

use crate::harness::http::get;
use crate::harness::{Place, Running, assert_says, eventually};

#[test]
fn packs_that_are_for_one_run_go_with_it() {
    let place = Place::new();
    std::fs::create_dir(place.path("models")).unwrap();
    for name in ["person", "other"] {
        let file = place.path(&format!("models/{name}.onnx"));
        std::os::unix::fs::symlink(place.path("assets/person_ssdlite_odapi.onnx"), file).unwrap();
    }
    place.clip("clip.mp4", 4);
    let start = |line: &str| Running::start(place.packhorse(line).env("HOME", "/dev/null"));

    let doctor = start("doctor clip.mp4 person --store models").end();
    assert_eq!(doctor.code, Some(0), "{}", doctor.err);
    assert_eq!(doctor.lines()[0]["frames"], 4);
    assert_says(&doctor.err, &["packs are kept for this run only", "model: person sees"]);
    let late = start("doctor clip.mp4 person --store models --at 9").end();
    assert_eq!(late.code, Some(1), "{}", late.err);
    assert_says(late.complaint(), &["clip.mp4", "shown at 9 s or later", "the last at 0.300 s", "an earlier time"]);
    assert_eq!(place.files("tmp"), [""; 0], "left by the doctor");

    let free = "127.0.0.1:0";
    let mut server = start(&format!("serve --store models --http {free} --grpc {free} --admin {free} --lame-duck-s 0"));
    let admin = server.first_line()["admin"].as_str().unwrap().to_owned();
    eventually("readiness", || (get(&admin, "/readyz").status == 200).then_some(()));
    server.signal(Signal::TERM);
    let ended = server.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert_eq!(place.files("tmp"), [""; 0], "left by the server");
}
