//! Which object of one frame is which of the next: ByteTrack (Zhang and others, "ByteTrack: Multi-Object Tracking by
//! Associating Every Detection Box", 2022), with its times in seconds instead of frames, so that it bears frames that are
//! not equally far apart.
//!
//! Pure: what comes out depends on the frames alone that went in, in their order.

use std::collections::BTreeMap;

use pipeline::Detected;

mod assign;
mod motion;
mod places;

pub(crate) use self::places::{Crossing, Places, check};
pub use self::places::{Line, LineCount, Zone, ZoneCount};

use self::assign::assign;
use self::motion::Motion;

/// Detections with less than this are of no use for following.
pub(crate) const LOW_SCORE: f32 = 0.1;
/// An object that is not seen any more is waited for so long, in microseconds; where frames are far apart, three frames.
const LOST_US_MAX: i64 = 1_200_000;
const LOST_FRAMES_MAX: i64 = 3;
/// A new object has to be so much better than what is reported of known ones.
const NEW_SCORE_MARGIN: f32 = 0.1;
/// What an association may cost: of what is well seen, of what is hardly seen, and of what was seen once before.
const COST_MAX: f64 = 0.8;
const COST_LOW_MAX: f64 = 0.5;
const COST_NEW_MAX: f64 = 0.7;
/// Two that overlap more are one.
const SAME_IOU: f64 = 0.85;

/// Follows objects through a video, each class by itself.
#[derive(Clone, Debug)]
pub(crate) struct Tracker {
    /// Detections from here on are well seen.
    high_score: f32,
    tracks: BTreeMap<u32, Vec<Track>>,
    /// Objects that have a number.
    numbered: u64,
    /// When the last frame was.
    last_us: Option<i64>,
}

/// An object that is followed.
#[derive(Clone, Debug)]
struct Track {
    /// Once it was seen twice; and at once in the first frame.
    number: Option<u64>,
    motion: Motion,
    /// When it came, and when it was seen last.
    since_us: i64,
    seen_us: i64,
    /// Whether it was seen in the last frame.
    is_seen: bool,
}

impl Tracker {
    /// For detections that are reported from `threshold` on.
    pub(crate) fn new(threshold: f32) -> Self {
        Self { high_score: threshold.max(LOW_SCORE), tracks: BTreeMap::new(), numbered: 0, last_us: None }
    }

    /// How many objects were followed.
    pub(crate) fn numbered(&self) -> u64 {
        self.numbered
    }

    /// Whether the object called `number` may still be seen again.
    pub(crate) fn is_followed(&self, number: u64) -> bool {
        self.tracks.values().flatten().any(|track| track.number == Some(number))
    }

    /// Takes the next frame in: which of what was `found` at `pts_us` is which object.
    pub(crate) fn step(&mut self, pts_us: i64, found: &[Detected]) -> Vec<Option<u64>> {
        let is_first = self.last_us.is_none();
        // A clock that runs backwards stands still.
        let now_us = self.last_us.map_or(pts_us, |last_us| last_us.max(pts_us));
        let passed_us = self.last_us.map_or(0, |last_us| now_us.saturating_sub(last_us));
        let lost_us_max = LOST_US_MAX.max(passed_us.saturating_mul(LOST_FRAMES_MAX));
        self.last_us = Some(now_us);
        let mut numbers = vec![None; found.len()];
        let mut by_class: BTreeMap<u32, Vec<usize>> = self.tracks.keys().map(|&class| (class, Vec::new())).collect();
        for (index, one) in found.iter().enumerate().filter(|(_, one)| one.score >= LOW_SCORE) {
            by_class.entry(one.class).or_default().push(index);
        }
        for (class, indices) in by_class {
            let tracks = self.tracks.entry(class).or_default();
            tracks.retain(|track| now_us.saturating_sub(track.seen_us) <= lost_us_max);
            let mut step = Step { found, indices, now_us, high_score: self.high_score, numbered: &mut self.numbered };
            tracks.iter_mut().for_each(|track| track.motion.predict(passed_us, track.is_seen));
            step.associate(tracks, is_first, &mut numbers);
            leave_one_of_the_same(tracks);
        }
        self.tracks.retain(|_, tracks| !tracks.is_empty());
        numbers
    }
}

/// One class of one frame.
struct Step<'a> {
    found: &'a [Detected],
    /// Of `found`, those of the class.
    indices: Vec<usize>,
    now_us: i64,
    high_score: f32,
    numbered: &'a mut u64,
}

impl Step<'_> {
    fn associate(&mut self, tracks: &mut Vec<Track>, is_first: bool, numbers: &mut [Option<u64>]) {
        let (mut high, low): (Vec<usize>, Vec<usize>) =
            self.indices.iter().partition(|&&index| self.found[index].score >= self.high_score);
        let (mut known, new): (Vec<usize>, Vec<usize>) =
            (0..tracks.len()).partition(|&track| tracks[track].number.is_some());
        let by_score = |iou: f64, one: &Detected| 1.0 - iou * f64::from(one.score);
        let by_place = |iou: f64, _: &Detected| 1.0 - iou;
        self.matched((&mut known, &mut high), tracks, COST_MAX, &by_score, numbers);
        // What is hardly seen is only taken for what was seen just before.
        let mut just_seen: Vec<usize> = known.iter().copied().filter(|&track| tracks[track].is_seen).collect();
        let mut low = low;
        self.matched((&mut just_seen, &mut low), tracks, COST_LOW_MAX, &by_place, numbers);
        just_seen.iter().for_each(|&track| tracks[track].is_seen = false);
        let mut new = new;
        self.matched((&mut new, &mut high), tracks, COST_NEW_MAX, &by_score, numbers);
        // What was seen once and not again was nothing.
        let mut index = 0;
        tracks.retain(|_| {
            index += 1;
            !new.contains(&(index - 1))
        });
        for index in high {
            let one = &self.found[index];
            if one.score < self.high_score + NEW_SCORE_MARGIN {
                continue;
            }
            let mut track = Track {
                number: None,
                motion: Motion::new(one.box_px),
                since_us: self.now_us,
                seen_us: self.now_us,
                is_seen: true,
            };
            if is_first {
                numbers[index] = Some(track.number(self.numbered));
            }
            tracks.push(track);
        }
    }

    /// Matches tracks to detections, as cheaply as can be, and takes both off their lists.
    fn matched(
        &mut self,
        (left, offered): (&mut Vec<usize>, &mut Vec<usize>),
        tracks: &mut [Track],
        cost_max: f64,
        cost: &dyn Fn(f64, &Detected) -> f64,
        numbers: &mut [Option<u64>],
    ) {
        let price = |&track: &usize| {
            let predicted = tracks[track].motion.box_px();
            let price = |&index: &usize| cost(iou(predicted, self.found[index].box_px), &self.found[index]);
            offered.iter().map(price).collect()
        };
        let costs: Vec<Vec<f64>> = left.iter().map(price).collect();
        let partners = assign(&costs, cost_max);
        let mut taken = vec![false; offered.len()];
        for (&track, partner) in left.iter().zip(&partners) {
            let Some(partner) = *partner else { continue };
            let (index, track) = (offered[partner], &mut tracks[track]);
            taken[partner] = true;
            track.motion.correct(self.found[index].box_px);
            (track.seen_us, track.is_seen) = (self.now_us, true);
            numbers[index] = Some(track.number(self.numbered));
        }
        let mut partners = partners.iter();
        left.retain(|_| partners.next().is_some_and(Option::is_none));
        let mut taken = taken.iter();
        offered.retain(|_| taken.next() == Some(&false));
    }
}

impl Track {
    /// Its number, which it gets now if it has none.
    fn number(&mut self, numbered: &mut u64) -> u64 {
        *self.number.get_or_insert_with(|| {
            *numbered += 1;
            *numbered
        })
    }
}

/// Where an object that was lost lies on one that is seen, the younger of the two goes.
fn leave_one_of_the_same(tracks: &mut Vec<Track>) {
    let mut gone = vec![false; tracks.len()];
    for lost in (0..tracks.len()).filter(|&track| !tracks[track].is_seen) {
        for seen in (0..tracks.len()).filter(|&track| tracks[track].is_seen) {
            if iou(tracks[lost].motion.box_px(), tracks[seen].motion.box_px()) > SAME_IOU {
                let lost_is_older = tracks[lost].since_us < tracks[seen].since_us;
                gone[if lost_is_older { seen } else { lost }] = true;
            }
        }
    }
    let mut gone = gone.iter();
    tracks.retain(|_| gone.next() == Some(&false));
}

/// What two boxes share of what they cover.
fn iou(a: [f32; 4], b: [f32; 4]) -> f64 {
    let [a, b] = [a, b].map(|sides| sides.map(f64::from));
    let area = |[left, top, right, bottom]: [f64; 4]| (right - left).max(0.0) * (bottom - top).max(0.0);
    let both = area([a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]);
    let all = area(a) + area(b) - both;
    if all > 0.0 { both / all } else { 0.0 }
}

#[cfg(test)]
mod tests;
