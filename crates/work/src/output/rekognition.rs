//! `rekognition.json`: as Amazon Rekognition answers `GetLabelDetection`, sorted by timestamp, all of it in one answer.
//! Boxes are shares of the picture, scores per cent.

use std::io::Write;

use engine::Result;

use super::{About, Seen, Sighting, Writer, check_finite, quoted, unwritable};

#[derive(Default)]
pub(super) struct Rekognition {
    labels: u64,
}

impl Rekognition {
    fn label(
        &mut self,
        about: &About<'_>,
        ms: i64,
        class: u32,
        all: &[Sighting],
        out: &mut Vec<u8>,
    ) -> std::io::Result<()> {
        let comma = if self.labels == 0 { "" } else { ",\n" };
        self.labels += 1;
        let mine = || all.iter().filter(|one| one.class == class);
        let best = mine().map(|one| one.score).fold(0.0, f32::max) * 100.0;
        let name = quoted(&about.label(class));
        write!(out, r#"{comma}{{"Timestamp":{ms},"Label":{{"Name":{name},"Confidence":{best:.2},"Instances":["#)?;
        let (across, down) = (about.probe.width as f32, about.probe.height as f32);
        for (place, one) in mine().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            let [left, top, right, bottom] = one.box_px;
            let (x, y, width, height) = (left / across, top / down, (right - left) / across, (bottom - top) / down);
            write!(out, r#"{comma}{{"BoundingBox":{{"Width":{width:.6},"Height":{height:.6},"#)?;
            write!(out, r#""Left":{x:.6},"Top":{y:.6}}},"Confidence":{:.2}}}"#, one.score * 100.0)?;
        }
        out.write_all(br#"],"Parents":[],"Aliases":[],"Categories":[]}}"#)
    }
}

impl Writer for Rekognition {
    fn begin(&mut self, about: &About<'_>, out: &mut Vec<u8>) -> Result<()> {
        let probe = about.probe;
        let (codec, format) = (quoted(&probe.codec), quoted(&probe.container));
        let range = if probe.colour.range.as_deref() == Some("pc") { "FULL" } else { "LIMITED" };
        let ms = (probe.duration_s.unwrap_or_default() * 1000.0).round();
        let (name, version) = about.model;
        let model = quoted(&format!("{name}/{version}"));
        let (width, height, rate) = (probe.width, probe.height, probe.frame_rate.unwrap_or_default());
        write!(out, r#"{{"JobStatus":"SUCCEEDED","VideoMetadata":{{"Codec":{codec},"DurationMillis":{ms},"#)
            .and_then(|()| {
                write!(out, r#""Format":{format},"FrameRate":{rate},"FrameHeight":{height},"FrameWidth":{width},"#)
            })
            .and_then(|()| writeln!(out, r#""ColorRange":"{range}"}},"LabelModelVersion":{model},"Labels":["#))
            .map_err(unwritable)
    }

    fn frame(&mut self, about: &About<'_>, seen: &Seen<'_>, out: &mut Vec<u8>) -> Result<()> {
        check_finite(seen)?;
        let ms = seen.pts_us.div_euclid(1000);
        for (place, one) in seen.sightings.iter().enumerate() {
            // Once for each class; a frame has too few for a set to be faster.
            if seen.sightings[..place].iter().all(|earlier| earlier.class != one.class) {
                self.label(about, ms, one.class, seen.sightings, out).map_err(unwritable)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, about: &About<'_>, give: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let id = quoted(&about.task.id);
        let request = r#""GetRequestMetadata":{"SortBy":"TIMESTAMP","AggregateBy":"TIMESTAMPS"}"#;
        give(format!("\n],\"JobId\":{id},{request}}}\n").as_bytes())
    }
}
