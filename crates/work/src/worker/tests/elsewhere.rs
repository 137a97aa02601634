//! Videos that are elsewhere, read where they are: the same results, and no blame for what their place does.

use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::ranges::tests::{Does, Web, network, noise};
use crate::result::Summary;
use crate::spool::Spool;

/// Whether something is `asked` for that lies between the middle of the video and its last megabyte, in which its index is.
fn is_behind_the_middle(asked: &Range<u64>) -> bool {
    let bytes = noise().1.len() as u64;
    asked.start < bytes - (1 << 20) && asked.end > bytes / 2
}

fn task(input: &str) -> Task {
    Task { id: "a".to_owned(), threshold: 0.0, ..Task::new(Path::new(input), "brightness").unwrap() }
}

/// A worker with a spool, which cuts videos into segments of so many frames.
fn worker(yard: &Yard, frames: u64) -> Worker {
    let root = yard.folder.path().join("spool");
    let spool: LazySpool = LazyLock::new(Box::new(move || Spool::open(&network(), &root, 1 << 30)));
    let mut worker = yard.worker();
    worker.spool = Some(spool);
    worker.config.lengths = Lengths { frames, ..Lengths::default() };
    worker
}

/// Lines and summary of the task, but for where its video is.
fn results(yard: &Yard) -> (Vec<u8>, Summary) {
    let read = |key: String| yard.objects.read(&key).unwrap();
    let mut summary = Summary::from_json(&read(summary_key("a"))).unwrap();
    summary.input.path = String::new();
    (read(lines_key("a")), summary)
}

fn of_a_file() -> (Vec<u8>, Summary) {
    let yard = Yard::new();
    yard.queue.send(&task(noise().0.to_str().unwrap())).unwrap();
    assert_eq!(run(&worker(&yard, 40), Mode::DrainOnce).unwrap().completed, 1);
    results(&yard)
}

/// A worker in `yard` that fetches videos of so many bytes whole.
fn fetching(yard: &Yard, whole_bytes_max: u64) -> Worker {
    let mut worker = worker(yard, 40);
    let mut spool = Spool::open(&network(), &yard.folder.path().join("spool"), 1 << 30);
    spool.as_mut().unwrap().whole_bytes_max = whole_bytes_max;
    worker.spool = Some(LazyLock::new(Box::new(move || spool)));
    worker
}

#[test]
fn the_secrets_of_an_address_are_in_no_result() {
    let web = Web::start("noise.mp4", noise().1, |_| Does::Give);
    let secret = format!("{}?sig=SECRET", web.url.replace("://", "://me:SECRET@"));
    let yard = Yard::new();
    let outputs = vec![Form::Coco, Form::Parquet, Form::Mot, Form::Webvtt, Form::Rekognition];
    yard.queue.send(&Task { outputs, ..task(&secret) }).unwrap();
    assert_eq!(run(&worker(&yard, 40), Mode::DrainOnce).unwrap().completed, 1, "{:?}", yard.state("a"));
    let files: Vec<_> =
        std::fs::read_dir(yard.objects.root().join("a")).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() >= 8, "{files:?}");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(6).any(|word| word == b"SECRET"), "{}", file.display());
    }
}

#[test]
fn what_is_no_video_is_called_as_people_call_it() {
    let web = Web::start("text", b"a text that is no video".to_vec(), |_| Does::Give);
    for whole_bytes_max in [0, u64::MAX] {
        let yard = Yard::new();
        yard.queue.send(&task(&web.url)).unwrap();
        let worker = fetching(&yard, whole_bytes_max);
        assert_eq!(run(&worker, Mode::DrainOnce).unwrap().dead, 1);
        let said = format!("'{}' is no video that ffmpeg can read (Invalid data found when processing input)", web.url);
        let reason = yard.state("a").reason.unwrap();
        assert!(reason.starts_with(&said), "{whole_bytes_max}: {reason}");
    }
}

#[test]
fn a_video_elsewhere_comes_to_what_its_copy_here_comes_to() {
    let want = of_a_file();
    let web = Web::start("noise.mp4", noise().1, |_| Does::Give);
    // By ranges, fetched whole, and by decoders that are given no way to read in ranges.
    for (whole_bytes_max, confined) in [(0, true), (u64::MAX, true), (0, false)] {
        let yard = Yard::new();
        yard.queue.send(&task(&web.url)).unwrap();
        let mut worker = fetching(&yard, whole_bytes_max);
        worker.tools.confined = confined;
        assert_eq!(run(&worker, Mode::DrainOnce).unwrap().completed, 1, "{:?}", yard.state("a"));
        assert!(results(&yard) == want, "{whole_bytes_max} {confined}");
    }
}

#[test]
fn key_frames_elsewhere_come_without_what_is_between_them() {
    let bytes = noise().1;
    let keys = |input: &str| Task { sampling: crate::Sampling::KeyFrames, ..task(input) };
    let here = Yard::new();
    here.queue.send(&keys(noise().0.to_str().unwrap())).unwrap();
    assert_eq!(run(&worker(&here, 40), Mode::DrainOnce).unwrap().completed, 1);
    let want = results(&here);
    assert_eq!((want.1.frames, want.1.frames_looked), (200, 4));
    let web = Web::start("noise.mp4", bytes.clone(), |_| Does::Give);
    let yard = Yard::new();
    yard.queue.send(&keys(&web.url)).unwrap();
    assert_eq!(run(&fetching(&yard, 0), Mode::DrainOnce).unwrap().completed, 1, "{:?}", yard.state("a"));
    assert!(results(&yard) == want);
    let given = web.given.load(Ordering::SeqCst);
    assert!(given < bytes.len() as u64 / 6, "{given} bytes of {} were fetched", bytes.len());
}

/// A place that does not give the second half of the video while it is down, and a task for that.
fn half_down() -> (Arc<AtomicBool>, Web, Yard) {
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    let does = move |asked| match down.load(Ordering::SeqCst) && is_behind_the_middle(&asked) {
        true => Does::Fail,
        false => Does::Give,
    };
    let (web, yard) = (Web::start("noise.mp4", noise().1, does), Yard::new());
    yard.queue.send(&task(&web.url)).unwrap();
    (is_down, web, yard)
}

#[test]
fn a_place_that_fails_midway_has_the_video_tried_again() {
    let want = of_a_file();
    let (is_down, _web, yard) = half_down();
    /// Has the place mended once it was blamed.
    struct Mender(Arc<AtomicBool>, Recorder);
    impl Observer for Mender {
        fn failed(&self, task: &Task, verdict: &Verdict) {
            self.0.store(false, Ordering::SeqCst);
            self.1.failed(task, verdict);
        }
    }
    let mender = Mender(is_down, Recorder::default());
    let report = worker(&yard, 40).run(Mode::DrainOnce, &Stop::new(), &mender).unwrap();
    let told = mender.1.0.into_inner().unwrap();
    assert!(told.len() == 1 && told[0].contains("Retry") && told[0].contains("503"), "{told:?}");
    assert_eq!((report.completed, report.dead), (1, 0));
    assert!(results(&yard) == want);
}

#[test]
fn a_video_that_is_replaced_meanwhile_is_said_to_be() {
    let does = move |asked| if is_behind_the_middle(&asked) { Does::Replace } else { Does::Give };
    let web = Web::start("noise.mp4", noise().1, does);
    let yard = Yard::new();
    yard.queue.send(&task(&web.url)).unwrap();
    assert_eq!(run(&worker(&yard, 40), Mode::DrainOnce).unwrap().dead, 1);
    let reason = yard.state("a").reason.unwrap_or_default();
    assert!(reason.contains("replaced meanwhile"), "{reason}");
}

#[test]
fn whoever_goes_on_with_a_video_fetches_what_is_left_of_it() {
    let want = of_a_file();
    // Down for as long as the first worker lives.
    let (is_down, web, yard) = half_down();
    let mut first = worker(&yard, 40);
    first.config.checkpoint = Checkpoint { every: Duration::ZERO, ..first.config.checkpoint };
    assert_eq!(run(&first, Mode::OneJob).unwrap().released, 1);
    let parts = yard.left().into_iter().filter(|name| name.contains("/parts/")).count();
    assert!(parts > 0, "nothing of it was durable");
    is_down.store(false, Ordering::SeqCst);
    let before = web.given.load(Ordering::SeqCst);
    assert_eq!(run(&worker(&yard, 40), Mode::DrainOnce).unwrap().completed, 1);
    let given = web.given.load(Ordering::SeqCst) - before;
    assert!(given < noise().1.len() as u64 * 9 / 10, "{given} bytes of {} were fetched", noise().1.len());
    assert!(results(&yard) == want);
}
