//! Which parts of a video there are, and what is to be done next: decided from the names alone.

use std::collections::{BTreeMap, BTreeSet};

use super::{Access, Part, PartName, Plan, Segment};

/// The parts of one video, durable ones and such as are kept in memory because the end is near.
#[derive(Debug)]
pub struct Ledger {
    plan: Plan,
    /// Whether these are all of its segments.
    is_complete: bool,
    parts: BTreeMap<(Access, u32), Vec<Kept>>,
    /// Segments that a fresh decoder shows otherwise than one that came through, or with errors. Found anew by every
    /// attempt, since what it takes to find it is less than a segment.
    refused: BTreeSet<u32>,
    /// Whether a seam that does not hold speaks against the segment before it, too: its frames were counted and nothing more.
    doubts_both: bool,
    /// Hash of the first frame, and of the frame after the end, by segment.
    heads: BTreeMap<u32, String>,
    seams: BTreeMap<u32, String>,
}

/// A part that there is.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// What it holds.
    pub name: PartName,
    /// The part itself, where it is in memory alone.
    pub part: Option<Part>,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// These segments, each by a decoder of its own, in any order.
    Seek(Vec<Segment>),
    /// These, by one decoder that comes through from the beginning.
    Through(Vec<Segment>),
    /// Nothing: every frame is there.
    Assemble,
}

impl Ledger {
    /// The ledger of a video that is cut as `plan` says, and of which nothing is there yet.
    pub fn new(plan: Plan) -> Self {
        let none = BTreeMap::new();
        let (heads, seams) = (BTreeMap::new(), BTreeMap::new());
        Self { plan, is_complete: true, parts: none, refused: BTreeSet::new(), doubts_both: false, heads, seams }
    }

    /// Has a seam that does not hold speak against both of the segments that it is between.
    pub fn doubt_both(&mut self) {
        self.doubts_both = true;
    }

    /// That the video is cut as `plan` says, which has more segments than were known; and whether these are all.
    pub fn grow(&mut self, plan: Plan, is_complete: bool) {
        (self.plan, self.is_complete) = (plan, is_complete);
    }

    /// How the video is cut, as far as that is known.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Takes in a part: a durable one, or one in memory.
    pub fn add(&mut self, name: PartName, part: Option<Part>) {
        let parts = self.parts.entry((name.access, name.segment)).or_default();
        // In order, of those that begin alike the longest first, and of those the one that ends the segment.
        let key = |name: &PartName| (name.first, std::cmp::Reverse((name.frames, name.is_end)));
        let place = parts.partition_point(|other| key(&other.name) < key(&name));
        parts.insert(place, Kept { name, part });
    }

    /// Notes that `segment` cannot be reached by seeking.
    pub fn refuse(&mut self, segment: u32) {
        self.refused.insert(segment);
    }

    /// Notes what the first frame of `segment` hashes to, and the frame after its end. Where the frame after one segment
    /// and the first of the next are not one and the same, the next is refused.
    pub fn seam(&mut self, segment: u32, head: Option<String>, seam: Option<String>) {
        self.heads.extend(head.map(|head| (segment, head)));
        self.seams.extend(seam.map(|seam| (segment, seam)));
        for segment in [segment, segment.saturating_add(1)] {
            let before = segment.checked_sub(1).and_then(|before| self.seams.get(&before));
            let differ = before.zip(self.heads.get(&segment)).is_some_and(|(seam, head)| seam != head);
            if differ && !self.refused.contains(&segment) {
                tracing::warn!(segment, "a fresh decoder does not show what one shows that came from the beginning");
                self.refuse(segment);
                if let Some(before) = segment.checked_sub(1).filter(|_| self.doubts_both) {
                    self.refuse(before);
                }
            }
        }
    }

    /// How many frames of `segment` are there, from its first on without a gap, and whether these are all.
    pub fn progress(&self, access: Access, segment: u32) -> (u64, bool) {
        let last = self.chain(access, segment).last().map(|kept| &kept.name);
        last.map_or((0, false), |name| (name.first + name.frames, name.is_end))
    }

    /// The parts of `segment` that follow on each other from its first frame on.
    pub fn chain(&self, access: Access, segment: u32) -> impl Iterator<Item = &Kept> {
        let mut next = Some(0);
        let parts = self.parts.get(&(access, segment)).map_or(&[][..], Vec::as_slice);
        parts.iter().filter(move |Kept { name, .. }| {
            let follows = next == Some(name.first);
            if follows {
                next = (!name.is_end).then_some(name.first.saturating_add(name.frames));
            }
            follows
        })
    }

    /// How `segment` is or was reached.
    pub fn access(&self, segment: u32) -> Access {
        match self.plan.whole.is_some() || self.refused.contains(&segment) {
            true => Access::Through,
            false => Access::Seek,
        }
    }

    /// What is to be done, when no segment is being worked but `busy`. With `at_once`, a segment that was refused comes
    /// before the others: where damage is not put up with, they may be for nothing. Else all that were refused are left to
    /// one decoder, so that damage is counted once, and none is sent before the last of them is known.
    pub fn next(&self, busy: &BTreeSet<u32>, at_once: bool) -> Next {
        let open = |access: Access| {
            let segments = self.plan.segments.iter().filter(move |segment| self.access(segment.index) == access);
            segments.filter(move |segment| !self.progress(access, segment.index).1).copied()
        };
        let through: Vec<Segment> = open(Access::Through).collect();
        let seek: Vec<Segment> = open(Access::Seek).filter(|segment| !busy.contains(&segment.index)).collect();
        let is_complete = self.is_complete || self.plan.whole.is_some();
        match (is_complete && seek.is_empty() && busy.is_empty(), through.is_empty()) {
            (true, true) => Next::Assemble,
            (done, false) if done || at_once => Next::Through(through),
            _ => Next::Seek(seek),
        }
    }

    /// Whether `segment` is the only one, and all of the video.
    pub fn is_only(&self, segment: u32) -> bool {
        matches!(self.plan.segments[..], [only] if only.index == segment && only.before_us.is_none())
    }

    /// Whether there is no part at all yet.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Lengths;
    use super::*;
    use crate::media::Probe;
    use crate::segment::{Outline, Packet};

    fn plan(segments: u64) -> Plan {
        let mut outline = Outline::default();
        for frame in 0..segments * 10 {
            let pts = i64::try_from(frame).ok();
            outline.add(Packet { pts, bytes: 1, at: None, key: frame % 10 == 0, hidden: false });
        }
        Plan::new(
            &Probe { tick_s: (1, 1_000_000), ..Probe::example() },
            &outline,
            &Lengths { frames: 10, ..Lengths::default() },
            None,
        )
    }

    /// `s2:10+5.` is the end of segment 2, reached by seeking, of frames 10 to 14; `t` is for one reached by coming
    /// through, and without a dot it is not the end.
    fn names(text: &str) -> Vec<PartName> {
        let name = |word: &str| {
            let access = if word.starts_with('s') { Access::Seek } else { Access::Through };
            let (segment, rest) = word[1..].split_once(':').unwrap();
            let (first, frames) = rest.trim_end_matches('.').split_once('+').unwrap();
            let number = |text: &str| text.parse().unwrap();
            PartName {
                hash: "h".to_owned(),
                access,
                segment: segment.parse().unwrap(),
                first: number(first),
                frames: number(frames),
                is_end: word.ends_with('.'),
            }
        };
        text.split_whitespace().map(name).collect()
    }

    fn ledger(plan: Plan, names: impl IntoIterator<Item = PartName>) -> Ledger {
        let mut ledger = Ledger::new(plan);
        names.into_iter().for_each(|name| ledger.add(name, None));
        ledger
    }

    #[test]
    fn parts_count_as_far_as_they_follow_on_each_other() {
        let check = |text: &str, want: (u64, bool)| {
            let forwards = ledger(plan(1), names(text));
            assert_eq!(forwards.progress(Access::Seek, 0), want, "{text}");
            let backwards = ledger(plan(1), names(text).into_iter().rev());
            assert_eq!(backwards.progress(Access::Seek, 0), want, "{text}");
            let frames: u64 = forwards.chain(Access::Seek, 0).map(|kept| kept.name.frames).sum();
            assert_eq!(frames, want.0, "{text}");
        };
        check("", (0, false));
        check("s0:0+4 s0:4+4", (8, false));
        check("s0:0+4 s0:4+6.", (10, true));
        check("s0:0+10.", (10, true));
        check("s0:4+6.", (0, false));
        check("s0:0+4 s0:5+5.", (4, false));
        // Two attempts that cut at different frames.
        check("s0:0+4 s0:0+7 s0:4+3 s0:7+3.", (10, true));
        check("s0:0+4 s0:0+7 s0:4+6.", (7, false));
        check("s0:0+4 s0:0+4.", (4, true));
        check("t0:0+10. s1:0+10.", (0, false));
    }

    #[test]
    fn what_comes_next() {
        let check = |segments, parts: &str, refused: &[u32], busy: &[u32], at_once, want: (&str, &[u32])| {
            let mut ledger = ledger(plan(segments), names(parts));
            refused.iter().for_each(|&segment| ledger.refuse(segment));
            let next = ledger.next(&busy.iter().copied().collect(), at_once);
            let (word, segments) = match &next {
                Next::Seek(segments) => ("seek", &segments[..]),
                Next::Through(segments) => ("through", &segments[..]),
                Next::Assemble => ("assemble", &[][..]),
            };
            let segments: Vec<u32> = segments.iter().map(|segment| segment.index).collect();
            assert_eq!((word, &segments[..]), want, "{parts} {refused:?} {busy:?} {at_once}");
        };
        let done = "s0:0+10. s1:0+10. s2:0+10.";
        check(3, "", &[], &[], false, ("seek", &[0, 1, 2]));
        check(3, "s1:0+10. s2:0+4", &[], &[], false, ("seek", &[0, 2]));
        check(3, "s1:0+10.", &[], &[0], false, ("seek", &[2]));
        check(3, "s1:0+10. s2:0+10.", &[], &[0], false, ("seek", &[]));
        check(3, done, &[], &[], false, ("assemble", &[]));
        check(3, done, &[1], &[], false, ("through", &[1]));
        check(3, "s0:0+10.", &[1], &[], false, ("seek", &[2]));
        check(3, "s0:0+10.", &[1], &[], true, ("through", &[1]));
        check(3, "s0:0+10. s2:0+10. t1:0+10.", &[1], &[], true, ("assemble", &[]));
        // Of a video of which more may be to come.
        for (parts, refused, at_once, want) in [
            ("s0:0+10. s1:0+10.", &[][..], false, Next::Seek(Vec::new())),
            ("s0:0+10. s1:0+10.", &[1][..], false, Next::Seek(Vec::new())),
            ("s0:0+10. s1:0+10.", &[1][..], true, Next::Through(vec![plan(2).segments[1]])),
        ] {
            let mut ledger = ledger(plan(2), names(parts));
            ledger.grow(plan(2), false);
            refused.iter().for_each(|&segment| ledger.refuse(segment));
            assert_eq!(ledger.next(&BTreeSet::new(), at_once), want, "{parts} {refused:?}");
        }
        let uncut = ledger(Plan::uncut("why"), names("s0:0+10."));
        assert!(matches!(uncut.next(&BTreeSet::new(), false), Next::Through(segments) if segments.len() == 1));
        let uncut = ledger(Plan::uncut("why"), names("t0:0+10."));
        assert_eq!(
            (uncut.next(&BTreeSet::new(), false), uncut.progress(uncut.access(0), 0)),
            (Next::Assemble, (10, true))
        );
    }

    #[test]
    fn a_segment_whose_seam_does_not_hold_is_refused() {
        let doubting = |both: bool, notes: &[(u32, Option<&str>, Option<&str>)], want: &[u32]| {
            let mut ledger = Ledger::new(plan(3));
            if both {
                ledger.doubt_both();
            }
            for &(segment, head, seam) in notes {
                ledger.seam(segment, head.map(str::to_owned), seam.map(str::to_owned));
            }
            assert_eq!(ledger.refused.iter().copied().collect::<Vec<_>>(), want, "{notes:?}");
        };
        let check = |notes: &[_], want: &[u32]| doubting(false, notes, want);
        check(&[(0, None, Some("a")), (1, Some("a"), Some("b")), (2, Some("b"), None)], &[]);
        check(&[(0, None, Some("a")), (1, Some("x"), Some("b")), (2, Some("b"), None)], &[1]);
        check(&[(2, Some("y"), None), (1, Some("a"), Some("b")), (0, None, Some("a"))], &[2]);
        check(&[(2, Some("b"), None), (0, None, Some("x")), (1, Some("a"), None), (1, None, Some("c"))], &[1, 2]);
        doubting(true, &[(0, None, Some("a")), (1, Some("x"), Some("b")), (2, Some("b"), None)], &[0, 1]);
    }
}
