//! `results.jsonl`: a line for every frame that was looked at. A frame without detections has one too: it proves that it
//! was looked at.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;

use engine::Result;

use super::{About, Seen, Writer, check_finite, quoted, unwritable};
use crate::track::Crossing;

/// Times have six decimals, scores four, boxes (left, top, right, bottom, in pixels of the video as displayed) two.
pub(super) struct Lines {
    /// Names in JSON's quotes, ready to be written.
    labels: BTreeMap<u32, String>,
    zones: Vec<String>,
    lines: Vec<String>,
}

impl Lines {
    pub(super) fn new(about: &About<'_>) -> Self {
        let labels = about.labels.iter().map(|(&class, name)| (class, quoted(name))).collect();
        let zones = about.task.zones.iter().map(|zone| quoted(&zone.name)).collect();
        let lines = about.task.lines.iter().map(|line| quoted(&line.name)).collect();
        Self { labels, zones, lines }
    }

    fn label(&self, class: u32) -> Cow<'_, str> {
        self.labels.get(&class).map_or_else(|| format!("\"{class}\"").into(), |quoted| quoted.as_str().into())
    }
}

impl Writer for Lines {
    fn begin(&mut self, _about: &About<'_>, _out: &mut Vec<u8>) -> Result<()> {
        Ok(())
    }

    fn frame(&mut self, _about: &About<'_>, seen: &Seen<'_>, out: &mut Vec<u8>) -> Result<()> {
        check_finite(seen)?;
        let mut write = || {
            write!(out, r#"{{"frame":{},"pts_s":{:.6},"detections":["#, seen.index, seen.pts_s())?;
            for (place, one) in seen.sightings.iter().enumerate() {
                let comma = if place == 0 { "" } else { "," };
                let (class, label, score) = (one.class, self.label(one.class), one.score);
                let [left, top, right, bottom] = one.box_px;
                write!(out, r#"{comma}{{"label":{label},"class":{class},"score":{score:.4},"#)?;
                write!(out, r#""box_px":[{left:.2},{top:.2},{right:.2},{bottom:.2}]"#)?;
                if let Some(track) = one.track {
                    write!(out, r#","track":{track}"#)?;
                }
                if !one.zones.is_empty() {
                    let names: Vec<&str> = one.zones.iter().map(|&zone| self.zones[zone].as_str()).collect();
                    write!(out, r#","zones":[{}]"#, names.join(","))?;
                }
                out.write_all(b"}")?;
            }
            out.write_all(b"]")?;
            for (place, &Crossing { line, track, to_right }) in seen.crossings.iter().enumerate() {
                let before = if place == 0 { r#","crossings":["# } else { "," };
                let (name, to) = (&self.lines[line], if to_right { "right" } else { "left" });
                write!(out, r#"{before}{{"line":{name},"track":{track},"to":"{to}"}}"#)?;
            }
            out.write_all(if seen.crossings.is_empty() { b"}\n" } else { b"]}\n" })
        };
        write().map_err(unwritable)
    }

    fn end(&mut self, _about: &About<'_>, _give: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        Ok(())
    }
}
