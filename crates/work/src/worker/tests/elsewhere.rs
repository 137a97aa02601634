//! Videos that are elsewhere, read where they are: the same results, and no blame for what their place does.

use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::ranges::tests::{Does, NOISE_LISTED_NOWHERE, Web, network, noise};
use crate::result::Summary;
use crate::segment::PartName;
use crate::spool::Spool;

/// Whether something is `asked` for that lies in the last quarter of a video of so many bytes, but for its end, in which its
/// index may be. A request may begin before that and reach into it.
fn is_near_the_end(asked: &Range<u64>, bytes: usize) -> bool {
    let bytes = bytes as u64;
    asked.start < bytes - (3 << 19) && asked.end > bytes / 4 * 3
}

fn task(input: &str) -> Task {
    Task { id: "a".to_owned(), threshold: 0.0, ..Task::new(Path::new(input), "brightness").unwrap() }
}

/// A worker with a spool, which cuts videos into segments of so many frames.
fn worker(yard: &Yard, frames: u64) -> Worker {
    hooked(yard, frames, no_hook())
}

fn hooked(yard: &Yard, frames: u64, objects: Hook) -> Worker {
    let root = yard.folder.path().join("spool");
    let spool: LazySpool = LazyLock::new(Box::new(move || Spool::open(&network(), &root, 1 << 30)));
    let mut worker = yard.hooked(no_hook(), objects, no_hook());
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
    of_the_file(&task(noise().0.to_str().unwrap()), 40)
}

fn of_the_file(task: &Task, frames: u64) -> (Vec<u8>, Summary) {
    let yard = Yard::new();
    yard.queue.send(task).unwrap();
    assert_eq!(run(&worker(&yard, frames), Mode::DrainOnce).unwrap().completed, 1, "{:?}", yard.state("a"));
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

/// A place that gives nothing of the last quarter of a video before the first parts are there, but for its end, and not then
/// while it `is_down`; and a worker there that keeps a part after every frame.
fn withholding(yard: &Yard, name: &str, bytes: Vec<u8>, is_down: &Arc<AtomicBool>) -> (Web, Worker) {
    let there = Arc::new((Mutex::new(0), Condvar::new()));
    let (seen, down, size) = (Arc::clone(&there), Arc::clone(is_down), bytes.len());
    // The first is there when the second is put.
    let put: Hook = Box::new(move |call| {
        if call == "put part" {
            *seen.0.lock().unwrap() += 1;
            seen.1.notify_all();
        }
        Ok(())
    });
    let does = move |asked: Range<u64>| {
        if !is_near_the_end(&asked, size) {
            return Does::Give;
        }
        drop(there.1.wait_while(there.0.lock().unwrap(), |parts| *parts < 2).unwrap());
        if down.load(Ordering::SeqCst) { Does::Fail } else { Does::Give }
    };
    let mut worker = hooked(yard, 40, put);
    worker.config.checkpoint = Checkpoint { every: Duration::ZERO, ..worker.config.checkpoint };
    (Web::start(name, bytes, does), worker)
}

#[test]
fn work_begins_while_the_video_comes_and_each_byte_comes_once() {
    let samplings =
        ["all", "every:3", "reference", "key-frames", "motion"].map(|how| how.parse::<crate::Sampling>().unwrap());
    for (path, sampling) in NOISE_LISTED_NOWHERE.iter().flat_map(|path| samplings.map(|sampling| (path, sampling))) {
        let case = format!("{} {sampling}", path.display());
        // AVI does not say when its frames are shown, and is refused. Of what is one segment these need the whole list first.
        let needs_all = matches!(sampling, crate::Sampling::KeyFrames | crate::Sampling::Motion(_));
        if case.ends_with("avi reference") || needs_all && !case.contains("mkv") {
            continue;
        }
        let of = |input: &str| Task { sampling, ..task(input) };
        let bytes = std::fs::read(path).unwrap();
        let size = bytes.len() as u64;
        let yard = Yard::new();
        let name = path.file_name().unwrap().to_str().unwrap();
        let (web, worker) = withholding(&yard, name, bytes, &Arc::default());
        yard.queue.send(&of(&web.url)).unwrap();
        assert_eq!(run(&worker, Mode::DrainOnce).unwrap().completed, 1, "{case}: {:?}", yard.state("a"));
        assert_eq!(web.given.load(Ordering::SeqCst), size, "{case}");
        assert!(results(&yard) == of_the_file(&of(path.to_str().unwrap()), 40), "{case}");
    }
}

#[test]
fn a_video_that_turns_out_to_be_otherwise_is_begun_again() {
    // Its last frames begin their clock anew, so that no key frame before is behind all that is shown before it.
    let path = &NOISE_LISTED_NOWHERE[0];
    let mut bytes = std::fs::read(path).unwrap();
    let last = bytes.windows(4).rposition(|id| id == [0x1f, 0x43, 0xb6, 0x75]).unwrap();
    // Behind its size and its checksum.
    let clock = last + 14;
    assert!(last > bytes.len() / 2 && bytes[clock] == 0xe7, "{:x?}", &bytes[last..clock + 4]);
    let count = usize::from(bytes[clock + 1] & 0x7f);
    bytes[clock + 2..clock + 2 + count].fill(0);
    let yard = Yard::new();
    let here = yard.file("here.mkv", &bytes);
    let (web, mut worker) = withholding(&yard, "anew.mkv", bytes, &Arc::default());
    yard.queue.send(&task(&web.url)).unwrap();
    let model = Arc::new(Brightness::new(no_hook()));
    worker.inference = Arc::clone(&model) as _;
    assert_eq!(run(&worker, Mode::DrainOnce).unwrap().completed, 1, "{:?}", yard.state("a"));
    // What was worked by the first list was for nothing.
    let submitted = model.submitted.load(Ordering::SeqCst);
    assert!(submitted > 200, "{submitted}");
    let got = results(&yard);
    let here = task(here.to_str().unwrap());
    assert!(got == of_the_file(&here, 40));
    // However it is cut.
    assert!(got.0 == of_the_file(&here, u64::MAX).0);
}

#[test]
fn whoever_takes_up_a_video_that_is_listed_nowhere_goes_on_behind_its_parts() {
    for path in &*NOISE_LISTED_NOWHERE {
        let want = of_the_file(&task(path.to_str().unwrap()), 40);
        let (yard, is_down) = (Yard::new(), Arc::new(AtomicBool::new(true)));
        let (name, bytes) = (path.file_name().unwrap().to_str().unwrap(), std::fs::read(path).unwrap());
        let (web, first) = withholding(&yard, name, bytes, &is_down);
        yard.queue.send(&task(&web.url)).unwrap();
        assert_eq!(run(&first, Mode::OneJob).unwrap().released, 1, "{path:?}: {:?}", yard.state("a"));
        let parts = yard.objects.list("a/parts").unwrap();
        let names = parts.iter().map(|key| PartName::parse(key.rsplit('/').next().unwrap()).unwrap());
        let durable: u64 = names.map(|name| name.frames).sum();
        assert!(durable > 0, "{path:?}: nothing of it was durable");
        is_down.store(false, Ordering::SeqCst);
        let again = Arc::new(Brightness::new(no_hook()));
        let mut second = worker(&yard, 40);
        second.inference = Arc::clone(&again) as _;
        assert_eq!(run(&second, Mode::DrainOnce).unwrap().completed, 1);
        assert_eq!(again.submitted.load(Ordering::SeqCst), 200 - durable, "{path:?}");
        assert!(results(&yard) == want, "{path:?}");
        drop(web);
    }
}

/// A place that does not give the last quarter of a video while it is down, and a task for that.
fn half_down(name: &str, bytes: Vec<u8>) -> (Arc<AtomicBool>, Web, Yard) {
    let is_down = Arc::new(AtomicBool::new(true));
    let (down, size) = (Arc::clone(&is_down), bytes.len());
    let does = move |asked: Range<u64>| match down.load(Ordering::SeqCst) && is_near_the_end(&asked, size) {
        true => Does::Fail,
        false => Does::Give,
    };
    let (web, yard) = (Web::start(name, bytes, does), Yard::new());
    yard.queue.send(&task(&web.url)).unwrap();
    (is_down, web, yard)
}

#[test]
fn a_place_that_fails_midway_has_the_video_tried_again() {
    let want = of_a_file();
    let (is_down, _web, yard) = half_down("noise.mp4", noise().1);
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
    let size = noise().1.len();
    let does = move |asked| if is_near_the_end(&asked, size) { Does::Replace } else { Does::Give };
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
    let (is_down, web, yard) = half_down("noise.mp4", noise().1);
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
