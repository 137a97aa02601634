//! What a classifier's and an embedding model's tensors mean, where pictures go in.

use serde::{Deserialize, Serialize};

use crate::picture::PictureInput;

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
