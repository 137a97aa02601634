//! Which detector's head a model has: the shapes of its outputs leave a few, and what it answers to a picture and to
//! noise leaves one. What is left open is refused.

use std::collections::BTreeMap;

use engine::{Error, Result};
use store::picture::{Channels, Fit, Lies, PictureInput};
use store::specimen::Specimen;
use store::task::{Detection, Head, NanodetLevel};

use super::probe::{PictureIn, answers};
use super::wish::{Wish, preset_names};
use super::{InputWish, own_size, verify};

/// Every head that can be asked for.
const HEADS: [&str; 9] =
    ["odapi", "nanodet", "nanodet-plus", "yolov5", "yolov8", "yolov10", "yolox", "detr", "rt-detr"];
/// The levels that the families have.
const STRIDES: [&[usize]; 3] = [&[8, 16, 32], &[8, 16, 32, 64], &[4, 8, 16, 32]];
/// The side of a square input whose graph states none; what the families of YOLO are trained on.
const USUAL_SIDE_PX: u32 = 640;
/// The bins of a side: of NanoDet, and of NanoDet-Plus and PicoDet.
const BINS: [usize; 2] = [11, 8];
/// The overlap that the families' own tools take for the same object.
const YOLO_IOU: f32 = 0.7;
const NANODET_IOU: f32 = 0.6;
/// NanoDet's pixel statistics (the configuration of the published checkpoints).
const NANODET_MEAN: [f32; 3] = [103.53, 116.28, 123.675];
const NANODET_STD: [f32; 3] = [57.375, 57.12, 58.395];

/// The detector in `specimen`, whose classes are called `labels`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it has no head that is known, or when that cannot be told.
pub(super) fn understand(
    specimen: &mut Specimen,
    wish: &Wish,
    labels: &BTreeMap<u32, String>,
    notes: &mut Vec<String>,
) -> Result<Detection> {
    if let Some(head) = wish.head.as_deref().filter(|head| !HEADS.contains(head)) {
        return Err(Error::invalid(format!(
            "'{head}' is no head that this build knows; it knows: {}",
            HEADS.join(", ")
        )));
    }
    let asked = |head: &Head| wish.head.as_deref().is_none_or(|asked| asked == head.name());
    if let Some(found) = Detection::by_signature(specimen.signature()).filter(|found| asked(&found.head)) {
        check_names(found.classes(specimen.signature()), labels)?;
        let picture = PictureIn::of(specimen)?;
        let usual = match picture.size_px {
            (Some(width), Some(height)) => PictureInput { fit: Fit::Exact { width, height }, ..found.input },
            _ => found.input,
        };
        let input = wish.input.over(usual);
        let candidate = Candidate::by_signature(found.head.clone());
        let of = |error: Error| error.context(format!("its outputs are called and shaped as {}'s", found.head.name()));
        for answer in answers(specimen, &input, &picture.io)? {
            verify::fits(specimen, &candidate, labels, &answer).map_err(of)?;
        }
        let detection = Detection { input, head: with_iou(found.head, wish.iou) };
        return own_size::before(specimen, wish, detection, notes);
    }
    let picture = PictureIn::of(specimen)?;
    let outputs = shapes(specimen, &picture, &wish.input)?;
    let (mut fitting, mut reasons) = (Vec::new(), Vec::new());
    for candidate in candidates(&outputs).into_iter().filter(|candidate| asked(&candidate.head)) {
        let name = candidate.head.name();
        match check(specimen, &picture, &candidate, wish, labels) {
            Ok(input) => fitting.push(Detection { input, head: with_iou(candidate.head, wish.iou) }),
            Err(error) => reasons.push(format!("{name}: {error}")),
        }
    }
    if fitting.len() == 1 {
        return fitting.pop().ok_or_else(|| Error::internal("one is none"));
    }
    let shown: Vec<String> = outputs.outputs.iter().map(|(name, shape)| format!("'{name}' {shape:?}")).collect();
    let shown = shown.join(", ");
    if !fitting.is_empty() {
        let names: Vec<&str> = fitting.iter().map(|detection| detection.head.name()).collect();
        let names = names.join(" and ");
        return Err(Error::invalid(format!("its outputs {shown} fit {names} alike; say which with --head")));
    }
    let why = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) };
    let heads = HEADS.join(", ");
    let asked = wish
        .head
        .as_deref()
        .map_or_else(|| format!("none of the heads {heads}"), |head| format!("not the head {head}"));
    Err(Error::invalid(format!("its outputs {shown} are {asked}{why}; pack it without --task to serve its tensors")))
}

fn with_iou(head: Head, asked: Option<f32>) -> Head {
    let Some(asked) = asked else { return head };
    match head {
        Head::Nanodet { levels, bins, .. } => Head::Nanodet { levels, bins, iou: asked },
        Head::NanodetPlus { output, strides, bins, .. } => Head::NanodetPlus { output, strides, bins, iou: asked },
        Head::Yolov5 { output, .. } => Head::Yolov5 { output, iou: asked },
        Head::Yolov8 { output, .. } => Head::Yolov8 { output, iou: asked },
        Head::Yolox { output, strides, .. } => Head::Yolox { output, strides, iou: asked },
        other @ (Head::Odapi { .. } | Head::Yolov10 { .. } | Head::Detr { .. } | Head::RtDetr { .. }) => other,
    }
}

/// What a model answers, before anything is known of it.
struct Shapes {
    canvas_px: (u32, u32),
    /// Name and shape of each.
    outputs: Vec<(String, Vec<usize>)>,
}

fn shapes(specimen: &mut Specimen, picture: &PictureIn, wish: &InputWish) -> Result<Shapes> {
    let canvas_px = match (picture.size_px, wish.fit) {
        ((Some(width), Some(height)), _) => (width, height),
        (
            _,
            Some(Fit::Exact { width, height } | Fit::Letterbox { width, height, .. } | Fit::Crop { width, height, .. }),
        ) => (width, height),
        _ => (USUAL_SIDE_PX, USUAL_SIDE_PX),
    };
    let plain = PictureInput {
        fit: Fit::Exact { width: canvas_px.0, height: canvas_px.1 },
        layout: picture.layout,
        channels: if picture.channels == 1 { Channels::Grey } else { Channels::Rgb },
        ..PictureInput::raw()
    };
    let [answer, _] = answers(specimen, &plain, &picture.io)?;
    let names = specimen.signature().outputs.iter().map(|output| output.name.clone());
    Ok(Shapes { canvas_px, outputs: names.zip(answer.iter().map(|tensor| tensor.shape().to_vec())).collect() })
}

/// A head that the shapes leave open.
pub(super) struct Candidate {
    pub(super) head: Head,
    /// How many classes it would have; `None` where the shapes do not say.
    classes: Option<usize>,
    pub(super) canvas_px: (u32, u32),
    /// The strides of the levels that its rows or columns come in, and how many there are of each cell.
    pub(super) levels: Option<(&'static [usize], usize)>,
}

impl Candidate {
    /// One about whose places nothing more is asked.
    fn by_signature(head: Head) -> Self {
        Self { head, classes: None, canvas_px: (0, 0), levels: None }
    }
}

fn cells(canvas_px: (u32, u32), stride: usize) -> usize {
    (canvas_px.0 as usize).div_ceil(stride) * (canvas_px.1 as usize).div_ceil(stride)
}

fn candidates(shapes: &Shapes) -> Vec<Candidate> {
    let canvas_px = shapes.canvas_px;
    let candidate = |head, classes, levels| Candidate { head, classes, canvas_px, levels };
    let [rows] = &shapes.outputs[..] else { return of_several(shapes) };
    let (output, &[1, a, b]) = (rows.0.clone(), &rows.1[..]) else { return Vec::new() };
    let output = || output.clone();
    let mut found = Vec::new();
    // How many boxes there are of each cell, of the levels that make `count` of them.
    let levels = |count: usize| {
        let all = |strides: &[usize]| strides.iter().map(|&stride| cells(canvas_px, stride)).sum::<usize>();
        STRIDES.into_iter().find_map(|strides| {
            [1, 3].into_iter().find(|each| count == each * all(strides)).map(|each| (strides, each))
        })
    };
    if let Some((strides, each)) = levels(a).filter(|_| b >= 6) {
        let classes = Some(b - 5);
        found.push(candidate(Head::Yolov5 { output: output(), iou: YOLO_IOU }, classes, Some((strides, each))));
        if each == 1 {
            let head = Head::Yolox { output: output(), strides: strides.to_vec(), iou: YOLO_IOU };
            found.push(candidate(head, classes, Some((strides, 1))));
            let bins = BINS[1];
            if b > 4 * bins && strides == STRIDES[1] {
                let head = Head::NanodetPlus { output: output(), strides: strides.to_vec(), bins, iou: NANODET_IOU };
                found.push(candidate(head, Some(b - 4 * bins), None));
            }
        }
    }
    if let Some((strides, 1)) = levels(b).filter(|_| a >= 5) {
        found.push(candidate(Head::Yolov8 { output: output(), iou: YOLO_IOU }, Some(a - 4), Some((strides, 1))));
    }
    if b == 6 {
        found.push(candidate(Head::Yolov10 { output: output() }, None, None));
    }
    found
}

/// Heads of several outputs: pairs of logits and boxes, and levels.
fn of_several(shapes: &Shapes) -> Vec<Candidate> {
    let canvas_px = shapes.canvas_px;
    let candidate = |head, classes| Candidate { head, classes, canvas_px, levels: None };
    let mut found = Vec::new();
    // Boxes have four values; a head of four classes has as many logits, and then names tell them apart.
    let four = shapes.outputs.iter().all(|(_, shape)| shape.last() == Some(&4));
    let queries = |boxes: bool| {
        let is_wanted = |name: &str, width: usize| {
            let is_boxes = if four { name.to_ascii_lowercase().contains("box") } else { width == 4 };
            is_boxes == boxes
        };
        let mut fitting = shapes.outputs.iter().filter_map(|(name, shape)| match shape[..] {
            [1, n, m] if is_wanted(name, m) => Some((name.clone(), n, m)),
            _ => None,
        });
        fitting.next().filter(|_| fitting.next().is_none())
    };
    if let (Some((boxes, n, _)), Some((logits, m, width))) = (queries(true), queries(false))
        && n == m
    {
        let (l, b) = (logits.clone(), boxes.clone());
        found.push(candidate(Head::RtDetr { logits: l, boxes: b }, Some(width)));
        if width > 1 {
            found.push(candidate(Head::Detr { logits, boxes }, Some(width - 1)));
        }
    }
    for strides in STRIDES {
        for bins in BINS {
            found.extend(
                by_level(shapes, strides, bins).map(|(levels, classes)| {
                    candidate(Head::Nanodet { levels, bins, iou: NANODET_IOU }, Some(classes))
                }),
            );
        }
    }
    found
}

/// The levels of a NanoDet with so many bins, and its number of classes: on each level as many scores as cells, the
/// same number of classes on all of them, and as many boxes.
fn by_level(shapes: &Shapes, strides: &[usize], bins: usize) -> Option<(Vec<NanodetLevel>, usize)> {
    if shapes.outputs.len() != 2 * strides.len() {
        return None;
    }
    let mut classes = None;
    let mut level = |&stride: &usize| {
        let of_level = |boxes: bool| {
            let mut fitting = shapes.outputs.iter().filter_map(move |(name, shape)| match shape[..] {
                [1, n, m] if n == cells(shapes.canvas_px, stride) && (m == 4 * bins) == boxes => {
                    Some((name.clone(), m))
                }
                _ => None,
            });
            fitting.next().filter(|_| fitting.next().is_none())
        };
        let ((boxes, _), (scores, width)) = (of_level(true)?, of_level(false)?);
        (*classes.get_or_insert(width) == width).then_some(NanodetLevel { stride, scores, boxes })
    };
    let levels = strides.iter().map(&mut level).collect::<Option<Vec<_>>>()?;
    Some((levels, classes?))
}

/// How pictures go into a model with the head of `candidate`, unless `wish` says otherwise.
fn usual_input(candidate: &Candidate, picture: &PictureIn) -> Option<PictureInput> {
    let (width, height) = candidate.canvas_px;
    let plain = PictureInput {
        layout: picture.layout,
        channels: if picture.channels == 1 { Channels::Grey } else { Channels::Rgb },
        fit: Fit::Exact { width, height },
        ..PictureInput::raw()
    };
    let shares =
        |input: PictureInput| if picture.is_bytes { input } else { PictureInput { scale: 1.0 / 255.0, ..input } };
    let letterbox = |lies| Fit::Letterbox { width, height, fill: 114, lies };
    let nanodet = || PictureInput { channels: Channels::Bgr, mean: NANODET_MEAN, std: NANODET_STD, ..plain };
    match &candidate.head {
        Head::Yolov5 { .. } | Head::Yolov8 { .. } | Head::Yolov10 { .. } => {
            Some(shares(PictureInput { fit: letterbox(Lies::Centre), ..plain }))
        }
        Head::Yolox { .. } => Some(PictureInput { fit: letterbox(Lies::Corner), channels: Channels::Bgr, ..plain }),
        Head::Nanodet { bins: 11, .. } | Head::NanodetPlus { .. } => Some(nanodet()),
        // PicoDet's and others' differ from model to model.
        Head::Nanodet { .. } => None,
        Head::RtDetr { .. } => Some(shares(plain)),
        Head::Detr { .. } => {
            let fit = if picture.size_px == (None, None) { Fit::Within { short: 800, long: 1333 } } else { plain.fit };
            Some(InputWish::preset("imagenet").ok()?.over(PictureInput { fit, ..plain }))
        }
        Head::Odapi { .. } => Some(plain),
    }
}

/// That there are no more names than classes, where it is known how many there are.
fn check_names(classes: Option<usize>, labels: &BTreeMap<u32, String>) -> Result<()> {
    match (classes, labels.keys().next_back()) {
        (Some(classes), Some(&most)) if most as usize >= classes => {
            Err(Error::invalid(format!("it would have {classes} classes, but there is a name for class {most}")))
        }
        _ => Ok(()),
    }
}

/// Whether what the model answers can be of `candidate`'s head; how pictures go in, when it can.
fn check(
    specimen: &mut Specimen,
    picture: &PictureIn,
    candidate: &Candidate,
    wish: &Wish,
    labels: &BTreeMap<u32, String>,
) -> Result<PictureInput> {
    check_names(candidate.classes, labels)?;
    let usual = usual_input(candidate, picture);
    let plain = PictureInput {
        layout: picture.layout,
        fit: Fit::Exact { width: candidate.canvas_px.0, height: candidate.canvas_px.1 },
        ..PictureInput::raw()
    };
    if usual.is_none() && !wish.input.says_values() {
        let presets = preset_names();
        return Err(Error::invalid(format!(
            "nothing says how pictures go in; give --preprocess, a file or one of {presets}"
        )));
    }
    let input = wish.input.over(usual.unwrap_or(plain));
    for answer in answers(specimen, &input, &picture.io)? {
        verify::fits(specimen, candidate, labels, &answer)?;
    }
    Ok(input)
}
