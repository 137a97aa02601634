//! Videos of which some frames are looked at: which ones does not hang on how the video is cut or how often it was taken up,
//! and what is seen in them is what is seen when all are looked at.

use super::resume::{but_for_cuts, results, task, undisturbed, worker};
use super::*;
use crate::media::fixtures::FIXTURES;
use crate::sampling::Sampling;

/// The lines of `all` that are wanted, by an arithmetic of its own.
fn wanted(all: &[u8], sampling: Sampling) -> Vec<String> {
    let all = String::from_utf8(all.to_vec()).unwrap();
    let value = |line: &str, field: &str| {
        let value: serde_json::Value = serde_json::from_str(line).unwrap();
        (value[field].as_f64().unwrap() * 1e6).round() as i64
    };
    let mut stretches = Vec::new();
    let mut is_wanted = |line: &&str| match sampling {
        Sampling::Every(frames) => value(line, "frame") / 1_000_000 % i64::from(frames) == 0,
        // Whole stretches of a quarter of a second.
        _ => {
            let stretch = value(line, "pts_s") / 250_000;
            let is_new = !stretches.contains(&stretch);
            stretches.push(stretch);
            is_new
        }
    };
    all.lines().filter(&mut is_wanted).map(str::to_owned).collect()
}

#[test]
fn what_is_looked_at_is_the_same_however_the_video_is_cut() {
    let names =
        ["h264.mp4", "h264-late.mkv", "h264-variable.mp4", "hevc-open.mkv", "mpeg2.ts", "mpeg4.avi", "mjpeg.mov"];
    for fixture in FIXTURES.iter().filter(|fixture| names.contains(&fixture.name)) {
        let folder = tempfile::tempdir().unwrap();
        let all = task(&fixture.make(folder.path()), 0.0);
        let all_seen = undisturbed(&all);
        for sampling in [Sampling::Every(3), Sampling::Fps(4.0)] {
            let case = format!("{} {sampling}", fixture.name);
            let task = Task { sampling, ..all.clone() };
            let got = undisturbed(&task);
            let lines: Vec<String> = String::from_utf8(got.0.clone()).unwrap().lines().map(str::to_owned).collect();
            assert_eq!(lines, wanted(&all_seen.0, sampling), "{case}");
            let summary = Summary::from_json(&got.1).unwrap();
            assert_eq!((summary.frames, summary.frames_looked as usize), (40, lines.len()), "{case}");

            // Cut, a part for every second look, and a failure in the middle.
            let yard = Yard::new();
            yard.queue.send(&task).unwrap();
            let submitted = AtomicU64::new(0);
            let fails: Hook = Box::new(move |_| match submitted.fetch_add(1, Ordering::SeqCst) {
                5 => Err(Error::unavailable("it is gone")),
                _ => Ok(()),
            });
            let (worker, model) = worker(&yard, 15, 2, no_hook(), fails);
            let report = run(&worker, Mode::DrainOnce).unwrap();
            assert_eq!((report.completed, report.released), (1, 1), "{case}: {:?}", yard.state("a"));
            let again = results(&yard, &task);
            assert!(again.0 == got.0, "{case}: other lines");
            assert_eq!(but_for_cuts(&again.1), but_for_cuts(&got.1), "{case}");
            assert!(model.submitted.load(Ordering::SeqCst) < 2 * lines.len() as u64, "{case}: worked twice");
        }
    }
}

#[test]
fn key_frames_are_those_of_the_whole_video() {
    for name in ["h264.mp4", "hevc-open.mkv", "mpeg4.avi", "mjpeg.mov", "h264-open.mkv", "headless.ts"] {
        let fixture = FIXTURES.iter().find(|fixture| fixture.name == name).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let all = task(&fixture.make(folder.path()), if name == "headless.ts" { 1.0 } else { 0.0 });
        let all_seen = String::from_utf8(undisturbed(&all).0).unwrap();
        let task = Task { sampling: Sampling::KeyFrames, ..all };
        let yard = Yard::new();
        yard.queue.send(&task).unwrap();
        let (worker, _) = worker(&yard, 15, 2, no_hook(), no_hook());
        run(&worker, Mode::DrainOnce).unwrap();
        let state = yard.state("a");
        // Either each is known, or it is said that they are not.
        if state.phase == Phase::Dead {
            let reason = state.reason.unwrap_or_default();
            assert!(
                reason.contains("--sample every:N") && name != "h264.mp4" && name != "mjpeg.mov",
                "{name}: {reason}"
            );
            continue;
        }
        let got = String::from_utf8(results(&yard, &task).0).unwrap();
        let summary = Summary::from_json(&results(&yard, &task).1).unwrap();
        assert!(got.lines().all(|line| all_seen.lines().any(|other| other == line)), "{name}: {got}\n{all_seen}");
        let want = if name == "mjpeg.mov" { 40 } else { 4 };
        assert_eq!((summary.frames, summary.frames_looked), (40, want), "{name}");
    }
}
