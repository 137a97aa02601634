//! Whether anything has moved since the frame before, told from the pictures that the model would see.

use std::collections::BTreeSet;
use std::fmt;

use pipeline::Planes;

use crate::media::Probe;
use crate::segment::{Key, Outline};

/// Pixels across and down of a patch: about the smallest thing that detectors tell apart.
const PATCH_PX: usize = 8;

/// Levels of brightness that stand for "anything" unless somebody says otherwise: what noise and a codec do to a still
/// picture stays below (docs/decisions/033-what-moves.md).
const LEVELS_DEFAULT: f64 = 5.0;
/// Seconds between looks at what does not move, unless somebody says otherwise.
const PAUSE_S_DEFAULT: f64 = 1.0;

/// Levels and seconds that may be asked for.
const LEVELS: std::ops::RangeInclusive<f64> = 0.0..=255.0;
const PAUSE_S: std::ops::RangeInclusive<f64> = 0.001..=3600.0;

/// What lets a frame through to the model: something moved since the frame before, or nothing was looked at for long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gate {
    /// Something moved where the mean brightness of a patch of 8 x 8 pixels, as the model sees them, changed by more
    /// levels than these, of 255.
    pub levels: f64,
    /// Of every stretch of so many seconds of the file's own clock the first frame is looked at, whatever moves.
    pub pause_s: f64,
}

impl Default for Gate {
    fn default() -> Self {
        Self { levels: LEVELS_DEFAULT, pause_s: PAUSE_S_DEFAULT }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.levels, self.pause_s)
    }
}

impl Gate {
    /// The gate of `LEVELS` or `LEVELS:SECONDS`; `None` when the text says neither.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (levels, pause_s) = text.split_once(':').map_or((text, None), |(levels, rest)| (levels, Some(rest)));
        let levels = levels.parse().ok().filter(|levels| LEVELS.contains(levels))?;
        let pause_s = pause_s.map_or(Some(PAUSE_S_DEFAULT), |text| text.parse().ok())?;
        PAUSE_S.contains(&pause_s).then_some(Self { levels, pause_s })
    }

    /// Whether one of its stretches begins between the two times, or with the later.
    pub(crate) fn begins(self, previous_us: i64, pts_us: i64) -> bool {
        self.stretch(pts_us) > self.stretch(previous_us)
    }

    fn stretch(self, pts_us: i64) -> f64 {
        (pts_us as f64 / self.pause_s / 1e6).floor()
    }

    /// When the first key frame of each stretch is shown, in microseconds, as the container has them, but for the stretch
    /// that the video begins in. These are looked at as well, so that a decoder may begin there without knowing what was
    /// before.
    pub(crate) fn entries(self, probe: &Probe, outline: &Outline) -> BTreeSet<i64> {
        self.entry_keys(probe, outline).map(|(key_us, _)| key_us).collect()
    }

    /// The same, each with the key frame.
    fn entry_keys<'a>(self, probe: &'a Probe, outline: &'a Outline) -> impl Iterator<Item = (i64, &'a Key)> {
        let mut last_us = outline.span.and_then(|(first, _)| probe.microseconds(first));
        let keys = outline.keys.iter().filter_map(|key| Some((probe.microseconds(key.pts)?, key)));
        keys.filter(move |&(key_us, _)| {
            let begins = last_us.is_some_and(|last_us| self.begins(last_us, key_us));
            last_us = if begins { Some(key_us) } else { last_us };
            begins
        })
    }

    /// How many frames of a video it lets through whatever moves.
    pub(crate) fn sure(self, probe: &Probe, outline: &Outline) -> u64 {
        let stretch = |ticks| probe.microseconds(ticks).map(|us| self.stretch(us));
        let stretches = outline.span.and_then(|(first, last)| Some((stretch(last)? - stretch(first)?) as u64 + 1));
        let in_the_middle = |&(key_us, key): &(i64, &Key)| {
            probe.microseconds(key.before).is_some_and(|before_us| !self.begins(before_us, key_us))
        };
        let entries = self.entry_keys(probe, outline).filter(in_the_middle).count() as u64;
        outline.frames.min(stretches.unwrap_or_default() + entries)
    }
}

/// The brightness of a picture, patch by patch: the sums of all three colours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Patches {
    size_px: (usize, usize),
    sums: Vec<u32>,
}

impl Patches {
    /// Those of a picture.
    pub(crate) fn of(planes: &Planes) -> Self {
        let size_px = (planes.width as usize, planes.height as usize);
        let across = size_px.0.div_ceil(PATCH_PX);
        // Eight bytes at a time, as four sums of two each. A patch has 24 rows in its three colours, which come to no more
        // than 24 * 2 * 255 a sum and stay within its 16 bits.
        let mut sums = vec![0u64; across * size_px.1.div_ceil(PATCH_PX)];
        for plane in planes.rgb() {
            for (y, row) in plane.chunks_exact(size_px.0.max(1)).enumerate() {
                let patches = &mut sums[y / PATCH_PX * across..][..across];
                let (eights, rest) = row.as_chunks::<PATCH_PX>();
                for (sum, eight) in patches.iter_mut().zip(eights) {
                    *sum += pairs(*eight);
                }
                if let Some(sum) = patches.last_mut().filter(|_| !rest.is_empty()) {
                    let mut eight = [0; PATCH_PX];
                    eight[..rest.len()].copy_from_slice(rest);
                    *sum += pairs(eight);
                }
            }
        }
        let total = |sums: u64| (0..4).map(|place| (sums >> (16 * place)) as u32 & 0xffff).sum();
        Self { size_px, sums: sums.into_iter().map(total).collect() }
    }

    /// By how many levels the mean of the patch changed that changed most since `before`, which is as large.
    pub(crate) fn change(&self, before: &Self) -> f64 {
        let (width, height) = self.size_px;
        let across = width.div_ceil(PATCH_PX).max(1);
        let side = |patch: usize, side_px: usize| PATCH_PX.min(side_px - patch * PATCH_PX);
        let changes = self.sums.iter().zip(&before.sums).enumerate().map(|(patch, (now, before))| {
            let values = side(patch % across, width) * side(patch / across, height) * 3;
            f64::from(now.abs_diff(*before)) / values as f64
        });
        changes.fold(0.0, f64::max)
    }
}

/// The sums of neighbours among eight bytes, 16 bits each.
fn pairs(bytes: [u8; PATCH_PX]) -> u64 {
    const EVERY_OTHER: u64 = 0x00ff_00ff_00ff_00ff;
    let all = u64::from_le_bytes(bytes);
    (all & EVERY_OTHER) + (all >> 8 & EVERY_OTHER)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::segment::Packet;

    fn grey(width: u32, height: u32, level: u8) -> Planes {
        Planes { width, height, bytes: vec![level; (width * height * 3) as usize] }
    }

    #[test]
    fn a_patch_that_changes_is_noticed_wherever_it_is() {
        for (width, height) in [(8, 8), (64, 48), (13, 9), (7, 3), (17, 8)] {
            let still = Patches::of(&grey(width, height, 100));
            assert_eq!(still.change(&still), 0.0);
            assert_eq!(Patches::of(&grey(width, height, 255)).change(&still), 155.0);
            // The last pixel of the last, perhaps small, patch, in one colour.
            let mut one = grey(width, height, 100);
            *one.bytes.last_mut().unwrap() = 0;
            let side = |side_px: u32| (side_px - 1) % 8 + 1;
            let values = f64::from(side(width) * side(height) * 3);
            assert_eq!(Patches::of(&one).change(&still), 100.0 / values, "{width}x{height}");
        }
    }

    proptest! {
        #[test]
        fn patches_are_the_means_of_their_pixels(
            (width, height) in (1u32..40, 1u32..40), seeds in (any::<u64>(), any::<u64>()),
        ) {
            let picture = |seed: u64| {
                let mut hash = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
                let mut planes = grey(width, height, 0);
                hash.fill(&mut planes.bytes);
                planes
            };
            let (one, other) = (picture(seeds.0), picture(seeds.1));
            let (width, height) = (width as usize, height as usize);
            let mean = |planes: &Planes, left: usize, top: usize| {
                let (mut sum, mut values) = (0u32, 0u32);
                for plane in planes.rgb() {
                    for y in top..height.min(top + 8) {
                        for x in left..width.min(left + 8) {
                            sum += u32::from(plane[y * width + x]);
                            values += 1;
                        }
                    }
                }
                f64::from(sum) / f64::from(values)
            };
            let corners = (0..height).step_by(8).flat_map(|top| (0..width).step_by(8).map(move |left| (left, top)));
            let want = corners.map(|(left, top)| (mean(&one, left, top) - mean(&other, left, top)).abs());
            let want = want.fold(0.0, f64::max);
            prop_assert!((Patches::of(&one).change(&Patches::of(&other)) - want).abs() < 1e-9);
        }
    }

    #[test]
    fn a_stretch_has_one_entry() {
        // Twenty frames a second from 5.9 s on, of which every seventh is a key frame.
        let mut outline = Outline::default();
        for frame in 0..100 {
            let pts = Some(5_900_000 + frame * 50_000);
            outline.add(Packet { pts, bytes: 1, at: None, key: frame % 7 == 0, hidden: false });
        }
        let probe = Probe { tick_s: (1, 1_000_000), ..Probe::example() };
        let check = |pause_s: f64, entries: &[i64], sure: u64| {
            let gate = Gate { pause_s, ..Gate::default() };
            let got: Vec<i64> = gate.entries(&probe, &outline).into_iter().map(|us| us / 1000).collect();
            assert_eq!(got, entries, "{pause_s}");
            assert_eq!(gate.sure(&probe, &outline), sure, "{pause_s}");
        };
        // Six stretches; the key frame at 8 s begins one.
        check(1.0, &[6250, 7300, 8000, 9050, 10_100], 10);
        check(3.0, &[6250, 9050], 5);
        check(1000.0, &[], 1);
        check(0.01, &(1..15).map(|key| 5900 + key * 350).collect::<Vec<_>>(), 100);
        let empty = Outline::default();
        assert_eq!((Gate::default().entries(&probe, &empty).len(), Gate::default().sure(&probe, &empty)), (0, 0));
    }
}
