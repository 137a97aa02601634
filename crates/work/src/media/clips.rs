//! Tiny clips for the tests, made by ffmpeg in a folder of their own, and the tests of decoding that need them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use engine::ErrorKind;
use pipeline::picture::draw::Mark;
use pipeline::{Fit, Placement, Resample};
use store::picture::Lies;
use tempfile::TempDir;

use super::*;

/// A folder that goes away with its clips.
pub(super) struct Clips(TempDir);

impl Clips {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.0.path().join(Path::new(name.as_ref()))
    }

    /// Runs ffmpeg in the folder with the words of `arguments` and the file `name` as its output.
    pub(super) fn make(&self, arguments: &str, name: impl AsRef<OsStr>) -> PathBuf {
        let path = self.path(name);
        let status = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-y"])
            .args(arguments.split(' '))
            .arg(ffprobe::input_url(&path))
            .current_dir(self.0.path())
            .status();
        assert!(status.unwrap().success(), "{arguments}");
        path
    }

    pub(super) fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }
}

/// Longer than any of the clips takes.
pub(super) const STALL_LIMIT: Duration = Duration::from_secs(30);

/// The test picture at 64x48, as input arguments.
const SOURCE: &str = "-f lavfi -i testsrc=s=64x48:r=10:d=2";

pub(super) fn tools() -> Tools {
    Tools { ffmpeg: "ffmpeg".into(), ffprobe: "ffprobe".into(), confined: true }
}

/// The whole video that `probe` describes, in frames of the size that `fit` asks for.
fn whole(fit: Fit, probe: &Probe) -> Decode {
    Decode {
        placement: Placement::of(fit, (probe.width, probe.height)).unwrap(),
        resample: Resample::Bilinear,
        stall_limit: STALL_LIMIT,
        span: Span::default(),
        choice: Choice::All,
    }
}

/// All frames of the video at `path`, in the size that `fit` asks for.
pub(super) fn decode(path: &Path, fit: Fit) -> Result<(Vec<Frame>, DecodeReport)> {
    let probe = probe(&tools(), path)?;
    let mut frames = Frames::open(&tools(), path, &probe, &whole(fit, &probe))?;
    let mut all = Vec::new();
    while let Some(frame) = frames.next()? {
        all.push(frame);
    }
    Ok((all, frames.finish()?))
}

/// The times that ffprobe states, as an independent witness.
fn stated_times(path: &Path) -> Vec<f64> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "V:0", "-show_entries", "frame=best_effort_timestamp_time"])
        .args(["-of", "csv=p=0"])
        .arg(ffprobe::input_url(path))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    // Side data adds a column of no interest.
    text.lines().filter_map(|line| line.split(',').next()?.parse().ok()).collect()
}

#[test]
fn every_frame_comes_with_its_time() {
    let clips = Clips::new();
    let vfr = "setpts='if(lt(N,10),N,10+3*(N-10))/(10*TB)',settb=1/1000";
    let table = [
        ("constant.mp4", format!("{SOURCE} -c:v libx264")),
        ("ntsc.mkv", "-f lavfi -i testsrc=s=64x48:r=30000/1001:d=1 -c:v libx264".to_owned()),
        ("variable.mp4", format!("{SOURCE} -vf {vfr} -fps_mode passthrough -c:v libx264 -enc_time_base 1:1000")),
        ("late.mkv", format!("{SOURCE} -vf setpts=PTS+5/TB -fps_mode passthrough -c:v libx264")),
        ("transport.ts", format!("{SOURCE} -c:v mpeg2video")),
        ("old.avi", format!("{SOURCE} -c:v mpeg4")),
        ("animated.gif", SOURCE.to_owned()),
    ];
    for (name, arguments) in table {
        let path = clips.make(&arguments, name);
        let (frames, report) = decode(&path, Fit::Source).unwrap();
        let want = stated_times(&path);
        assert!(want.len() >= 20, "{name}");
        let got: Vec<f64> = frames.iter().map(|frame| frame.pts_s()).collect();
        assert_eq!(got, want, "{name}");
        assert!(frames.iter().zip(0..).all(|(frame, index)| frame.index == index), "{name}");
        assert!(frames.iter().all(|frame| (frame.planes.width, frame.planes.height) == (64, 48)), "{name}");
        assert_eq!((report.frames, report.damage_count, report.first_damage), (want.len() as u64, 0, None), "{name}");
    }
}

/// As recorders leave it that are stopped and started again: each begins its clock anew.
#[test]
fn times_that_go_back_are_no_damage() {
    let clips = Clips::new();
    let once = std::fs::read(clips.make(&format!("{SOURCE} -c:v mpeg2video"), "once.ts")).unwrap();
    let path = clips.write("twice.ts", &[&once[..], &once].concat());
    let (frames, report) = decode(&path, Fit::Source).unwrap();
    let got: Vec<f64> = frames.iter().map(|frame| frame.pts_s()).collect();
    assert_eq!(got, stated_times(&path));
    assert!(got.windows(2).any(|pair| pair[1] <= pair[0]), "{got:?}");
    assert_eq!((report.frames, report.damage_count, report.first_damage), (40, 0, None));
}

#[test]
fn names_are_only_names() {
    let clips = Clips::new();
    let clip = clips.make(&format!("{SOURCE} -c:v libx264"), "plain.mp4");
    use std::os::unix::ffi::OsStrExt;
    let names: [&OsStr; 7] = [
        OsStr::new("a b.mp4"),
        OsStr::new("it's \"quoted\".mp4"),
        OsStr::new("-y.mp4"),
        OsStr::new("http:x.mp4"),
        OsStr::new("concat:a|b.mp4"),
        OsStr::new("%03d\n[error] x.mp4"),
        OsStr::from_bytes(b"\xff\xfe.mp4"),
    ];
    for name in names {
        let path = clips.path(name);
        std::fs::copy(&clip, &path).unwrap();
        assert_eq!(decode(&path, Fit::Source).unwrap().0.len(), 20, "{name:?}");
    }
}

#[test]
fn pixels_are_those_asked_for() {
    let clips = Clips::new();
    // Lossless, and of one colour, so that the bytes are known: orange in the left half, blue in the right.
    let halves = "-f lavfi -i color=0xff8000:s=32x48:r=5:d=1 -f lavfi -i color=0x0000ff:s=32x48:r=5:d=1 \
                  -filter_complex hstack,format=gbrp -c:v ffv1";
    let upright = clips.make(halves, "upright.mkv");
    let whole = clips.make(&format!("{SOURCE} -c:v libx264"), "whole.mp4");
    let turned = clips.make(&format!("-i {} -c copy -metadata:s:v rotate=90", whole.display()), "turned.mp4");
    let exact = |width, height| Fit::Exact { width, height };
    let letterbox = |width, height, lies| Fit::Letterbox { width, height, fill: 114, lies };
    let (orange, blue, grey, black) = ([255, 128, 0], [0, 0, 255], [114; 3], [0; 3]);
    let table = [
        (&upright, Fit::Source, (64, 48), Some([orange, blue])),
        (&upright, exact(31, 17), (31, 17), Some([orange, blue])),
        (&upright, letterbox(32, 32, Lies::Centre), (32, 32), Some([grey, grey])),
        (&upright, letterbox(80, 24, Lies::Corner), (80, 24), Some([orange, grey])),
        (&upright, Fit::Crop { short: 24, width: 24, height: 20 }, (24, 20), Some([orange, blue])),
        (&upright, Fit::Crop { short: 24, width: 16, height: 30 }, (16, 30), Some([black, black])),
        (&upright, Fit::Within { short: 24, long: 28 }, (28, 21), Some([orange, blue])),
        (&turned, Fit::Source, (48, 64), None),
        (&turned, exact(416, 416), (416, 416), None),
        (&turned, letterbox(64, 64, Lies::Centre), (64, 64), Some([grey, grey])),
    ];
    for (path, size, (width, height), corners) in table {
        let case = format!("{} {size:?}", path.display());
        let (frames, _) = decode(path, size).unwrap();
        for frame in &frames {
            assert_eq!((frame.planes.width, frame.planes.height), (width, height), "{case}");
            assert_eq!(frame.planes.bytes.len(), (width * height * 3) as usize, "{case}");
        }
        if let Some([first, last]) = corners {
            let pixels = &frames[0].planes.to_picture().pixels;
            let close = |a: &[u8], b: [u8; 3]| a.iter().zip(b).all(|(a, b)| a.abs_diff(b) <= 2);
            assert!(close(&pixels[..3], first) && close(&pixels[pixels.len() - 3..], last), "{case}");
        }
    }
    // The display matrix counts against the clock: the upper right corner becomes the upper left one.
    let (flat, _) = decode(&whole, Fit::Source).unwrap();
    let (turned, _) = decode(&turned, Fit::Source).unwrap();
    let at = |frame: &Frame, x: u32, y: u32| frame.planes.rgb()[0][(y * frame.planes.width + x) as usize];
    for (x, y) in [(0, 0), (63, 0), (0, 47), (20, 10), (50, 30)] {
        let (a, b) = (at(&flat[5], x, y), at(&turned[5], y, 63 - x));
        assert!(a.abs_diff(b) <= 40, "({x}, {y}): {a}, {b}");
    }
}

#[test]
fn what_is_no_video_is_refused_with_the_reason() {
    let clips = Clips::new();
    let whole = clips.make(&format!("{SOURCE} -c:v libx264"), "whole.mp4");
    let bytes = std::fs::read(&whole).unwrap();
    let playlist = format!("ffconcat version 1.0\nfile '{}'\n", whole.display());
    let table = [
        (clips.path("missing.mp4"), ErrorKind::NotFound, "does not exist"),
        (clips.write("empty.mp4", b""), ErrorKind::InvalidInput, "is empty"),
        (clips.path("."), ErrorKind::InvalidInput, "is a folder"),
        (PathBuf::from("/dev/null"), ErrorKind::InvalidInput, "not a regular file"),
        (
            clips.write("text.mp4", b"Dear diary,\ntoday I was a video.\n"),
            ErrorKind::InvalidInput,
            "no video that ffmpeg",
        ),
        (clips.write("text.txt", &b"Dear diary.\n".repeat(99)), ErrorKind::InvalidInput, "ffmpeg takes it for tty"),
        (clips.write("list.mp4", playlist.as_bytes()), ErrorKind::InvalidInput, "ffmpeg takes it for concat"),
        (
            clips.write("list.m3u8", b"#EXTM3U\n#EXTINF:1,\nwhole.mp4\n"),
            ErrorKind::InvalidInput,
            "no video that ffmpeg",
        ),
        (clips.write("headless.mp4", &bytes[..bytes.len() / 2]), ErrorKind::InvalidInput, "moov atom not found"),
        (clips.make("-f lavfi -i sine=d=1", "sound.mp4"), ErrorKind::InvalidInput, "no video stream"),
        (clips.make(&format!("{SOURCE} -frames:v 0 -c:v mjpeg"), "none.avi"), ErrorKind::InvalidInput, "no frame of"),
        (
            clips.make(&format!("{SOURCE} -frames:v 0 -c:v mpeg4"), "none.mkv"),
            ErrorKind::InvalidInput,
            "no video that ffmpeg",
        ),
    ];
    for (path, kind, words) in table {
        let error = decode(&path, Fit::Source).err().unwrap();
        let name = path.file_name().unwrap_or(OsStr::new("")).to_string_lossy().into_owned();
        assert!(
            error.kind == kind && error.message.contains(words) && error.message.contains(&name),
            "{name}: {:?} {error}",
            error.kind
        );
    }
}

#[test]
fn damage_is_counted_and_the_rest_kept() {
    let clips = Clips::new();
    let whole = clips.make("-f lavfi -i testsrc=s=64x48:r=10:d=8 -c:v libx264 -g 10 -movflags +faststart", "whole.mp4");
    let bytes = std::fs::read(&whole).unwrap();
    let half = clips.write("half.mp4", &bytes[..bytes.len() / 2]);
    let mut scratched = bytes.clone();
    // The first kilobyte of pictures: their headers and the first key frame.
    let pictures = bytes.windows(4).position(|window| window == b"mdat").unwrap() + 4;
    scratched[pictures..pictures + 1000].fill(0x55);
    let scratched = clips.write("scratched.mp4", &scratched);
    for (path, frames) in [(&half, 10..79), (&scratched, 20..80)] {
        let (got, report) = decode(path, Fit::Source).unwrap();
        assert!(frames.contains(&got.len()), "{}: {} frames", path.display(), got.len());
        assert!(report.damage_count > 0 && report.first_damage.is_some(), "{report:?}");
        // What is left keeps the times it had.
        let stated = stated_times(&whole);
        assert!(got.iter().all(|frame| stated.contains(&frame.pts_s())), "{}", path.display());
    }
    let (all, report) = decode(&whole, Fit::Source).unwrap();
    assert_eq!((all.len(), report.damage_count, report.first_damage), (80, 0, None));
}

/// A shell script in the place of ffmpeg.
fn stand_in(clips: &Clips, name: &str, script: &str) -> Tools {
    let text = clips.write(&format!("{name}.txt"), format!("#!/bin/sh\n{script}\n").as_bytes());
    let path = clips.path(name);
    // Copied by another process: a file that this one had open for writing cannot be run while some other test's
    // child, between fork and exec, still holds it.
    let copied = Command::new("install").args(["-m", "755"]).args([&text, &path]).status();
    assert!(copied.unwrap().success());
    Tools { ffmpeg: path, confined: false, ..tools() }
}

/// A frame of one pixel: its time, on standard input's descriptor, and its bytes.
const ONE_FRAME: &str = "printf 'frame:0 pts:0\\npackhorse=kept\\n' >&0; printf abc";
const ONE_PIXEL: Fit = Fit::Exact { width: 1, height: 1 };

/// Runs each script as the decoder: it must fail with the kind and the words beside it.
fn check_failures(stall_limit: Duration, table: &[(&str, ErrorKind, &str)]) {
    let clips = Clips::new();
    let path = clips.make(&format!("{SOURCE} -c:v libx264"), "clip.mp4");
    let probe = probe(&tools(), &path).unwrap();
    for (index, &(script, kind, words)) in table.iter().enumerate() {
        let tools = stand_in(&clips, &index.to_string(), &script.replace("FRAME", ONE_FRAME));
        let run = || -> Result<()> {
            let decode = Decode { stall_limit, ..whole(ONE_PIXEL, &probe) };
            let mut frames = Frames::open(&tools, &path, &probe, &decode)?;
            while frames.next()?.is_some() {}
            frames.finish().map(|_| ())
        };
        let error = run().unwrap_err();
        assert!(error.kind == kind && error.message.contains(words), "{script}: {:?} {error}", error.kind);
    }
}

#[test]
fn a_decoder_that_fails_is_told_from_a_bad_video() {
    use ErrorKind::{Internal, InvalidInput, Unavailable};
    let table = [
        ("FRAME; kill -SEGV $$", InvalidInput, "crashed (signal 11) after 1 frames"),
        ("FRAME; kill -KILL $$", Unavailable, "killed by signal 9 after 1 frames"),
        ("FRAME; exit 255", Unavailable, "interrupted after 1 frames"),
        ("echo '[error] no, no' >&2; exit 1", InvalidInput, "(no, no)"),
        ("printf abc", Internal, "no time for frame 0"),
    ];
    check_failures(Duration::from_secs(60), &table);
}

#[test]
fn a_decoder_that_makes_no_progress_is_stopped() {
    let table = [
        ("FRAME; exec sleep 600", ErrorKind::InvalidInput, "for 1.5 s at frame 1"),
        // Complaints are no progress.
        ("while :; do echo '[error] again' >&2; done", ErrorKind::InvalidInput, "at frame 0 (again)"),
    ];
    // Short enough to wait for, long enough for a busy machine to start a shell in.
    check_failures(Duration::from_millis(1500), &table);
}

#[test]
fn a_decoder_that_fails_late_is_damage() {
    let clips = Clips::new();
    let path = clips.make(&format!("{SOURCE} -c:v libx264"), "clip.mp4");
    let probe = probe(&tools(), &path).unwrap();
    let tools = stand_in(&clips, "half", &format!("{ONE_FRAME}; printf x; echo '[error] torn' >&2; exit 1"));
    let mut frames = Frames::open(&tools, &path, &probe, &whole(ONE_PIXEL, &probe)).unwrap();
    assert_eq!(frames.next().unwrap().unwrap().planes.bytes, b"abc");
    assert_eq!(frames.next().unwrap(), None);
    let report = frames.finish().unwrap();
    assert_eq!((report.frames, report.damage_count, report.first_damage.as_deref()), (1, 1, Some("torn")));
}

#[test]
fn an_early_end_leaves_nothing_behind() {
    let clips = Clips::new();
    let path = clips.make("-f lavfi -i testsrc=s=640x480:r=10:d=20 -c:v libx264 -preset ultrafast", "clip.mp4");
    let probe = probe(&tools(), &path).unwrap();
    let mut frames = Frames::open(&tools(), &path, &probe, &whole(Fit::Source, &probe)).unwrap();
    let first = frames.next().unwrap().unwrap();
    let (address, length) = (first.planes.bytes.as_ptr(), first.planes.bytes.len());
    frames.recycle(first.planes.bytes);
    let second = frames.next().unwrap().unwrap();
    assert_eq!((second.index, second.planes.bytes.as_ptr(), second.planes.bytes.len()), (1, address, length));
    let report = frames.finish().unwrap();
    assert_eq!((report.frames, report.damage_count), (2, 0));

    let running = || {
        let name = path.to_str().unwrap();
        let lines = std::fs::read_dir("/proc").unwrap().flatten();
        lines
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .filter(|line| String::from_utf8_lossy(line).contains(name))
            .count()
    };
    let mut frames = Frames::open(&tools(), &path, &probe, &whole(Fit::Source, &probe)).unwrap();
    // With the first frame it is certain that the program is up.
    frames.next().unwrap();
    assert_eq!(running(), 1);
    drop(frames);
    assert_eq!(running(), 0);
}

#[test]
fn an_annotated_video_keeps_frames_and_times() {
    let clips = Clips::new();
    let vfr = "setpts='if(lt(N,10),N,10+3*(N-10))/(10*TB)+5/TB',settb=1/1000";
    let source = clips.make(
        &format!(
            "-f lavfi -i testsrc=s=65x49:r=10:d=2 -vf {vfr} -fps_mode passthrough -c:v libx264 -enc_time_base 1:1000"
        ),
        "source.mkv",
    );
    let described = probe(&tools(), &source).unwrap();
    let (video, sheet) = (clips.path("out: a.mp4"), SheetPlan { path: clips.path("sheet.png"), frames: 20 });
    let job = Annotate {
        tools: &tools(),
        source: Input::from(&source),
        probe: &described,
        video: Some(&video),
        figures: &[],
        sheet: Some(&sheet),
    };
    let mut seen = Vec::new();
    let mark = Mark { box_px: [8.0, 20.0, 60.0, 44.0], text: "a 0.5".to_owned(), class: 0 };
    let done = annotate(&job, &mut |_| Ok(vec![mark.clone()]), &mut |count| seen.push(count)).unwrap();
    assert_eq!((done, seen), (20, (1..=20).collect()));
    let described = probe(&tools(), &video).unwrap();
    assert_eq!((described.codec.as_str(), described.width, described.height), ("h264", 66, 50));
    let times = stated_times(&source);
    for (got, stated) in stated_times(&video).into_iter().zip(&times) {
        assert!((got - (stated - times[0])).abs() < 1e-4, "{got} {stated}");
    }
    assert_eq!(stated_times(&video).len(), 20);
    let png =
        png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&sheet.path).unwrap())).read_info().unwrap();
    assert_eq!((png.info().width, png.info().color_type), (4 * 412 + 12, png::ColorType::Rgb));

    let nowhere = clips.path("no/such/folder.mp4");
    let job = Annotate { video: Some(&nowhere), ..job };
    let error = annotate(&job, &mut |_| Ok(vec![]), &mut |_| ()).unwrap_err();
    assert!(error.kind == ErrorKind::Internal && error.message.contains("No such file"), "{error}");
    assert!(!sheet.path.exists());
}
