//! Videos of which some frames are looked at: which ones does not hang on how the video is cut or how often it was taken up,
//! and what is seen in them is what is seen when all are looked at.

use super::resume::{but_for_cuts, results, task, undisturbed, worker};
use pipeline::{Fit, Picture, Placement, Resample};

use super::*;
use crate::examine::examine;
use crate::media::fixtures::{Damage, FIXTURES, Fixture, STILL};
use crate::media::{self, Choice, Decode, Frames, Span};
use crate::quality::About;
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

/// Works the video cut, and holds what comes of it against the lines that are wanted.
fn check_cut(task: &Task, want: &[String], case: &str) {
    let got = check_resumed(task, case);
    let lines: Vec<String> = String::from_utf8(got.0).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines, want, "{case}");
    let summary = Summary::from_json(&got.1).unwrap();
    assert_eq!((summary.frames, summary.frames_looked as usize), (40, lines.len()), "{case}");
}

/// Works the video cut, with a part for every second look and a failure in the middle, and holds what comes of it against a
/// run that nobody disturbs.
fn check_resumed(task: &Task, case: &str) -> (Vec<u8>, Vec<u8>) {
    let got = undisturbed(task);
    let looked = Summary::from_json(&got.1).unwrap().frames_looked;
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
    assert!(model.submitted.load(Ordering::SeqCst) < 2 * looked, "{case}: worked twice");
    got
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
    for (sampling, off_by) in
        [("all", 0), ("every:3", 0), ("fps:4", 0), ("reference", 0), ("key-frames", 0), ("motion:3:0.5", 6)]
    {
        let task = Task { sampling: sampling.parse().unwrap(), ..all.clone() };
        let yard = Yard::new();
        yard.queue.send(&task).unwrap();
        let (worker, model) = worker(&yard, u64::MAX, usize::MAX, no_hook(), no_hook());
        let foreseen = examine(&task, &worker.tools, model.as_ref(), None, None).unwrap().predictions;
        assert_eq!(foreseen[0].sampling, task.sampling);
        assert!((6..=7).contains(&foreseen.len()), "{sampling}: {foreseen:?}");
        assert_eq!(run(&worker, Mode::DrainOnce).unwrap().completed, 1, "{:?}", yard.state("a"));
        let cost = String::from_utf8(yard.objects.read(&cost_key("a")).unwrap()).unwrap();
        let looked = Cost::from_json(cost.as_bytes()).unwrap().frames_looked;
        assert!(foreseen[0].frames_looked.abs_diff(looked) <= off_by, "{sampling}: {looked} of {foreseen:?}");
        assert_eq!(cost.contains("\"gate_s\""), off_by > 0, "{sampling}: {cost}");
    }
}

/// Of some frames they do not say when they are shown, or not in an order in which they can be counted.
const REFUSED: [&str; 2] = ["mpeg4.avi", "headless.ts"];

/// The kind of each frame, as the decoder says: `I`, `P` or `B`.
fn kinds(input: &Path) -> Vec<String> {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error", "-select_streams", "V:0", "-show_entries", "frame=pict_type", "-of", "csv=p=0"]);
    let output = command.arg(input).output().unwrap();
    // Side data adds a column of no interest.
    let first = |line: &str| line.split(',').next().unwrap_or_default().to_owned();
    String::from_utf8(output.stdout).unwrap().lines().map(first).filter(|kind| !kind.is_empty()).collect()
}

/// Whether `task` ends with the word that a frame is shown when its container knows of none; else it is done.
fn is_refused_for_its_times(task: &Task) -> bool {
    let yard = Yard::new();
    yard.queue.send(task).unwrap();
    let (worker, _) = worker(&yard, 15, 2, no_hook(), no_hook());
    let report = run(&worker, Mode::DrainOnce).unwrap();
    let reason = yard.state("a").reason.unwrap_or_default();
    let is_refused = reason.contains("of which its container does not know") && reason.contains("every:N");
    assert_eq!((report.completed, report.dead), if is_refused { (0, 1) } else { (1, 0) }, "{reason}");
    is_refused
}

#[test]
fn reference_frames_are_the_same_however_the_video_is_cut() {
    for fixture in FIXTURES {
        let name = fixture.name;
        let folder = tempfile::tempdir().unwrap();
        let path = fixture.make(folder.path());
        let all = task(&path, if fixture.damage == Damage::None { 0.0 } else { 1.0 });
        let task = Task { sampling: Sampling::Reference, ..all.clone() };
        if REFUSED.contains(&name) {
            let yard = Yard::new();
            yard.queue.send(&task).unwrap();
            let (worker, _) = worker(&yard, 15, 2, no_hook(), no_hook());
            assert_eq!(run(&worker, Mode::DrainOnce).unwrap().dead, 1, "{name}");
            let reason = yard.state("a").reason.unwrap_or_default();
            assert!(
                reason.contains("when each of its frames is shown") && reason.contains("every:N"),
                "{name}: {reason}"
            );
            continue;
        }
        // In place of what was scratched a decoder may show frames at times of its own making.
        if fixture.damage == Damage::Scratched && is_refused_for_its_times(&task) {
            continue;
        }
        let is_told = ["h26", "hevc", "mpeg", "scratched", "cut"].iter().any(|start| name.starts_with(start));
        let got = if is_told { check_resumed(&task, name) } else { undisturbed(&task) };
        let summary = Summary::from_json(&got.1).unwrap();
        assert_ne!(is_told, summary.quality.iter().any(|note| note.about == About::References), "{name}");
        // Of a damaged one a decoder may lose frames and its count.
        if fixture.damage != Damage::None {
            continue;
        }
        let (got, all) = [got.0, undisturbed(&all).0].map(|lines| String::from_utf8(lines).unwrap()).into();
        let (got, all): (Vec<&str>, Vec<&str>) = (got.lines().collect(), all.lines().collect());
        assert_eq!((summary.frames, summary.frames_looked as usize), (40, got.len()), "{name}");
        let kinds = kinds(&path);
        assert_eq!(kinds.len(), all.len(), "{name}");
        // Others refer to whatever is no B frame; to some of those as well, in some codecs.
        for (line, kind) in all.iter().zip(&kinds) {
            assert!(kind == "B" || got.contains(line), "{name}: without {line}");
        }
        assert!(got.iter().all(|line| all.contains(line)), "{name}: {got:#?}");
        let bidirectional = kinds.iter().filter(|kind| *kind == "B").count();
        assert_eq!(got.len() < all.len(), is_told && bidirectional > 0, "{name}: {}", got.len());
        if summary.video.codec.starts_with("mpeg") {
            assert_eq!(got.len(), all.len() - bidirectional, "{name}");
        }
    }
}

#[test]
fn frames_that_an_edit_list_hides_are_not_counted() {
    let folder = tempfile::tempdir().unwrap();
    let whole = FIXTURES.iter().find(|fixture| fixture.name == "h264.mp4").unwrap().make(folder.path());
    let edited = folder.path().join("edited.mp4");
    let mut command = Command::new("ffmpeg");
    // Cut off within a group of pictures: what is before is kept in the file, for the decoder, and hidden.
    command.args(["-v", "error", "-ss", "0.27", "-i"]).arg(whole).args(["-c", "copy"]).arg(&edited);
    assert!(command.stdin(Stdio::null()).status().unwrap().success());
    let all = task(&edited, 0.0);
    let all_seen = String::from_utf8(undisturbed(&all).0).unwrap();
    let lines: Vec<&str> = all_seen.lines().collect();
    assert!((33..=36).contains(&lines.len()), "{all_seen}");
    for (sampling, wanted) in [(Sampling::Reference, 20..30), (Sampling::KeyFrames, 3..4)] {
        let task = Task { sampling, ..all.clone() };
        // Of key frames there are fewer than it takes to be disturbed.
        let got = if sampling == Sampling::Reference { check_resumed(&task, "edited.mp4") } else { undisturbed(&task) };
        let summary = Summary::from_json(&got.1).unwrap();
        assert_eq!(summary.frames as usize, lines.len(), "{sampling}");
        assert!(wanted.contains(&summary.frames_looked), "{sampling}: {}", summary.frames_looked);
        let got = String::from_utf8(got.0).unwrap();
        assert!(got.lines().all(|line| lines.contains(&line)), "{sampling}: {got}\n{all_seen}");
    }
}

/// The numbers of the parts that there are when the results are: by decoders that were sent to a place, and by such as came
/// through from the beginning.
fn ends(yard: &Yard) -> (Hook, Arc<Mutex<(usize, usize)>>) {
    let ends = Arc::new(Mutex::new((0, 0)));
    let (seen, objects) = (Arc::clone(&ends), yard.objects.clone());
    let look: Hook = Box::new(move |call| {
        if call == "commit results.jsonl" {
            let parts = objects.list("a/parts")?;
            let count = |way: &str| parts.iter().filter(|key| key.contains(way) && key.ends_with("-end.jsonl")).count();
            *seen.lock().unwrap() = (count("-s0"), count("-t0"));
        }
        Ok(())
    });
    (look, ends)
}

/// Looks at key frames, in segments, and holds them against the lines `all_seen` of all frames. Says by how many decoders
/// that were sent to a place, and by how many that came through from the beginning.
fn check_keys(all: &Task, all_seen: &str, name: &str) -> Option<(usize, usize)> {
    let task = Task { sampling: Sampling::KeyFrames, ..all.clone() };
    let yard = Yard::new();
    yard.queue.send(&task).unwrap();
    let (look, ends) = ends(&yard);
    let (worker, _) = worker(&yard, 15, 2, look, no_hook());
    run(&worker, Mode::DrainOnce).unwrap();
    let state = yard.state("a");
    // Either each is known, or it is said that they are not.
    if REFUSED.contains(&name) {
        let reason = state.reason.unwrap_or_default();
        assert!(state.phase == Phase::Dead && reason.contains("--sample every:N"), "{name}: {reason}");
        return None;
    }
    assert_eq!(state.phase, Phase::Done, "{name}: {state:?}");
    let got = String::from_utf8(results(&yard, &task).0).unwrap();
    let summary = Summary::from_json(&results(&yard, &task).1).unwrap();
    let keys_us = keys_us(Path::new(&task.input));
    let want: Vec<&str> = all_seen.lines().filter(|line| keys_us.contains(&pts_us(line))).collect();
    assert_eq!(got.lines().collect::<Vec<_>>(), want, "{name}");
    assert_eq!((summary.frames, summary.frames_looked as usize), (40, want.len()), "{name}");
    let ends = *ends.lock().unwrap();
    Some(ends)
}

#[test]
fn key_frames_are_those_of_the_whole_video() {
    // Key frames that are no pictures are none to a decoder either.
    let has_some = |fixture: &&Fixture| fixture.damage == Damage::None && fixture.name != "h264-refresh.mkv";
    for fixture in FIXTURES.iter().filter(has_some) {
        let folder = tempfile::tempdir().unwrap();
        let all = task(&fixture.make(folder.path()), 0.0);
        let all_seen = String::from_utf8(undisturbed(&all).0).unwrap();
        let ends = check_keys(&all, &all_seen, fixture.name);
        if fixture.name.ends_with(".mp4") {
            assert!(matches!(ends, Some((2.., 0))), "{}: {ends:?}", fixture.name);
        }
    }
}

#[test]
fn an_index_of_key_frames_that_is_wrong_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = FIXTURES.iter().find(|fixture| fixture.name == "h264.mp4").unwrap().make(folder.path());
    let all_seen = String::from_utf8(undisturbed(&task(&path, 0.0)).0).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let list = bytes.windows(4).position(|name| name == b"stss").unwrap();
    // It lists the samples 1, 11, 21 and 31; here the one behind one of them instead (ISO/IEC 14496-12, 8.6.2).
    for (number, reads) in [(1, "second"), (2, "third"), (3, "last")] {
        let mut bytes = bytes.clone();
        bytes[list + 12 + number * 4 + 3] += 1;
        std::fs::write(&path, bytes).unwrap();
        let ends = check_wrong(&path, &all_seen, reads);
        assert!(ends.1 > 0, "{reads}: {ends:?}");
    }
}

/// Looks at the key frames of a video whose index calls a frame so that is none, and says how they were come by.
fn check_wrong(path: &Path, all_seen: &str, case: &str) -> (usize, usize) {
    let task = Task { sampling: Sampling::KeyFrames, ..task(path, 0.0) };
    let yard = Yard::new();
    yard.queue.send(&task).unwrap();
    let (look, ends) = ends(&yard);
    let (worker, _) = worker(&yard, 15, 2, look, no_hook());
    run(&worker, Mode::DrainOnce).unwrap();
    assert_eq!(yard.state("a").phase, Phase::Done, "{case}: {:?}", yard.state("a"));
    let got = String::from_utf8(results(&yard, &task).0).unwrap();
    let known = got.lines().all(|line| all_seen.lines().any(|other| other == line));
    assert!(known && got.lines().count() == 3, "{case}: {got}\n{all_seen}");
    *ends.lock().unwrap()
}
