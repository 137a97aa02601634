//! A durable piece of a segment: what was detected in so many of its frames, one after the other.
//!
//! A part's name says what it holds: of which video and which settings (by a hash), which segment, from which frame on
//! and how many. Its detections follow from its name alone, so it does not matter which of two attempts wrote it. What it
//! cost is in it too, and is measured.

use std::fmt;
use std::io::{BufRead, BufReader, Read};

use engine::{Error, Result};
use pipeline::Detected;
use serde::{Deserialize, Serialize};

use crate::cost::Spent;

/// The format of parts that this build writes, and the only one it reads; it is in the hash as well.
pub(crate) const FORMAT: u32 = 3;

/// How the decoder came to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Access {
    /// It began at the segment's key frame.
    Seek,
    /// It came all the way from the video's beginning.
    Through,
}

/// A part's name within its task's folder of parts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartName {
    /// Of the video, the model and every setting that the detections depend on.
    pub hash: String,
    /// How the decoder came there.
    pub access: Access,
    /// The segment's index.
    pub segment: u32,
    /// Frames of the segment before it.
    pub first: u64,
    /// Frames in it, those that were not looked at too.
    pub frames: u64,
    /// Whether the segment ends with it.
    pub is_end: bool,
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hash, segment, first, frames, .. } = self;
        let access = match self.access {
            Access::Seek => 's',
            Access::Through => 't',
        };
        let end = if self.is_end { "-end" } else { "" };
        write!(f, "{hash}-{access}{segment:05}-{first:09}-{frames:09}{end}.jsonl")
    }
}

impl PartName {
    /// The name in `text`; `None` when it is something else's.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.strip_suffix(".jsonl")?.split('-');
        let hash = words.next()?.to_owned();
        let segment = words.next()?;
        let access = match segment.as_bytes().first()? {
            b's' => Access::Seek,
            b't' => Access::Through,
            _ => return None,
        };
        let (segment, first, frames) = (segment.get(1..)?.parse().ok()?, words.next()?, words.next()?);
        let (first, frames) = (first.parse().ok()?, frames.parse().ok()?);
        let is_end = words.next().is_some();
        let name = Self { hash, access, segment, first, frames, is_end };
        // Whatever else could be read as a name is none.
        (name.to_string() == text).then_some(name)
    }
}

/// What was seen in one frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Frames of the segment before it.
    pub offset: u64,
    /// When it is shown, in microseconds.
    pub pts_us: i64,
    /// Best first.
    pub found: Vec<Detected>,
}

/// What is known once a segment was decoded to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentEnd {
    /// Hash of the frame after it, which is the first of the next segment; of a segment reached by seeking, but the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seam: Option<String>,
    /// When its last frame is shown, in microseconds, whether it was looked at or not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_us: Option<i64>,
    /// Errors of the decoder; always zero for a segment reached by seeking. Of those of one decoder that came through the
    /// video, the last to end has them all.
    #[serde(default)]
    pub damage_count: u64,
    /// The first of them, in the decoder's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_damage: Option<String>,
}

/// A part's content.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Part {
    /// Hash of the segment's first frame, in the part that has it, of a segment reached by seeking.
    pub head: Option<String>,
    /// In the last part of a segment.
    pub end: Option<SegmentEnd>,
    /// What it took.
    pub spent: Spent,
    /// One for each frame that was looked at, in order.
    pub looks: Vec<Look>,
}

/// A part's first line.
#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<SegmentEnd>,
    spent: Spent,
}

/// A detection: class, score, left, top, right, bottom. A float is written with as many digits as tell it from its
/// neighbours, so that what is read is what was written.
type Row = (u32, f32, f32, f32, f32, f32);

impl Part {
    /// The part's bytes.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) when a detection has a number that is not finite, which JSON cannot say.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let failed = |error: serde_json::Error| Error::internal(format!("a part cannot be written as JSON: {error}"));
        let Self { head, end, spent, looks } = self;
        let head = Head { format: FORMAT, head: head.clone(), end: end.clone(), spent: *spent };
        let mut bytes = serde_json::to_vec(&head).map_err(failed)?;
        bytes.push(b'\n');
        for Look { offset, pts_us, found } in looks {
            let finite = |found: &Detected| found.score.is_finite() && found.box_px.iter().all(|side| side.is_finite());
            if !found.iter().all(finite) {
                return Err(Error::internal(format!("frame {offset} has a score or box that is not a finite number")));
            }
            let row = |found: &Detected| -> Row {
                let [left, top, right, bottom] = found.box_px;
                (found.class, found.score, left, top, right, bottom)
            };
            let rows: Vec<Row> = found.iter().map(row).collect();
            serde_json::to_writer(&mut bytes, &(offset, pts_us, rows)).map_err(failed)?;
            bytes.push(b'\n');
        }
        Ok(bytes)
    }

    /// The part in `source`, which is read to its end when `with_looks`, or else only as far as its first line.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when it is none.
    pub fn read(source: impl Read, with_looks: bool) -> Result<Self> {
        let corrupt = |error: &dyn fmt::Display| Error::corrupt(format!("not a part of results: {error}"));
        let mut lines = BufReader::new(source).lines();
        let line = lines.next().ok_or_else(|| corrupt(&"it is empty"))?.map_err(|error| corrupt(&error))?;
        let Head { format, head, end, spent } = serde_json::from_str(&line).map_err(|error| corrupt(&error))?;
        if format != FORMAT {
            return Err(corrupt(&format_args!("it has format {format}")));
        }
        let mut part = Self { head, end, spent, looks: Vec::new() };
        for line in lines.take_while(|_| with_looks) {
            let line = line.map_err(|error| corrupt(&error))?;
            let (offset, pts_us, rows): (u64, i64, Vec<Row>) =
                serde_json::from_str(&line).map_err(|error| corrupt(&error))?;
            let detected = |(class, score, left, top, right, bottom): Row| Detected {
                class,
                score,
                box_px: [left, top, right, bottom],
            };
            part.looks.push(Look { offset, pts_us, found: rows.into_iter().map(detected).collect() });
        }
        Ok(part)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_read_as_they_are_written_and_nothing_else_is() {
        let name = |access, segment, first, frames, is_end| PartName {
            hash: "0a1b".to_owned(),
            access,
            segment,
            first,
            frames,
            is_end,
        };
        let table = [
            (name(Access::Seek, 0, 0, 1, false), "0a1b-s00000-000000000-000000001.jsonl"),
            (
                name(Access::Through, 123_456, 7, u64::MAX, true),
                "0a1b-t123456-000000007-18446744073709551615-end.jsonl",
            ),
        ];
        for (name, text) in table {
            assert_eq!(name.to_string(), text);
            assert_eq!(PartName::parse(text), Some(name));
        }
        let others = ["", "x", "0a1b-s00000-000000000-1.jsonl", "a-x00000-000000000-000000001.jsonl", "a-é-0-0.jsonl"];
        for text in others {
            assert_eq!(PartName::parse(text), None, "{text}");
        }
    }

    fn look() -> impl Strategy<Value = Look> {
        let side = any::<f32>().prop_filter("JSON", |side| side.is_finite());
        let found = (any::<u32>(), 0f32..1.0, [side.clone(), side.clone(), side.clone(), side])
            .prop_map(|(class, score, box_px)| Detected { class, score, box_px });
        (any::<u64>(), any::<i64>(), prop::collection::vec(found, 0..4)).prop_map(|(offset, pts_us, found)| Look {
            offset,
            pts_us,
            found,
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_to_the_bit(looks in prop::collection::vec(look(), 0..8)) {
            let seam = Some("s".to_owned());
            let end = SegmentEnd { seam, last_us: Some(-7), damage_count: 1, first_damage: None };
            let part = Part { head: Some("h".to_owned()), end: Some(end), spent: Spent::default(), looks };
            let bytes = part.to_bytes().unwrap();
            prop_assert_eq!(&Part::read(&bytes[..], true).unwrap(), &part);
            prop_assert_eq!(Part::read(&bytes[..], false).unwrap(), Part { looks: Vec::new(), ..part });
        }

        #[test]
        fn what_is_no_part_is_refused(text in "[\\[\\]{}0-9a-z:\",\n]{0,60}") {
            prop_assert!(Part::read(text.as_bytes(), true).is_err());
        }
    }

    #[test]
    fn what_json_cannot_say_is_an_error() {
        for (score, side) in [(f32::NAN, 0.0), (0.5, f32::INFINITY)] {
            let found = vec![Detected { class: 0, score, box_px: [0.0, side, 0.0, 0.0] }];
            let part = Part { looks: vec![Look { offset: 3, pts_us: 0, found }], ..Part::default() };
            assert!(part.to_bytes().unwrap_err().message.contains("frame 3"));
        }
    }
}
