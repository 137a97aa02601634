//! What the decoder says of its frames beside their pixels: when each is to be shown, and whether it is given out.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use super::filters::KEPT;

/// Frames that may be ahead of the decision whether they are chosen.
const SEEN_MAX: usize = 1024;

/// A frame that ffmpeg spoke of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamp {
    pub(super) index: u64,
    pub(super) pts_us: i64,
    pub(super) previous_us: Option<i64>,
}

/// What ffmpeg writes of its frames, in order.
pub(super) struct Stamps {
    pub(super) pipe: Option<OwnedFd>,
    line: Vec<u8>,
    /// The time of the frame whose mark comes next.
    stated: Option<Option<i64>>,
    /// Frames that may turn out to be chosen, the newest of them: a filter has no more than a few in hand.
    seen: VecDeque<Stamp>,
    /// Frames that are ahead of their pixels: as many as ffmpeg has on the way.
    pub(super) kept: VecDeque<Stamp>,
    /// Frames of the span so far, and when the last of them is shown.
    pub(super) frames: u64,
    pub(super) last_us: Option<i64>,
    /// Stands in where a stream states no time.
    period_us: f64,
}

impl Stamps {
    pub(super) fn new(pipe: OwnedFd, frame_rate: Option<f64>, skipped: u64) -> Self {
        Self {
            pipe: Some(pipe),
            line: Vec::new(),
            stated: None,
            seen: VecDeque::new(),
            kept: VecDeque::new(),
            frames: skipped,
            last_us: None,
            period_us: frame_rate.map_or(0.0, |rate| 1e6 / rate),
        }
    }

    pub(super) fn read(&mut self) -> std::io::Result<()> {
        let Some(pipe) = &self.pipe else { return Ok(()) };
        let mut bytes = [0; 4096];
        match rustix::io::read(pipe, &mut bytes) {
            Ok(0) => self.pipe = None,
            Ok(count) => self.push(&bytes[..count]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                continue;
            }
            let line = std::mem::take(&mut self.line);
            self.take(std::str::from_utf8(&line).unwrap_or_default());
            self.line = line;
            self.line.clear();
        }
    }

    fn take(&mut self, line: &str) {
        if line.starts_with("frame:") {
            let pts = line.split_ascii_whitespace().find_map(|word| word.strip_prefix("pts:"));
            self.stated = Some(pts.and_then(|pts| pts.parse().ok()));
            return;
        }
        let Some(mark) = line.strip_prefix("packhorse=") else { return };
        let Some(stated) = self.stated.take() else { return };
        match (mark, self.seen.is_empty()) {
            (KEPT, true) => {
                let stamp = self.count(stated);
                self.kept.push_back(stamp);
            }
            (KEPT, false) => {
                while let Some(stamp) = self.seen.pop_front() {
                    if stated.is_none_or(|pts_us| pts_us == stamp.pts_us) {
                        self.kept.push_back(stamp);
                        break;
                    }
                }
            }
            _ => {
                let stamp = self.count(stated);
                self.seen.push_back(stamp);
                if self.seen.len() > SEEN_MAX {
                    self.seen.pop_front();
                }
            }
        }
    }

    /// Counts a frame that states such a time.
    fn count(&mut self, stated: Option<i64>) -> Stamp {
        let expected = || self.last_us.map_or(0, |last_us| last_us.saturating_add(self.period_us.round() as i64));
        let stamp = Stamp { index: self.frames, pts_us: stated.unwrap_or_else(expected), previous_us: self.last_us };
        self.frames += 1;
        self.last_us = Some(stamp.pts_us);
        stamp
    }
}
