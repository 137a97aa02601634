//! The demo's pictures: the clip with its detections drawn on it, and the contact sheet.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use indicatif::{ProgressBar, ProgressStyle};
use pipeline::picture::draw::Mark;
use serde::Deserialize;
use work::Summary;
use work::media::{Annotate, SheetPlan, Tools, annotate, probe};

use crate::Outcome;
use crate::exit::Exit;

/// A line of results.jsonl, as anybody would read it.
#[derive(Deserialize)]
struct Frame {
    detections: Vec<Detection>,
}

#[derive(Deserialize)]
struct Detection {
    label: String,
    class: u32,
    score: f32,
    box_px: [f32; 4],
}

/// Writes `annotated.mp4` and `contact-sheet.png` into `out`, from the results that are there already.
pub(super) fn draw(clip: &Path, out: &Path, summary: &Summary) -> Outcome {
    let tools = Tools::from_env();
    let probe = probe(&tools, clip)?;
    let path = out.join("results.jsonl");
    let unreadable = |error: &dyn std::fmt::Display| Exit::Failed(format!("{}: {error}", path.display()));
    let mut lines = BufReader::new(File::open(&path).map_err(|error| unreadable(&error))?).lines();
    let sheet = SheetPlan { path: out.join("contact-sheet.png"), frames: summary.frames };
    let video = out.join("annotated.mp4");
    let job = Annotate {
        tools: &tools,
        source: clip.into(),
        probe: &probe,
        video: Some(&video),
        figures: &[],
        sheet: Some(&sheet),
    };

    let bar = ProgressBar::new(summary.frames);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {human_pos}/{human_len} frames drawn  {per_sec}") {
        bar.set_style(style);
    }
    // Frames come in order, and so do the lines.
    let mut marks =
        |_frame: u64| next(&mut lines).map_err(|error| engine::Error::corrupt(format!("{}: {error}", path.display())));
    annotate(&job, &mut marks, &mut |done| bar.set_position(done))?;
    bar.finish_and_clear();
    Ok(())
}

fn next(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Result<Vec<Mark>, String> {
    let line = lines.next().ok_or("it has fewer lines than the clip has frames")?.map_err(|error| error.to_string())?;
    let frame: Frame = serde_json::from_str(&line).map_err(|error| error.to_string())?;
    Ok(frame.detections.iter().map(mark).collect())
}

fn mark(detection: &Detection) -> Mark {
    let text = format!("{} {:.2}", detection.label, detection.score);
    Mark { box_px: detection.box_px, text, class: detection.class }
}
