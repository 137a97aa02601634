//! Which frames of a video are looked at. What is left out is still decoded, but neither scaled nor put to the model;
//! of what is no key frame, not even that where key frames are all that is wanted.

use std::fmt;
use std::str::FromStr;

use engine::{Error, Result};
use serde::{Deserialize, Serialize};

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
    /// Those that are coded without the others.
    KeyFrames,
}

/// A frame that may be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Frames of the video before it.
    pub(crate) number: u64,
    /// When it is shown, in microseconds, and when the frame before it; `None` for the video's first.
    pub(crate) pts_us: i64,
    pub(crate) previous_us: Option<i64>,
}

impl Sampling {
    /// Whether a frame is looked at. It depends on the frame alone and on the one before, so that the answer is the same
    /// wherever a decoder begins.
    pub(crate) fn wants(self, moment: &Moment) -> bool {
        match self {
            Self::All | Self::KeyFrames => true,
            Self::Every(frames) => moment.number.is_multiple_of(u64::from(frames)),
            Self::Fps(fps) => {
                let stretch = |pts_us: i64| (pts_us as f64 * fps / 1e6).floor();
                moment.previous_us.is_none_or(|previous_us| stretch(moment.pts_us) > stretch(previous_us))
            }
        }
    }

    /// The same as an expression of ffmpeg's `select`, in the same arithmetic, for a decoder that gives out the frame with
    /// the number `first` first. `None` where all that is decoded is wanted.
    pub(crate) fn expression(self, first: u64) -> Option<String> {
        match self {
            Self::All | Self::KeyFrames => None,
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
            Self::KeyFrames => f.write_str("key-frames"),
        }
    }
}

impl FromStr for Sampling {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let sampling = match text.split_once(':') {
            None if text == "all" => Some(Self::All),
            None if text == "key-frames" => Some(Self::KeyFrames),
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
                "'{text}' does not say which frames are looked at: give all, every:N, fps:N (a number from 0.001 to 1000) or \
                 key-frames"
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
        for text in ["all", "every:2", "every:4294967295", "fps:2", "fps:0.5", "fps:29.97", "key-frames"] {
            assert_eq!(text.parse::<Sampling>().unwrap().to_string(), text);
        }
        assert_eq!("every:1".parse::<Sampling>().unwrap(), Sampling::All);
        for text in
            ["", "every", "every:0", "every:-1", "every:x", "fps:0", "fps:1001", "fps:NaN", "fps:inf", "keys", "all:1"]
        {
            assert!(text.parse::<Sampling>().unwrap_err().message.contains("every:N"), "{text}");
        }
    }

    /// The numbers of the frames that are looked at, of frames that are shown at `times_us`.
    fn looked_at(sampling: Sampling, times_us: &[i64]) -> Vec<usize> {
        let moment = |index: usize| Moment {
            number: index as u64,
            pts_us: times_us[index],
            previous_us: index.checked_sub(1).map(|before| times_us[before]),
        };
        (0..times_us.len()).filter(|&index| sampling.wants(&moment(index))).collect()
    }

    #[test]
    fn frames_are_chosen() {
        let steady: Vec<i64> = (0..10).map(|frame| 5_000_000 + frame * 100_000).collect();
        assert_eq!(looked_at(Sampling::All, &steady).len(), 10);
        assert_eq!(looked_at(Sampling::Every(4), &steady), [0, 4, 8]);
        assert_eq!(looked_at(Sampling::Fps(5.0), &steady), [0, 2, 4, 6, 8]);
        assert_eq!(looked_at(Sampling::Fps(2.5), &steady), [0, 2, 6]);
        assert_eq!(looked_at(Sampling::Fps(100.0), &steady).len(), 10);
        // Of ten frames a second three: the first from 0, 1/3 and 2/3 on.
        assert_eq!(looked_at(Sampling::Fps(3.0), &steady), [0, 4, 7]);
        // A still of two seconds, then many frames.
        assert_eq!(looked_at(Sampling::Fps(1.0), &[0, 2_000_000, 2_010_000, 2_020_000, 3_000_000]), [0, 1, 4]);
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
