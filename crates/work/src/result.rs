//! What a task leaves behind: one JSON line per frame, and a summary that marks the whole as committed. The same video,
//! model and settings give the same bytes, whoever worked it; what is measured lies in a file of its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use engine::{Error, Result};
use pipeline::Detected;
use serde::{Deserialize, Serialize};

use crate::quality::Note;
use crate::source::InputIdentity;

/// The summary format this build writes.
pub const FORMAT: u32 = 2;

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

/// A model's class names, ready to be written: class id to the name in JSON's quotes.
#[derive(Clone, Debug, Default)]
pub struct Labels(BTreeMap<u32, String>);

impl Labels {
    /// The names that a manifest gives.
    pub fn new(names: &BTreeMap<u32, String>) -> Self {
        Self(names.iter().map(|(&class, name)| (class, serde_json::Value::from(name.as_str()).to_string())).collect())
    }

    /// The name in quotes; a class without a name is called by its number.
    fn quoted(&self, class: u32) -> std::borrow::Cow<'_, str> {
        match self.0.get(&class) {
            Some(quoted) => quoted.as_str().into(),
            None => format!("\"{class}\"").into(),
        }
    }
}

/// Appends a frame's line to `line`: the same detections give the same bytes. Times have six decimals, scores four,
/// boxes (left, top, right, bottom, in pixels of the video as displayed) two. A frame without detections has a line
/// too: it proves that the frame was worked.
///
/// # Errors
/// [`Internal`](engine::ErrorKind::Internal) when a number is not finite, which JSON cannot say.
pub fn append_line(line: &mut String, index: u64, pts_s: f64, detections: &[Detected], labels: &Labels) -> Result<()> {
    let finite = |found: &Detected| found.score.is_finite() && found.box_px.iter().all(|side| side.is_finite());
    if !pts_s.is_finite() || !detections.iter().all(finite) {
        return Err(Error::internal(format!("frame {index} has a time, score or box that is not a finite number")));
    }
    let mut write = || {
        write!(line, r#"{{"frame":{index},"pts_s":{pts_s:.6},"detections":["#)?;
        for (place, found) in detections.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            let (class, label, score) = (found.class, labels.quoted(found.class), found.score);
            let [left, top, right, bottom] = found.box_px;
            write!(line, r#"{comma}{{"label":{label},"class":{class},"score":{score:.4},"#)?;
            write!(line, r#""box_px":[{left:.2},{top:.2},{right:.2},{bottom:.2}]}}"#)?;
        }
        line.write_str("]}\n")
    };
    write().map_err(|_: std::fmt::Error| Error::internal("a line of text cannot be written to memory"))
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
    pub fn add(&mut self, detections: &[Detected]) {
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

    /// The counts by class name. Two classes of one name are told apart by their number.
    pub fn by_label(&self, names: &BTreeMap<u32, String>) -> BTreeMap<String, ClassCount> {
        let mut counts = BTreeMap::new();
        for (&class, &(frames, detections)) in &self.by_class {
            let name = names.get(&class).cloned().unwrap_or_else(|| class.to_string());
            let name = if counts.contains_key(&name) { format!("{name} ({class})") } else { name };
            counts.insert(name, ClassCount { class, frames, detections });
        }
        counts
    }
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
    /// Detections below this score were not reported.
    pub threshold: f32,
    /// Frames decoded, worked and written.
    pub frames: u64,
    /// Frames with at least one detection.
    pub frames_with_detections: u64,
    /// Detections of all classes.
    pub detections: u64,
    /// By class name.
    pub classes: BTreeMap<String, ClassCount>,
    /// What the file says of itself.
    pub video: Video,
    /// What the decoder complained about.
    pub damage: Damage,
    /// What was out of the ordinary with the video, and how it was treated.
    pub quality: Vec<Note>,
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

    fn found(class: u32, score: f32) -> Detected {
        Detected { class, score, box_px: [1.0, 2.125, 30.456, 40.0] }
    }

    fn names() -> BTreeMap<u32, String> {
        BTreeMap::from([(0, "person".to_owned()), (1, "a \"b\"\n".to_owned()), (2, "person".to_owned())])
    }

    #[test]
    fn lines() {
        let check = |index, pts_s, detections: &[Detected], want: &str| {
            let mut line = String::new();
            append_line(&mut line, index, pts_s, detections, &Labels::new(&names())).unwrap();
            assert_eq!(line, format!("{want}\n"));
            serde_json::from_str::<serde_json::Value>(&line).unwrap();
        };
        check(0, 0.0, &[], r#"{"frame":0,"pts_s":0.000000,"detections":[]}"#);
        check(
            7,
            0.7000004,
            &[found(0, 0.831_24), found(1, 1.0), found(9, 0.5)],
            concat!(
                r#"{"frame":7,"pts_s":0.700000,"detections":["#,
                r#"{"label":"person","class":0,"score":0.8312,"box_px":[1.00,2.12,30.46,40.00]},"#,
                r#"{"label":"a \"b\"\n","class":1,"score":1.0000,"box_px":[1.00,2.12,30.46,40.00]},"#,
                r#"{"label":"9","class":9,"score":0.5000,"box_px":[1.00,2.12,30.46,40.00]}]}"#
            ),
        );
    }

    #[test]
    fn what_json_cannot_say_is_an_error() {
        let check = |pts_s, detection: Detected| {
            let error = append_line(&mut String::new(), 3, pts_s, &[detection], &Labels::default()).unwrap_err();
            assert!(error.message.contains("frame 3"), "{error}");
        };
        check(f64::INFINITY, found(0, 0.5));
        check(0.0, found(0, f32::NAN));
        check(0.0, Detected { box_px: [0.0, 0.0, f32::INFINITY, 0.0], ..found(0, 0.5) });
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
