//! Where a video is cut: a pure function of what its container says.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Key, Outline};
use crate::media::Probe;

/// The containers in which ffmpeg finds a key frame by its time exactly, because they have an index of times.
const INDEXED: [&str; 2] = ["mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"];

/// Codecs whose key frames start afresh, with what may be shown before them and comes after: a decoder of these leaves
/// such frames out without a word when it begins there. H.264's calls them errors, so of its key frames only those serve
/// that have none; and where a stream refreshes its picture little by little its "key frames" are not even pictures,
/// which shows at the seam.
const LEADING_LEFT_OUT: [&str; 3] = ["hevc", "mpeg2video", "mpeg4"];
const LEADING_NONE: [&str; 10] = ["h264", "vp8", "vp9", "av1", "mjpeg", "prores", "dnxhd", "ffv1", "huffyuv", "png"];

/// Frames that are shown after a key frame, as far as they are listed, when nothing that is shown before it is taken to follow:
/// no codec lets a frame lie more than 16 places before one that is shown earlier.
const SETTLED_FRAMES: u64 = 17;

/// How long a segment is: it ends at the first key frame at which it has reached any of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Lengths {
    /// Time shown.
    pub seconds: u32,
    /// Frames shown.
    pub frames: u64,
    /// Compressed bytes, which bound what is read again when a segment is taken up once more.
    pub bytes: u64,
}

impl Default for Lengths {
    fn default() -> Self {
        Self { seconds: 30, frames: 1500, bytes: 64 << 20 }
    }
}

/// A stretch of a video that begins at a key frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// From 0, in order.
    pub index: u32,
    /// When its first frame is shown; without it, it begins where the video does.
    pub from_us: Option<i64>,
    /// When the first frame after it is shown; without it, it ends where the video does.
    pub before_us: Option<i64>,
    /// Frames that the container shows before it.
    pub frames_before: u64,
    /// When the frame before it is shown.
    pub previous_us: Option<i64>,
}

/// The segments of a video.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// In order, without gaps; at least one.
    pub segments: Vec<Segment>,
    /// Why the video is not cut, when that is not for its length.
    pub whole: Option<&'static str>,
}

impl Plan {
    /// Cuts the video that `probe` and `outline` describe: at key frames, and where there are `entries`, at none but those
    /// that are shown at these times, in microseconds.
    pub fn new(probe: &Probe, outline: &Outline, lengths: &Lengths, entries: Option<&BTreeSet<i64>>) -> Self {
        match leading_allowed(probe, outline) {
            Ok(leading) => {
                let keys = outline.keys.iter().filter(|key| leading || key.leading == 0);
                let is_entry = |us: &i64| entries.is_none_or(|entries| entries.contains(us));
                let keys = keys.filter(|key| probe.microseconds(key.pts).as_ref().is_some_and(is_entry));
                Self { segments: cut(probe, outline, keys, lengths), whole: None }
            }
            Err(why) => Self { segments: vec![segment(0, None, None)], whole: Some(why) },
        }
    }

    /// The same of a video whose list goes on: segments of which both ends are there. What is still to be listed may show that
    /// it is cut otherwise, where a container has its frames in no order.
    pub fn so_far(probe: &Probe, outline: &Outline, lengths: &Lengths, entries: Option<&BTreeSet<i64>>) -> Self {
        let mut plan = Self::new(probe, outline, lengths, entries);
        if plan.whole.is_none() {
            let is_settled = |next: &&Segment| next.frames_before + SETTLED_FRAMES <= outline.frames;
            let ended = plan.segments.iter().skip(1).take_while(is_settled).count();
            plan.segments.truncate(ended);
        }
        plan
    }

    /// Whether `longer` says the same, and maybe more.
    pub fn is_continued_by(&self, longer: &Self) -> bool {
        self.whole == longer.whole && longer.segments.starts_with(&self.segments)
    }

    /// The only segment of a video about which nothing more is known.
    #[cfg(test)]
    pub(super) fn uncut(why: &'static str) -> Self {
        Self { segments: vec![segment(0, None, None)], whole: Some(why) }
    }
}

/// Whether frames may be shown before the key frame at which a segment begins and be decoded after it.
fn leading_allowed(probe: &Probe, outline: &Outline) -> Result<bool, &'static str> {
    if !INDEXED.contains(&probe.container.as_str()) {
        return Err("its container has no index of times");
    }
    if outline.untimed > 0 {
        return Err("it has frames without a time");
    }
    if outline.hidden_inside > 0 {
        return Err("an edit list hides frames in its middle");
    }
    let codec = probe.codec.as_str();
    match (LEADING_LEFT_OUT.contains(&codec), LEADING_NONE.contains(&codec)) {
        (true, _) => Ok(true),
        (_, true) => Ok(false),
        (false, false) => Err("its codec is not known to start afresh at key frames"),
    }
}

fn cut<'a>(probe: &Probe, outline: &Outline, keys: impl Iterator<Item = &'a Key>, lengths: &Lengths) -> Vec<Segment> {
    let time_us = |ticks: i64| probe.microseconds(ticks);
    let mut segments = vec![segment(0, None, None)];
    // Where the newest segment begins: time, frames and bytes before it.
    let mut begun = (outline.span.and_then(|(first, _)| time_us(first)).unwrap_or_default(), 0, 0);
    for key in keys {
        let Some((from_us, previous_us)) = time_us(key.pts).zip(time_us(key.before)) else { continue };
        let long = from_us.saturating_sub(begun.0) >= i64::from(lengths.seconds) * 1_000_000;
        let many = key.frames_before.saturating_sub(begun.1) >= lengths.frames;
        let large = key.bytes_before.saturating_sub(begun.2) >= lengths.bytes;
        // Frames that a microsecond does not tell apart are not cut apart.
        if !(long || many || large) || previous_us >= from_us {
            continue;
        }
        let Ok(index) = u32::try_from(segments.len()) else { break };
        if let Some(last) = segments.last_mut() {
            last.before_us = Some(from_us);
        }
        let next = segment(index, Some(from_us), None);
        segments.push(Segment { frames_before: key.frames_before, previous_us: Some(previous_us), ..next });
        begun = (from_us, key.frames_before, key.bytes_before);
    }
    segments
}

fn segment(index: u32, from_us: Option<i64>, before_us: Option<i64>) -> Segment {
    Segment { index, from_us, before_us, frames_before: 0, previous_us: None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Packet;
    use super::*;

    fn probe(container: &str, codec: &str) -> Probe {
        let text = |text: &str| text.to_owned();
        Probe { container: text(container), codec: text(codec), tick_s: (1, 1_000_000), ..Probe::example() }
    }

    const MP4: &str = "mov,mp4,m4a,3gp,3g2,mj2";

    /// Key frames every `group` frames of 40 ms, a thousand bytes each.
    fn steady(frames: u64, group: u64) -> Outline {
        let mut outline = Outline::default();
        for frame in 0..frames {
            let pts = Some(i64::try_from(frame).unwrap() * 40_000);
            outline.add(Packet { pts, bytes: 1000, at: None, key: frame % group == 0, hidden: false });
        }
        outline
    }

    #[test]
    fn segments_end_at_the_first_key_frame_past_a_length() {
        let check = |lengths: Lengths, want: &[u64]| {
            let plan = Plan::new(&probe(MP4, "h264"), &steady(1000, 30), &lengths, None);
            let got: Vec<u64> = plan.segments.iter().map(|segment| segment.frames_before).collect();
            assert_eq!(got, want, "{lengths:?}");
        };
        let never = Lengths { seconds: u32::MAX, frames: u64::MAX, bytes: u64::MAX };
        check(never, &[0]);
        check(Lengths { frames: 400, ..never }, &[0, 420, 840]);
        check(Lengths { seconds: 12, ..never }, &[0, 300, 600, 900]);
        check(Lengths { bytes: 500_000, ..never }, &[0, 510]);
        check(Lengths { seconds: 12, frames: 120, bytes: 500_000 }, &[0, 120, 240, 360, 480, 600, 720, 840, 960]);
    }

    #[test]
    fn what_cannot_be_cut_is_whole_for_a_reason() {
        let outline = steady(1000, 30);
        let check = |probe: &Probe, outline: &Outline, want: Option<&str>| {
            let plan = Plan::new(probe, outline, &Lengths { frames: 100, ..Lengths::default() }, None);
            assert_eq!(plan.whole, want);
            assert_eq!(plan.segments.len() == 1, want.is_some());
        };
        check(&probe(MP4, "h264"), &outline, None);
        check(&probe("matroska,webm", "vp9"), &outline, None);
        check(&probe("avi", "h264"), &outline, Some("its container has no index of times"));
        check(&probe(MP4, "cinepak"), &outline, Some("its codec is not known to start afresh at key frames"));
        let untimed = Outline { untimed: 1, ..outline.clone() };
        check(&probe(MP4, "h264"), &untimed, Some("it has frames without a time"));
        let edited = Outline { hidden_inside: 1, ..outline };
        check(&probe(MP4, "h264"), &edited, Some("an edit list hides frames in its middle"));
    }

    #[test]
    fn a_key_frame_with_leading_frames_serves_where_decoders_leave_them_out() {
        let mut outline = Outline::default();
        for (pts, key) in [(0, true), (40, false), (160, true), (80, false), (120, false), (200, true)] {
            outline.add(Packet { pts: Some(pts * 1000), bytes: 1, at: None, key, hidden: false });
        }
        for (codec, want) in [("hevc", &[0, 4, 5][..]), ("h264", &[0, 5])] {
            let plan = Plan::new(&probe(MP4, codec), &outline, &Lengths { frames: 1, ..Lengths::default() }, None);
            let got: Vec<u64> = plan.segments.iter().map(|segment| segment.frames_before).collect();
            assert_eq!(got, want, "{codec}");
        }
    }

    proptest! {
        #[test]
        fn segments_meet_and_hold_every_frame(
            times in prop::collection::vec((0i64..500, any::<bool>(), prop::bool::weighted(0.05)), 1..200),
            frames in 1u64..40,
            codec in prop::sample::select(vec!["h264", "hevc"]),
        ) {
            let mut outline = Outline::default();
            for &(time, key, hidden) in &times {
                outline.add(Packet { pts: Some(time), bytes: 1, at: None, key, hidden });
            }
            let lengths = Lengths { frames, ..Lengths::default() };
            let plan = Plan::new(&probe(MP4, codec), &outline, &lengths, None);
            let (first, last) = (plan.segments[0], plan.segments[plan.segments.len() - 1]);
            prop_assert_eq!((first.from_us, first.frames_before, last.before_us), (None, 0, None));
            for (index, pair) in plan.segments.windows(2).enumerate() {
                prop_assert_eq!(pair[0].before_us, pair[1].from_us);
                prop_assert!(pair[0].from_us < pair[1].from_us && pair[1].previous_us < pair[1].from_us);
                prop_assert_eq!(pair[1].index as usize, index + 1);
                // A frame counts as before the cut exactly when it is shown before.
                let shown = times.iter().filter(|(_, _, hidden)| !hidden);
                let before = shown.filter(|&&(time, ..)| Some(time) < pair[1].from_us).count() as u64;
                prop_assert_eq!(pair[1].frames_before, before);
            }
        }

        #[test]
        fn what_is_known_early_is_what_is_known_late(
            groups in prop::collection::vec((1i64..30, 0u8..3), 1..40),
            frames in 1u64..40,
            codec in prop::sample::select(vec!["h264", "hevc"]),
        ) {
            let (probe, lengths) = (probe(MP4, codec), Lengths { frames, ..Lengths::default() });
            let (mut outline, mut so_far, mut first) = (Outline::default(), Vec::new(), 0);
            for (length, leading) in groups {
                // Some of the group before are shown before its key frame and lie behind it.
                let leading = i64::from(leading).min(first);
                let times = std::iter::once(first).chain(first - leading..first).chain(first + 1..first + length);
                for pts in times {
                    let pts = Some(pts * 40_000 + if pts < first { 1 } else { 0 });
                    outline.add(Packet { pts, bytes: 1, at: None, key: pts == Some(first * 40_000), hidden: false });
                    so_far.push(Plan::so_far(&probe, &outline, &lengths, None));
                }
                first += length;
            }
            let plan = Plan::new(&probe, &outline, &lengths, None);
            for earlier in so_far {
                prop_assert!(earlier.is_continued_by(&plan), "{:?} {:?}", earlier, plan);
                prop_assert!(earlier.segments.iter().all(|segment| segment.before_us.is_some()));
            }
        }
    }
}
