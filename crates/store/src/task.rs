//! What a model's tensors mean to a person: the task a manifest declares.

use engine::{Error, Result, Signature, TensorSpec};
use serde::{Deserialize, Serialize};

/// A task and everything its pre- and post-processing must know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "task", rename_all = "kebab-case")]
pub enum Task {
    /// Pictures in, boxes with a class and a score out.
    ObjectDetection(Detection),
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

/// The family of detector: it decides what a frame looks like going in and what the outputs mean.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "head", rename_all = "kebab-case")]
pub enum Detection {
    /// NanoDet: f32 `[N, 3, height, width]` in, per stride class scores `[N, n, classes]` (already sigmoid) and boxes
    /// `[N, n, 4 * bins]` out, in which each side's distance is the expectation over `bins` softmax bins, in strides.
    Nanodet {
        /// Width and height of the input, in pixels; the frame is stretched to it.
        width: usize,
        /// See `width`.
        height: usize,
        /// Subtracted from each channel, in the channel order of the input.
        mean: [f32; 3],
        /// Divides each channel afterwards.
        std: [f32; 3],
        /// Channel order of the input: `bgr` or `rgb`.
        channels: Channels,
        /// One entry per level.
        levels: Vec<NanodetLevel>,
        /// Softmax bins per side.
        bins: usize,
        /// Boxes of one class that overlap by more than this are one.
        iou: f32,
    },
    /// The TensorFlow Object Detection API: u8 `[N, height, width, 3]` RGB in, suppression inside the graph.
    Odapi {
        /// The output `[N, n, 4]`: ymin, xmin, ymax, xmax in 0..1.
        boxes: String,
        /// The output `[N, n]` of scores, descending.
        scores: String,
        /// The output `[N, n]` of class ids, as floats.
        classes: String,
        /// The output `[N]`: how many of the `n` rows count, as a float.
        count: String,
    },
}

/// Order of the colour channels in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red, as OpenCV reads pictures.
    Bgr,
}

/// One feature level of a NanoDet: which outputs belong to which stride.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NanodetLevel {
    /// Input pixels per cell.
    pub stride: usize,
    /// The output that holds class scores.
    pub scores: String,
    /// The output that holds box distances.
    pub boxes: String,
}

/// A task as a person asks for it, before the signature has said which head it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskChoice {
    /// `object-detection`
    ObjectDetection,
}

impl std::str::FromStr for TaskChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "object-detection" => Ok(Self::ObjectDetection),
            other => Err(format!("'{other}' is no task that this build knows; it knows: object-detection")),
        }
    }
}

/// What was asked for when `task` was packed; `None` when the source itself said what it is.
pub fn choice(task: &Task) -> Option<TaskChoice> {
    match task {
        Task::ObjectDetection(_) => Some(TaskChoice::ObjectDetection),
        Task::QuestionAnswering
        | Task::TextClassification { .. }
        | Task::TokenClassification
        | Task::FillMask
        | Task::SentenceEmbedding => None,
    }
}

/// The task that `signature` can stand for.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the signature fits no head that this build knows.
pub fn recognise(choice: TaskChoice, signature: &Signature) -> Result<Task> {
    match choice {
        TaskChoice::ObjectDetection => {
            odapi(signature).or_else(|| nanodet(signature)).map(Task::ObjectDetection).ok_or_else(|| {
                Error::invalid(
                    "the model's inputs and outputs fit no detector head that this build knows: NanoDet (one f32 \
                     input [N,3,H,W]; per stride class scores [N,n,classes] and boxes [N,n,4*bins]) or the TensorFlow \
                     Object Detection API (one u8 input [N,H,W,3]; detection_boxes, detection_scores, \
                     detection_classes, num_detections); pack it without --task to serve its tensors",
                )
            })
        }
    }
}

fn odapi(signature: &Signature) -> Option<Detection> {
    let [input] = &signature.inputs[..] else { return None };
    let frame = input.dtype == engine::DataType::U8 && input.shape.len() == 4 && input.shape[3] == 3;
    // Converters keep TensorFlow's output index in the name, as in `detection_boxes:0`.
    let named = |name: &str| {
        signature
            .outputs
            .iter()
            .find(|output| output.name.strip_suffix(":0").unwrap_or(&output.name) == name)
            .map(|output| output.name.clone())
    };
    let head = Detection::Odapi {
        boxes: named("detection_boxes")?,
        scores: named("detection_scores")?,
        classes: named("detection_classes")?,
        count: named("num_detections")?,
    };
    frame.then_some(head)
}

/// NanoDet's published strides, and the pixel statistics of its training (the config of the published checkpoint).
const NANODET_STRIDES: [usize; 3] = [8, 16, 32];
const NANODET_MEAN: [f32; 3] = [103.53, 116.28, 123.675];
const NANODET_STD: [f32; 3] = [57.375, 57.12, 58.395];
const NANODET_IOU: f32 = 0.6;

fn nanodet(signature: &Signature) -> Option<Detection> {
    let [input] = &signature.inputs[..] else { return None };
    let [_, 3, height, width] = input.shape[..] else { return None };
    let (height, width) = (usize::try_from(height).ok()?, usize::try_from(width).ok()?);
    if input.dtype != engine::DataType::F32 || signature.outputs.len() != 2 * NANODET_STRIDES.len() {
        return None;
    }
    // The last dimension tells scores from boxes: boxes have four sides of equally many bins, and it is the same
    // on every level, as is the number of classes.
    let cells = |output: &TensorSpec| Some((usize::try_from(*output.shape.get(1)?).ok()?, *output.shape.get(2)?));
    let levels = NANODET_STRIDES
        .iter()
        .map(|&stride| {
            let count = height.div_ceil(stride) * width.div_ceil(stride);
            let of_level: Vec<_> =
                signature.outputs.iter().filter(|output| cells(output).is_some_and(|cells| cells.0 == count)).collect();
            let [one, other] = of_level[..] else { return None };
            Some((stride, one, other))
        })
        .collect::<Option<Vec<_>>>()?;
    let width_of = |output: &TensorSpec| output.shape.get(2).copied().and_then(|size| usize::try_from(size).ok());
    let sizes: Vec<_> =
        levels.iter().flat_map(|(_, one, other)| [width_of(one), width_of(other)]).collect::<Option<_>>()?;
    let (low, high) = (*sizes.iter().min()?, *sizes.iter().max()?);
    // Forty-four (four sides of eleven bins) is what every published NanoDet has; without it there is no telling.
    let boxes = [low, high].into_iter().find(|&size| size == 44)?;
    let levels = levels
        .into_iter()
        .map(|(stride, one, other)| {
            let (boxes, scores) = if width_of(one) == Some(boxes) { (one, other) } else { (other, one) };
            (width_of(boxes) == Some(44)).then(|| NanodetLevel {
                stride,
                scores: scores.name.clone(),
                boxes: boxes.name.clone(),
            })
        })
        .collect::<Option<Vec<_>>>()?;
    Some(Detection::Nanodet {
        width,
        height,
        mean: NANODET_MEAN,
        std: NANODET_STD,
        channels: Channels::Bgr,
        levels,
        bins: boxes / 4,
        iou: NANODET_IOU,
    })
}
