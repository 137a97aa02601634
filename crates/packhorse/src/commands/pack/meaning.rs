//! What a person says of a model's tensors: flags, and a task file.

use std::path::{Path, PathBuf};

use pipeline::recognise::{InputWish, Wish};
use store::task::{Scores, TaskChoice};

use crate::exit::Exit;

/// What the tensors mean, of a model that does not say it itself. What is left out is asked of the model.
#[derive(clap::Args)]
pub(super) struct Meaning {
    /// What the model is for: object-detection, image-classification or image-embedding, or, with --tokenizer,
    /// question-answering, text-classification, token-classification, fill-mask, sentence-embedding or text-similarity;
    /// Hugging Face folders say so themselves
    #[arg(long)]
    task: Option<TaskChoice>,
    /// A detector's family, where its outputs fit several: yolov5, yolov8, yolov10, yolox, nanodet, nanodet-plus, odapi,
    /// detr or rt-detr
    #[arg(long)]
    head: Option<String>,
    /// How pictures go in: a preprocessor_config.json, or imagenet, zero-one, minus-one-one, bytes or caffe
    #[arg(long, value_name = "FILE|WORD")]
    preprocess: Option<String>,
    /// What a classifier's output holds: probabilities, softmax or sigmoid
    #[arg(long)]
    scores: Option<Scores>,
    /// What makes tokens of texts: a Hugging Face folder, of whose other files lengths, labels and pooling are taken, or a
    /// tokenizer.json alone
    #[arg(long, value_name = "FOLDER|FILE")]
    tokenizer: Option<PathBuf>,
    /// A TOML file that says all of this, and more in detail
    #[arg(long, value_name = "FILE")]
    task_file: Option<PathBuf>,
}

impl Meaning {
    /// All that was said; `None` when nothing was.
    pub(super) fn wish(&self) -> Result<Option<Wish>, Exit> {
        let configuration = |error: engine::Error| Exit::configuration(&error);
        let input = self.preprocess.as_deref().map(Self::input).transpose().map_err(configuration)?;
        let typed = Wish {
            task: self.task,
            head: self.head.clone(),
            scores: self.scores,
            input: input.unwrap_or_default(),
            tokenizer: self.tokenizer.clone(),
            ..Wish::default()
        };
        let Some(path) = &self.task_file else {
            return Ok((typed != Wish::default()).then_some(typed));
        };
        let read = || Wish::from_toml(&read(path)?).map_err(|error| error.context(path.display()));
        Ok(Some(typed.or(read().map_err(configuration)?)))
    }

    fn input(given: &str) -> engine::Result<InputWish> {
        let path = Path::new(given);
        if !path.is_file() {
            return InputWish::preset(given);
        }
        InputWish::from_json(&read(path)?).map_err(|error| error.context(given))
    }
}

fn read(path: &Path) -> engine::Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| engine::Error::invalid(format!("{}: cannot be read: {error}", path.display())))
}
