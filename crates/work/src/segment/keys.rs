//! The key frames of a video, as its container has them.

use std::ops::Range;
use std::sync::Arc;

use super::Outline;
use crate::media::Probe;

/// Key frames that are shown, of a video whose frames are in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Keys {
    /// When each is shown, in microseconds, in order.
    pub(crate) times_us: Vec<i64>,
    /// Where they lie in the file, in the order of that, where an index says it.
    pub(crate) spans: Option<Arc<[Range<u64>]>>,
}

impl Keys {
    /// Those of the video that `probe` and `outline` describe.
    pub(crate) fn of(probe: &Probe, outline: &Outline) -> Self {
        let times_us = outline.shown_keys().filter_map(|(ticks, _)| probe.microseconds(ticks)).collect();
        let spans = outline.shown_keys().map(|(_, span)| span).collect::<Option<Vec<_>>>();
        let in_order = |mut spans: Vec<Range<u64>>| {
            spans.sort_unstable_by_key(|span| span.start);
            spans.into()
        };
        Self { times_us, spans: spans.filter(|_| probe.has_index()).map(in_order) }
    }

    /// When a key frame is shown that came by an index alone: the one with this number behind the `first` one. It says a time
    /// of its own, which counts for that one; `None` where it is another, or there is none.
    pub(crate) fn told(&self, first: usize, (number, pts_us): (u64, i64)) -> Option<i64> {
        let place = first.checked_add(usize::try_from(number).ok()?)?;
        self.times_us.get(place).copied().filter(|&time_us| number > 0 || time_us == pts_us)
    }

    /// Whether one is shown at that time.
    pub(crate) fn has(&self, pts_us: i64) -> bool {
        self.times_us.binary_search(&pts_us).is_ok()
    }

    /// Which of them are shown from a time on and before another; without these, from the first and to the last.
    pub(crate) fn between(&self, from_us: Option<i64>, before_us: Option<i64>) -> Range<usize> {
        let place = |time_us| self.times_us.partition_point(|&key_us| key_us < time_us);
        from_us.map_or(0, place)..before_us.map_or(self.times_us.len(), place)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Packet;
    use super::*;

    #[test]
    fn they_lie_where_the_index_says() {
        let mut outline = Outline::default();
        // The second lies before the first.
        for (pts, at, key) in [(0, 500, true), (1, 600, false), (2, 40, true), (3, 700, false), (4, 800, true)] {
            outline.add(Packet { pts: Some(pts), bytes: 10, at: Some(at), key, hidden: false });
        }
        let probe = Probe { tick_s: (1, 1000), ..Probe::example() };
        let keys = Keys::of(&probe, &outline);
        assert_eq!(keys.times_us, [0, 2000, 4000]);
        assert_eq!(keys.spans.as_deref(), Some(&[40..50, 500..510, 800..810][..]));
        assert_eq!((keys.has(2000), keys.has(1000)), (true, false));
        let ranges = [(None, None), (None, Some(2000)), (Some(2000), Some(4000)), (Some(4000), None)];
        assert_eq!(ranges.map(|(from, before)| keys.between(from, before)), [0..3, 0..1, 1..2, 2..3]);
        let frames = [(0, 2000), (0, 2001), (1, 1), (2, 1)];
        assert_eq!(frames.map(|frame| keys.told(1, frame)), [Some(2000), None, Some(4000), None]);
        let avi = Probe { container: "avi".to_owned(), ..probe };
        assert_eq!(Keys::of(&avi, &outline).spans, None);
    }
}
