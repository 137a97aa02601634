//! What a model's tensors mean to a person: the task a manifest declares.

mod detection;

use serde::{Deserialize, Serialize};

use crate::picture::PictureInput;

pub use detection::{Detection, Head, NanodetLevel};

/// A task and everything its pre- and post-processing must know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum Task {
    /// Pictures in, boxes with a class and a score out.
    ObjectDetection(Detection),
    /// Pictures in, a score for each class out.
    ImageClassification(ImageClassification),
    /// Pictures in, one vector out.
    ImageEmbedding(ImageEmbedding),
    /// A question and a text in; for each token, how well the answer starts and ends there.
    QuestionAnswering,
    /// A text in, a score for each class out.
    TextClassification {
        /// What the scores mean.
        problem: Problem,
    },
    /// A text in, a score for each class and token out.
    TokenClassification,
    /// A text with holes in, a score for each word of the vocabulary and token out.
    FillMask,
    /// A text in, one vector out.
    SentenceEmbedding,
}

/// What the scores of a text's classes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Problem {
    /// The scores are the answer.
    Regression,
    /// Exactly one class applies: softmax.
    SingleLabel,
    /// Each class applies or not: sigmoid.
    MultiLabel,
}

/// Pictures in, a score for each class out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageClassification {
    /// How a picture becomes the input.
    pub input: PictureInput,
    /// The output `[N, classes]`.
    pub output: String,
    /// What is in it.
    pub scores: Scores,
}

/// What a classifier's output holds for each class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scores {
    /// Scores from 0 to 1.
    Probabilities,
    /// Logits of which exactly one class applies: softmax.
    Softmax,
    /// Logits, each of a class that applies or not: sigmoid.
    Sigmoid,
}

/// Pictures in, one vector out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ImageEmbedding {
    /// How a picture becomes the input.
    pub input: PictureInput,
    /// The output that the vector is made of.
    pub output: String,
    /// How.
    pub pooling: PicturePooling,
    /// Whether its length becomes one.
    pub normalise: bool,
}

/// How an output becomes one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PicturePooling {
    /// It is one: `[N, n]`, or with further dimensions of one.
    None,
    /// The mean over places: of a map `[N, n, height, width]`, or of tokens `[N, tokens, n]`.
    Mean,
    /// The first token of `[N, tokens, n]`.
    First,
}

/// A task as a person asks for it of a model that does not say itself what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskChoice {
    /// `object-detection`
    ObjectDetection,
    /// `image-classification`
    ImageClassification,
    /// `image-embedding`
    ImageEmbedding,
}

impl std::str::FromStr for TaskChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "object-detection" => Ok(Self::ObjectDetection),
            "image-classification" => Ok(Self::ImageClassification),
            "image-embedding" => Ok(Self::ImageEmbedding),
            other => Err(format!(
                "'{other}' is no task that this build knows; it knows: object-detection, image-classification, image-embedding"
            )),
        }
    }
}

impl std::str::FromStr for Scores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "probabilities" => Ok(Self::Probabilities),
            "softmax" => Ok(Self::Softmax),
            "sigmoid" => Ok(Self::Sigmoid),
            other => Err(format!("'{other}' is none of probabilities, softmax, sigmoid")),
        }
    }
}
