//! Videos that are cut, and taken up again wherever a worker ended: the results are those of a run that nobody disturbed,
//! to the byte, and what is durable is not worked again.

use super::*;
use crate::media::fixtures::{Damage, FIXTURES, Fixture};
use crate::quality::About;
use crate::segment::PartName;

/// A score that any change of any byte changes.
fn fingerprint(bytes: &[u8]) -> f32 {
    let hash = blake3::hash(bytes);
    let bits = u32::from_le_bytes(*hash.as_bytes().first_chunk().unwrap());
    0.5 + 0.5 * bits as f32 / u32::MAX as f32
}

/// A worker that cuts after `frames`, and keeps a part after every `keep` frames.
pub(super) fn worker(
    yard: &Yard,
    frames: u64,
    keep: usize,
    objects: Hook,
    inference: Hook,
) -> (Worker, Arc<Brightness>) {
    let model = Arc::new(Brightness { score: fingerprint, ..Brightness::new(inference) });
    let mut worker = yard.hooked(no_hook(), objects, no_hook());
    worker.inference = Arc::clone(&model) as _;
    let seconds = if frames == u64::MAX { u32::MAX } else { 1 };
    worker.config.lengths = Lengths { seconds, frames, bytes: u64::MAX };
    // A frame and its one detection count as two.
    worker.config.checkpoint = Checkpoint { every: Duration::MAX, detections_max: keep.saturating_mul(2) };
    (worker, model)
}

const NEVER: usize = usize::MAX;

/// What a run that nobody disturbs makes of the video, cut nowhere: lines and summary.
pub(super) fn undisturbed(task: &Task) -> (Vec<u8>, Vec<u8>) {
    let yard = Yard::new();
    yard.queue.send(task).unwrap();
    let (worker, _) = worker(&yard, u64::MAX, NEVER, no_hook(), no_hook());
    assert_eq!(run(&worker, Mode::DrainOnce).unwrap().completed, 1, "{:?}", yard.state(&task.id));
    results(&yard, task)
}

pub(super) fn results(yard: &Yard, task: &Task) -> (Vec<u8>, Vec<u8>) {
    let read = |key: String| yard.objects.read(&key).unwrap();
    (read(lines_key(&task.id)), read(summary_key(&task.id)))
}

/// A summary without its line about what cannot be cut, which is only there where something was to be.
pub(super) fn but_for_cuts(summary: &[u8]) -> Summary {
    let mut summary = Summary::from_json(summary).unwrap();
    summary.quality.retain(|note| note.about != About::Uncut);
    summary
}

pub(super) fn task(input: &Path, damage_tolerance: f64) -> Task {
    Task { id: "a".to_owned(), damage_tolerance, ..Task::new(input, "brightness").unwrap() }
}

fn lines(results: &(Vec<u8>, Vec<u8>)) -> usize {
    results.0.iter().filter(|&&byte| byte == b'\n').count()
}

#[test]
fn segments_one_after_the_other_are_the_whole_video() {
    for fixture in FIXTURES {
        let Fixture { name, cuts, .. } = *fixture;
        let folder = tempfile::tempdir().unwrap();
        let clip = fixture.make(folder.path());
        let tolerance = if fixture.damage == Damage::None { 0.0 } else { 1.0 };
        let task = task(&clip, tolerance);
        let want = undisturbed(&task);
        assert!(lines(&want) >= 20, "{name}: {} lines", lines(&want));

        let yard = Yard::new();
        yard.queue.send(&task).unwrap();
        let parts = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&parts);
        let objects = yard.objects.clone();
        let look: Hook = Box::new(move |call| {
            if call == "commit results.jsonl" {
                *seen.lock().unwrap() = objects.list("a/parts")?;
            }
            Ok(())
        });
        let (worker, model) = worker(&yard, 15, 7, look, no_hook());
        assert_eq!(run(&worker, Mode::DrainOnce).unwrap().completed, 1, "{name}: {:?}", yard.state("a"));
        let got = results(&yard, &task);
        assert!(got.0 == want.0, "{name}: other lines");
        assert_eq!(but_for_cuts(&got.1), but_for_cuts(&want.1), "{name}");
        let summary = Summary::from_json(&got.1).unwrap();
        let says_uncut = summary.quality.iter().any(|note| note.about == About::Uncut);
        let must_say = ["h264.ts", "h264-open.mkv", "mpeg2.mpg", "mpeg4.avi", "mjpeg.avi"].contains(&name);
        assert!(says_uncut || !must_say, "{name}: {:?}", summary.quality);
        assert!(!says_uncut || !cuts || fixture.damage != Damage::None, "{name}: {:?}", summary.quality);
        // That the fixture was cut where it can be, and only there: else this proves nothing.
        let parts = parts.lock().unwrap();
        let sought = parts.iter().filter(|key| key.contains("-s00") && key.ends_with("-end.jsonl")).count();
        assert!(fixture.damage != Damage::None || (sought > 1) == cuts, "{name}: {parts:#?}");
        if fixture.damage == Damage::None && cuts {
            assert_eq!(model.submitted.load(Ordering::SeqCst) as usize, lines(&want), "{name}: frames worked twice");
        }
    }
}

/// The fixture that these tests are on, and the number of its frames.
fn clip(folder: &Path) -> (PathBuf, u64) {
    let fixture = FIXTURES.iter().find(|fixture| fixture.name == "h264.mp4").unwrap();
    (fixture.make(folder), 40)
}

#[test]
fn whoever_takes_a_video_up_again_goes_on_behind_the_last_part() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, frames) = clip(folder.path());
    let task = task(&clip, 0.0);
    let want = undisturbed(&task);
    for died_after in [1, 9, 10, 11, 25, 39, 40] {
        let yard = Yard::new();
        yard.queue.send(&task).unwrap();
        let puts = AtomicU64::new(0);
        // Dies while it puts one part more, which is a segment's end where the frames before are durable already.
        let dies: Hook = Box::new(move |call| {
            let dead = call == "put part" && puts.fetch_add(1, Ordering::SeqCst) >= died_after;
            if dead { Err(Error::new(ErrorKind::Cancelled, "killed")) } else { Ok(()) }
        });
        let (first, _) = worker(&yard, 10, 1, dies, no_hook());
        assert_eq!(run(&first, Mode::OneJob).unwrap().lost, 1, "{died_after}");
        let parts = yard.objects.list("a/parts").unwrap();
        assert_eq!(parts.len() as u64, died_after);
        // A segment's last frame is followed by a part that only says that it was the last.
        let names = parts.iter().map(|key| PartName::parse(key.rsplit('/').next().unwrap()).unwrap());
        let durable: u64 = names.map(|name| name.frames).sum();
        assert!(durable >= died_after - died_after / 11);

        yard.advance(Duration::from_secs(30));
        let (second, model) = worker(&yard, 10, 1, no_hook(), no_hook());
        assert_eq!(run(&second, Mode::DrainOnce).unwrap().completed, 1);
        assert!(results(&yard, &task) == want, "{died_after}");
        assert_eq!(yard.left(), Yard::whole("a"), "{died_after}");
        let again = model.submitted.load(Ordering::SeqCst);
        assert_eq!(again, frames - durable, "{died_after}: what is durable is not worked again");
        let cost = Cost::from_json(&yard.objects.read(&cost_key("a")).unwrap()).unwrap();
        assert_eq!(cost.frames_resumed, durable);
    }
}

#[test]
fn a_worker_that_is_asked_to_stop_loses_no_frame() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, frames) = clip(folder.path());
    let task = task(&clip, 0.0);
    let want = undisturbed(&task);
    // In the middle of the only segment, and of the third.
    for (length, stop_at) in [(u64::MAX, 17), (10, 25)] {
        let yard = Yard::new();
        yard.queue.send(&task).unwrap();
        let stop = Stop::new();
        let (asked, submits) = (stop.clone(), AtomicU64::new(0));
        let at_frame: Hook = Box::new(move |_| {
            if submits.fetch_add(1, Ordering::SeqCst) == stop_at {
                asked.request();
            }
            Ok(())
        });
        let (first, before) = worker(&yard, length, NEVER, no_hook(), at_frame);
        let report = first.run(Mode::DrainOnce, &stop, &Silent).unwrap();
        assert_eq!(report, Report { released: 1, ..Report::default() });
        let (second, after) = worker(&yard, length, NEVER, no_hook(), no_hook());
        assert_eq!(run(&second, Mode::DrainOnce).unwrap().completed, 1);
        assert!(results(&yard, &task) == want, "{length} {stop_at}");
        let worked = [before, after].map(|model| model.submitted.load(Ordering::SeqCst));
        assert_eq!(worked, [stop_at + 1, frames - stop_at - 1], "{length} {stop_at}");
    }
}

#[test]
fn a_part_that_is_none_is_worked_again() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, _) = clip(folder.path());
    let task = task(&clip, 0.0);
    let want = undisturbed(&task);
    let yard = Yard::new();
    yard.queue.send(&task).unwrap();
    let stops: Hook =
        Box::new(
            |call| {
                if call == "commit results.jsonl" { Err(Error::new(ErrorKind::Cancelled, "killed")) } else { Ok(()) }
            },
        );
    let (first, _) = worker(&yard, 10, NEVER, stops, no_hook());
    assert_eq!(run(&first, Mode::OneJob).unwrap().lost, 1);
    let parts = yard.objects.list("a/parts").unwrap();
    assert_eq!(parts.len(), 4);
    for (part, bytes) in [(&parts[1], &b"garbage"[..]), (&parts[2], b"")] {
        std::fs::write(yard.objects.path(part).unwrap(), bytes).unwrap();
    }
    // Something else's, and a part of other settings: neither is touched before the end, nor read.
    yard.objects.put("a/parts/note.txt", b"", Put::IfAbsent).unwrap();
    let other = parts[0].replace("parts/", "parts/0");
    yard.objects.put(&other, b"garbage", Put::IfAbsent).unwrap();
    yard.advance(Duration::from_secs(30));
    let (mut second, model) = worker(&yard, 10, NEVER, no_hook(), no_hook());
    second.config.patience.failures_max = 9;
    let report = run(&second, Mode::DrainOnce).unwrap();
    assert_eq!((report.completed, report.dead), (1, 0));
    assert!(results(&yard, &task) == want);
    assert_eq!(yard.left(), Yard::whole("a"));
    assert_eq!(model.submitted.load(Ordering::SeqCst), 20);
}

#[test]
fn parts_of_a_video_that_was_replaced_do_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, frames) = clip(folder.path());
    let task = task(&clip, 0.0);
    let yard = Yard::new();
    yard.queue.send(&task).unwrap();
    let stops: Hook =
        Box::new(
            |call| {
                if call == "commit results.jsonl" { Err(Error::new(ErrorKind::Cancelled, "killed")) } else { Ok(()) }
            },
        );
    let (first, _) = worker(&yard, 10, NEVER, stops, no_hook());
    assert_eq!(run(&first, Mode::OneJob).unwrap().lost, 1);
    // As long as before, another picture, and not even a new time of change.
    let mut bytes = std::fs::read(&clip).unwrap();
    let modified = std::fs::metadata(&clip).unwrap().modified().unwrap();
    let free = bytes.windows(4).position(|window| window == b"free").unwrap();
    bytes[free] = b'F';
    std::fs::write(&clip, bytes).unwrap();
    std::fs::File::options().write(true).open(&clip).unwrap().set_modified(modified).unwrap();
    yard.advance(Duration::from_secs(30));
    let (second, model) = worker(&yard, 10, NEVER, no_hook(), no_hook());
    assert_eq!(run(&second, Mode::DrainOnce).unwrap().completed, 1, "{:?}", yard.state("a"));
    assert_eq!(model.submitted.load(Ordering::SeqCst), frames);
    assert_eq!(yard.left(), Yard::whole("a"));
}

#[test]
fn several_videos_at_once_come_to_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let (clip, _) = clip(folder.path());
    let want = undisturbed(&task(&clip, 0.0));
    let yard = Yard::new();
    let ids = ["a", "b", "c", "d", "e"];
    for id in ids {
        yard.queue.send(&Task { id: id.to_owned(), ..task(&clip, 0.0) }).unwrap();
    }
    let (mut worker, _) = worker(&yard, 10, NEVER, no_hook(), no_hook());
    worker.config.videos_max = 3;
    assert_eq!(run(&worker, Mode::DrainOnce).unwrap(), Report { completed: 5, ..Report::default() });
    for id in ids {
        assert!(yard.objects.read(&lines_key(id)).unwrap() == want.0, "{id}");
    }
}

#[test]
fn a_panic_in_one_of_several_loops_ends_them_all() {
    let yard = Yard::new();
    yard.submit("a", &yard.video());
    let dies: Hook = Box::new(|call| if call == "complete" { panic!("killed") } else { Ok(()) });
    let mut worker = yard.hooked(dies, no_hook(), no_hook());
    worker.config.videos_max = 3;
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(&worker, Mode::DrainOnce)));
    assert!(died.is_err());
}
