//! What a task leaves behind: files of results, and a summary that marks the whole as committed. The same video, model
//! and settings give the same bytes, whoever worked it; what is measured lies in a file of its own.

use std::collections::BTreeMap;

use engine::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::output::files::Written;
use crate::output::{Sighting, label};
use crate::quality::Note;
use crate::sampling::Sampling;
use crate::source::InputIdentity;
use crate::track::{LineCount, ZoneCount};

/// The summary format this build writes.
pub const FORMAT: u32 = 3;

/// The object with one line per frame.
pub fn lines_key(task_id: &str) -> String {
    format!("{task_id}/results.jsonl")
}

/// The object that is written last: where it is, the task's lines are whole.
pub fn summary_key(task_id: &str) -> String {
    format!("{task_id}/summary.json")
}

/// What working the task took.
pub fn cost_key(task_id: &str) -> String {
    format!("{task_id}/cost.json")
}

/// Where a task's parts are until its results are whole.
pub(crate) fn parts_folder(task_id: &str) -> String {
    format!("{task_id}/parts")
}

/// Counts what the lines say while they are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines.
    pub frames: u64,
    /// Lines with at least one detection.
    pub frames_with_detections: u64,
    /// Detections of all classes.
    pub detections: u64,
    by_class: BTreeMap<u32, (u64, u64)>,
}

impl Tally {
    /// Counts one frame.
    pub fn add(&mut self, detections: &[Sighting]) {
        self.frames += 1;
        self.frames_with_detections += u64::from(!detections.is_empty());
        for (place, found) in detections.iter().enumerate() {
            let (frames, count) = self.by_class.entry(found.class).or_default();
            *count += 1;
            // The first of its class in this frame; a frame has too few detections for a set to be faster.
            *frames += u64::from(!detections[..place].iter().any(|earlier| earlier.class == found.class));
            self.detections += 1;
        }
    }

    /// The counts by class name, as [`by_label`] has it.
    pub fn by_label(&self, names: &BTreeMap<u32, String>) -> BTreeMap<String, ClassCount> {
        let count = |(&class, &(frames, detections))| (class, ClassCount { class, frames, detections });
        by_label(self.by_class.iter().map(count), names)
    }
}

/// `counts` of classes in their order, by class name. Two classes of one name are told apart by their number.
fn by_label<T>(counts: impl Iterator<Item = (u32, T)>, names: &BTreeMap<u32, String>) -> BTreeMap<String, T> {
    let mut by_label = BTreeMap::new();
    for (class, count) in counts {
        let name = label(names, class).into_owned();
        let name = if by_label.contains_key(&name) { format!("{name} ({class})") } else { name };
        by_label.insert(name, count);
    }
    by_label
}

/// Counts of something that has a name, each by class name.
pub(crate) fn by_name<'a, T: Copy + 'a>(
    counts: impl Iterator<Item = (&'a str, &'a BTreeMap<u32, T>)>,
    names: &BTreeMap<u32, String>,
) -> BTreeMap<String, BTreeMap<String, T>> {
    let named = |(name, counts): (&str, &BTreeMap<u32, T>)| {
        (name.to_owned(), by_label(counts.iter().map(|(&class, &count)| (class, count)), names))
    };
    counts.map(named).collect()
}

/// What became of a task, as `summary.json` says it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`FORMAT`] at the time of writing.
    pub format: u32,
    /// The task's id.
    pub task: String,
    /// The video, and how to tell whether it is still the same.
    pub input: InputIdentity,
    /// What computed the detections.
    pub model: ModelIdentity,
    /// Detections below this score were not reported, unless they are of an object that was followed.
    pub threshold: f32,
    /// Where frames were worked, if answers may be others there; what is the same bit for bit is not told apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inference: Option<Inferred>,
    /// Which frames were looked at.
    pub sampling: Sampling,
    /// Frames of the video.
    pub frames: u64,
    /// Those of them that were looked at.
    pub frames_looked: u64,
    /// Frames with at least one detection.
    pub frames_with_detections: u64,
    /// Detections of all classes.
    pub detections: u64,
    /// By class name.
    pub classes: BTreeMap<String, ClassCount>,
    /// How many objects were followed, where the task asks for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracks: Option<u64>,
    /// What was in each of the task's zones, by its name and by class name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub zones: BTreeMap<String, BTreeMap<String, ZoneCount>>,
    /// What crossed each of the task's lines, likewise.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lines: BTreeMap<String, BTreeMap<String, LineCount>>,
    /// What the task's zones and lines hash to, where it has any: under the same names they may lie elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub places: Option<String>,
    /// What the file says of itself.
    pub video: Video,
    /// What the decoder complained about.
    pub damage: Damage,
    /// What was out of the ordinary with the video, and how it was treated.
    pub quality: Vec<Note>,
    /// The files of results beside this one.
    pub outputs: Vec<Written>,
}

/// Which model ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: u64,
    /// The hash of its program.
    pub program: String,
}

/// Where the frames of a result were worked whose answers may differ from the model's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Inferred {
    /// By how much, as a share of the largest value of an output.
    pub tolerance: f64,
    /// Frames that other machines answered.
    pub frames_remote: u64,
    /// Frames that were worked by the model itself.
    pub frames_local: u64,
}

/// How often a class was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCount {
    /// The model's number for it.
    pub class: u32,
    /// Frames with at least one.
    pub frames: u64,
    /// All of them.
    pub detections: u64,
}

/// A video, as its file declares it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Video {
    /// The decoder's names of the container.
    pub container: String,
    /// The decoder's name of the codec.
    pub codec: String,
    /// Pixels across as displayed: upright, and square.
    pub width: u32,
    /// Pixels down, likewise.
    pub height: u32,
    /// Average frames per second.
    pub frame_rate: Option<f64>,
    /// In seconds.
    pub duration_s: Option<f64>,
    /// The number of frames that the file claims to have.
    pub frames_declared: Option<u64>,
}

/// Decoding errors and a missing end that were put up with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Damage {
    /// Errors that the decoder passed over.
    pub errors: u64,
    /// The first of them, in the decoder's words.
    pub first: Option<String>,
    /// Frames that the file declares beyond its end.
    pub frames_missing: u64,
    /// The share of the frames that the task gives up.
    pub tolerance: f64,
}

impl Summary {
    /// The summary in `bytes`.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when they are none.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|e| Error::corrupt(format!("not a summary: {e}")))
    }

    /// The bytes of `summary.json`, for people to read as well.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) when it cannot be said in JSON.
    pub fn to_json(&self) -> Result<Vec<u8>> {
        let mut bytes = serde_json::to_vec_pretty(self)
            .map_err(|e| Error::internal(format!("a summary cannot be written as JSON: {e}")))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(class: u32, score: f32) -> Sighting {
        Sighting { class, score, box_px: [1.0, 2.125, 30.456, 40.0], track: None, zones: Vec::new() }
    }

    fn names() -> BTreeMap<u32, String> {
        BTreeMap::from([(0, "person".to_owned()), (1, "a \"b\"\n".to_owned()), (2, "person".to_owned())])
    }

    #[test]
    fn counts() {
        let mut tally = Tally::default();
        for frame in [vec![], vec![found(0, 0.9), found(0, 0.8), found(1, 0.7)], vec![found(0, 0.9), found(2, 0.5)]] {
            tally.add(&frame);
        }
        assert_eq!((tally.frames, tally.frames_with_detections, tally.detections), (3, 2, 5));
        let count = |class, frames, detections| ClassCount { class, frames, detections };
        let want = [("a \"b\"\n", count(1, 1, 1)), ("person", count(0, 2, 3)), ("person (2)", count(2, 1, 1))];
        assert_eq!(tally.by_label(&names()), want.map(|(name, count)| (name.to_owned(), count)).into());
    }
}
