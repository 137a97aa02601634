//! What the tensors of a model mean that is about to be packed: told by a person, said by the files beside it, and seen
//! from what it answers. What cannot be told apart is refused with the setting that settles it.

mod answers;
mod classify;
mod detect;
mod own_size;
mod probe;
mod text;
mod transformers;
mod ultralytics;
mod verify;
mod wish;

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use engine::{Error, Result, Runtimes};
use store::Beside;
use store::specimen::Specimen;
use store::task::{Task, TaskChoice};

pub use wish::{InputWish, PoolingWish, TextWish, Wish, somebody};

/// What was found out.
#[derive(Clone, Debug, PartialEq)]
pub struct Understood {
    /// What the tensors mean.
    pub task: Task,
    /// Class id to name, where the model says so itself.
    pub labels: BTreeMap<u32, String>,
    /// The tokenizer, and what is kept with it: name and bytes.
    pub files: Vec<(String, Bytes)>,
    /// What the person who packs should know, a sentence each.
    pub notes: Vec<String>,
}

/// What the model at `path`, an ONNX or TorchScript file or a SavedModel, is for. `labels` are the classes' names, when a person gave them.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when `wish` does not fit the model, or leaves open what neither the
/// model nor the files beside it say.
pub fn understand(runtimes: &Runtimes, path: &Path, wish: &Wish, labels: &BTreeMap<u32, String>) -> Result<Understood> {
    if let Some(choice) = wish.task.filter(|task| !task.takes_pictures()) {
        return of_texts(runtimes, path, (choice, wish), labels);
    }
    let mut specimen = Specimen::open(runtimes, path, &wish.signature)?;
    let said = said(path, &specimen)?;
    let wish = wish.clone().or(said.wish);
    if wish.tokenizer.is_some() || wish.text != TextWish::default() {
        return Err(Error::invalid("a tokenizer and [text] are for tasks of texts; say which one it is with --task"));
    }
    let named = if labels.is_empty() { said.labels } else { labels.clone() };
    let mut notes = said.notes;
    let task = match wish.task {
        Some(TaskChoice::ObjectDetection) => {
            detect::understand(&mut specimen, &wish, &named, &mut notes).map(Task::ObjectDetection)
        }
        Some(TaskChoice::ImageClassification) => {
            classify::classification(&mut specimen, &wish, &named, &mut notes).map(Task::ImageClassification)
        }
        Some(TaskChoice::ImageEmbedding) => {
            classify::embedding(&mut specimen, &wish, &mut notes).map(Task::ImageEmbedding)
        }
        Some(_) => Err(Error::internal("a task of texts was taken for one of pictures")),
        None => Err(Error::invalid("nothing says what it is for; give --task")),
    };
    let task = task.map_err(|error| error.context(path.display()))?;
    Ok(Understood { task, labels: named, files: Vec::new(), notes })
}

/// What the files beside the model at `path` say that it is for, as transformers, optimum and sentence-transformers lay them:
/// a wish for [`understand`], or `None` when they do not say.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the file, when a `config.json` is there and none.
pub fn said_beside(path: &Path) -> Result<Option<Wish>> {
    transformers::wish(path)
}

/// The same of a model that texts go into by a tokenizer.
fn of_texts(
    runtimes: &Runtimes,
    path: &Path,
    (choice, wish): (TaskChoice, &Wish),
    labels: &BTreeMap<u32, String>,
) -> Result<Understood> {
    let tokenizer = wish.tokenizer.as_ref().ok_or_else(|| {
        Error::invalid(
            "texts become tokens by the model's own tokenizer; give its folder, or its tokenizer.json, as --tokenizer",
        )
    })?;
    let beside = Beside::read(tokenizer)?;
    let mut specimen = Specimen::open(runtimes, path, &wish.signature)?;
    let mut notes = Vec::new();
    let understood = text::understand(&mut specimen, choice, wish, (&beside, labels), &mut notes);
    let (task, labels) = understood.map_err(|error| error.context(path.display()))?;
    Ok(Understood { task, labels, files: beside.files().to_vec(), notes })
}

/// What a model's own files say.
#[derive(Default)]
struct Said {
    wish: Wish,
    labels: BTreeMap<u32, String>,
    notes: Vec<String>,
}

/// The words inside the file come first, then the files of transformers beside it.
fn said(path: &Path, specimen: &Specimen) -> Result<Said> {
    if let Some(said) = ultralytics::said(&specimen.words) {
        return Ok(said);
    }
    let mut said = transformers::said(path)?.unwrap_or_default();
    // As PaddleX and RapidOCR write it: a name a line.
    if let (true, Some(names)) = (said.labels.is_empty(), specimen.words.get("character")) {
        said.labels = (0u32..).zip(names.lines().map(str::to_owned)).collect();
        said.notes.push(format!("{} class names are the model's own", said.labels.len()));
    }
    Ok(said)
}

/// A number of pixels that a dimension states; `None` when it varies.
fn pixels(dimension: i64) -> Option<u32> {
    u32::try_from(dimension).ok().filter(|&pixels| pixels > 0)
}

#[cfg(test)]
mod tests;
