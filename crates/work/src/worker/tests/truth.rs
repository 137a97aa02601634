//! What is out of the ordinary with a video is in its summary.

use super::*;
use crate::media::fixtures::FIXTURES;

/// What the summary of the video at `path` reports, and how many frames it had.
fn reported(path: &Path, damage_tolerance: f64) -> (Vec<String>, u64) {
    let yard = Yard::new();
    let task = Task::new(path, "brightness").unwrap();
    yard.queue.send(&Task { id: "a".to_owned(), damage_tolerance, ..task }).unwrap();
    let report = run(&yard.worker(), Mode::DrainOnce).unwrap();
    assert_eq!(report.completed, 1, "{}: {:?}", path.display(), yard.state("a"));
    let summary = yard.objects.read(&summary_key("a")).unwrap();
    let summary: serde_json::Value = serde_json::from_slice(&summary).unwrap();
    let notes = summary["quality"].as_array().unwrap();
    let about = notes.iter().map(|note| note["about"].as_str().unwrap().to_owned()).collect();
    (about, summary["frames"].as_u64().unwrap())
}

fn ffmpeg(arguments: &str, path: &Path) {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-y"]).args(arguments.split_whitespace()).arg(path);
    assert!(command.status().unwrap().success(), "{arguments}");
}

/// Overwrites the number behind the first `name`, `at` bytes further on.
fn patch(path: &Path, name: &[u8], at: usize, number: u32) {
    let mut bytes = std::fs::read(path).unwrap();
    let place = bytes.windows(name.len()).position(|window| window == name).unwrap() + at;
    bytes[place..place + 4].copy_from_slice(&number.to_le_bytes());
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn every_form_is_written_beside_the_lines() {
    let yard = Yard::new();
    let task = Task::new(&yard.video(), "brightness").unwrap();
    let task = Task { id: "a".to_owned(), outputs: Form::ALL.to_vec(), ..task };
    yard.queue.send(&task).unwrap();
    run(&yard.worker(), Mode::DrainOnce).unwrap();
    let summary = yard.objects.read(&summary_key("a")).unwrap();
    let summary = Summary::from_json(&summary).unwrap();
    let mut files: Vec<_> = Form::ALL.map(Form::file).to_vec();
    files.insert(0, "results.jsonl");
    assert_eq!(summary.outputs.iter().map(|written| written.file.as_str()).collect::<Vec<_>>(), files);
    for written in &summary.outputs {
        let bytes = yard.objects.read(&format!("a/{}", written.file)).unwrap();
        let hash = blake3::hash(&bytes).to_hex().to_string();
        assert_eq!((bytes.len() as u64, hash), (written.bytes, written.blake3.clone()), "{}", written.file);
    }
    let annotated = crate::media::probe(&Tools::from_env(), &yard.objects.path("a/annotated.mp4").unwrap()).unwrap();
    assert_eq!((annotated.width, annotated.height, annotated.frames_declared), (64, 48, Some(FRAMES)));
    let rows = String::from_utf8(yard.objects.read("a/mot.txt").unwrap()).unwrap();
    assert_eq!(rows.lines().count() as u64, FRAMES_FOUND);
    // Worked again, they are the same bytes.
    let again = Yard::new();
    again.queue.send(&task).unwrap();
    run(&again.worker(), Mode::DrainOnce).unwrap();
    assert_eq!(again.objects.read(&summary_key("a")).unwrap(), yard.objects.read(&summary_key("a")).unwrap());
}

#[test]
fn objects_are_followed_and_counted_however_often_the_video_was_taken_up() {
    let task = |yard: &Yard| {
        let zone = |name: &str, top: f32| crate::track::Zone {
            name: name.to_owned(),
            polygon: vec![[0.0, top], [1.0, top], [1.0, top + 0.5], [0.0, top + 0.5]],
        };
        let task = Task::new(&yard.video(), "brightness").unwrap();
        let zones = vec![zone("below", 0.5), zone("above", 0.0)];
        Task { id: "a".to_owned(), track: true, zones, outputs: vec![Form::Mot], ..task }
    };
    let yard = Yard::new();
    yard.queue.send(&task(&yard)).unwrap();
    run(&yard.worker(), Mode::DrainOnce).unwrap();
    let summary = Summary::from_json(&yard.objects.read(&summary_key("a")).unwrap()).unwrap();
    assert_eq!(summary.tracks, Some(1));
    let below = summary.zones["below"]["light"];
    // It is followed from its second good look on, that of the ninth frame, to the twelfth.
    assert_eq!((below.most, below.visits), (1, 1));
    assert!((below.dwell_s - 0.3).abs() < 1e-6, "{below:?}");
    assert!(summary.zones["above"].is_empty());
    let rows = String::from_utf8(yard.objects.read("a/mot.txt").unwrap()).unwrap();
    let ids: Vec<&str> = rows.lines().map(|row| row.split(',').nth(1).unwrap()).collect();
    assert_eq!(ids, ["-1", "-1", "-1", "1", "1", "1", "1"]);

    // One that dies at its first line has left a part; whoever goes on begins behind it.
    let again = Yard::new();
    again.queue.send(&task(&again)).unwrap();
    let submitted = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&submitted);
    let dies: Hook = Box::new(move |_| match count.fetch_add(1, Ordering::SeqCst) {
        9 => Err(Error::unavailable("it is gone")),
        _ => Ok(()),
    });
    let worker = again.hooked(no_hook(), no_hook(), dies);
    let report = run(&worker, Mode::DrainOnce).unwrap();
    assert_eq!((report.released, report.completed), (1, 1));
    assert!(submitted.load(Ordering::SeqCst) < 2 * FRAMES, "what is durable is not worked again");
    for key in [lines_key("a"), "a/mot.txt".to_owned()] {
        assert_eq!(again.objects.read(&key).unwrap(), yard.objects.read(&key).unwrap(), "{key}");
    }
    let other = Summary::from_json(&again.objects.read(&summary_key("a")).unwrap()).unwrap();
    assert_eq!(Summary { input: summary.input.clone(), ..other }, summary);
}

#[test]
fn every_trait_has_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let source = "-f lavfi -i testsrc2=s=96x64:r=20:d=2";
    let tagged = "-c:v libx264 -colorspace bt709";
    let table = [
        ("plain.mp4", format!("{source} {tagged}"), &[][..]),
        ("untagged.mp4", format!("{source} -c:v libx264"), &["colour-matrix"]),
        ("full.mp4", format!("{source} {tagged} -color_range pc"), &["colour-range"]),
        ("wide.mp4", format!("{source} -vf setsar=16/15 {tagged}"), &["sample-aspect"]),
        (
            "hdr.mkv",
            format!("{source} -c:v libx265 -x265-params log-level=none -colorspace bt2020nc -color_trc smpte2084"),
            &["colour-matrix", "colour-transfer"],
        ),
        ("fields.mp4", format!("{source} {tagged} -flags +ilme+ildct"), &["interlaced"]),
        ("late.mkv", format!("{source} -vf setpts=PTS+7/TB -fps_mode passthrough {tagged}"), &["start"]),
        (
            "variable.mkv",
            format!(
                "{source} -vf setpts='if(lt(N,15),N,15+3*(N-15))/(20*TB)',settb=1/1000 -fps_mode passthrough {tagged}"
            ),
            &["variable-rate"],
        ),
        ("old.avi", format!("{source} -c:v mpeg4 -bf 2"), &["colour-matrix", "start", "times"]),
    ];
    for (name, arguments, want) in table {
        let path = folder.path().join(name);
        ffmpeg(&arguments, &path);
        let (about, frames) = reported(&path, 0.0);
        assert_eq!((about, frames), (want.iter().map(|&about| about.to_owned()).collect(), 40), "{name}");
    }
    let plain = folder.path().join("plain.mp4");
    let edited = folder.path().join("edited.mp4");
    ffmpeg(&format!("-ss 1.25 -i {} -c copy", plain.display()), &edited);
    let (about, frames) = reported(&edited, 0.0);
    assert!(about.contains(&"edit-list".to_owned()) && frames == 15, "{about:?} {frames}");
    let turned = folder.path().join("turned.mp4");
    ffmpeg(&format!("-i {} -c copy -metadata:s:v:0 rotate=90", plain.display()), &turned);
    assert_eq!(reported(&turned, 0.0), (vec!["orientation".to_owned()], 40));
}

#[test]
fn counts_that_lie_are_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("counts.avi");
    // In the stream's header, its length: fewer frames than there are, and more.
    for (declared, tolerance, want) in [(7, 0.0, "frame-count"), (90, 0.6, "cut-off")] {
        ffmpeg("-f lavfi -i testsrc2=s=96x64:r=20:d=2 -c:v mjpeg -pix_fmt yuvj420p", &path);
        patch(&path, b"strh", 8 + 32, declared);
        let (about, frames) = reported(&path, tolerance);
        assert!(about.contains(&want.to_owned()) && frames == 40, "{declared}: {about:?} {frames}");
    }
}

#[test]
fn damage_within_the_tolerance_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["scratched.mp4", "scratched.ts", "cut.avi"] {
        let fixture = FIXTURES.iter().find(|fixture| fixture.name == name).unwrap();
        let (about, frames) = reported(&fixture.make(folder.path()), 1.0);
        let want = if name.starts_with("cut") { "cut-off" } else { "damage" };
        assert!(about.contains(&want.to_owned()) && frames > 0, "{name}: {about:?}");
    }
}
