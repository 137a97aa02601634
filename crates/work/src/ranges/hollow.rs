//! Which parts of a file hold nothing but compressed frames.
//!
//! An MP4 has an index of its frames, apart from them (ISO/IEC 14496-12: a file is a row of boxes, and `moov` says where in
//! `mdat` each frame lies). Whoever only lists the frames needs no more of those parts than that they are there.

use std::ops::Range;

use engine::Result;

/// Boxes that are looked at; a file that is more than an index and its frames has many.
const BOXES_MAX: usize = 64;

/// How the boxes of a file lie.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Boxes {
    /// Those of an MP4 with a single index: frames alone are here.
    Index(Vec<Range<u64>>),
    /// Those of an MP4 in fragments, of which each has an index of its own.
    Fragments,
    /// Otherwise.
    Other,
}

/// How the boxes of a file of so many `bytes` lie.
///
/// # Errors
/// Those of `read`, which fills a buffer with what is at an offset.
pub(crate) fn boxes(bytes: u64, read: &dyn Fn(&mut [u8], u64) -> Result<()>) -> Result<Boxes> {
    let (mut at, mut hollows, mut has_index, mut is_plain) = (0, Vec::new(), false, true);
    for number in 0..BOXES_MAX {
        if at == bytes {
            return Ok(if has_index && is_plain { Boxes::Index(hollows) } else { Boxes::Other });
        }
        let mut head = [0; 16];
        let there = usize::try_from((bytes - at).min(16)).unwrap_or(16);
        read(&mut head[..there], at)?;
        let [a, b, c, d, name @ .., _, _, _, _, _, _, _, _] = head;
        let long = u64::from_be_bytes([head[8], head[9], head[10], head[11], head[12], head[13], head[14], head[15]]);
        let (size, header) = match u32::from_be_bytes([a, b, c, d]) {
            0 => (bytes - at, 8),
            1 => (long, 16),
            size => (u64::from(size), 8),
        };
        if size < header || header > bytes - at || (number == 0) != (&name == b"ftyp") {
            return Ok(Boxes::Other);
        }
        // One that is cut off ends where the file does.
        let end = at.saturating_add(size).min(bytes);
        match &name {
            b"mdat" => hollows.push(at + header..end),
            b"moov" => has_index = true,
            b"ftyp" | b"free" | b"skip" | b"wide" | b"uuid" | b"meta" | b"udta" => {}
            b"moof" => return Ok(if has_index { Boxes::Fragments } else { Boxes::Other }),
            // What comes before fragments.
            b"sidx" | b"styp" | b"emsg" | b"prft" => is_plain = false,
            _ => return Ok(Boxes::Other),
        }
        at = end;
    }
    Ok(Boxes::Other)
}

/// What is left of `hollows` without `frames`; both are in order.
pub(super) fn but_for(hollows: &[Range<u64>], frames: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut left = Vec::new();
    for hollow in hollows {
        let mut at = hollow.start;
        let first = frames.partition_point(|frame| frame.end <= hollow.start);
        for frame in frames[first..].iter().take_while(|frame| frame.start < hollow.end) {
            left.push(at..frame.start.max(at));
            at = at.max(frame.end);
        }
        left.push(at..hollow.end.max(at));
    }
    left.retain(|hollow| !hollow.is_empty());
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_are_to_be_seen_are_not_hollow() {
        let check = |hollows: &[Range<u64>], frames: &[Range<u64>], want: &[Range<u64>]| {
            assert_eq!(but_for(hollows, frames), want, "{hollows:?} {frames:?}");
        };
        check(&[10..50, 60..90], &[], &[10..50, 60..90]);
        check(&[10..50, 60..90], &[10..12, 20..30, 45..50, 70..71], &[12..20, 30..45, 60..70, 71..90]);
        check(&[10..50, 60..61], &[5..11, 12..20, 20..25, 48..60], &[11..12, 25..48, 60..61]);
        check(&[10..50, 60..90], &[0..55, 55..100], &[]);
        check(&[], &[3..5, 6..7], &[]);
    }

    #[test]
    fn frames_are_told_from_their_index() {
        let of = |name: &str, size: u32, bytes: usize| [&size.to_be_bytes(), name.as_bytes(), &vec![7; bytes]].concat();
        let plain = |name: &str, bytes: usize| of(name, bytes as u32 + 8, bytes);
        let long = [&1u32.to_be_bytes()[..], b"mdat", &116u64.to_be_bytes(), &[7; 100]].concat();
        let (kind, index) = (plain("ftyp", 12), plain("moov", 30));
        let table = [
            (vec![kind.clone(), index.clone(), plain("mdat", 100)], Ok([66, 166])),
            (vec![kind.clone(), plain("free", 0), plain("mdat", 100), index.clone()], Ok([36, 136])),
            (vec![kind.clone(), long, index.clone()], Ok([36, 136])),
            (vec![kind.clone(), index.clone(), of("mdat", 0, 50)], Ok([66, 116])),
            // Cut off.
            (vec![kind.clone(), index.clone(), of("mdat", 1000, 50)], Ok([66, 116])),
            (vec![kind.clone(), index.clone(), of("mdat", 1, 3)], Err(Boxes::Other)),
            (vec![kind.clone(), plain("mdat", 100)], Err(Boxes::Other)),
            (vec![kind.clone(), index.clone(), plain("moof", 10), plain("mdat", 100)], Err(Boxes::Fragments)),
            (vec![kind.clone(), index.clone(), plain("sidx", 9), plain("moof", 10)], Err(Boxes::Fragments)),
            (vec![kind.clone(), index.clone(), plain("sidx", 9), plain("mdat", 100)], Err(Boxes::Other)),
            (vec![kind.clone(), plain("moof", 10), plain("mdat", 100)], Err(Boxes::Other)),
            (vec![kind.clone(), index.clone(), of("mdat", 7, 50)], Err(Boxes::Other)),
            (vec![index.clone(), plain("mdat", 100)], Err(Boxes::Other)),
            (vec![b"RIFF....AVI LIST".to_vec()], Err(Boxes::Other)),
            (vec![b"short".to_vec()], Err(Boxes::Other)),
            (vec![vec![]], Err(Boxes::Other)),
            (vec![kind, index, vec![plain("mdat", 1); 70].concat()], Err(Boxes::Other)),
        ];
        for (parts, want) in table {
            let file = parts.concat();
            let read = |into: &mut [u8], at: u64| {
                let at = usize::try_from(at).unwrap();
                into.copy_from_slice(&file[at..at + into.len()]);
                Ok(())
            };
            let got = match boxes(file.len() as u64, &read).unwrap() {
                Boxes::Index(hollows) => {
                    Ok(hollows.into_iter().flat_map(|hollow| [hollow.start, hollow.end]).collect::<Vec<_>>())
                }
                other => Err(other),
            };
            assert_eq!(got, want.map(Vec::from), "{file:?}");
        }
    }
}
