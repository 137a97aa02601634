//! Workers that end in the middle of a video: killed, the task comes back and is completed once, from where it was
//! durable; asked, it is given back at once.

use std::fs;

use rustix::process::Signal;
use work::queue::{Options, Phase};
use work::{SqliteQueue, TaskQueue};

use crate::harness::{Place, Running, assert_says, eventually, json};

/// At this threshold a frame's line takes about 100 kB, so that a difference between two results has where to show.
const SUBMISSION: &str = "clip.mp4 --model nanodet --threshold 0.01";

/// What is durable of the task.
fn parts(place: &Place, id: &str) -> Vec<String> {
    let mut files = place.files(&format!("out/{id}/parts"));
    files.retain(|file| !file.starts_with('.'));
    files
}

/// Starts a worker and waits until so many parts are durable.
fn work_until(place: &Place, id: &str, options: &str, count: usize) -> Running {
    let line = format!("work --queue queue --store store --output out --mode serve --checkpoint 0.3 {options}");
    let worker = place.start(&line);
    eventually("parts", || (parts(place, id).len() >= count).then_some(()));
    worker
}

/// Whether any process besides us was told of the clip, as ffmpeg is.
fn decoder_runs(place: &Place) -> bool {
    let clip = place.path("clip.mp4");
    let clip = clip.to_str().unwrap();
    let processes = fs::read_dir("/proc").unwrap().flatten();
    // A process that has ended meanwhile has no command line.
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.into_iter().any(|line| String::from_utf8_lossy(&line).contains(clip))
}

#[test]
fn a_killed_worker_loses_nothing_and_leaves_nothing() {
    const FRAMES: u32 = 150;
    let place = Place::with_store();
    place.clip("clip.mp4", FRAMES);
    let id = place.submit(SUBMISSION);
    let mut durable = Vec::new();
    for _ in 0..5 {
        let worker = work_until(&place, &id, "--visibility 2", durable.len() + 1);
        assert!(decoder_runs(&place));
        worker.signal(Signal::KILL);
        assert_eq!(worker.end().code, None);
        let now = parts(&place, &id);
        assert!(durable.iter().all(|part| now.contains(part)), "{durable:?} {now:?}");
        durable = now;
        let left = place.files("out");
        let results = |file: &&String| !file.contains("/parts/") && !file.ends_with(".part");
        assert_eq!(left.iter().find(results), None, "a killed worker's results show");
        eventually("the end of the decoder", || (!decoder_runs(&place)).then_some(()));
    }
    let ran = place.ok("work --queue queue --store store --output out --mode drain-once --visibility 2");
    assert_eq!(ran.lines(), [serde_json::json!({ "completed": 1, "dead": 0, "released": 0, "lost": 0 })]);
    let depth = SqliteQueue::open(&place.path("queue"), Options::default()).unwrap().depth().unwrap();
    assert_eq!((depth.done, depth.dead, depth.is_drained()), (1, 0, true), "{depth:?}");
    place.check_results(&[&id], FRAMES as usize);
    // As many as parts at the least: none of them was worked again.
    let resumed = cost(&place, &id)["frames_resumed"].as_u64().unwrap();
    assert!(resumed >= durable.len() as u64, "{resumed} {durable:?}");

    let results = fs::read(place.path(&format!("out/{id}/results.jsonl"))).unwrap();
    fs::rename(place.path("out"), place.path("out-of-many")).unwrap();
    let undisturbed = place.submit(SUBMISSION);
    place.ok("work --queue queue --store store --output out --mode drain-once");
    place.check_results(&[&undisturbed], FRAMES as usize);
    let want = fs::read(place.path(&format!("out/{undisturbed}/results.jsonl"))).unwrap();
    assert!(results == want, "the results of a task that was killed on the way are others");
}

#[test]
fn a_worker_that_is_asked_to_stop_gives_its_task_back_at_once() {
    const FRAMES: u32 = 60;
    let place = Place::with_store();
    place.clip("clip.mp4", FRAMES);
    let id = place.submit(SUBMISSION);
    for signal in [Signal::TERM, Signal::INT] {
        // The task would stay hidden for an hour if it were not given back.
        let durable = parts(&place, &id).len();
        let worker = work_until(&place, &id, "--visibility 3600", durable + 1);
        worker.signal(signal);
        let ran = worker.end();
        assert_eq!(ran.code, Some(0), "{signal:?}: {}", ran.err);
        assert_eq!(ran.lines(), [serde_json::json!({ "completed": 0, "dead": 0, "released": 1, "lost": 0 })]);
        let state = place.state(&id);
        assert_eq!((state.phase, state.failures), (Phase::Visible, 0), "{signal:?}: {state:?}");
        let left = place.files("out");
        assert!(left.iter().all(|file| file.contains("/parts/") && !file.ends_with(".part")), "{signal:?}: {left:?}");
        assert!(!decoder_runs(&place), "{signal:?}");
    }
    let ran = place.ok("work --queue queue --store store --output out --mode one-job");
    assert_eq!(ran.lines()[0]["completed"], 1, "{}", ran.err);
    place.check_results(&[&id], FRAMES as usize);
    assert!(cost(&place, &id)["frames_resumed"].as_u64().unwrap() > 1);
}

/// What `cost.json` says.
fn cost(place: &Place, id: &str) -> serde_json::Value {
    json(&fs::read_to_string(place.path(&format!("out/{id}/cost.json"))).unwrap())
}

#[test]
fn a_model_that_came_after_the_worker_is_found() {
    let place = Place::with_store();
    place.clip("clip.mp4", 2);
    let worker = place.start("work --queue queue --store store --output out");
    let dead = place.run("submit clip.mp4 --queue queue --model nobody --wait");
    assert_says(&dead.out, &["model 'nobody' is not in the store"]);
    place.ok("pack assets/nanodet_g_coco80.onnx --store store --name later --task object-detection");
    place.ok("submit clip.mp4 --queue queue --model later --wait");
    worker.signal(Signal::TERM);
    let ran = worker.end();
    assert_eq!(
        ran.lines(),
        [serde_json::json!({ "completed": 1, "dead": 1, "released": 0, "lost": 0 })],
        "{}",
        ran.err
    );
    assert_eq!(ran.err.matches("model 'nobody' is not in the store").count(), 1, "told twice: {}", ran.err);
}

#[test]
fn an_idle_worker_ends_when_it_is_asked() {
    let place = Place::with_store();
    place.clip("clip.mp4", 2);
    let id = place.submit("clip.mp4 --model nanodet");
    let worker = place.start("work --queue queue --store store --output out");
    eventually("the end of the task", || (place.state(&id).phase == Phase::Done).then_some(()));
    worker.signal(Signal::TERM);
    let ran = worker.end();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_eq!(ran.lines(), [serde_json::json!({ "completed": 1, "dead": 0, "released": 0, "lost": 0 })]);
    place.check_results(&[&id], 2);
}
