//! Videos read in ranges from a web server of our own that counts what it gives and fails as it is told.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use engine::{ErrorKind, Result};
use objects::{Limits, Network, Variables};
use pipeline::{Fit, Placement, Resample};

use super::*;
use crate::media::fixtures::FIXTURES;
use crate::media::{Between, Choice, Decode, DecodeReport, Frame, Frames, Input, Probe, Span, Tools, outlined, probe};
use crate::segment::Outline;

/// What a web server does about a request for some of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Does {
    Give,
    Fail,
    /// Gives them as of something that was put in its place.
    Replace,
    /// Gives some of them and hangs up.
    Cut,
}

/// A web server with one file.
pub(crate) struct Web {
    pub(crate) url: String,
    /// Bytes that it gave.
    pub(crate) given: Arc<AtomicU64>,
}

impl Web {
    /// Serves `bytes`; `does` is asked at every range.
    pub(crate) fn start(name: &str, bytes: Vec<u8>, does: impl Fn(Range<u64>) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/{name}", listener.local_addr().unwrap());
        let given = Arc::new(AtomicU64::new(0));
        let all = Arc::new((bytes, does, Arc::clone(&given)));
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(io::Result::ok) {
                let all = Arc::clone(&all);
                std::thread::spawn(move || answer(&stream, &all.0, &all.1, &all.2));
            }
        });
        Self { url, given }
    }

    fn given(&self) -> u64 {
        self.given.load(Ordering::SeqCst)
    }
}

fn answer(stream: &TcpStream, bytes: &[u8], does: &dyn Fn(Range<u64>) -> Does, given: &AtomicU64) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(io::Result::ok);
    loop {
        let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let is_head = head.first()?.starts_with("HEAD");
        let range = head.iter().find_map(|line| Some(line.strip_prefix("range: bytes=")?.split_once('-')?.to_owned()));
        let range = range.and_then(|(start, last)| Some((start.parse().ok()?, last.parse::<usize>().ok()? + 1)));
        let (start, end) = range.unwrap_or((0, bytes.len()));
        let does = if is_head { Does::Give } else { does(start as u64..end as u64) };
        let (status, tag) = match does {
            Does::Fail => ("503 Unavailable", "1"),
            Does::Replace => ("206 Partial", "2"),
            Does::Give | Does::Cut if range.is_some() => ("206 Partial", "1"),
            Does::Give | Does::Cut => ("200 OK", "1"),
        };
        let body = if does == Does::Fail { &[] } else { &bytes[start..end] };
        let whole = bytes.len();
        let told = format!("Content-Range: bytes {start}-{}/{whole}\r\nETag: \"{tag}\"\r\n", end - 1);
        let told = if does == Does::Fail { "" } else { &told };
        write!(&mut &*stream, "HTTP/1.1 {status}\r\n{told}Content-Length: {}\r\n\r\n", body.len()).ok()?;
        if is_head {
            continue;
        }
        let body = if does == Does::Cut { &body[..body.len() / 2] } else { body };
        given.fetch_add(body.len() as u64, Ordering::SeqCst);
        (&*stream).write_all(body).ok()?;
        if does == Does::Cut {
            return stream.shutdown(std::net::Shutdown::Both).ok();
        }
    }
}

pub(crate) fn network() -> Arc<Network> {
    let limits = Limits { retry: Duration::from_millis(200), ..Limits::default() };
    Network::start(limits, Variables::default()).unwrap()
}

/// Has `run` read what `web` serves, with so much room for it.
fn read<T>(web: &Web, room_bytes: u64, run: impl FnOnce(&Input, &File) -> T) -> T {
    let network = network();
    let (place, key) = network.object(&web.url).unwrap();
    let object = place.head(&key).unwrap();
    let file = tempfile::tempfile().unwrap();
    let ranges = Ranges::new(&web.url, (place, object), file.try_clone().unwrap(), (room_bytes, BLOCK_BYTES)).unwrap();
    let ranges = Arc::new(ranges);
    std::thread::scope(|scope| {
        let _fetching = Fetching::start(&ranges, scope, &|| false);
        run(&Input::Elsewhere(Arc::clone(&ranges)), &file)
    })
}

fn all_of(probe: &Probe) -> Decode {
    Decode {
        placement: Placement::of(Fit::Exact { width: 32, height: 24 }, (probe.width, probe.height)).unwrap(),
        resample: Resample::Bilinear,
        stall_limit: Duration::from_secs(30),
        span: Span::default(),
        choice: Choice::All,
    }
}

/// What is wanted of a video, beside all of it.
type Change<'a> = &'a dyn Fn(&mut Decode);

/// What a video comes to, wherever it is; the decoder's time is its own.
fn look(input: &Input, change: Change<'_>) -> Result<(Outline, Vec<Frame>, DecodeReport)> {
    let tools = Tools::from_env();
    let (probe, outline) = outlined(&tools, input, Duration::from_secs(30), &mut |_| ())?;
    let mut decode = all_of(&probe);
    change(&mut decode);
    let mut frames = Frames::open(&tools, input, &probe, &decode)?;
    let mut all = Vec::new();
    while let Some(frame) = frames.next()? {
        all.push(frame);
    }
    let report = frames.finish()?;
    Ok((outline, all, DecodeReport { cpu: Duration::ZERO, ..report }))
}

fn as_it_is(_: &mut Decode) {}

/// 200 frames of noise, with a key frame every 50: 13 MB, as MP4 with its index at the end, at the beginning, and as
/// Matroska. Made once, since that is what takes time.
static NOISE: LazyLock<(tempfile::TempDir, [PathBuf; 3])> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["end.mp4", "begin.mp4", "noise.mkv"].map(|name| folder.path().join(name));
    let source = "-f lavfi -i color=gray:s=320x240:r=25:d=8,noise=alls=60:allf=t -c:v libx264 -preset ultrafast -qp 24 \
                  -g 50 -keyint_min 50 -sc_threshold 0";
    ffmpeg(source, &paths[0]);
    let copy = format!("-i {} -c copy", paths[0].display());
    ffmpeg(&format!("{copy} -movflags +faststart"), &paths[1]);
    ffmpeg(&copy, &paths[2]);
    (folder, paths)
});

/// The same as Matroska, as MP4 in fragments, as a transport stream and as AVI.
pub(crate) static NOISE_LISTED_NOWHERE: LazyLock<[PathBuf; 4]> = LazyLock::new(|| {
    let fragments = "-movflags +frag_keyframe+empty_moov+default_base_moof";
    [("listed.mkv", ""), ("fragments.mp4", fragments), ("noise.ts", ""), ("noise.avi", "")].map(|(name, how)| {
        let path = NOISE.0.path().join(name);
        ffmpeg(&format!("-i {} -c copy {how}", NOISE.1[0].display()), &path);
        path
    })
});

fn ffmpeg(arguments: &str, path: &Path) {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-y"]).args(arguments.split_whitespace()).arg(path);
    assert!(command.stdin(Stdio::null()).status().unwrap().success(), "{arguments}");
}

/// The file name and the content of the first of them.
pub(crate) fn noise() -> (&'static Path, Vec<u8>) {
    let path = &NOISE.1[0];
    (path, std::fs::read(path).unwrap())
}

const PLENTY: u64 = 1 << 30;

#[test]
fn every_video_is_elsewhere_what_it_is_as_a_file() {
    let folder = tempfile::tempdir().unwrap();
    for fixture in FIXTURES {
        let path = fixture.make(folder.path());
        let name = path.file_name().unwrap().to_str().unwrap();
        let web = Web::start(name, std::fs::read(&path).unwrap(), |_| Does::Give);
        let want = look(&Input::from(&path), &as_it_is).unwrap();
        let got = read(&web, PLENTY, |input, _| look(input, &as_it_is).unwrap());
        assert!(got.0 == want.0, "{name}: {:#?} {:#?}", got.0, want.0);
        assert!(got.1 == want.1, "{name}: {} frames, not {}", got.1.len(), want.1.len());
        // Errors that tell of an offset tell of the same one.
        assert_eq!(got.2, want.2, "{name}");
    }
}

#[test]
fn what_is_not_needed_is_not_fetched() {
    let [end, begin, matroska] = &NOISE.1;
    let key_frames = |decode: &mut Decode| decode.choice = Choice::KeyFrames;
    let a_second = |decode: &mut Decode| {
        let keep = vec![Between { from_us: Some(4_000_000), before_us: Some(4_400_000) }];
        decode.span = Span { seek_us: Some(4_000_000), keep, ..Span::default() };
    };
    // At most this part of it.
    let table: [(&Path, Change<'_>, f64); 8] = [
        (end, &as_it_is, 1.0),
        (begin, &as_it_is, 1.0),
        (matroska, &as_it_is, 1.0),
        // Decoders pass over the others by reading them.
        (end, &key_frames, 1.0),
        (matroska, &key_frames, 1.0),
        (end, &a_second, 0.75),
        (begin, &a_second, 0.75),
        // Its frames are listed nowhere.
        (matroska, &a_second, 1.0),
    ];
    for (path, change, part) in table {
        let web = Web::start("noise", std::fs::read(path).unwrap(), |_| Does::Give);
        let want = look(&Input::from(path), change).unwrap();
        let got = read(&web, PLENTY, |input, _| look(input, change).unwrap());
        assert!(got == want && !got.1.is_empty(), "{path:?}");
        let bytes = std::fs::metadata(path).unwrap().len();
        let most = (bytes as f64 * part) as u64;
        assert!(web.given() <= most, "{path:?}: {} bytes of {bytes}, not {most}", web.given());
        assert!(part < 1.0 || web.given() == bytes, "{path:?}: {} bytes of {bytes}", web.given());
    }
}

#[test]
fn the_first_frame_needs_no_more_than_its_beginning() {
    let web = Web::start("noise.mp4", noise().1, |_| Does::Give);
    let given = read(&web, PLENTY, |input, _| {
        let tools = Tools::from_env();
        let (probe, outline) = outlined(&tools, input, Duration::from_secs(30), &mut |_| ()).unwrap();
        assert_eq!((outline.frames, outline.key_frames), (200, 4));
        // Full frames, so that few of them are on their way.
        let placement = Placement::of(Fit::Source, (probe.width, probe.height)).unwrap();
        let decode = Decode { placement, ..all_of(&probe) };
        let mut frames = Frames::open(&tools, input, &probe, &decode).unwrap();
        frames.next().unwrap().unwrap();
        web.given()
    });
    assert!(given * 4 < noise().1.len() as u64 * 3, "{given} bytes were fetched for it");
}

#[test]
fn with_little_room_it_takes_no_more_and_is_the_same() {
    let web = Web::start("noise.mp4", noise().1, |_| Does::Give);
    let want = look(&Input::from(noise().0), &as_it_is).unwrap();
    read(&web, 4 * BLOCK_BYTES, |input, file| {
        assert!(look(input, &as_it_is).unwrap() == want);
        let kept = file.metadata().unwrap().blocks() * 512;
        assert!(kept <= 9 * BLOCK_BYTES, "{kept} bytes are kept");
    });
}

#[test]
fn a_place_that_fails_in_passing_is_asked_again() {
    let asked = AtomicU64::new(0);
    // Every third is cut, every fifth fails.
    let does = move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        number if number % 5 == 4 => Does::Fail,
        number if number % 3 == 2 => Does::Cut,
        _ => Does::Give,
    };
    let web = Web::start("noise.mp4", noise().1, does);
    let want = look(&Input::from(noise().0), &as_it_is).unwrap();
    assert!(read(&web, PLENTY, |input, _| look(input, &as_it_is).unwrap()) == want);
}

#[test]
fn a_place_that_fails_is_no_end_of_the_video() {
    let middle = noise().1.len() as u64 / 2;
    for path in &NOISE.1 {
        for (then, kind, says) in
            [(Does::Fail, ErrorKind::Unavailable, "503"), (Does::Replace, ErrorKind::FailedPrecondition, "replaced")]
        {
            let bytes = std::fs::read(path).unwrap();
            let tail = bytes.len() as u64 - BLOCK_BYTES;
            // The end, where the index may be, is there. A request may begin before the middle and reach into it.
            let does = move |asked: Range<u64>| {
                if asked.start < tail && asked.end > middle { then } else { Does::Give }
            };
            let web = Web::start("noise", bytes, does);
            let error = read(&web, PLENTY, |input, _| {
                let error = look(input, &as_it_is).unwrap_err();
                // Nor is it for whoever comes later.
                assert_eq!(probe(&Tools::from_env(), input).unwrap_err(), error);
                error
            });
            assert!(error.kind == kind && error.message.contains(says), "{path:?}: {:?} {error}", error.kind);
        }
    }
}

#[test]
fn a_place_that_is_slow_is_no_decoder_that_stands_still() {
    let (path, bytes) = noise();
    let limit = Duration::from_secs(5);
    let slow = Arc::new(AtomicBool::new(true));
    let middle = bytes.len() as u64 / 2;
    let does = move |asked: Range<u64>| {
        if asked.start > middle && slow.swap(false, Ordering::SeqCst) {
            std::thread::sleep(limit + Duration::from_secs(1));
        }
        Does::Give
    };
    let web = Web::start("noise.mp4", bytes, does);
    let impatient = |decode: &mut Decode| decode.stall_limit = limit;
    let want = look(&Input::from(path), &impatient).unwrap();
    assert!(read(&web, PLENTY, |input, _| look(input, &impatient).unwrap()) == want);
}

#[test]
fn whoever_is_told_to_stop_waits_for_nothing() {
    let (sender, receiver) = std::sync::mpsc::sync_channel::<()>(1);
    let receiver = Mutex::new(receiver);
    let stopped = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stopped);
    // It never answers while the test goes on, and has the stop come once it was asked.
    let does = move |_| {
        told.store(true, Ordering::SeqCst);
        let _ = receiver.lock().unwrap().recv();
        Does::Give
    };
    let web = Web::start("noise.mp4", noise().1, does);
    let network = network();
    let (place, key) = network.object(&web.url).unwrap();
    let object = place.head(&key).unwrap();
    let ranges = Ranges::new("v", (place, object), tempfile::tempfile().unwrap(), (PLENTY, BLOCK_BYTES)).unwrap();
    let ranges = Arc::new(ranges);
    let cancelled = || stopped.load(Ordering::SeqCst);
    let error = std::thread::scope(|scope| {
        let _fetching = Fetching::start(&ranges, scope, &cancelled);
        look(&Input::Elsewhere(Arc::clone(&ranges)), &as_it_is).unwrap_err()
    });
    assert_eq!(error.kind, ErrorKind::Cancelled);
    drop(sender);
}
