//! `labels.vtt`: subtitles that say what is to be seen, such as `2 person, 1 car`. A cue lasts as long as nothing changes;
//! where nothing is to be seen there is none. On the video's own clock, from zero on.

use std::collections::BTreeMap;
use std::io::Write;

use engine::Result;

use super::{About, Seen, Writer, unwritable};

/// How long the last frame is shown where the video does not say how long any is.
const LAST_FRAME_US: i64 = 40_000;

#[derive(Default)]
pub(super) struct WebVtt {
    /// What is to be seen, and since when.
    cue: Option<(String, i64)>,
    /// When the frame before was shown, and how long.
    before: Option<(i64, i64)>,
}

impl WebVtt {
    /// Ends the cue at `until_us`, where one of that length can be.
    fn end_cue(&mut self, until_us: i64, out: &mut Vec<u8>) -> Result<()> {
        let Some((text, since_us)) = self.cue.take() else { return Ok(()) };
        let (since_us, until_us) = (since_us.max(0), until_us.max(0));
        // Times have milliseconds, and a cue has to last.
        if text.is_empty() || until_us / 1000 <= since_us / 1000 {
            return Ok(());
        }
        writeln!(out, "{} --> {}\n{text}\n", clock(since_us), clock(until_us)).map_err(unwritable)
    }
}

impl Writer for WebVtt {
    fn begin(&mut self, _about: &About<'_>, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(b"WEBVTT\n\n");
        Ok(())
    }

    fn frame(&mut self, about: &About<'_>, seen: &Seen<'_>, out: &mut Vec<u8>) -> Result<()> {
        let mut counts = BTreeMap::<u32, u32>::new();
        seen.sightings.iter().for_each(|one| *counts.entry(one.class).or_default() += 1);
        let words: Vec<_> = counts.iter().map(|(&class, count)| format!("{count} {}", about.label(class))).collect();
        let text = escaped(&words.join(", "));
        if self.cue.as_ref().is_none_or(|(now, _)| *now != text) {
            self.end_cue(seen.pts_us, out)?;
            self.cue = Some((text, seen.pts_us));
        }
        let lasted_us = self.before.map_or(0, |(before_us, _)| seen.pts_us.saturating_sub(before_us));
        self.before = Some((seen.pts_us, lasted_us));
        Ok(())
    }

    fn end(&mut self, _about: &About<'_>, give: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let Some((last_us, lasted_us)) = self.before else { return Ok(()) };
        let mut out = Vec::new();
        let lasts_us = if lasted_us > 0 { lasted_us } else { LAST_FRAME_US };
        self.end_cue(last_us.saturating_add(lasts_us), &mut out)?;
        give(&out)
    }
}

/// Hours, minutes, seconds and milliseconds.
fn clock(time_us: i64) -> String {
    let ms = time_us / 1000;
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

/// `text` on one line and without what WebVTT takes for more than text.
fn escaped(text: &str) -> String {
    let plain = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}
