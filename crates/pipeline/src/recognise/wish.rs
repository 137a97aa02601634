//! What a person says of a model: flags, or a small TOML file.

use engine::{Error, Result};
use serde::Deserialize;
use store::picture::{Channels, Fit, Layout, PictureInput, Resample};
use store::task::{PicturePooling, Scores, TaskChoice};
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
    pub pooling: Option<PicturePooling>,
    /// Whether a vector's length becomes one.
    pub normalise: Option<bool>,
    /// The output that is read, of an embedding model with several.
    pub output: Option<String>,
    /// How pictures go in.
    #[serde(default)]
    pub input: InputWish,
    /// What the tensors of a TorchScript file are, which it does not say itself.
    #[serde(skip)]
    pub signature: Declared,
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
