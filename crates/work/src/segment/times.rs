//! When each frame of a video is shown, in order, by its list of packets: what numbers the frames of a decoder that passes
//! over some. A list of all times grows with the video, so it is kept in a file without a name.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use engine::{Error, Result};

use super::Packet;

/// Frames that may come before one in the file and be shown after it. H.264 and H.265 allow 16, others fewer.
const AHEAD_MAX: usize = 64;
/// Of the file, a time is so many bytes.
const TIME_BYTES: usize = size_of::<i64>();
/// Times that are read at once.
const PIECE: usize = 1024;

/// The times of a video's frames, while its packets come in.
pub(crate) struct Listed {
    file: BufWriter<File>,
    /// Those of the newest packets, of which the earliest comes first.
    waiting: BinaryHeap<Reverse<i64>>,
    last: Option<i64>,
    /// Whether each frame has a time of its own, and none comes too late to be put in order.
    is_sound: bool,
    failed: Option<io::Error>,
}

impl Listed {
    /// Of a video whose packets are yet to come.
    ///
    /// # Errors
    /// [`Unavailable`](engine::ErrorKind::Unavailable) when the system's folder for such files takes none.
    pub(crate) fn new() -> Result<Self> {
        let file = BufWriter::new(tempfile::tempfile().map_err(|error| disk_failed(&error))?);
        Ok(Self { file, waiting: BinaryHeap::new(), last: None, is_sound: true, failed: None })
    }

    /// Takes the next packet in.
    pub(crate) fn add(&mut self, packet: &Packet) {
        if packet.hidden || !self.is_sound {
            return;
        }
        match packet.pts {
            Some(pts) => self.waiting.push(Reverse(pts)),
            None => self.is_sound = false,
        }
        if self.waiting.len() > AHEAD_MAX {
            self.write_earliest();
        }
    }

    fn write_earliest(&mut self) {
        let Some(Reverse(pts)) = self.waiting.pop() else { return };
        self.is_sound &= self.last.is_none_or(|last| last < pts);
        self.last = Some(pts);
        if let Err(error) = self.file.write_all(&pts.to_le_bytes()) {
            self.failed.get_or_insert(error);
        }
    }

    /// All of them; `None` where they are not those of frames that follow on each other.
    ///
    /// # Errors
    /// [`Unavailable`](engine::ErrorKind::Unavailable) when they could not be kept.
    pub(crate) fn end(mut self) -> Result<Option<Times>> {
        while self.is_sound && !self.waiting.is_empty() {
            self.write_earliest();
        }
        if let Some(error) = self.failed {
            return Err(disk_failed(&error));
        }
        let file = self.file.into_inner().map_err(|error| disk_failed(error.error()))?;
        Ok(self.is_sound.then_some(Times(file)))
    }
}

/// When each frame of a video is shown, in ticks of its container, in order.
#[derive(Debug)]
pub(crate) struct Times(File);

impl Times {
    /// To be gone along from the first.
    pub(crate) fn numbers(&self) -> Numbers<'_> {
        Numbers { file: &self.0, read: 0, piece: Vec::new().into_iter(), next: None, number: 0 }
    }
}

/// Where somebody is in the times of a video.
pub(crate) struct Numbers<'a> {
    file: &'a File,
    /// Bytes of the file that were read.
    read: u64,
    piece: std::vec::IntoIter<i64>,
    /// The time that comes next, and frames before it.
    next: Option<i64>,
    number: u64,
}

impl Numbers<'_> {
    /// The number of the frame that is shown at `at`, in the unit to which `unit` brings the container's ticks; `None` when
    /// there is none but those before the last that was asked for, or that are not the only one.
    ///
    /// # Errors
    /// [`Unavailable`](engine::ErrorKind::Unavailable) when the list cannot be read.
    pub(crate) fn at(&mut self, at: i64, unit: impl Fn(i64) -> Option<i64>) -> Result<Option<u64>> {
        let mut found = None;
        while let Some(ticks) = self.peek()? {
            match unit(ticks) {
                Some(time) if time > at => break,
                Some(time) if time == at && found.is_some() => return Ok(None),
                Some(time) if time == at => found = Some(self.number),
                _ => {}
            }
            (self.next, self.number) = (None, self.number + 1);
        }
        Ok(found)
    }

    fn peek(&mut self) -> Result<Option<i64>> {
        if self.next.is_none() {
            if self.piece.len() == 0 {
                self.piece = self.more().map_err(|error| disk_failed(&error))?.into_iter();
            }
            self.next = self.piece.next();
        }
        Ok(self.next)
    }

    fn more(&mut self) -> io::Result<Vec<i64>> {
        let mut bytes = vec![0; PIECE * TIME_BYTES];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], self.read + filled as u64)? {
                0 => break,
                count => filled += count,
            }
        }
        self.read += filled as u64;
        Ok(bytes[..filled].as_chunks().0.iter().map(|time| i64::from_le_bytes(*time)).collect())
    }
}

fn disk_failed(error: &io::Error) -> Error {
    let folder = std::env::temp_dir();
    Error::unavailable(format!("the times of a video's frames cannot be kept in {}: {error}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(packets: impl IntoIterator<Item = (Option<i64>, bool)>) -> Option<Times> {
        let mut listed = Listed::new().unwrap();
        packets
            .into_iter()
            .for_each(|(pts, hidden)| listed.add(&Packet { pts, bytes: 1, at: None, key: false, hidden }));
        listed.end().unwrap()
    }

    #[test]
    fn frames_are_numbered_in_the_order_in_which_they_are_shown() {
        // Four at a time, of which the last is decoded first; more than are read at once. Two are hidden.
        let order = (0..1000).flat_map(|group| [3, 0, 2, 1].map(|frame| group * 4 + frame));
        let hidden = [(Some(-20), true), (Some(-10), true)];
        let times = listed(hidden.into_iter().chain(order.map(|frame| (Some(frame * 10), false)))).unwrap();
        // As often as somebody goes along them.
        for _ in 0..2 {
            let mut numbers = times.numbers();
            let mut at = |time| numbers.at(time, |ticks| Some(ticks * 2)).unwrap();
            let asked = [0, 40, 60, 70, 80, 60, 40_000, 79_980, 79_981, 90_000];
            let want = [Some(0), Some(2), Some(3), None, Some(4), None, Some(2000), Some(3999), None, None];
            assert_eq!(asked.map(&mut at), want);
        }
    }

    #[test]
    fn what_does_not_tell_frames_apart_is_no_list_of_them() {
        let timed = |times: &[i64]| listed(times.iter().map(|&time| (Some(time), false)));
        assert!(timed(&[0, 3, 1, 2]).is_some() && timed(&[]).is_some());
        assert!(timed(&[0, 3, 1, 1]).is_none(), "two at one time");
        assert!(listed([(Some(0), false), (None, false)]).is_none(), "one without a time");
        // A second recording that begins its clock anew.
        let again: Vec<i64> = (0..100).chain(0..100).collect();
        assert!(timed(&again).is_none());
        // Times that what is to be told of them cannot tell apart.
        let times = timed(&[0, 10, 11, 20]).unwrap();
        let mut numbers = times.numbers();
        assert_eq!([0, 1, 2].map(|time| numbers.at(time, |ticks| Some(ticks / 10)).unwrap()), [Some(0), None, Some(3)]);
    }
}
