//! The quality report: what was out of the ordinary with a video, and how it was treated. A pure function of what the
//! container says and of what was decoded.

use serde::{Deserialize, Serialize};

use crate::media::{Orientation, Probe};
use crate::result::Damage;
use crate::sampling::Sampling;
use crate::segment::{Lengths, Outline, Plan};

/// A trait of a video that somebody who wonders about its results should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Which kind of trait.
    pub about: About,
    /// What there is.
    pub found: String,
    /// What was made of it.
    pub treated: String,
}

/// The kinds of traits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum About {
    /// Stored turned or mirrored.
    Orientation,
    /// Pixels that are not square.
    SampleAspect,
    /// The matrix between luma and chroma and red, green and blue.
    ColourMatrix,
    /// Which numbers black and white are.
    ColourRange,
    /// A curve of light that is none of ordinary screens.
    ColourTransfer,
    /// Two fields a frame.
    Interlaced,
    /// Frames that an edit list hides.
    EditList,
    /// A first frame that is not shown at zero.
    Start,
    /// Frames that are not equally far apart.
    VariableRate,
    /// Numbers of frames that disagree.
    FrameCount,
    /// Frames without a time, or shown no later than the one before.
    Times,
    /// Errors of the decoder.
    Damage,
    /// An end that is missing.
    CutOff,
    /// A long video that could not be cut into segments.
    Uncut,
    /// Frames that cannot be told apart by whether others refer to them.
    References,
}

impl About {
    /// As people say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Orientation => "orientation",
            Self::SampleAspect => "shape of pixels",
            Self::ColourMatrix => "colour matrix",
            Self::ColourRange => "colour range",
            Self::ColourTransfer => "colour transfer",
            Self::Interlaced => "fields",
            Self::EditList => "edit list",
            Self::Start => "start",
            Self::VariableRate => "frame rate",
            Self::FrameCount => "number of frames",
            Self::Times => "times",
            Self::Damage => "damage",
            Self::CutOff => "end",
            Self::Uncut => "segments",
            Self::References => "references",
        }
    }
}

/// What was decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Decoded {
    /// Frames.
    pub frames: u64,
    /// When the first and the last frame that was looked at is shown, in microseconds.
    pub span_us: Option<(i64, i64)>,
    /// The shortest and the longest time between two frames that follow on each other, in microseconds.
    pub gaps_us: Option<(i64, i64)>,
    /// Frames that were shown no later than the one before.
    pub not_rising: u64,
}

impl Decoded {
    /// Takes in the frame `index`, which is shown at `pts_us`; the one before it was `before`.
    pub fn add(&mut self, index: u64, pts_us: i64, before: Option<(u64, i64)>) {
        self.span_us = Some((self.span_us.map_or(pts_us, |(first, _)| first), pts_us));
        let Some((before, before_us)) = before else { return };
        self.not_rising += u64::from(pts_us <= before_us);
        if index == before + 1 {
            let gap = pts_us.saturating_sub(before_us);
            self.gaps_us = Some(self.gaps_us.map_or((gap, gap), |(low, high)| (low.min(gap), high.max(gap))));
        }
    }
}

/// What there is to say about the video that `probe`, `outline` and `plan` describe, and of which `decoded` came. It was to
/// be cut and looked at like that.
pub fn report(
    video: (&Probe, &Outline, &Plan),
    decoded: &Decoded,
    damage: &Damage,
    (lengths, sampling): (&Lengths, Sampling),
) -> Vec<Note> {
    let (probe, outline, plan) = video;
    let mut notes = Vec::new();
    let mut note = |about, found: String, treated: &str| notes.push(Note { about, found, treated: treated.to_owned() });
    shape(probe, &mut note);
    colours(probe, &mut note);
    times(probe, outline, decoded, &mut note);
    if damage.errors > 0 {
        let first = damage.first.as_deref().unwrap_or("the decoder gave no reason");
        let found = format!("{} errors of the decoder, the first: {first}", damage.errors);
        note(About::Damage, found, "within the task's tolerance: frames are as the decoder mended them");
    }
    if damage.frames_missing > 0 {
        let found = format!("the last {} frames that are declared are missing", damage.frames_missing);
        note(About::CutOff, found, "within the task's tolerance: what is there is the result");
    }
    if let Some(why) = uncut(plan, outline, lengths) {
        note(About::Uncut, why.to_owned(), "one segment: whoever takes it up again decodes it from its beginning");
    }
    if sampling == Sampling::Reference && !probe.tells_references() {
        let found = format!("its codec, {}, does not tell which frames others refer to", probe.codec);
        note(About::References, found, "every frame is decoded and looked at");
    }
    notes
}

/// Why a video is one segment that is long enough for several.
fn uncut(plan: &Plan, outline: &Outline, lengths: &Lengths) -> Option<&'static str> {
    let reaches = |times: u64| {
        let of = |length: u64| length.saturating_mul(times);
        outline.frames >= of(lengths.frames) || outline.bytes >= of(lengths.bytes)
    };
    let whole = plan.whole.filter(|_| reaches(1));
    // Two lengths, since the first key frame behind one may be past the end.
    let without_keys = || {
        (plan.segments.len() == 1 && reaches(2)).then_some("no key frame behind its first length is one to begin at")
    };
    whole.or_else(without_keys)
}

fn shape(probe: &Probe, note: &mut impl FnMut(About, String, &str)) {
    let (width, height) = probe.stored_px;
    match probe.orientation {
        None => note(
            About::Orientation,
            "the display matrix is no quarter turn".to_owned(),
            "frames are looked at as they are stored",
        ),
        Some(Orientation { mirrored: false, clockwise_degrees: 0 }) => {}
        Some(Orientation { mirrored, clockwise_degrees }) => {
            let mirror = if mirrored { "mirrored, then " } else { "" };
            let found =
                format!("stored as {width}x{height}, to be {mirror}turned clockwise by {clockwise_degrees} degrees");
            note(About::Orientation, found, "frames are looked at upright, and boxes are on the upright frame");
        }
    }
    if probe.sample_aspect.0 != probe.sample_aspect.1 {
        let (wide, high) = probe.sample_aspect;
        let found = format!("pixels are {wide}:{high}");
        let treated = format!("frames are {}x{} with square pixels, and boxes are on those", probe.width, probe.height);
        note(About::SampleAspect, found, &treated);
    }
}

fn colours(probe: &Probe, note: &mut impl FnMut(About, String, &str)) {
    let colour = &probe.colour;
    match (probe.matrix_assumed(), colour.matrix.as_deref()) {
        (Some(assumed), _) => {
            let treated = format!("taken for {assumed}, as players do at this size");
            note(About::ColourMatrix, "the file does not say it".to_owned(), &treated);
        }
        (None, Some(matrix)) if matrix.starts_with("bt2020") => {
            note(
                About::ColourMatrix,
                matrix.to_owned(),
                "converted by that matrix; the wider primaries are left as they are",
            );
        }
        _ => {}
    }
    if colour.range.as_deref() == Some("pc") && colour.matrix.as_deref() != Some("gbr") {
        note(About::ColourRange, "full".to_owned(), "black is 0 and white is 255");
    }
    if let Some(transfer @ ("smpte2084" | "arib-std-b67")) = colour.transfer.as_deref() {
        note(About::ColourTransfer, transfer.to_owned(), "high dynamic range is not mapped down: frames look pale");
    }
    if probe.interlaced {
        note(About::Interlaced, "a frame is two fields".to_owned(), "frames are looked at with both fields woven");
    }
}

fn times(probe: &Probe, outline: &Outline, decoded: &Decoded, note: &mut impl FnMut(About, String, &str)) {
    const TREATED: &str = "every frame that can be decoded is looked at, with the time that the file gives it";
    let seconds = |us: i64| us as f64 / 1e6;
    if outline.hidden > 0 {
        let found = format!("an edit list hides {} frames", outline.hidden);
        note(About::EditList, found, "hidden frames are decoded and not looked at");
    }
    // Half a frame is what rounding and codecs' delays explain.
    let start_us = decoded.span_us.map_or(0, |(first_us, _)| first_us);
    if start_us.abs() > 20_000 {
        note(About::Start, format!("the first frame is shown at {:.6} s", seconds(start_us)), TREATED);
    }
    if let Some((low, high)) = decoded.gaps_us.filter(|&(low, high)| high > low.saturating_mul(3) / 2 + 2_000) {
        let found = format!("frames are {:.6} to {:.6} s apart", seconds(low), seconds(high));
        note(About::VariableRate, found, TREATED);
    }
    let declared = probe.frames_declared.unwrap_or(outline.frames);
    if declared != decoded.frames || outline.frames != decoded.frames {
        let found = format!("declared {declared}, stored {}, decoded {}", outline.frames, decoded.frames);
        note(About::FrameCount, found, TREATED);
    }
    if outline.untimed > 0 {
        let found = format!("{} compressed frames have no time", outline.untimed);
        note(About::Times, found, "times are those that the decoder works out");
    }
    if decoded.not_rising > 0 {
        let found = format!("{} frames are shown no later than the one before", decoded.not_rising);
        note(About::Times, found, TREATED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Colour;

    #[test]
    fn a_plain_video_has_nothing_to_report_and_a_strange_one_all_of_it() {
        let matrix = Some("bt709".to_owned());
        let plain = Probe { colour: Colour { matrix, ..Probe::example().colour }, ..Probe::example() };
        let outline = Outline { frames: 250, ..Outline::default() };
        let plan = Plan::new(&plain, &outline, &Lengths::default(), None);
        let decoded =
            Decoded { frames: 250, span_us: Some((0, 9_960_000)), gaps_us: Some((40_000, 40_000)), not_rising: 0 };
        let none = Damage::default();
        let how = (&Lengths::default(), Sampling::Reference);
        assert_eq!(report((&plain, &outline, &plan), &decoded, &none, how), []);

        let strange = Probe {
            orientation: Some(Orientation { mirrored: true, clockwise_degrees: 90 }),
            sample_aspect: (16, 15),
            colour: Colour {
                layout: Some("yuv420p10le".to_owned()),
                matrix: None,
                range: Some("pc".to_owned()),
                transfer: Some("smpte2084".to_owned()),
            },
            interlaced: true,
            codec: "vp9".to_owned(),
            ..plain
        };
        let outline = Outline { frames: 260, bytes: 1 << 30, hidden: 3, untimed: 1, ..Outline::default() };
        let plan = Plan::new(&strange, &outline, &Lengths::default(), None);
        let decoded =
            Decoded { frames: 240, span_us: Some((5_000_000, 0)), gaps_us: Some((-1, 90_000)), not_rising: 2 };
        let damage = Damage { errors: 1, first: None, frames_missing: 10, tolerance: 1.0 };
        let notes = report((&strange, &outline, &plan), &decoded, &damage, how);
        let about: Vec<_> = notes.iter().map(|note| serde_json::to_value(note.about).unwrap()).collect();
        let want = [
            "orientation",
            "sample-aspect",
            "colour-matrix",
            "colour-range",
            "colour-transfer",
            "interlaced",
            "edit-list",
            "start",
            "variable-rate",
            "frame-count",
            "times",
            "times",
            "damage",
            "cut-off",
            "uncut",
            "references",
        ];
        assert_eq!(about, want);
        assert!(notes.iter().all(|note| !note.found.is_empty() && !note.treated.is_empty()));
    }

    #[test]
    fn gaps_are_between_frames_that_follow_on_each_other() {
        let mut decoded = Decoded::default();
        let mut before = None;
        for (index, pts_us) in [(0, 0), (1, 40), (2, 90), (5, 300), (6, 300), (7, 280)] {
            decoded.add(index, pts_us, before);
            before = Some((index, pts_us));
        }
        assert_eq!((decoded.span_us, decoded.gaps_us, decoded.not_rising), (Some((0, 280)), Some((-20, 50)), 2));
    }
}
