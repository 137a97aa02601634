//! Which frames of a video are looked at. What is left out is still decoded, but neither scaled nor put to the model;
//! scaled as well where it is the picture that decides; and not even decoded where frames are wanted that stand without it.

use std::fmt;
use std::str::FromStr;

use engine::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::gate::Gate;
use crate::media::{Choice, Probe};

/// Frames a second that may be asked for.
const FPS: std::ops::RangeInclusive<f64> = 0.001..=1000.0;

/// Which frames of a video are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Sampling {
    /// Every one.
    #[default]
    All,
    /// One of so many: those whose number it divides.
    Every(u32),
    /// So many a second: the first of each of as many stretches of a second of the file's own clock, whatever its rate.
    Fps(f64),
    /// Those in which something has moved since the frame before, and some of the others.
    Motion(Gate),
    /// Those to which others refer, where the codec tells them apart.
    Reference,
    /// Those that are coded without the others.
    KeyFrames,
}

/// A frame that may be looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Moment {
    /// Frames of the video before it.
    pub(crate) number: u64,
    /// When it is shown, in microseconds, and when the frame before it; `None` for the video's first.
    pub(crate) pts_us: i64,
    pub(crate) previous_us: Option<i64>,
    /// Whether it is one of a gate's [entries](Gate::entries), or the first frame since one.
    pub(crate) is_entry: bool,
    /// Whether its container calls it a key frame; asked where only those are looked at.
    pub(crate) is_key: bool,
    /// By how much the picture has changed since the frame before; `None` where nobody looks, or saw that one.
    pub(crate) change: Option<f64>,
}

impl Sampling {
    /// Whether some frames may not even be decoded.
    pub(crate) fn passes_over(self) -> bool {
        matches!(self, Self::Reference | Self::KeyFrames)
    }

    /// Which frames of the video in question are decoded.
    pub(crate) fn decoded(self, probe: &Probe) -> Choice {
        match self {
            Self::KeyFrames => Choice::KeyFrames,
            Self::Reference if probe.tells_references() => Choice::References,
            _ => Choice::All,
        }
    }

    /// Whether a frame is looked at. It depends on the frame alone and on the one directly before, so that the answer is
    /// the same wherever a decoder begins.
    pub(crate) fn wants(self, moment: &Moment) -> bool {
        match self {
            Self::All | Self::Reference => true,
            // Some decoders pass over no frame, whatever they are asked.
            Self::KeyFrames => moment.is_key,
            Self::Every(frames) => moment.number.is_multiple_of(u64::from(frames)),
            Self::Fps(fps) => {
                let stretch = |pts_us: i64| (pts_us as f64 * fps / 1e6).floor();
                moment.previous_us.is_none_or(|previous_us| stretch(moment.pts_us) > stretch(previous_us))
            }
            Self::Motion(gate) => {
                let begins = |previous_us| gate.begins(previous_us, moment.pts_us);
                let moved = |change| change > gate.levels;
                moment.is_entry || moment.previous_us.is_none_or(begins) || moment.change.is_none_or(moved)
            }
        }
    }

    /// The gate that decides, where one does.
    pub(crate) fn gate(self) -> Option<Gate> {
        match self {
            Self::Motion(gate) => Some(gate),
            Self::All | Self::Every(_) | Self::Fps(_) | Self::Reference | Self::KeyFrames => None,
        }
    }

    /// The same as an expression of ffmpeg's `select`, in the same arithmetic, for a decoder that gives out the frame with
    /// the number `first` first. `None` where all that is decoded is wanted, if only to decide.
    pub(crate) fn expression(self, first: u64) -> Option<String> {
        match self {
            Self::All | Self::Motion(_) | Self::Reference | Self::KeyFrames => None,
            Self::Every(frames) => Some(format!("not(mod(n+{first},{frames}))")),
            Self::Fps(fps) => {
                let stretch = |pts: &str| format!("floor({pts}*{fps}/1000000)");
                Some(format!("isnan(prev_pts)+gt({},{})", stretch("pts"), stretch("prev_pts")))
            }
        }
    }
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Every(frames) => write!(f, "every:{frames}"),
            Self::Fps(fps) => write!(f, "fps:{fps}"),
            Self::Motion(gate) => write!(f, "motion:{gate}"),
            Self::Reference => f.write_str("reference"),
            Self::KeyFrames => f.write_str("key-frames"),
        }
    }
}

impl FromStr for Sampling {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let sampling = match text.split_once(':') {
            None if text == "all" => Some(Self::All),
            None if text == "reference" => Some(Self::Reference),
            None if text == "key-frames" => Some(Self::KeyFrames),
            None if text == "motion" => Some(Self::Motion(Gate::default())),
            Some(("motion", gate)) => Gate::parse(gate).map(Self::Motion),
            Some(("every", frames)) => match frames.parse() {
                Ok(1) => Some(Self::All),
                Ok(frames) if frames > 1 => Some(Self::Every(frames)),
                _ => None,
            },
            Some(("fps", fps)) => fps.parse().ok().filter(|fps| FPS.contains(fps)).map(Self::Fps),
            _ => None,
        };
        sampling.ok_or_else(|| {
            Error::invalid(format!(
                "'{text}' does not say which frames are looked at: give all, every:N, fps:N (a number from 0.001 to 1000), \
                 motion, motion:LEVELS:SECONDS (from 0 to 255, and from 0.001 to 3600), reference or key-frames"
            ))
        })
    }
}

impl TryFrom<String> for Sampling {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Sampling> for String {
    fn from(sampling: Sampling) -> Self {
        sampling.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_read_as_they_are_written() {
        for text in [
            "all",
            "every:2",
            "every:4294967295",
            "fps:2",
            "fps:0.5",
            "fps:29.97",
            "motion:3:1",
            "motion:0:0.001",
            "motion:2.5:3600",
            "reference",
            "key-frames",
        ] {
            assert_eq!(text.parse::<Sampling>().unwrap().to_string(), text);
        }
        // What is not said is said in what is kept, whatever it is taken for one day.
        for (text, whole) in [("motion", "motion:5:1"), ("motion:8", "motion:8:1")] {
            assert_eq!(text.parse::<Sampling>().unwrap().to_string(), whole);
        }
        assert_eq!("every:1".parse::<Sampling>().unwrap(), Sampling::All);
        let others = "every every:0 every:-1 every:x fps:0 fps:1001 fps:NaN fps:inf motion: motion:-1 motion:256 motion:NaN \
                      motion:3: motion:3:0 motion:3:3601 motion:3:1:1 keys all:1";
        for text in others.split_whitespace().chain([""]) {
            assert!(text.parse::<Sampling>().unwrap_err().message.contains("every:N"), "{text}");
        }
    }

    /// The numbers of the frames that are looked at, of frames that are shown at `times_us`.
    fn looked_at(sampling: Sampling, times_us: &[i64]) -> Vec<usize> {
        let moment = |index: usize| Moment {
            number: index as u64,
            pts_us: times_us[index],
            previous_us: index.checked_sub(1).map(|before| times_us[before]),
            is_entry: false,
            is_key: index.is_multiple_of(5),
            change: None,
        };
        (0..times_us.len()).filter(|&index| sampling.wants(&moment(index))).collect()
    }

    #[test]
    fn frames_are_chosen() {
        let steady: Vec<i64> = (0..10).map(|frame| 5_000_000 + frame * 100_000).collect();
        assert_eq!(looked_at(Sampling::All, &steady).len(), 10);
        assert_eq!(looked_at(Sampling::Reference, &steady).len(), 10);
        assert_eq!(looked_at(Sampling::KeyFrames, &steady), [0, 5]);
        assert_eq!(looked_at(Sampling::Every(4), &steady), [0, 4, 8]);
        assert_eq!(looked_at(Sampling::Fps(5.0), &steady), [0, 2, 4, 6, 8]);
        assert_eq!(looked_at(Sampling::Fps(2.5), &steady), [0, 2, 6]);
        assert_eq!(looked_at(Sampling::Fps(100.0), &steady).len(), 10);
        // Of ten frames a second three: the first from 0, 1/3 and 2/3 on.
        assert_eq!(looked_at(Sampling::Fps(3.0), &steady), [0, 4, 7]);
        // A still of two seconds, then many frames.
        assert_eq!(looked_at(Sampling::Fps(1.0), &[0, 2_000_000, 2_010_000, 2_020_000, 3_000_000]), [0, 1, 4]);
    }

    #[test]
    fn a_gate_lets_through_what_moves_and_what_was_not_looked_at_for_long() {
        let gate = Sampling::Motion(Gate { levels: 3.0, pause_s: 2.0 });
        let check = |previous_us: Option<i64>, pts_us: i64, is_entry: bool, change: Option<f64>, want: bool| {
            let moment = Moment { number: 9, pts_us, previous_us, is_entry, is_key: false, change };
            assert_eq!(gate.wants(&moment), want, "{moment:?}");
        };
        check(Some(100_000), 140_000, false, Some(3.0), false);
        check(Some(100_000), 140_000, false, Some(3.1), true);
        check(Some(100_000), 140_000, true, Some(0.0), true);
        check(Some(1_960_000), 2_000_000, false, Some(0.0), true);
        check(Some(960_000), 1_000_000, false, Some(0.0), false);
        check(Some(-40_000), 0, false, Some(0.0), true);
        check(None, 140_000, false, None, true);
        check(Some(100_000), 140_000, false, None, true);
    }

    proptest! {
        #[test]
        fn a_second_has_as_many_as_are_wanted(fps in 0.5..60.0f64, gaps in prop::collection::vec(1_000i64..50_000, 1..400)) {
            let times: Vec<i64> = std::iter::once(0).chain(gaps.iter().scan(0, |time, gap| { *time += gap; Some(*time) })).collect();
            let got = looked_at(Sampling::Fps(fps), &times);
            let seconds = *times.last().unwrap() as f64 / 1e6;
            prop_assert!(got.len() as f64 <= seconds * fps + 1.0 + 1e-6, "{} of {} s", got.len(), seconds);
            // Every stretch that has a frame has one that is looked at.
            let stretches: std::collections::BTreeSet<i64> = times.iter().map(|&time| (time as f64 * fps / 1e6).floor() as i64).collect();
            prop_assert_eq!(got.len(), stretches.len());
        }
    }
}
