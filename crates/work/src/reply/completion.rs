//! What is told of a task that has ended: how, what it came to, and where its results are. A queue takes only so many bytes,
//! so what can grow is counted instead of listed.

use std::collections::BTreeMap;

use engine::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::output::files::Written;
use crate::result::{ClassCount, Summary};
use crate::task::Task;

/// The message format this build writes.
const FORMAT: u32 = 1;

/// The longest text of somebody else's that is told, in characters.
const TEXT_CHARS_MAX: usize = 1_000;

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "kebab-case")]
pub enum Ending {
    /// There are results.
    Done {
        /// Frames of the video.
        frames: u64,
        /// Those of them that were looked at.
        frames_looked: u64,
        /// Frames with at least one detection.
        frames_with_detections: u64,
        /// Detections of all classes.
        detections: u64,
        /// By class name, the most frequent ones where they are too many for the message.
        classes: BTreeMap<String, ClassCount>,
        /// Classes that are not told for want of room.
        #[serde(default, skip_serializing_if = "is_zero")]
        classes_left_out: u64,
        /// The folder of the results, as a path or a URL; `summary.json` is in it, too.
        results: String,
        /// The files there, with their checksums.
        outputs: Vec<Written>,
    },
    /// There will be none.
    Failed {
        /// For a person.
        reason: String,
    },
}

/// The message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// 1 at the time of writing.
    pub format: u32,
    /// The task's id. A message may come twice; those of one id say the same.
    pub id: String,
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
    /// That `task` came to `summary`, and its results are in the folder `results`.
    pub fn done(task: &Task, summary: &Summary, results: &str) -> Self {
        let ending = Ending::Done {
            frames: summary.frames,
            frames_looked: summary.frames_looked,
            frames_with_detections: summary.frames_with_detections,
            detections: summary.detections,
            classes: summary.classes.clone(),
            classes_left_out: 0,
            results: results.to_owned(),
            outputs: summary.outputs.clone(),
        };
        Self::of(task, ending)
    }

    /// That `task` came to nothing.
    pub fn failed(task: &Task, reason: &str) -> Self {
        Self::of(task, Ending::Failed { reason: told(reason) })
    }

    fn of(task: &Task, ending: Ending) -> Self {
        let (input, model) = (told(&task.shown_input()), told(&task.model));
        Self { format: FORMAT, id: task.id.clone(), input, model, ending }
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
        let with = |number: usize| {
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
            let text = with(middle)?;
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

/// As much of `text` as is told of it.
fn told(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let mut told: String = text.chars().take(TEXT_CHARS_MAX).map(plain).collect();
    if text.chars().nth(TEXT_CHARS_MAX).is_some() {
        told.push('…');
    }
    told
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::reply::MESSAGE_BYTES_MIN;

    fn task() -> Task {
        Task { id: "t-1".to_owned(), ..Task::new("/v/a.mp4".as_ref(), "detector").unwrap() }
    }

    fn done(classes: impl IntoIterator<Item = (String, u64)>) -> Completion {
        let count = |(name, detections)| (name, ClassCount { class: 0, frames: 1, detections });
        let classes: BTreeMap<_, _> = classes.into_iter().map(count).collect();
        let written = Written { file: "results.jsonl".to_owned(), bytes: 70, blake3: "ab".to_owned() };
        let ending = Ending::Done {
            frames: 9,
            frames_looked: 9,
            frames_with_detections: 3,
            detections: 5,
            classes,
            classes_left_out: 0,
            results: "s3://bucket/out/t-1".to_owned(),
            outputs: vec![written],
        };
        Completion::of(&task(), ending)
    }

    #[test]
    fn messages_say_how_it_ended() {
        let json = done([("person".to_owned(), 5)]).to_json(1000).unwrap();
        let want = serde_json::json!({
            "format": 1, "id": "t-1", "input": "/v/a.mp4", "model": "detector", "status": "done",
            "frames": 9, "frames_looked": 9, "frames_with_detections": 3, "detections": 5,
            "classes": {"person": {"class": 0, "frames": 1, "detections": 5}}, "results": "s3://bucket/out/t-1",
            "outputs": [{"file": "results.jsonl", "bytes": 70, "blake3": "ab"}]
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), want);
        let json = Completion::failed(&task(), "no video").to_json(1000).unwrap();
        assert!(json.ends_with(r#""status":"failed","reason":"no video"}"#), "{json}");
    }

    #[test]
    fn whatever_others_wrote_fits_and_no_secret_is_told() {
        for letter in ["\"", "\u{1}", "\u{10ffff}", "\\"] {
            let long = letter.repeat(100_000);
            let task = Task { input: format!("/v/{long}"), model: long.clone(), ..task() };
            let json = Completion::failed(&task, &long).to_json(MESSAGE_BYTES_MIN).unwrap();
            assert!(json.contains('…'));
        }
        let signed = Task { input: "https://h/a.mp4?signature=secret".to_owned(), ..task() };
        let json = Completion::failed(&signed, "why").to_json(MESSAGE_BYTES_MIN).unwrap();
        assert!(json.contains("https://h/a.mp4") && !json.contains("secret"), "{json}");
    }

    proptest! {
        #[test]
        fn no_message_is_too_long_and_none_leaves_out_what_fits(classes in 0usize..60, bytes_max in 0usize..3000) {
            let named = |class: usize| (format!("class {class}"), class as u64);
            let all = done((0..classes).map(named));
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
                        let mut longer = done((classes - told.len() - 1..classes).map(named));
                        if let Ending::Done { classes_left_out: left_out, .. } = &mut longer.ending {
                            *left_out = classes_left_out - 1;
                        }
                        prop_assert!(json(&longer).unwrap().len() > bytes_max);
                    }
                }
                Err(_) => prop_assert!(json(&done([])).unwrap().len() + 24 > bytes_max),
            }
        }
    }
}
