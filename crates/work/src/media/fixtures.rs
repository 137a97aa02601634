//! Videos with every trait that a decoder may stumble over, made by ffmpeg when a test asks for them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex};

use super::ffprobe::input_url;

/// A video and what is to be expected of it.
#[derive(Debug)]
pub(crate) struct Fixture {
    /// The file's name; its ending decides on the container.
    pub(crate) name: &'static str,
    /// The encoder and what else ffmpeg is told.
    arguments: &'static str,
    /// Whether it can be cut.
    pub(crate) cuts: bool,
    /// What is done to it once it is made.
    pub(crate) damage: Damage,
}

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    None,
    /// Nothing more than its encoder did.
    Made,
    /// Bytes in the middle of the compressed pictures are overwritten.
    Scratched,
    /// Its last third is missing.
    Cut,
}

/// 40 frames of a picture that moves everywhere, with a key frame every ten unless the encoder is told otherwise.
const SOURCE: &str = "-f lavfi -i testsrc2=s=96x64:r=20:d=2";

/// The same of a picture in which next to nothing moves: a small square does, from 0.3 s on and from 1.2 s on.
pub(crate) const STILL: &str = "-f lavfi -i smptebars=s=96x64:r=20:d=2[still];color=white:s=12x12:r=20[square];[still][square]\
     overlay=y=20:shortest=1:x='8+if(between(t,0.3,0.55),160*(t-0.3))+if(between(t,1.2,1.35),160*(t-1.2))'";

const fn fixture(name: &'static str, arguments: &'static str, cuts: bool) -> Fixture {
    Fixture { name, arguments, cuts, damage: Damage::None }
}

const fn damaged(name: &'static str, arguments: &'static str, cuts: bool, damage: Damage) -> Fixture {
    Fixture { name, arguments, cuts, damage }
}

pub(crate) const FIXTURES: &[Fixture] = &[
    fixture("h264.mp4", "-c:v libx264 -g 10 -bf 2 -movflags +faststart", true),
    fixture("h264.mkv", "-c:v libx264 -g 10 -bf 2", true),
    fixture("h264.ts", "-c:v libx264 -g 10 -bf 2", false),
    fixture("h264-fragments.mp4", "-c:v libx264 -g 10 -movflags +frag_keyframe+empty_moov+default_base_moof", true),
    // Key frames that have frames before them in time and behind them in the file.
    fixture("h264-open.mkv", "-c:v libx264 -x264-params open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0", false),
    // Pictures refreshed column by column, without a key frame worth the name.
    fixture("h264-refresh.mkv", "-c:v libx264 -x264-params intra-refresh=1:keyint=10:bframes=0", false),
    fixture("h264-late.mkv", "-vf setpts=PTS+7/TB -fps_mode passthrough -c:v libx264 -g 10", true),
    fixture(
        "h264-variable.mp4",
        "-vf setpts='if(lt(N,15),N,15+3*(N-15))/(20*TB)',settb=1/1000 -fps_mode passthrough -enc_time_base 1:1000 \
         -c:v libx264 -g 10",
        true,
    ),
    fixture("hevc.mp4", "-c:v libx265 -x265-params log-level=none:keyint=10:open-gop=0", true),
    fixture(
        "hevc-open.mkv",
        "-c:v libx265 -x265-params log-level=none:keyint=10:min-keyint=10:open-gop=1:bframes=3",
        true,
    ),
    fixture("vp8.webm", "-c:v libvpx -g 10 -deadline realtime -cpu-used 8 -lag-in-frames 5 -auto-alt-ref 1", true),
    fixture("vp9.webm", "-c:v libvpx-vp9 -g 10 -deadline realtime -cpu-used 8 -lag-in-frames 5", true),
    fixture("av1.mp4", "-c:v libaom-av1 -g 10 -usage realtime -cpu-used 8", true),
    fixture("mpeg2.mkv", "-c:v mpeg2video -g 10 -bf 2", true),
    fixture("mpeg2.ts", "-c:v mpeg2video -g 10 -bf 2", false),
    fixture("mpeg2.mpg", "-c:v mpeg2video -g 10", false),
    fixture("mpeg4.mp4", "-c:v mpeg4 -g 10 -bf 2", true),
    fixture("mpeg4.avi", "-c:v mpeg4 -g 10 -bf 2", false),
    fixture("mjpeg.mov", "-c:v mjpeg -pix_fmt yuvj420p", true),
    fixture("mjpeg.avi", "-c:v mjpeg -pix_fmt yuvj420p", false),
    fixture("ffv1.mkv", "-c:v ffv1 -g 10", true),
    fixture("cinepak.avi", "-c:v cinepak -g 10", false),
    fixture("animated.gif", "", false),
    // As a recording that was joined late: the first key frame and its headers are missing.
    damaged("headless.ts", "-c:v libx264 -g 10 -bf 2 -bsf:v noise=drop=eq(n\\,0)", false, Damage::Made),
    damaged("scratched.mp4", "-c:v libx264 -g 10 -bf 2 -movflags +faststart", true, Damage::Scratched),
    damaged("scratched.mkv", "-c:v libx265 -x265-params log-level=none:keyint=10", true, Damage::Scratched),
    damaged("scratched.ts", "-c:v mpeg2video -g 10", false, Damage::Scratched),
    damaged("cut.mkv", "-c:v libx264 -g 10 -bf 2", true, Damage::Cut),
    damaged("cut.mp4", "-c:v libx264 -g 10 -bf 2 -movflags +faststart", true, Damage::Cut),
    damaged("cut.avi", "-c:v mpeg4 -g 10", false, Damage::Cut),
];

/// What each was when it was made, by its name and its source.
type Made = HashMap<(&'static str, &'static str), Vec<u8>>;

/// Made once, since that is what takes time.
static MADE: LazyLock<Mutex<Made>> = LazyLock::new(Mutex::default);

impl Fixture {
    /// Makes the video in `folder`.
    pub(crate) fn make(&self, folder: &Path) -> PathBuf {
        self.make_of(SOURCE, folder)
    }

    /// Makes it of another source.
    pub(crate) fn make_of(&self, source: &'static str, folder: &Path) -> PathBuf {
        let path = folder.join(self.name);
        let made = MADE.lock().unwrap().get(&(self.name, source)).cloned();
        let bytes = made.unwrap_or_else(|| {
            let bytes = self.made_of(source, &path);
            // Whoever made it meanwhile was first: it is the same for all.
            MADE.lock().unwrap().entry((self.name, source)).or_insert(bytes).clone()
        });
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Has ffmpeg make it at `path`, and says what it is to be.
    fn made_of(&self, source: &str, path: &Path) -> Vec<u8> {
        let line = format!("{source} {}", self.arguments);
        let status = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-y", "-threads", "1"])
            .args(line.split_whitespace())
            .arg(input_url(path))
            .stdin(Stdio::null())
            .status();
        assert!(status.unwrap().success(), "{line}");
        let mut bytes = std::fs::read(path).unwrap();
        let length = bytes.len();
        match self.damage {
            Damage::None | Damage::Made => {}
            Damage::Cut => bytes.truncate(length * 2 / 3),
            Damage::Scratched => {
                // Over where one frame ends and the next begins: within a frame a decoder need not notice.
                let place = length * 6 / 8;
                bytes[place..place + 400].fill(0x5a);
            }
        }
        bytes
    }
}
