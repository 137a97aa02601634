//! Zones in the picture and lines across it: what is in a zone and for how long, and what crosses a line and which way.
//! An object is where its box stands: in the middle of its lower edge.

use std::collections::{BTreeMap, BTreeSet};

use engine::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::output::Sighting;

/// The most zones, the most lines, and the most corners of a zone.
const PLACES_MAX: usize = 64;

/// The last number before the picture's right or lower edge.
const LAST_SHARE: f64 = 1.0 - 1e-9;

/// A part of the picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Zone {
    /// What it is called in the results.
    pub name: String,
    /// Its corners: shares of the picture's width and height, from the upper left. What is crossed over twice is outside.
    pub polygon: Vec<[f32; 2]>,
}

/// A line across the picture.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// What it is called in the results.
    pub name: String,
    /// Where it begins: shares of the picture's width and height, from the upper left.
    pub from: [f32; 2],
    /// Where it ends. Left and right are those of somebody who goes from its beginning to its end.
    pub to: [f32; 2],
}

/// What was in a zone, of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ZoneCount {
    /// Frames with at least one.
    pub frames: u64,
    /// The most at once.
    pub most: u64,
    /// How often one came in, or was first seen inside.
    pub visits: u64,
    /// How long they were inside, all together, as far as they were followed.
    pub dwell_s: f64,
}

/// What crossed a line, of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineCount {
    /// From its right to its left.
    pub to_left: u64,
    /// From its left to its right.
    pub to_right: u64,
}

/// An object that crosses a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Crossing {
    /// Which of the lines.
    pub(crate) line: usize,
    /// Which of the objects.
    pub(crate) track: u64,
    pub(crate) to_right: bool,
}

/// That `zones` and `lines` are such as can be.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the field.
pub(crate) fn check(zones: &[Zone], lines: &[Line]) -> Result<()> {
    let names = |field: &str, names: Vec<&str>| {
        let plain = |name: &str| !name.is_empty() && name.len() <= 128 && !name.chars().any(char::is_control);
        let different: BTreeSet<&str> = names.iter().copied().collect();
        match names.len() <= PLACES_MAX && names.iter().all(|name| plain(name)) && different.len() == names.len() {
            true => Ok(()),
            false => {
                Err(Error::invalid(format!("field '{field}': give at most {PLACES_MAX}, each with a name of its own")))
            }
        }
    };
    names("zones", zones.iter().map(|zone| zone.name.as_str()).collect())?;
    names("lines", lines.iter().map(|line| line.name.as_str()).collect())?;
    let in_picture = |point: &[f32; 2]| point.iter().all(|share| (0.0..=1.0).contains(share));
    for zone in zones {
        if !(3..=PLACES_MAX).contains(&zone.polygon.len()) || !zone.polygon.iter().all(in_picture) {
            let name = &zone.name;
            return Err(Error::invalid(format!(
                "field 'zones': the polygon of '{name}' needs 3 to {PLACES_MAX} corners, each two numbers from 0 to 1"
            )));
        }
    }
    for line in lines {
        if line.from == line.to || !in_picture(&line.from) || !in_picture(&line.to) {
            let name = &line.name;
            return Err(Error::invalid(format!(
                "field 'lines': '{name}' needs two points, each two numbers from 0 to 1"
            )));
        }
    }
    Ok(())
}

/// Zones and lines, and what happened there so far.
#[derive(Clone, Debug)]
pub(crate) struct Places<'a> {
    zones: &'a [Zone],
    lines: &'a [Line],
    size_px: (f64, f64),
    /// Of objects that are followed, by their numbers.
    known: BTreeMap<u64, Known>,
    in_zones: Vec<BTreeMap<u32, ZoneCount>>,
    over_lines: Vec<BTreeMap<u32, LineCount>>,
}

/// What is known of an object.
#[derive(Clone, Debug)]
struct Known {
    seen_us: i64,
    /// The zones where it was then.
    inside: Vec<usize>,
    /// For each line where it was last that was on neither side of none.
    beside: Vec<Option<[f64; 2]>>,
}

impl<'a> Places<'a> {
    /// For a picture of such a size.
    pub(crate) fn new(zones: &'a [Zone], lines: &'a [Line], (width, height): (u32, u32)) -> Self {
        let size_px = (f64::from(width), f64::from(height));
        let (in_zones, over_lines) = (vec![BTreeMap::new(); zones.len()], vec![BTreeMap::new(); lines.len()]);
        Self { zones, lines, size_px, known: BTreeMap::new(), in_zones, over_lines }
    }

    /// Takes the next frame in: notes in which zones everything is, and says what crossed which line.
    pub(crate) fn step(&mut self, pts_us: i64, sightings: &mut [Sighting]) -> Vec<Crossing> {
        let mut crossings = Vec::new();
        let mut here = vec![BTreeMap::<u32, u64>::new(); self.zones.len()];
        for one in sightings {
            let at = self.stands(one.box_px);
            one.zones = (0..self.zones.len()).filter(|&zone| contains(&self.zones[zone].polygon, at)).collect();
            one.zones.iter().for_each(|&zone| *here[zone].entry(one.class).or_default() += 1);
            if let Some(track) = one.track {
                self.follow(track, pts_us, at, one, &mut crossings);
            }
        }
        for (counts, here) in self.in_zones.iter_mut().zip(&here) {
            for (&class, &number) in here {
                let count = counts.entry(class).or_default();
                count.frames += 1;
                count.most = count.most.max(number);
            }
        }
        crossings
    }

    /// Forgets objects that are not followed any more.
    pub(crate) fn keep(&mut self, is_followed: impl Fn(u64) -> bool) {
        self.known.retain(|&track, _| is_followed(track));
    }

    /// What was in each zone, by class.
    pub(crate) fn in_zones(&self) -> impl Iterator<Item = (&'a str, &BTreeMap<u32, ZoneCount>)> {
        self.zones.iter().map(|zone| zone.name.as_str()).zip(&self.in_zones)
    }

    /// What crossed each line, by class.
    pub(crate) fn over_lines(&self) -> impl Iterator<Item = (&'a str, &BTreeMap<u32, LineCount>)> {
        self.lines.iter().map(|line| line.name.as_str()).zip(&self.over_lines)
    }

    /// Where a box stands, in shares of the picture.
    fn stands(&self, box_px: [f32; 4]) -> [f64; 2] {
        let [left, _, right, bottom] = box_px.map(f64::from);
        // What stands on the picture's edge is in the picture.
        [left.midpoint(right) / self.size_px.0, bottom / self.size_px.1].map(|share| share.clamp(0.0, LAST_SHARE))
    }

    fn follow(&mut self, track: u64, pts_us: i64, at: [f64; 2], one: &Sighting, crossings: &mut Vec<Crossing>) {
        let unknown = || Known { seen_us: pts_us, inside: Vec::new(), beside: vec![None; self.lines.len()] };
        let known = self.known.entry(track).or_insert_with(unknown);
        let passed_s = pts_us.saturating_sub(known.seen_us).max(0) as f64 / 1e6;
        for &zone in &one.zones {
            let count = self.in_zones[zone].entry(one.class).or_default();
            match known.inside.contains(&zone) {
                // Whole microseconds, in which times are told, so that sums stay what they are.
                true => count.dwell_s = ((count.dwell_s + passed_s) * 1e6).round() / 1e6,
                false => count.visits += 1,
            }
        }
        (known.seen_us, known.inside) = (pts_us, one.zones.clone());
        for (line, places) in self.lines.iter().enumerate() {
            let side = side([places.from, places.to].map(point), at);
            // What stands on the line itself has not crossed it yet.
            if side == 0.0 {
                continue;
            }
            if let Some(before) = known.beside[line].filter(|&before| crosses(places, before, at)) {
                let to_right = side > 0.0;
                debug_assert!(before != at, "nothing crosses without moving");
                let count = self.over_lines[line].entry(one.class).or_default();
                *(if to_right { &mut count.to_right } else { &mut count.to_left }) += 1;
                crossings.push(Crossing { line, track, to_right });
            }
            known.beside[line] = Some(at);
        }
    }
}

fn point(shares: [f32; 2]) -> [f64; 2] {
    shares.map(f64::from)
}

/// On which side of the line through two points a third one is: positive on the right, since down is positive too.
fn side([from, to]: [[f64; 2]; 2], at: [f64; 2]) -> f64 {
    (to[0] - from[0]) * (at[1] - from[1]) - (to[1] - from[1]) * (at[0] - from[0])
}

/// Whether the way from `before` to `after`, neither of which is on the line, leads over it. Of the line's two ends the
/// one that the way meets belongs to the right of the way, so that of two lines that meet one is crossed.
fn crosses(line: &Line, before: [f64; 2], after: [f64; 2]) -> bool {
    let ends = [line.from, line.to].map(point);
    let other_side = (side(ends, before) > 0.0) != (side(ends, after) > 0.0);
    let [from, to] = ends.map(|end| side([before, after], end) >= 0.0);
    other_side && from != to
}

/// Whether a point is in a polygon: a ray from it to the right meets an odd number of edges. Each edge has its upper end
/// and not its lower one, so that a corner is met once.
fn contains(polygon: &[[f32; 2]], [x, y]: [f64; 2]) -> bool {
    let corners = || polygon.iter().copied().map(point);
    let edges = corners().zip(corners().cycle().skip(1));
    let met = edges.filter(|&(a, b)| {
        let (upper, lower) = if a[1] <= b[1] { (a, b) } else { (b, a) };
        upper[1] <= y && y < lower[1] && side([upper, lower], [x, y]) > 0.0
    });
    met.count() % 2 == 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SQUARE: [[f32; 2]; 4] = [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]];

    /// Something of a picture of 100x100 pixels that stands at a point.
    fn standing(track: u64, at: [f64; 2]) -> Sighting {
        let [x, y] = at.map(|share| (share * 100.0) as f32);
        let box_px = [x - 2.0, y - 5.0, x + 2.0, y];
        Sighting { class: 0, score: 0.9, box_px, track: Some(track), zones: Vec::new() }
    }

    #[test]
    fn points_are_inside_or_outside() {
        let bow: &[[f32; 2]] = &[[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]];
        let cut: &[[f32; 2]] = &[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.5, 0.5], [0.0, 1.0]];
        let table = [
            (&SQUARE[..], [0.5, 0.5], true),
            (&SQUARE, [0.2, 0.5], false),
            (&SQUARE, [0.8, 0.5], false),
            (&SQUARE, [0.5, 0.8], false),
            (&SQUARE, [0.5, 0.1], false),
            (bow, [0.1, 0.5], true),
            (bow, [0.9, 0.5], true),
            (bow, [0.5, 0.1], false),
            (cut, [0.5, 0.9], false),
            (cut, [0.1, 0.8], true),
            (cut, [0.9, 0.8], true),
        ];
        for (polygon, at, want) in table {
            assert_eq!(contains(polygon, at), want, "{polygon:?} {at:?}");
        }
    }

    #[test]
    fn zones_count_visits_and_time() {
        let zones = [Zone { name: "square".to_owned(), polygon: SQUARE.to_vec() }];
        let mut places = Places::new(&zones, &[], (100, 100));
        let way = [(0, 0.1), (1, 0.3), (2, 0.5), (4, 0.7), (5, 0.9), (6, 0.5), (7, 0.5)];
        for (second, x) in way {
            let mut sightings = [standing(1, [x, 0.5]), standing(2, [0.5, 0.5]), standing(3, [0.9, 0.9])];
            assert_eq!(places.step(second * 1_000_000, &mut sightings), []);
            assert_eq!(sightings[0].zones.is_empty(), !(0.25..0.75).contains(&x));
        }
        let (name, counts) = places.in_zones().next().unwrap();
        assert_eq!(name, "square");
        // Object 1: from 1 to 4 and from 6 to 7; object 2 all the time.
        assert_eq!(counts[&0], ZoneCount { frames: 7, most: 2, visits: 3, dwell_s: 3.0 + 1.0 + 7.0 });
    }

    #[test]
    fn lines_count_both_ways() {
        let line = |name: &str, from, to| Line { name: name.to_owned(), from, to };
        let lines = [line("down", [0.5, 0.0], [0.5, 1.0]), line("short", [0.4, 0.2], [0.4, 0.4])];
        let mut places = Places::new(&[], &lines, (100, 100));
        // To the right of the picture, where who goes down the line has his left; onto the line first. Back, past the end of
        // the short one; at last over that.
        let way =
            [(0.2, 0.8, 0), (0.45, 0.8, 0), (0.5, 0.8, 0), (0.6, 0.8, 1), (0.3, 0.3, 1), (0.2, 0.3, 0), (0.45, 0.3, 1)];
        for (pts_us, (x, y, want)) in (0..).zip(way) {
            let crossings = places.step(pts_us, &mut [standing(1, [x, y])]);
            assert_eq!(crossings.len(), want, "{x} {y}");
        }
        let counts: Vec<_> = places.over_lines().map(|(name, counts)| (name, counts[&0])).collect();
        let count = |to_left, to_right| LineCount { to_left, to_right };
        assert_eq!(counts, [("down", count(1, 1)), ("short", count(1, 0))]);
    }

    proptest! {
        #[test]
        fn whoever_crosses_a_line_that_divides_the_picture_is_on_its_other_side(
            way in prop::collection::vec((0.0..1.0f64, 0.01..1.0f64), 1..40), from in 0.0..1.0f32, to in 0.0..1.0f32,
        ) {
            let lines = [Line { name: "across".to_owned(), from: [from, 0.0], to: [to, 1.0] }];
            let mut places = Places::new(&[], &lines, (1000, 1000));
            let mut sides = Vec::new();
            for (pts_us, &(x, y)) in (0..).zip(&way) {
                let mut one = standing(1, [x, y]);
                one.box_px = one.box_px.map(|side| side * 10.0);
                let at = places.stands(one.box_px);
                let crossed = places.step(pts_us, &mut [one]);
                let side = side([point(lines[0].from), point(lines[0].to)], at);
                let before: f64 = sides.iter().copied().rev().find(|&side| side != 0.0).unwrap_or(0.0);
                sides.push(side);
                let want = before * side < 0.0;
                prop_assert_eq!(!crossed.is_empty(), want, "{} {}", before, side);
                prop_assert!(crossed.iter().all(|crossing| crossing.to_right == (side > 0.0)));
            }
            let none = BTreeMap::new();
            let counts = places.over_lines().next().map_or(&none, |(_, counts)| counts);
            let LineCount { to_left, to_right } = counts.get(&0).copied().unwrap_or_default();
            prop_assert!(to_left.abs_diff(to_right) <= 1);
        }

        #[test]
        fn a_polygon_and_what_is_left_of_the_picture_are_everything(
            cut in (0.05..0.95f32, 0.05..0.95f32), at in (0.0..1.0f64, 0.0..1.0f64),
        ) {
            // A picture in four, around any point: every point is in exactly one of them.
            let (x, y) = cut;
            let corners = |left: f32, top: f32, right: f32, bottom: f32| [[left, top], [right, top], [right, bottom], [left, bottom]];
            let parts = [corners(0.0, 0.0, x, y), corners(x, 0.0, 1.0, y), corners(0.0, y, x, 1.0), corners(x, y, 1.0, 1.0)];
            let inside = parts.iter().filter(|part| contains(&part[..], [at.0, at.1])).count();
            prop_assert_eq!(inside, 1);
        }
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let zone = |name: &str, polygon: &[[f32; 2]]| Zone { name: name.to_owned(), polygon: polygon.to_vec() };
        let line = |from, to| Line { name: "l".to_owned(), from, to };
        assert!(check(&[zone("a", &SQUARE), zone("b", &SQUARE)], &[line([0.0, 0.0], [1.0, 1.0])]).is_ok());
        for (zones, lines, words) in [
            (vec![zone("a", &SQUARE), zone("a", &SQUARE)], vec![], "zones"),
            (vec![zone("", &SQUARE)], vec![], "zones"),
            (vec![zone("a", &SQUARE[..2])], vec![], "'a'"),
            (vec![zone("a", &[[0.0, 0.0], [1.0, f32::NAN], [1.0, 1.0]])], vec![], "'a'"),
            (vec![zone("a", &[[0.0, 0.0], [1.0, 1.5], [1.0, 1.0]])], vec![], "'a'"),
            (vec![], vec![line([0.5, 0.5], [0.5, 0.5])], "'l'"),
            (vec![], vec![line([0.5, 0.5], [0.5, -0.5])], "'l'"),
        ] {
            let error = check(&zones, &lines).unwrap_err();
            assert!(error.message.contains(words), "{error}");
        }
    }
}
