//! The demo, whole: its files, its server, and the line that it tells people to try.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{Place, json};

/// Frames of the bundled clip.
const FRAMES: u64 = 795;

#[test]
fn the_demo_leaves_sound_files_and_a_server_that_answers() {
    let place = Place::new();
    let mut demo = place.start("demo --out demo --keep");
    let line = demo.first_line();
    assert_eq!(line["frames"], FRAMES);
    let summary = json(&fs::read_to_string(place.path("demo/summary.json")).unwrap());
    check_counts(&fs::read_to_string(place.path("demo/results.jsonl")).unwrap(), &summary);
    assert_eq!(line["detections"], summary["detections"]);
    check_video(&place);
    let sheet = fs::read(place.path("demo/contact-sheet.png")).unwrap();
    assert!(sheet.starts_with(b"\x89PNG\r\n\x1a\n") && sheet.len() > 10_000, "{} bytes", sheet.len());

    let err = demo.err();
    let curl = err.lines().find(|line| line.trim_start().starts_with("curl ")).expect("a line for curl");
    let answered = Command::new("sh").args(["-c", curl]).current_dir(place.path("")).output().unwrap();
    assert!(answered.status.success(), "{curl}: {}", String::from_utf8_lossy(&answered.stderr));
    let answer = json(&String::from_utf8(answered.stdout).unwrap());
    let outputs = answer["outputs"].as_array().unwrap();
    let persons = outputs.iter().find(|output| output["name"] == "num_detections:0").unwrap();
    assert!(persons["data"][0].as_f64().unwrap() >= 1.0, "{answer}");

    demo.signal(Signal::TERM);
    let ran = demo.end();
    assert_eq!((ran.code, ran.lines().len()), (Some(0), 1), "{}", ran.err);
    let files = ["annotated.mp4", "contact-sheet.png", "cost.json", "request.json", "results.jsonl", "summary.json"];
    assert_eq!(place.files("demo"), files);
}

/// That the summary counts what the lines say, frame by frame.
#[track_caller]
fn check_counts(lines: &str, summary: &Value) {
    let mut classes: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let (mut frames, mut seen, mut all) = (0, 0, 0);
    for line in lines.lines().map(json) {
        assert_eq!(line["frame"], frames);
        frames += 1;
        let detections = line["detections"].as_array().unwrap();
        seen += u64::from(!detections.is_empty());
        all += detections.len() as u64;
        let mut here = BTreeMap::new();
        for detection in detections {
            *here.entry(detection["label"].as_str().unwrap()).or_insert(0) += 1;
        }
        for (label, count) in here {
            let total = classes.entry(label.to_owned()).or_default();
            *total = (total.0 + 1, total.1 + count);
        }
    }
    assert_eq!(frames, FRAMES);
    assert!(classes["person"].0 > FRAMES * 9 / 10, "people walk through the whole clip: {classes:?}");
    let counted = json!({ "frames": frames, "frames_with_detections": seen, "detections": all });
    for (name, count) in counted.as_object().unwrap() {
        assert_eq!(summary[name], *count, "{name}");
    }
    let said = summary["classes"].as_object().unwrap();
    let said = said.iter().map(|(label, count)| {
        (label.clone(), (count["frames"].as_u64().unwrap(), count["detections"].as_u64().unwrap()))
    });
    assert_eq!(said.collect::<BTreeMap<_, _>>(), classes);
}

/// That browsers play the annotated video, and that it has every frame.
#[track_caller]
fn check_video(place: &Place) {
    let entries = "stream=codec_name,pix_fmt,width,height,nb_read_packets";
    let probed = Command::new("ffprobe")
        .args(["-v", "error", "-count_packets", "-select_streams", "v:0", "-show_entries", entries, "-of", "json"])
        .arg(place.path("demo/annotated.mp4"))
        .output()
        .unwrap();
    let stream = &json(&String::from_utf8(probed.stdout).unwrap())["streams"][0];
    let want = json!({
        "codec_name": "h264", "pix_fmt": "yuv420p", "width": 768, "height": 576, "nb_read_packets": FRAMES.to_string(),
    });
    assert_eq!(*stream, want);
}
