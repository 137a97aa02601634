//! What a detector's tensors mean.

use engine::{DataType, Signature, TensorSpec};
use serde::{Deserialize, Serialize};

use crate::picture::{Channels, Fit, Layout, PictureInput, Resample};

/// Pictures in, boxes with a class and a score out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Detection {
    /// How a picture becomes the input.
    pub input: PictureInput,
    /// What the outputs mean.
    #[serde(flatten)]
    pub head: Head,
}

/// The family of detector: it decides what the outputs mean. Boxes are in pixels of the input unless it says otherwise,
/// `N` is the batch, and scores are from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "head", rename_all = "kebab-case")]
pub enum Head {
    /// The TensorFlow Object Detection API, suppression inside the graph.
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
    /// NanoDet and PicoDet: for each level class scores `[N, n, classes]` and boxes `[N, n, 4 * bins]`, in which each
    /// side's distance from the middle of the cell is the expectation over `bins` softmax bins, in strides.
    Nanodet {
        /// One entry per level.
        levels: Vec<NanodetLevel>,
        /// Softmax bins per side.
        bins: usize,
        /// Boxes of one class that overlap by more than this are one.
        iou: f32,
    },
    /// NanoDet-Plus: `[N, n, classes + 4 * bins]`, the levels one after the other; distances are from the cell's upper left
    /// corner.
    NanodetPlus {
        /// The output.
        output: String,
        /// Input pixels per cell, level by level.
        strides: Vec<usize>,
        /// Softmax bins per side.
        bins: usize,
        /// Boxes of one class that overlap by more than this are one.
        iou: f32,
    },
    /// YOLO v5, v6 and v7: `[N, n, 5 + classes]`: middle, size, whether there is anything, and which class it is then.
    Yolov5 {
        /// The output.
        output: String,
        /// Boxes of one class that overlap by more than this are one.
        iou: f32,
    },
    /// YOLO v8, v9, v11, v12, and v26 without its own choice of boxes: `[N, 4 + classes, n]`: middle, size, scores.
    Yolov8 {
        /// The output.
        output: String,
        /// Boxes of one class that overlap by more than this are one.
        iou: f32,
    },
    /// YOLO v10 and v26, which choose their boxes themselves: `[N, n, 6]`: left, top, right, bottom, score, class.
    Yolov10 {
        /// The output.
        output: String,
    },
    /// YOLOX as it is exported: `[N, n, 5 + classes]`: the middle's distance from the cell's upper left corner and the
    /// logarithm of the size, both in strides, whether there is anything, and which class it is then.
    Yolox {
        /// The output.
        output: String,
        /// Input pixels per cell, level by level.
        strides: Vec<usize>,
        /// Boxes of one class that overlap by more than this are one.
        iou: f32,
    },
    /// DETR: a softmax over the classes and, last, nothing; middle and size in 0..1.
    Detr {
        /// The output `[N, n, classes + 1]`.
        logits: String,
        /// The output `[N, n, 4]`.
        boxes: String,
    },
    /// RT-DETR and its kin (D-FINE, RF-DETR): a sigmoid for each class; middle and size in 0..1.
    RtDetr {
        /// The output `[N, n, classes]`.
        logits: String,
        /// The output `[N, n, 4]`.
        boxes: String,
    },
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

impl Head {
    /// What people call it, which is also what is typed to ask for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Odapi { .. } => "odapi",
            Self::Nanodet { .. } => "nanodet",
            Self::NanodetPlus { .. } => "nanodet-plus",
            Self::Yolov5 { .. } => "yolov5",
            Self::Yolov8 { .. } => "yolov8",
            Self::Yolov10 { .. } => "yolov10",
            Self::Yolox { .. } => "yolox",
            Self::Detr { .. } => "detr",
            Self::RtDetr { .. } => "rt-detr",
        }
    }
}

impl Detection {
    /// The detector that a signature alone gives away: its names, or its numbers of cells, are nobody else's. `None` is no
    /// verdict; the other heads are told by what they answer.
    pub fn by_signature(signature: &Signature) -> Option<Self> {
        odapi(signature).or_else(|| nanodet(signature))
    }

    /// How many classes there are, where the shapes of `signature` say it.
    pub fn classes(&self, signature: &Signature) -> Option<usize> {
        let Head::Nanodet { levels, .. } = &self.head else { return None };
        let scores = &levels.first()?.scores;
        let output = signature.outputs.iter().find(|output| output.name == *scores)?;
        usize::try_from(*output.shape.last()?).ok()
    }
}

fn odapi(signature: &Signature) -> Option<Detection> {
    let [input] = &signature.inputs[..] else { return None };
    let frame = input.dtype == DataType::U8 && input.shape.len() == 4 && input.shape[3] == 3;
    // Converters keep TensorFlow's output index in the name, as in `detection_boxes:0`.
    let named = |name: &str| {
        signature
            .outputs
            .iter()
            .find(|output| output.name.strip_suffix(":0").unwrap_or(&output.name) == name)
            .map(|output| output.name.clone())
    };
    let head = Head::Odapi {
        boxes: named("detection_boxes")?,
        scores: named("detection_scores")?,
        classes: named("detection_classes")?,
        count: named("num_detections")?,
    };
    frame.then(|| Detection { input: PictureInput { layout: Layout::Nhwc, ..PictureInput::raw() }, head })
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
    if input.dtype != DataType::F32 || signature.outputs.len() != 2 * NANODET_STRIDES.len() {
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
    let input = PictureInput {
        fit: Fit::Exact { width: u32::try_from(width).ok()?, height: u32::try_from(height).ok()? },
        channels: Channels::Bgr,
        mean: NANODET_MEAN,
        std: NANODET_STD,
        ..PictureInput::raw()
    };
    Some(Detection { input, head: Head::Nanodet { levels, bins: boxes / 4, iou: NANODET_IOU } })
}

/// As it stands in a manifest. The first ones had no `input`: a NanoDet's fields stood beside its head's, and all else
/// took pictures as they are.
#[derive(Deserialize)]
struct Written {
    input: Option<PictureInput>,
    width: Option<u32>,
    height: Option<u32>,
    mean: Option<[f32; 3]>,
    std: Option<[f32; 3]>,
    channels: Option<Channels>,
    #[serde(flatten)]
    head: Head,
}

impl From<Written> for Detection {
    fn from(written: Written) -> Self {
        let Written { input, width, height, mean, std, channels, head } = written;
        let early = || {
            let raw = PictureInput::raw();
            match width.zip(height) {
                None => PictureInput { layout: Layout::Nhwc, ..raw },
                Some((width, height)) => PictureInput {
                    fit: Fit::Exact { width, height },
                    resample: Resample::Bilinear,
                    channels: channels.unwrap_or_default(),
                    mean: mean.unwrap_or(raw.mean),
                    std: std.unwrap_or(raw.std),
                    ..raw
                },
            }
        };
        Self { input: input.unwrap_or_else(early), head }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_of_every_age_are_read() {
        let early = r#"{"head":"nanodet","width":416,"height":320,"mean":[1,2,3],"std":[4,5,6],"channels":"bgr",
            "levels":[{"stride":8,"scores":"s","boxes":"b"}],"bins":11,"iou":0.6}"#;
        let early: Detection = serde_json::from_str(early).unwrap();
        assert_eq!(early.input.fit, Fit::Exact { width: 416, height: 320 });
        assert_eq!((early.input.channels, early.input.mean), (Channels::Bgr, [1.0, 2.0, 3.0]));
        assert_eq!((early.input.layout, early.input.scale), (Layout::Nchw, 1.0));
        let odapi = r#"{"head":"odapi","boxes":"b","scores":"s","classes":"c","count":"n"}"#;
        let odapi: Detection = serde_json::from_str(odapi).unwrap();
        assert_eq!(odapi.input, PictureInput { layout: Layout::Nhwc, ..PictureInput::raw() });
        for detection in [early, odapi] {
            let text = serde_json::to_string(&detection).unwrap();
            assert_eq!(serde_json::from_str::<Detection>(&text).unwrap(), detection, "{text}");
        }
    }
}
