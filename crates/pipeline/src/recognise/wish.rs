//! What a person says of a model: flags, or a small TOML file.

use std::path::PathBuf;

use engine::{Error, Result};
use serde::Deserialize;
use store::picture::{Channels, Fit, Layout, PictureInput, Resample};
use store::task::{Scores, TaskChoice};
use store::torch_script::Declared;

use crate::picture::Picture;

/// All that can be said; what is not said is asked of the model and of the files beside it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Wish {
    /// What the model is for.
    pub task: Option<TaskChoice>,
    /// A detector's family, by the name of its head.
    pub head: Option<String>,
    /// Boxes of one class that overlap by more than this are one.
    pub iou: Option<f32>,
    /// What a classifier's output holds.
    pub scores: Option<Scores>,
    /// How an output becomes one vector.
    pub pooling: Option<PoolingWish>,
    /// Whether a vector's length becomes one.
    pub normalise: Option<bool>,
    /// The output that is read, of a model with several.
    pub output: Option<String>,
    /// How pictures go in.
    #[serde(default)]
    pub input: InputWish,
    /// How texts go in.
    #[serde(default)]
    pub text: TextWish,
    /// Where the tokenizer is: a file, or a folder of the reference library.
    #[serde(skip)]
    pub tokenizer: Option<PathBuf>,
    /// What the tensors of a TorchScript file are, which it does not say itself.
    #[serde(skip)]
    pub signature: Declared,
}

/// How what a model has for each place or token becomes one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolingWish {
    /// Its output is one.
    None,
    /// Their mean.
    Mean,
    /// The first token's.
    First,
    /// The largest of each component; of texts alone.
    Max,
}

/// What can be said of how texts go in, and of what comes out by token; see [`Text`](store::task::Text).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TextWish {
    /// The input that takes token ids.
    pub ids: Option<String>,
    /// The input that says which tokens count.
    pub mask: Option<String>,
    /// The input that says which of two texts a token belongs to.
    pub types: Option<String>,
    /// The output that says where answers to questions begin.
    pub start: Option<String>,
    /// The output that says where they end.
    pub end: Option<String>,
    /// The most tokens of a row.
    pub tokens_max: Option<usize>,
    /// The token id that rows are filled up with.
    pub pad: Option<i64>,
    /// Whether a text is put in lower case before the tokenizer sees it.
    pub lowercase: Option<bool>,
    /// The token that stands for a hole.
    pub mask_token: Option<String>,
}

/// What can be said of how pictures go in; see [`PictureInput`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct InputWish {
    /// How a picture is brought to its size.
    pub fit: Option<Fit>,
    /// What a pixel is made of when the size changes.
    pub resample: Option<Resample>,
    /// What there is of each pixel.
    pub channels: Option<Channels>,
    /// The order of the dimensions.
    pub layout: Option<Layout>,
    /// Multiplies each byte.
    pub scale: Option<f32>,
    /// Subtracted then.
    pub mean: Option<[f32; 3]>,
    /// Divides then.
    pub std: Option<[f32; 3]>,
}

/// A word of `--preprocess` and what it stands for: scale, mean, standard deviation, order of channels.
type Preset = (&'static str, f32, [f32; 3], [f32; 3], Channels);

const PRESETS: [Preset; 5] = [
    ("imagenet", 1.0 / 255.0, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], Channels::Rgb),
    ("zero-one", 1.0 / 255.0, [0.0; 3], [1.0; 3], Channels::Rgb),
    ("minus-one-one", 1.0, [127.5; 3], [127.5; 3], Channels::Rgb),
    ("bytes", 1.0, [0.0; 3], [1.0; 3], Channels::Rgb),
    ("caffe", 1.0, [103.939, 116.779, 123.68], [1.0; 3], Channels::Bgr),
];

impl Wish {
    /// What a task file says.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), with the line.
    pub fn from_toml(text: &str) -> Result<Self> {
        toml::from_str(text)
            .map_err(|error| Error::invalid(format!("this is no task file: {}", error.to_string().trim_end())))
    }

    /// This, and where it says nothing what `other` says.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let (mine, theirs) = (self.input, other.input);
        Self {
            task: self.task.or(other.task),
            head: self.head.or(other.head),
            iou: self.iou.or(other.iou),
            scores: self.scores.or(other.scores),
            pooling: self.pooling.or(other.pooling),
            normalise: self.normalise.or(other.normalise),
            output: self.output.or(other.output),
            input: mine.or(theirs),
            // No flag says any of it.
            text: if self.text == TextWish::default() { other.text } else { self.text },
            tokenizer: self.tokenizer.or(other.tokenizer),
            signature: self.signature,
        }
    }
}

impl InputWish {
    /// What one of the words of `--preprocess` stands for.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) with the words that there are.
    pub fn preset(word: &str) -> Result<Self> {
        let found = PRESETS.iter().find(|(name, ..)| *name == word);
        let &(_, scale, mean, std, channels) = found.ok_or_else(|| {
            let names = preset_names();
            Error::invalid(format!("'{word}' is neither a file nor one of {names}"))
        })?;
        Ok(Self { scale: Some(scale), mean: Some(mean), std: Some(std), channels: Some(channels), ..Self::default() })
    }

    /// What a `preprocessor_config.json` of transformers says.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the key that is not known here.
    pub fn from_json(text: &str) -> Result<Self> {
        let config = serde_json::from_str(text).map_err(|error| Error::invalid(format!("this is no JSON: {error}")))?;
        super::transformers::input(&config)
    }

    fn or(self, other: Self) -> Self {
        // Mean and deviation are of one making with the scale.
        let numbers = if self.scale.is_some() || self.mean.is_some() || self.std.is_some() { &self } else { &other };
        Self {
            fit: self.fit.or(other.fit),
            resample: self.resample.or(other.resample),
            channels: self.channels.or(other.channels),
            layout: self.layout.or(other.layout),
            scale: numbers.scale,
            mean: numbers.mean,
            std: numbers.std,
        }
    }

    /// Whether it says what becomes of a pixel's values.
    pub(super) fn says_values(&self) -> bool {
        self.scale.is_some() || self.mean.is_some() || self.std.is_some()
    }

    /// `usual` with what is said in its place.
    pub(super) fn over(&self, usual: PictureInput) -> PictureInput {
        let numbers = if self.says_values() {
            (self.scale.unwrap_or(1.0), self.mean.unwrap_or([0.0; 3]), self.std.unwrap_or([1.0; 3]))
        } else {
            (usual.scale, usual.mean, usual.std)
        };
        PictureInput {
            fit: self.fit.unwrap_or(usual.fit),
            resample: self.resample.unwrap_or(usual.resample),
            channels: self.channels.unwrap_or(usual.channels),
            layout: self.layout.unwrap_or(usual.layout),
            scale: numbers.0,
            mean: numbers.1,
            std: numbers.2,
        }
    }
}

/// The words of `--preprocess`, for a person.
pub(super) fn preset_names() -> String {
    PRESETS.map(|(name, ..)| name).join(", ")
}

/// A picture of somebody, for models to be tried on.
///
/// # Errors
/// None that is seen: the picture is part of the program.
pub fn somebody() -> Result<Picture> {
    const ASTRONAUT: &[u8] = include_bytes!("astronaut.jpg");
    crate::picture::decode(ASTRONAUT, &crate::picture::Bounds::default(), &mut |_| Ok(()))
}
