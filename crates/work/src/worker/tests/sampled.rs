//! Videos of which some frames are looked at: which ones does not hang on how the video is cut or how often it was taken up,
//! and what is seen in them is what is seen when all are looked at.

use super::resume::{but_for_cuts, results, task, undisturbed, worker};
use pipeline::{Fit, Picture, Placement, Resample};

use super::*;
use crate::examine::examine;
use crate::media::fixtures::{FIXTURES, Fixture, STILL};
use crate::media::{self, Choice, Decode, Frames, Span};
use crate::sampling::Sampling;

/// A number in a line, in millionths.
fn value(line: &str, field: &str) -> i64 {
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    (value[field].as_f64().unwrap() * 1e6).round() as i64
}

fn pts_us(line: &str) -> i64 {
    value(line, "pts_s")
}

/// The lines of `all` that are wanted, by an arithmetic of its own.
fn wanted(all: &[u8], sampling: Sampling) -> Vec<String> {
    let all = String::from_utf8(all.to_vec()).unwrap();
    let mut stretches = Vec::new();
    let mut is_wanted = |line: &&str| match sampling {
        Sampling::Every(frames) => value(line, "frame") / 1_000_000 % i64::from(frames) == 0,
        // Whole stretches of a quarter of a second.
        _ => {
            let stretch = pts_us(line) / 250_000;
            let is_new = !stretches.contains(&stretch);
            stretches.push(stretch);
            is_new
        }
    };
    all.lines().filter(&mut is_wanted).map(str::to_owned).collect()
}

const NAMES: [&str; 7] =
    ["h264.mp4", "h264-late.mkv", "h264-variable.mp4", "hevc-open.mkv", "mpeg2.ts", "mpeg4.avi", "mjpeg.mov"];

/// Works the video cut, with a part for every second look and a failure in the middle, and holds what comes of it against
/// the lines that are wanted, and both against a run that nobody disturbs.
fn check_cut(task: &Task, want: &[String], case: &str) {
    let got = undisturbed(task);
    let lines: Vec<String> = String::from_utf8(got.0.clone()).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines, want, "{case}");
    let summary = Summary::from_json(&got.1).unwrap();
    assert_eq!((summary.frames, summary.frames_looked as usize), (40, lines.len()), "{case}");

    let yard = Yard::new();
    yard.queue.send(task).unwrap();
    let submitted = AtomicU64::new(0);
    let fails: Hook = Box::new(move |_| match submitted.fetch_add(1, Ordering::SeqCst) {
        5 => Err(Error::unavailable("it is gone")),
        _ => Ok(()),
    });
    let (worker, model) = worker(&yard, 15, 2, no_hook(), fails);
    let report = run(&worker, Mode::DrainOnce).unwrap();
    assert_eq!((report.completed, report.released), (1, 1), "{case}: {:?}", yard.state("a"));
    let again = results(&yard, task);
    assert!(again.0 == got.0, "{case}: other lines");
    assert_eq!(but_for_cuts(&again.1), but_for_cuts(&got.1), "{case}");
    assert!(model.submitted.load(Ordering::SeqCst) < 2 * lines.len() as u64, "{case}: worked twice");
}

#[test]
fn what_is_looked_at_is_the_same_however_the_video_is_cut() {
    for fixture in FIXTURES.iter().filter(|fixture| NAMES.contains(&fixture.name)) {
        let folder = tempfile::tempdir().unwrap();
        let all = task(&fixture.make(folder.path()), 0.0);
        let all_seen = undisturbed(&all);
        for sampling in [Sampling::Every(3), Sampling::Fps(4.0)] {
            let case = format!("{} {sampling}", fixture.name);
            check_cut(&Task { sampling, ..all.clone() }, &wanted(&all_seen.0, sampling), &case);
        }
    }
}

/// Which of the pictures of a video differ from the one before by more than three levels in the mean of a patch.
fn moved(input: &Path) -> Vec<bool> {
    let tools = Tools::from_env();
    let probe = media::probe(&tools, input).unwrap();
    let placement = Placement::of(Fit::Source, (probe.width, probe.height)).unwrap();
    let (resample, stall_limit) = (Resample::Bilinear, Duration::from_secs(30));
    let decode = Decode { placement, resample, stall_limit, span: Span::default(), choice: Choice::All };
    let mut frames = Frames::open(&tools, input, &probe, &decode).unwrap();
    let corners: Vec<_> = (0..64).step_by(8).flat_map(|top| (0..96).step_by(8).map(move |left| (left, top))).collect();
    let mean = |picture: &Picture, (left, top): (usize, usize)| {
        let rows = (top..top + 8).map(|y| (y * 96 + left) * 3..(y * 96 + left + 8) * 3);
        let sum: u32 = rows.flat_map(|row| &picture.pixels[row]).map(|&value| u32::from(value)).sum();
        f64::from(sum) / (8.0 * 8.0 * 3.0)
    };
    let mut means: Vec<Vec<f64>> = Vec::new();
    while let Some(frame) = frames.next().unwrap() {
        let picture = frame.planes.to_picture();
        means.push(corners.iter().map(|&corner| mean(&picture, corner)).collect());
    }
    let differ = |pair: &[Vec<f64>]| pair[0].iter().zip(&pair[1]).any(|(before, now)| (before - now).abs() > 3.0);
    std::iter::once(true).chain(means.windows(2).map(differ)).collect()
}

/// When its key frames are shown, as the container says, in order.
fn keys_us(input: &Path) -> Vec<i64> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-select_streams", "V:0", "-show_entries", "packet=pts_time,flags", "-of", "csv=p=0"]);
    let output = command.arg(input).output().unwrap();
    let key = |line: &str| {
        let (time_s, flags) = line.split_once(',')?;
        // Some containers have times for none.
        let time_s: f64 = time_s.parse().ok()?;
        flags.contains('K').then_some((time_s * 1e6).round() as i64)
    };
    let mut keys_us: Vec<i64> = String::from_utf8(output.stdout).unwrap().lines().filter_map(key).collect();
    keys_us.sort_unstable();
    keys_us
}

#[test]
fn what_moves_is_the_same_however_the_video_is_cut() {
    // Among them one whose segments are all decoded again by one decoder that comes through.
    let is_meant = |fixture: &&Fixture| NAMES.contains(&fixture.name) || fixture.name == "h264-refresh.mkv";
    for fixture in FIXTURES.iter().filter(is_meant) {
        let folder = tempfile::tempdir().unwrap();
        let all = task(&fixture.make_of(STILL, folder.path()), 0.0);
        let (all_seen, moved) = (String::from_utf8(undisturbed(&all).0).unwrap(), moved(Path::new(&all.input)));
        let seen: Vec<&str> = all_seen.lines().collect();
        let (sampling, pause_us) = ("motion:3:0.7", 700_000);
        let stretch = |time_us: &i64| time_us.div_euclid(pause_us);
        let times_us: Vec<i64> = seen.iter().map(|line| pts_us(line)).collect();
        let begins = |frame: usize| frame == 0 || stretch(&times_us[frame]) > stretch(&times_us[frame - 1]);
        // The first key frame of each stretch but that of the first of all.
        let mut entries_us = keys_us(Path::new(&all.input));
        entries_us.dedup_by_key(|key_us| stretch(key_us));
        let enters = |frame: usize| {
            let since = |entry_us: &i64| times_us[frame - 1] < *entry_us && *entry_us <= times_us[frame];
            frame > 0 && entries_us.iter().skip(1).any(since)
        };
        let is_wanted = |&frame: &usize| moved[frame] || begins(frame) || enters(frame);
        let wanted: Vec<usize> = (0..seen.len()).filter(is_wanted).collect();
        // Else this proves little.
        let moving = wanted.iter().filter(|&&frame| !begins(frame) && !enters(frame)).count();
        assert!(moving >= 8 && wanted.len() <= 30, "{}: {wanted:?}", fixture.name);
        let lines: Vec<String> = wanted.iter().map(|&frame| seen[frame].to_owned()).collect();
        check_cut(&Task { sampling: sampling.parse().unwrap(), ..all.clone() }, &lines, fixture.name);
    }
}

#[test]
fn the_doctor_foresees_what_is_looked_at() {
    let fixture = FIXTURES.iter().find(|fixture| fixture.name == "h264.mp4").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let all = task(&fixture.make_of(STILL, folder.path()), 0.0);
    // Of what moves it looks at some places only, so that it is off by some frames.
    for (sampling, off_by) in [("all", 0), ("every:3", 0), ("fps:4", 0), ("key-frames", 0), ("motion:3:0.5", 6)] {
        let task = Task { sampling: sampling.parse().unwrap(), ..all.clone() };
        let yard = Yard::new();
        yard.queue.send(&task).unwrap();
        let (worker, model) = worker(&yard, u64::MAX, usize::MAX, no_hook(), no_hook());
        let foreseen = examine(&task, &worker.tools, model.as_ref(), None).unwrap().predictions;
        assert_eq!(foreseen[0].sampling, task.sampling);
        assert!((5..=6).contains(&foreseen.len()), "{sampling}: {foreseen:?}");
        assert_eq!(run(&worker, Mode::DrainOnce).unwrap().completed, 1, "{:?}", yard.state("a"));
        let cost = String::from_utf8(yard.objects.read(&cost_key("a")).unwrap()).unwrap();
        let looked = Cost::from_json(cost.as_bytes()).unwrap().frames_looked;
        assert!(foreseen[0].frames_looked.abs_diff(looked) <= off_by, "{sampling}: {looked} of {foreseen:?}");
        assert_eq!(cost.contains("\"gate_s\""), off_by > 0, "{sampling}: {cost}");
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
