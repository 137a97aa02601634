//! What a model's tensors mean to a person: the task a manifest declares.

mod detection;
mod picture;
mod text;

use serde::{Deserialize, Serialize};

pub use detection::{Detection, Head, NanodetLevel};
pub use picture::{ImageClassification, ImageEmbedding, PicturePooling, Scores};
pub use text::{
    Embedding, FillMask, Pooling, Problem, QuestionAnswering, Text, TextClassification, TokenClassification,
};

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
    /// A question and a context in, passages of the context out.
    QuestionAnswering(QuestionAnswering),
    /// A text, or two, in; a score for each class out.
    TextClassification(TextClassification),
    /// A text in, a class for each of its words out.
    TokenClassification(TokenClassification),
    /// A text with holes in, words for them out.
    FillMask(FillMask),
    /// A text in, one vector out.
    SentenceEmbedding(Embedding),
    /// Two texts in, how near they are out: the cosine of their vectors.
    TextSimilarity(Embedding),
}

impl Task {
    /// What people call it, which is also what is typed to ask for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ObjectDetection(_) => "object-detection",
            Self::ImageClassification(_) => "image-classification",
            Self::ImageEmbedding(_) => "image-embedding",
            Self::QuestionAnswering(_) => "question-answering",
            Self::TextClassification(_) => "text-classification",
            Self::TokenClassification(_) => "token-classification",
            Self::FillMask(_) => "fill-mask",
            Self::SentenceEmbedding(_) => "sentence-embedding",
            Self::TextSimilarity(_) => "text-similarity",
        }
    }

    /// Whether pictures go in.
    pub fn takes_pictures(&self) -> bool {
        matches!(self, Self::ObjectDetection(_) | Self::ImageClassification(_) | Self::ImageEmbedding(_))
    }

    /// How its texts become inputs; `None` when it takes no text.
    pub fn text(&self) -> Option<&Text> {
        match self {
            Self::ObjectDetection(_) | Self::ImageClassification(_) | Self::ImageEmbedding(_) => None,
            Self::QuestionAnswering(task) => Some(&task.text),
            Self::TextClassification(task) => Some(&task.text),
            Self::TokenClassification(task) => Some(&task.text),
            Self::FillMask(task) => Some(&task.text),
            Self::SentenceEmbedding(task) | Self::TextSimilarity(task) => Some(&task.text),
        }
    }
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
    /// `question-answering`
    QuestionAnswering,
    /// `text-classification`
    TextClassification,
    /// `token-classification`
    TokenClassification,
    /// `fill-mask`
    FillMask,
    /// `sentence-embedding`
    SentenceEmbedding,
    /// `text-similarity`
    TextSimilarity,
}

impl TaskChoice {
    const ALL: [(&'static str, Self); 9] = [
        ("object-detection", Self::ObjectDetection),
        ("image-classification", Self::ImageClassification),
        ("image-embedding", Self::ImageEmbedding),
        ("question-answering", Self::QuestionAnswering),
        ("text-classification", Self::TextClassification),
        ("token-classification", Self::TokenClassification),
        ("fill-mask", Self::FillMask),
        ("sentence-embedding", Self::SentenceEmbedding),
        ("text-similarity", Self::TextSimilarity),
    ];

    /// Whether pictures go in; texts do otherwise.
    pub fn takes_pictures(self) -> bool {
        matches!(self, Self::ObjectDetection | Self::ImageClassification | Self::ImageEmbedding)
    }
}

impl std::str::FromStr for TaskChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|(name, _)| *name == text).map(|(_, choice)| choice);
        found.ok_or_else(|| {
            let all = Self::ALL.map(|(name, _)| name).join(", ");
            format!("'{text}' is no task that this build knows; it knows: {all}")
        })
    }
}
