//! How a video is to be looked at, as it is typed: the same words for whoever submits one, whoever tries one out, and for
//! workers, of videos of which nobody says it.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use work::task::Template;
use work::track::{Line, Zone};
use work::{Form, Sampling, Task};

use crate::exit::Exit;

#[derive(clap::Args)]
pub(crate) struct Look {
    /// Detections below this score are not reported
    #[arg(long, env = "PACKHORSE_THRESHOLD", default_value_t = work::task::THRESHOLD_DEFAULT)]
    threshold: f32,
    /// Per cent of the frames that may be damaged; more fails the task
    #[arg(long, env = "PACKHORSE_TOLERATE_DAMAGE", default_value_t = 0.0, value_name = "PERCENT")]
    tolerate_damage: f64,
    /// Which frames are looked at: all, every:N, fps:N, motion[:LEVELS[:SECONDS]], reference or key-frames
    #[arg(long, env = "PACKHORSE_SAMPLE", default_value = "all", value_name = "FRAMES")]
    sample: Sampling,
    /// Follow objects from frame to frame, and number them
    #[arg(long, env = "PACKHORSE_TRACK")]
    track: bool,
    /// Zones in the picture and lines across it, as JSON: {"zones": [{"name", "polygon"}], "lines": [{"name", "from", "to"}]}
    #[arg(long, env = "PACKHORSE_PLACES", value_name = "FILE")]
    places: Option<PathBuf>,
    /// Results besides results.jsonl: coco, mot, parquet, webvtt, rekognition, annotated, contact-sheet
    #[arg(long, env = "PACKHORSE_OUTPUTS", value_delimiter = ',', value_name = "FORMS")]
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
        let template = self.template(Some(task.model))?;
        let looked = template.task(&task.id, &task.input).map_err(|error| Exit::configuration(&error))?;
        let (input_etag, reply_to, reply_form) = (task.input_etag, task.reply_to, task.reply_form);
        Ok(Task { input_etag, reply_to, reply_form, ..looked })
    }

    /// What is typed for videos of which nobody says more.
    pub(super) fn template(&self, model: Option<String>) -> Result<Template, Exit> {
        let Places { zones, lines } = self.places.as_deref().map(read).transpose()?.unwrap_or_default();
        Ok(Template {
            model,
            threshold: self.threshold,
            damage_tolerance: self.tolerate_damage / 100.0,
            sampling: self.sample,
            track: self.track,
            zones,
            lines,
            outputs: self.outputs.clone(),
        })
    }
}

fn read(path: &Path) -> Result<Places, Exit> {
    let wrong = |error: &dyn std::fmt::Display| Exit::Configuration(format!("{}: {error}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| wrong(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| wrong(&error))
}
