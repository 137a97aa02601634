//! What a container says of its frames, packet by packet, boiled down to where a video may be cut.

use std::ops::Range;

/// One compressed frame as the container lists it, in the order of decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When it is to be shown, in ticks of the container.
    pub pts: Option<i64>,
    /// Its size.
    pub bytes: u64,
    /// Where in the file it begins, where that is known.
    pub at: Option<u64>,
    /// Whether a decoder may begin here.
    pub key: bool,
    /// Whether an edit list hides it: it is decoded and not shown.
    pub hidden: bool,
}

/// All packets of a video, seen once and in order; what is kept grows with the key frames alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    /// Frames that are shown, as far as the container knows.
    pub frames: u64,
    /// Of all packets.
    pub bytes: u64,
    /// When the first frame is shown, and the last, in ticks.
    pub span: Option<(i64, i64)>,
    /// Key frames that are shown.
    pub key_frames: u64,
    /// Where a decoder may begin and everything before is shown before, but for what is said there.
    pub(crate) keys: Vec<Key>,
    /// When the first key frame is shown, in ticks, and where in the file it lies.
    pub(crate) first_key: Option<(i64, Option<Range<u64>>)>,
    /// Whether the first packet is a key frame, shown or not.
    pub(crate) begins_with_key: bool,
    /// Packets without a time.
    pub untimed: u64,
    /// Packets that an edit list hides.
    pub hidden: u64,
    /// Those of them behind a frame that is shown: an edit list that does more than begin late.
    pub(crate) hidden_inside: u64,
}

/// A key frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// When it is shown, in ticks.
    pub(crate) pts: i64,
    /// Frames shown before it.
    pub(crate) frames_before: u64,
    /// Of the packets before it in the file.
    pub(super) bytes_before: u64,
    /// When the frame before it is shown, in ticks.
    pub(crate) before: i64,
    /// Frames that are shown before it and decoded after it. A decoder that begins here leaves them out.
    pub(super) leading: u32,
    /// Where in the file it lies, where that is known.
    span: Option<Range<u64>>,
}

impl Packet {
    /// Where in the file it lies.
    fn span(&self) -> Option<Range<u64>> {
        self.at.map(|at| at..at.saturating_add(self.bytes))
    }
}

impl Outline {
    /// Whether its frames come in an order in which a decoder can tell what comes before what: the first that is shown can be
    /// decoded, and every key frame is shown after all that lie before it, and is not passed by a later one.
    pub(crate) fn is_in_order(&self) -> bool {
        let is_decodable = self.begins_with_key && (self.first_shown().is_some() || self.hidden > self.hidden_inside);
        self.untimed == 0 && self.span.is_some() && is_decodable && self.shown_keys().count() as u64 == self.key_frames
    }

    /// Of the key frames that are in order when each is shown, in ticks, and where in the file it lies.
    pub(crate) fn shown_keys(&self) -> impl Iterator<Item = (i64, Option<Range<u64>>)> {
        let later = self.keys.iter().map(|key| (key.pts, key.span.clone()));
        self.first_shown().cloned().into_iter().chain(later)
    }

    /// The first key frame, where nothing is shown before it.
    fn first_shown(&self) -> Option<&(i64, Option<Range<u64>>)> {
        self.first_key.as_ref().filter(|(pts, _)| self.span.is_some_and(|(first, _)| first == *pts))
    }

    /// Takes the next packet in.
    pub fn add(&mut self, packet: Packet) {
        self.bytes = self.bytes.saturating_add(packet.bytes);
        if self.frames == 0 && self.hidden == 0 {
            self.begins_with_key = packet.key;
        }
        if packet.hidden {
            self.hidden += 1;
            self.hidden_inside += u64::from(self.frames > 0);
            return;
        }
        self.frames += 1;
        self.key_frames += u64::from(packet.key);
        if packet.key && self.first_key.is_none() {
            self.first_key = packet.pts.map(|pts| (pts, packet.span()));
        }
        let Some(pts) = packet.pts else {
            self.untimed += 1;
            return;
        };
        if let Some((_, last)) = self.span.filter(|&(_, last)| packet.key && last < pts) {
            self.keys.push(Key {
                pts,
                frames_before: self.frames - 1,
                bytes_before: self.bytes - packet.bytes,
                before: last,
                leading: 0,
                span: packet.span(),
            });
        }
        self.leads(pts);
        self.span = Some(self.span.map_or((pts, pts), |(first, last)| (first.min(pts), last.max(pts))));
    }

    /// Counts the frame at `pts` as leading where it comes after a key frame and is shown before it. Only the newest
    /// may have such frames: one that reaches back further makes an older key frame no place to cut at.
    fn leads(&mut self, pts: i64) {
        while let [.., older, newest] = &self.keys[..] {
            if pts >= newest.pts || pts >= older.pts {
                break;
            }
            self.keys.pop();
        }
        if let Some(newest) = self.keys.last_mut().filter(|newest| pts < newest.pts) {
            newest.frames_before += 1;
            newest.leading = newest.leading.saturating_add(1);
            newest.before = newest.before.max(pts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets as words: a time, `K` behind it for a key frame, `D` for a hidden one; `-` has no time.
    pub(crate) fn outline(words: &str) -> Outline {
        let mut outline = Outline::default();
        for word in words.split_whitespace() {
            let time = word.trim_end_matches(['K', 'D']);
            let (key, hidden) = (word.contains('K'), word.contains('D'));
            outline.add(Packet { pts: time.parse().ok(), bytes: 10, at: None, key, hidden });
        }
        outline
    }

    #[test]
    fn key_frames_know_what_is_shown_before_them() {
        let check = |words: &str, want: &[(i64, u64, i64, u32)]| {
            let got: Vec<_> =
                outline(words).keys.iter().map(|key| (key.pts, key.frames_before, key.before, key.leading)).collect();
            assert_eq!(got, want, "{words}");
        };
        check("", &[]);
        check("0K 1 2", &[]);
        check("0K 1 2 3K 4", &[(3, 3, 2, 0)]);
        check("0K 3 1 2 4K 5", &[(4, 4, 3, 0)]);
        // Shown before the key frame and decoded after it.
        check("0K 3 1 2 6K 4 5 7 8K", &[(6, 6, 5, 2), (8, 8, 7, 0)]);
        // One that is shown before two key frames, or after the next: neither can be cut at.
        check("0K 1 5K 6 9K 4", &[(5, 3, 4, 1)]);
        check("0K 9 5K 6", &[]);
        // Hidden frames are not counted.
        check("-2KD -1D 0K 1 4K", &[(4, 2, 1, 0)]);
        check("0K - 2K", &[(2, 2, 0, 0)]);
    }

    #[test]
    fn frames_are_in_order_or_not() {
        let table = [
            ("0K 1 2 3K 4", true),
            ("0K 3 1 2 6K 4 5 7 8K", true),
            ("-2KD -1D 0K 1 4K", true),
            ("-2KD -1D 0 1 4K", true),
            ("-2D -1D 0 1 4K", false),
            ("-1 0K 1 4K", false),
            ("", false),
            ("2K 0 1 3K", false),
            ("0K 1 5K 6 9K 4", false),
            ("0K 1 2 0K 1 2", false),
            ("0K - 2K", false),
        ];
        for (words, want) in table {
            assert_eq!(outline(words).is_in_order(), want, "{words}");
        }
    }

    #[test]
    fn sums() {
        let outline = outline("-2KD 0K 4 2 - 6K 5D");
        assert_eq!((outline.frames, outline.bytes, outline.span), (5, 70, Some((0, 6))));
        assert_eq!((outline.key_frames, outline.untimed, outline.hidden_inside), (2, 1, 1));
    }
}
