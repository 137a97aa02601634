//! What is told to whoever waits for a task: that it ended, how, and where its results are. It is put into a queue, which
//! takes only so many bytes, so that what can grow is counted instead of listed.

use std::collections::BTreeMap;
use std::io::BufRead;

use engine::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::output::files::Written;
use crate::result::{ClassCount, Summary};
use crate::task::Task;

/// The message format this build writes.
pub const FORMAT: u32 = 1;

/// The longest reason that is told, in bytes.
const REASON_BYTES_MAX: usize = 2000;

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Ending {
    /// There are results.
    Done {
        /// Frames of the video.
        frames: u64,
        /// Frames with at least one detection.
        frames_with_detections: u64,
        /// Detections of all classes.
        detections: u64,
        /// By class name, the most frequent ones where they are too many for the message.
        classes: BTreeMap<String, ClassCount>,
        /// Classes that are not told for want of room.
        #[serde(default, skip_serializing_if = "is_zero")]
        classes_left_out: u64,
        /// Where the files are: the place and the task's folder in it.
        results: String,
        /// The files there, with their checksums.
        outputs: Vec<Written>,
    },
    /// There will be none.
    Dead {
        /// For a person.
        reason: String,
    },
}

/// The message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// [`FORMAT`] at the time of writing.
    pub format: u32,
    /// The task's id.
    pub task: String,
    /// The video, as the task names it.
    pub input: String,
    /// The model, as the task names it.
    pub model: String,
    /// How it ended.
    #[serde(flatten)]
    pub ending: Ending,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks by reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Completion {
    /// That `task` came to `summary`, and its results are in the folder of its id in `place`.
    pub fn done(task: &Task, summary: &Summary, place: &str) -> Self {
        let ending = Ending::Done {
            frames: summary.frames,
            frames_with_detections: summary.frames_with_detections,
            detections: summary.detections,
            classes: summary.classes.clone(),
            classes_left_out: 0,
            results: format!("{}/{}/", place.trim_end_matches('/'), task.id),
            outputs: summary.outputs.clone(),
        };
        Self::of(task, ending)
    }

    /// That `task` came to nothing.
    pub fn dead(task: &Task, reason: &str) -> Self {
        let mut end = reason.len().min(REASON_BYTES_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        Self::of(task, Ending::Dead { reason: reason[..end].to_owned() })
    }

    fn of(task: &Task, ending: Ending) -> Self {
        let (input, model) = (task.input.clone(), task.model.clone());
        Self { format: FORMAT, task: task.id.clone(), input, model, ending }
    }

    /// The message in at most `bytes_max` bytes of JSON. Where that is too little for all classes, those that were seen
    /// most are told, and how many are not.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when not even the rest fits.
    pub fn to_json(&self, bytes_max: usize) -> Result<String> {
        let whole = json(self)?;
        if whole.len() <= bytes_max {
            return Ok(whole);
        }
        let Ending::Done { classes, .. } = &self.ending else { return Err(too_long(bytes_max)) };
        let mut by_count: Vec<_> = classes.iter().collect();
        by_count.sort_by_key(|&(name, count)| (std::cmp::Reverse(count.detections), name));
        // The more are told, the longer it is; so the longest that fits is found by halving.
        let told = |number: usize| {
            let mut shorter = self.clone();
            if let Ending::Done { classes, classes_left_out, .. } = &mut shorter.ending {
                *classes = by_count[..number].iter().map(|&(name, &count)| (name.clone(), count)).collect();
                *classes_left_out = (by_count.len() - number) as u64;
            }
            json(&shorter)
        };
        let (mut best, mut fits, mut too_many) = (None, 0, by_count.len());
        while fits < too_many {
            let middle = fits.midpoint(too_many);
            let text = told(middle)?;
            if text.len() <= bytes_max {
                (best, fits) = (Some(text), middle + 1);
            } else {
                too_many = middle;
            }
        }
        best.ok_or_else(|| too_long(bytes_max))
    }
}

fn json(completion: &Completion) -> Result<String> {
    serde_json::to_string(completion)
        .map_err(|error| Error::internal(format!("a completion cannot be said in JSON: {error}")))
}

fn too_long(bytes_max: usize) -> Error {
    Error::invalid(format!("what is to be told of the task does not fit into a message of {bytes_max} bytes"))
}

/// What workers of the first generation told: a line for each frame, a list of pairs of label and score, made of the
/// `lines` of `results.jsonl`. `None` when that takes more than `bytes_max` bytes: such a video is told of by a
/// [`Completion`] instead.
///
/// # Errors
/// [`Corrupt`](engine::ErrorKind::Corrupt) when the lines are no results, or are cut off.
pub fn old_text(lines: impl BufRead, bytes_max: usize) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Line {
        detections: Vec<Detection>,
    }
    #[derive(Deserialize)]
    struct Detection {
        label: String,
        score: serde_json::Value,
    }
    let corrupt = |error: &dyn std::fmt::Display| Error::corrupt(format!("not lines of results: {error}"));
    let mut text = String::new();
    for line in lines.lines() {
        let line = line.map_err(|error| corrupt(&error))?;
        let Line { detections } = serde_json::from_str(&line).map_err(|error| corrupt(&error))?;
        let pair = |one: &Detection| format!("({}, {})", python_text(&one.label), one.score);
        let pairs: Vec<String> = detections.iter().map(pair).collect();
        text += &format!("[{}]\n", pairs.join(", "));
        if text.len() > bytes_max {
            return Ok(None);
        }
    }
    Ok(Some(text))
}

/// `text` as Python's `repr` has it.
fn python_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            '\\' => out += "\\\\",
            letter if letter == quote => out.extend(['\\', letter]),
            letter if letter.is_control() => out += &format!("\\x{:02x}", u32::from(letter)),
            letter => out.push(letter),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn task() -> Task {
        Task { id: "t-1".to_owned(), ..Task::new("/v/a.mp4".as_ref(), "detector").unwrap() }
    }

    fn done(classes: impl IntoIterator<Item = (String, u64)>) -> Completion {
        let count = |(name, detections)| (name, ClassCount { class: 0, frames: 1, detections });
        let classes: BTreeMap<_, _> = classes.into_iter().map(count).collect();
        let written = Written { file: "results.jsonl".to_owned(), bytes: 70, blake3: "ab".to_owned() };
        let ending = Ending::Done {
            frames: 9,
            frames_with_detections: 3,
            detections: 5,
            classes,
            classes_left_out: 0,
            results: "s3://bucket/out/t-1/".to_owned(),
            outputs: vec![written],
        };
        Completion::of(&task(), ending)
    }

    #[test]
    fn messages_say_how_it_ended() {
        let json = done([("person".to_owned(), 5)]).to_json(1000).unwrap();
        let want = serde_json::json!({
            "format": 1, "task": "t-1", "input": "/v/a.mp4", "model": "detector", "state": "done",
            "frames": 9, "frames_with_detections": 3, "detections": 5,
            "classes": {"person": {"class": 0, "frames": 1, "detections": 5}}, "results": "s3://bucket/out/t-1/",
            "outputs": [{"file": "results.jsonl", "bytes": 70, "blake3": "ab"}]
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), want);
        let json = Completion::dead(&task(), "no video").to_json(1000).unwrap();
        assert!(json.ends_with(r#""state":"dead","reason":"no video"}"#), "{json}");
        let long = Completion::dead(&task(), &"é".repeat(5000)).to_json(3000).unwrap();
        assert!(long.contains("éé"), "{long}");
    }

    proptest! {
        #[test]
        fn no_message_is_too_long_and_none_leaves_out_what_fits(classes in 0usize..60, bytes_max in 0usize..3000) {
            let all = done((0..classes).map(|class| (format!("class {class}"), class as u64)));
            match all.to_json(bytes_max) {
                Ok(text) => {
                    prop_assert!(text.len() <= bytes_max);
                    let Ending::Done { classes: told, classes_left_out, .. } =
                        serde_json::from_str::<Completion>(&text).unwrap().ending
                    else {
                        unreachable!()
                    };
                    prop_assert_eq!(told.len() as u64 + classes_left_out, classes as u64);
                    // The most frequent, and as many as fit.
                    prop_assert!(told.values().all(|count| count.detections >= classes_left_out));
                    if classes_left_out > 0 {
                        let more = (classes - told.len() - 1..classes).map(|class| (format!("class {class}"), class as u64));
                        let Ending::Done { classes, .. } = done(more).ending else { unreachable!() };
                        let Completion { ending: mut longer, .. } = all.clone();
                        if let Ending::Done { classes: told, classes_left_out: left_out, .. } = &mut longer {
                            (*told, *left_out) = (classes, classes_left_out - 1);
                        }
                        let longer = json(&Completion { ending: longer, ..all }).unwrap();
                        prop_assert!(longer.len() > bytes_max);
                    }
                }
                Err(_) => prop_assert!(json(&done([])).unwrap().len() + 24 > bytes_max),
            }
        }
    }

    #[test]
    fn the_old_text_is_pairs_of_label_and_score() {
        let lines = "{\"frame\":0,\"detections\":[]}\n\
            {\"frame\":1,\"detections\":[{\"label\":\"person\",\"score\":0.8312},{\"label\":\"dog's \\\"bed\\\"\\n\",\"score\":0.5000}]}\n";
        let want = "[]\n[('person', 0.8312), ('dog\\'s \"bed\"\\n', 0.5)]\n";
        assert_eq!(old_text(lines.as_bytes(), 1000).unwrap().as_deref(), Some(want));
        assert_eq!(old_text(lines.as_bytes(), want.len()).unwrap().as_deref(), Some(want));
        assert_eq!(old_text(lines.as_bytes(), want.len() - 1).unwrap(), None);
        assert!(old_text(&lines.as_bytes()[..40], 1000).is_err());
    }
}
