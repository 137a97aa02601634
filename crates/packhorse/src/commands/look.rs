//! How a video is to be looked at, as it is typed: the same words for whoever submits one and whoever tries one out.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use work::track::{Line, Zone};
use work::{Form, Sampling, Task};

use crate::exit::Exit;

#[derive(clap::Args)]
pub(crate) struct Look {
    /// Detections below this score are not reported
    #[arg(long, default_value_t = work::task::THRESHOLD_DEFAULT)]
    threshold: f32,
    /// Per cent of the frames that may be damaged; more fails the task
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    tolerate_damage: f64,
    /// Which frames are looked at: all, every:N, fps:N or key-frames
    #[arg(long, default_value = "all", value_name = "FRAMES")]
    sample: Sampling,
    /// Follow objects from frame to frame, and number them
    #[arg(long)]
    track: bool,
    /// Zones in the picture and lines across it, as JSON: {"zones": [{"name", "polygon"}], "lines": [{"name", "from", "to"}]}
    #[arg(long, value_name = "FILE")]
    places: Option<PathBuf>,
    /// Results besides results.jsonl: coco, mot, webvtt, rekognition, annotated, contact-sheet
    #[arg(long, value_delimiter = ',', value_name = "FORMS")]
    outputs: Vec<Form>,
}

/// What is in a file of places.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Places {
    #[serde(default)]
    zones: Vec<Zone>,
    #[serde(default)]
    lines: Vec<Line>,
}

impl Look {
    /// `task`, looked at as was typed.
    pub(super) fn with(&self, task: Task) -> Result<Task, Exit> {
        let Places { zones, lines } = self.places.as_deref().map(read).transpose()?.unwrap_or_default();
        let task = Task {
            threshold: self.threshold,
            damage_tolerance: self.tolerate_damage / 100.0,
            sampling: self.sample,
            track: self.track,
            zones,
            lines,
            outputs: self.outputs.clone(),
            ..task
        };
        // Reading back what would be sent checks every field once, in the one place that knows the rules.
        let checked = task.to_json().and_then(|body| Task::from_json(&body));
        checked.map_err(|error| Exit::configuration(&error))
    }
}

fn read(path: &Path) -> Result<Places, Exit> {
    let wrong = |error: &dyn std::fmt::Display| Exit::Configuration(format!("{}: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| wrong(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| wrong(&error))
}
