//! Text tasks: how texts become rows of token ids, and which outputs mean what.

use serde::{Deserialize, Serialize};

/// How a text becomes the model's inputs, which are all INT64 or INT32 of `[batch, sequence]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// The input that takes token ids.
    pub ids: String,
    /// The input that says which tokens count: 1, or 0 for what only fills a row up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// The input that says which of two texts a token belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<String>,
    /// The most tokens of a row, those included that mark its beginning and end.
    pub tokens_max: usize,
    /// The token id that a row is filled up with.
    pub pad: i64,
    /// Whether a text is put in lower case before the tokenizer sees it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lowercase: bool,
    /// What is put before each text, before anything else is done with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
}

/// A question and a context in, passages of the context out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuestionAnswering {
    /// Its inputs.
    pub text: Text,
    /// The output `[batch, sequence]`: how well an answer begins at each token.
    pub start: String,
    /// The output `[batch, sequence]`: how well an answer ends at each token.
    pub end: String,
}

/// A text, or two, in; a score for each class out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextClassification {
    /// Its inputs.
    pub text: Text,
    /// The output `[batch, classes]`.
    pub scores: String,
    /// What the scores mean.
    pub problem: Problem,
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

impl Problem {
    /// What the reference's pipeline takes so many scores for when nobody says: a single one is that of a class that applies
    /// or not.
    pub fn usual(classes: usize) -> Self {
        if classes == 1 { Self::MultiLabel } else { Self::SingleLabel }
    }
}

/// A text in, a class for each of its words out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenClassification {
    /// Its inputs.
    pub text: Text,
    /// The output `[batch, sequence, classes]`.
    pub scores: String,
}

/// A text with holes in, words for them out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FillMask {
    /// Its inputs.
    pub text: Text,
    /// The output `[batch, sequence, vocabulary]`.
    pub scores: String,
    /// The token that stands for a hole.
    pub mask_token: String,
}

/// A text in, one vector out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Embedding {
    /// Its inputs.
    pub text: Text,
    /// The output: one vector an item, `[batch, width]`, or one a token, `[batch, sequence, width]`.
    pub vectors: String,
    /// How the tokens' vectors become one; `None` where the graph does that itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pooling: Option<Pooling>,
    /// Whether the vector still has to be scaled to length one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub normalise: bool,
    /// Whether the first components alone are a good vector too, because the model was trained for that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shortens: bool,
}

/// How the tokens' vectors become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pooling {
    /// The first token's.
    First,
    /// The mean over the tokens.
    Mean,
    /// The largest of each component over the tokens.
    Max,
}
