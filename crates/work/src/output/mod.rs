//! What a task's results look like: a file a [`Form`], written frame by frame in one pass, so that memory stays level
//! however long the video is.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use engine::{Error, Result};
use pipeline::Detected;
use pipeline::picture::draw::{Figure, Mark};
use serde::{Deserialize, Serialize};

use crate::media::Probe;
use crate::task::Task;
use crate::track::Crossing;

mod coco;
mod lines;
mod mot;
mod parquet;
mod rekognition;
mod webvtt;

pub(crate) mod files;

/// What may be asked for besides `results.jsonl`, which is always there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// A data set as COCO's tools read it: `coco.json`.
    Coco,
    /// Rows as the benchmarks of multiple object tracking have them: `mot.txt`.
    Mot,
    /// A table with a row for every detection, column by column: `detections.parquet`.
    Parquet,
    /// Subtitles that say what is to be seen: `labels.vtt`.
    Webvtt,
    /// As Rekognition answers `GetLabelDetection`: `rekognition.json`.
    Rekognition,
    /// The video with everything drawn on it: `annotated.mp4`.
    Annotated,
    /// Twelve frames side by side with everything drawn on them: `contact-sheet.png`.
    ContactSheet,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Coco, Self::Mot, Self::Parquet, Self::Webvtt, Self::Rekognition, Self::Annotated, Self::ContactSheet];

    /// How tasks and people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Coco => "coco",
            Self::Mot => "mot",
            Self::Parquet => "parquet",
            Self::Webvtt => "webvtt",
            Self::Rekognition => "rekognition",
            Self::Annotated => "annotated",
            Self::ContactSheet => "contact-sheet",
        }
    }

    /// Its file in the folder of the task's results.
    pub fn file(self) -> &'static str {
        match self {
            Self::Coco => "coco.json",
            Self::Mot => "mot.txt",
            Self::Parquet => "detections.parquet",
            Self::Webvtt => "labels.vtt",
            Self::Rekognition => "rekognition.json",
            Self::Annotated => "annotated.mp4",
            Self::ContactSheet => "contact-sheet.png",
        }
    }

    /// Whether it is made of the video's own pictures, which takes decoding it once more.
    pub fn is_drawn(self) -> bool {
        matches!(self, Self::Annotated | Self::ContactSheet)
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Form {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|form| form.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::invalid(format!("there is no output called '{text}': there are {names}"))
        })
    }
}

/// One object in one frame, as it is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Sighting {
    /// Key into the model's labels.
    pub class: u32,
    /// From 0 to 1.
    pub score: f32,
    /// Left, top, right, bottom in pixels of the video as displayed.
    pub box_px: [f32; 4],
    /// Which one it is, where objects are followed and this one is; from 1.
    pub track: Option<u64>,
    /// In which of the task's zones it stands, by their place in the list.
    pub zones: Vec<usize>,
}

impl From<&Detected> for Sighting {
    fn from(found: &Detected) -> Self {
        let &Detected { class, score, box_px } = found;
        Self { class, score, box_px, track: None, zones: Vec::new() }
    }
}

/// A frame that was looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen<'a> {
    /// Counts the video's frames from 0.
    pub(crate) index: u64,
    /// When it is shown, in microseconds on the file's own clock.
    pub(crate) pts_us: i64,
    /// Best first.
    pub(crate) sightings: &'a [Sighting],
    /// What crosses one of the task's lines.
    pub(crate) crossings: &'a [Crossing],
}

impl Seen<'_> {
    /// When it is shown, in seconds. Below 2^53 microseconds, which is 285 years, the conversion is exact.
    pub(crate) fn pts_s(&self) -> f64 {
        self.pts_us as f64 / 1e6
    }
}

/// What a form says of the whole.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub(crate) task: &'a Task,
    pub(crate) probe: &'a Probe,
    pub(crate) model: (&'a str, u64),
    pub(crate) labels: &'a BTreeMap<u32, String>,
}

impl<'a> About<'a> {
    /// A class's name; one without is called by its number.
    pub(crate) fn label(&self, class: u32) -> std::borrow::Cow<'a, str> {
        label(self.labels, class)
    }

    /// The task's zones and lines, to be drawn.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        let size_px = [self.probe.width as f32, self.probe.height as f32];
        let place = |[x, y]: [f32; 2]| [x * size_px[0], y * size_px[1]];
        let figure = |points: &[[f32; 2]], closed, name: &str| Figure {
            points_px: points.iter().copied().map(place).collect(),
            closed,
            text: name.to_owned(),
        };
        let zones = self.task.zones.iter().map(|zone| figure(&zone.polygon, true, &zone.name));
        let lines = self.task.lines.iter().map(|line| figure(&[line.from, line.to], false, &line.name));
        zones.chain(lines).collect()
    }

    /// How a sighting is drawn.
    pub(crate) fn mark(&self, one: &Sighting) -> Mark {
        let which = one.track.map(|track| format!(" #{track}")).unwrap_or_default();
        let text = format!("{}{which} {:.2}", self.label(one.class), one.score);
        Mark { box_px: one.box_px, text, class: one.class }
    }
}

/// The name of `class` among `labels`; one without is called by its number.
pub(crate) fn label(labels: &BTreeMap<u32, String>, class: u32) -> std::borrow::Cow<'_, str> {
    labels.get(&class).map_or_else(|| class.to_string().into(), |name| name.as_str().into())
}

/// A way of writing results down: the same frames give the same bytes.
pub(crate) trait Writer {
    /// Appends what stands before the first frame.
    fn begin(&mut self, about: &About<'_>, out: &mut Vec<u8>) -> Result<()>;

    /// Appends what is to be said of a frame, which comes after the one before.
    fn frame(&mut self, about: &About<'_>, seen: &Seen<'_>, out: &mut Vec<u8>) -> Result<()>;

    /// Appends what stands behind the last frame, in pieces.
    fn end(&mut self, about: &About<'_>, give: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()>;
}

/// The writer of `form`; none for what is drawn.
pub(crate) fn writer(form: Form) -> Option<Box<dyn Writer>> {
    match form {
        Form::Coco => Some(Box::new(coco::Coco::default())),
        Form::Mot => Some(Box::new(mot::Mot)),
        Form::Parquet => Some(Box::new(parquet::Parquet::default())),
        Form::Webvtt => Some(Box::new(webvtt::WebVtt::default())),
        Form::Rekognition => Some(Box::new(rekognition::Rekognition::default())),
        Form::Annotated | Form::ContactSheet => None,
    }
}

/// The writer of `results.jsonl`.
pub(crate) fn lines(about: &About<'_>) -> Box<dyn Writer> {
    Box::new(lines::Lines::new(about))
}

/// That JSON and everybody else can say the numbers of a frame.
fn check_finite(seen: &Seen<'_>) -> Result<()> {
    let finite = |one: &Sighting| one.score.is_finite() && one.box_px.iter().all(|side| side.is_finite());
    match seen.sightings.iter().all(finite) {
        true => Ok(()),
        false => Err(Error::internal(format!("frame {} has a score or box that is not a finite number", seen.index))),
    }
}

/// Writing to memory fails only where memory does.
#[expect(clippy::needless_pass_by_value, reason = "it comes by value from `map_err`")]
fn unwritable(error: std::io::Error) -> Error {
    Error::internal(format!("a result cannot be written to memory: {error}"))
}

/// `text` as JSON says it, quotes and all.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
