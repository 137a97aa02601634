//! What a detector's tensors mean: pictures to inputs, outputs to boxes in the pixels of the source.

use std::cmp::Ordering;

use engine::{Error, Result, Tensor};
use store::Manifest;
use store::manifest::Io;
use store::picture::PictureInput;
use store::task::{Detection, Head, Task};

use crate::output::Output;
use crate::picture::{Picture, PictureTensor, Placement, Planes};

mod detr;
mod nanodet;
mod nms;
mod odapi;
mod yolo;

/// The most boxes that go into suppression, the best of them: a threshold of zero must not take for ever.
const CANDIDATES_MAX: usize = 4096;
/// The most objects that are told of one picture, as the families' own tools have it.
const FOUND_MAX: usize = 300;
/// The widest input; keeps every product of sizes far from overflow.
const SIDE_MAX: usize = 8192;

/// One object in one picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Detected {
    /// Key into the manifest's labels.
    pub class: u32,
    /// From 0 to 1.
    pub score: f32,
    /// Left, top, right, bottom in pixels of the source, within the picture.
    pub box_px: [f32; 4],
}

/// What one family's outputs mean.
trait Boxes: Send + Sync {
    /// Adds what `outputs`, in signature order, report with at least `threshold`, boxes in pixels of the canvas, whose
    /// width and height are `canvas_px`. What is no number is no box.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the output that is not of the shape or type that the
    /// model's task promises.
    fn find(&self, outputs: &[Tensor], canvas_px: (u32, u32), threshold: f32, found: &mut Vec<Detected>) -> Result<()>;

    /// How much boxes of one class may overlap before they are one; `None` when the graph has seen to that.
    fn iou(&self) -> Option<f32>;
}

/// The two ends of a detector.
pub struct Detector {
    input: PictureTensor,
    boxes: Box<dyn Boxes>,
}

impl Detector {
    /// How pictures go in.
    pub fn input(&self) -> &PictureInput {
        self.input.spec()
    }

    /// `picture`, brought to the size that [`prepare`](Self::prepare) wants, and where it lies there.
    ///
    /// # Errors
    /// As [`PictureTensor::fit`].
    pub fn fit(&self, picture: &Picture) -> Result<(Picture, Placement)> {
        self.input.fit(picture)
    }

    /// The inputs, in signature order, for one picture that is brought to its size.
    ///
    /// # Errors
    /// As [`PictureTensor::tensor`].
    pub fn prepare(&self, fitted: &Picture) -> Result<Vec<Tensor>> {
        Ok(vec![self.input.tensor(fitted)?])
    }

    /// As [`prepare`](Self::prepare), for one picture whose colours lie apart.
    ///
    /// # Errors
    /// As [`PictureTensor::tensor`].
    pub fn prepare_planes(&self, fitted: &Planes) -> Result<Vec<Tensor>> {
        Ok(vec![self.input.tensor_of_planes(fitted)?])
    }

    /// The objects that `outputs`, in signature order, report with at least `threshold`, in a picture that lay as
    /// `placement` says: best first.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the output that is not of the shape or type that the
    /// model's task promises.
    pub fn detect(&self, outputs: &[Tensor], placement: &Placement, threshold: f32) -> Result<Vec<Detected>> {
        let mut found = Vec::new();
        self.boxes.find(outputs, placement.canvas_px, threshold, &mut found)?;
        if found.len() > CANDIDATES_MAX {
            found.select_nth_unstable_by(CANDIDATES_MAX, best_first);
            found.truncate(CANDIDATES_MAX);
        }
        if let Some(iou) = self.boxes.iou() {
            found = nms::suppress(found, iou);
        }
        let undone = |detected: Detected| Some(Detected { box_px: placement.undo(detected.box_px)?, ..detected });
        let mut found: Vec<Detected> = found.into_iter().filter_map(undone).collect();
        found.sort_unstable_by(best_first);
        found.truncate(FOUND_MAX);
        Ok(found)
    }
}

/// The detector that `manifest` describes.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the model was packed without a task, or with one that does
/// not fit its inputs and outputs.
pub fn for_model(manifest: &Manifest) -> Result<Detector> {
    let Some(Task::ObjectDetection(detection)) = &manifest.task else {
        return Err(Error::invalid(format!(
            "model '{}' does not say what its outputs mean: pack it again with `--task object-detection`",
            manifest.name
        )));
    };
    detector(&manifest.inputs, &manifest.outputs, detection)
        .map_err(|error| error.context(format_args!("model '{}'", manifest.name)))
}

/// The detector that `detection` says, of a model with these inputs and outputs.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it does not fit them.
pub(crate) fn detector(inputs: &[Io], outputs: &[Io], detection: &Detection) -> Result<Detector> {
    let [input] = inputs else {
        let names: Vec<&str> = inputs.iter().map(|input| input.name.as_str()).collect();
        return Err(Error::invalid(format!("its task needs one input, a picture, but it has {names:?}")));
    };
    let output = |name: &str| Output::named(outputs, name);
    let boxes: Box<dyn Boxes> = match &detection.head {
        Head::Odapi { boxes, scores, classes, count } => {
            let outputs = [output(boxes)?, output(scores)?, output(classes)?, output(count)?];
            Box::new(odapi::Odapi(outputs))
        }
        Head::Nanodet { levels, bins, iou } => {
            let level =
                |level: &store::task::NanodetLevel| Ok((level.stride, output(&level.scores)?, output(&level.boxes)?));
            Box::new(nanodet::Nanodet::new(levels.iter().map(level).collect::<Result<_>>()?, *bins, *iou)?)
        }
        Head::NanodetPlus { output: name, strides, bins, iou } => {
            Box::new(nanodet::NanodetPlus::new(Levels::new(output(name)?, strides)?, *bins, *iou)?)
        }
        Head::Yolov5 { output: name, iou } => Box::new(yolo::Rows { output: output(name)?, iou: checked_iou(*iou)? }),
        Head::Yolov8 { output: name, iou } => {
            Box::new(yolo::Columns { output: output(name)?, iou: checked_iou(*iou)? })
        }
        Head::Yolov10 { output: name } => Box::new(yolo::Chosen { output: output(name)? }),
        Head::Yolox { output: name, strides, iou } => {
            Box::new(yolo::Offsets { levels: Levels::new(output(name)?, strides)?, iou: checked_iou(*iou)? })
        }
        Head::Detr { logits, boxes } => Box::new(detr::Detr { logits: output(logits)?, boxes: output(boxes)? }),
        Head::RtDetr { logits, boxes } => Box::new(detr::RtDetr { logits: output(logits)?, boxes: output(boxes)? }),
    };
    Ok(Detector { input: PictureTensor::new(&detection.input, input)?, boxes })
}

fn checked_iou(iou: f32) -> Result<f32> {
    let wrong = || Error::invalid("its task states an overlap that cannot be: pack it again with the right task");
    iou.is_finite().then_some(iou).ok_or_else(wrong)
}

fn checked_strides(strides: &[usize]) -> Result<Vec<usize>> {
    if strides.is_empty() || strides.iter().any(|stride| !(1..=SIDE_MAX).contains(stride)) {
        return Err(Error::invalid(
            "its task states no levels, or one with a stride that cannot be: pack it again with the right task",
        ));
    }
    Ok(strides.to_vec())
}

/// Columns and rows of cells of `stride` pixels on a canvas.
fn cells(canvas_px: (u32, u32), stride: usize) -> (usize, usize) {
    ((canvas_px.0 as usize).div_ceil(stride), (canvas_px.1 as usize).div_ceil(stride))
}

/// Left, top, right and bottom of a box of a size around a middle.
fn around(x: f32, y: f32, width: f32, height: f32) -> [f32; 4] {
    [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0]
}

/// The highest of `scores` and where it is; the first of equals, and none of what is no number.
fn highest(scores: &[f32]) -> Option<(u32, f32)> {
    let higher = |best: Option<(u32, f32)>, (class, &score): (usize, &f32)| match best {
        Some((_, highest)) if score <= highest || score.is_nan() => best,
        None if score.is_nan() => None,
        _ => Some((class as u32, score)),
    };
    scores.iter().enumerate().fold(None, higher)
}

/// Best first; equals in the order of class and place, so that the order depends on nothing else.
fn best_first(a: &Detected, b: &Detected) -> Ordering {
    let by_place = || a.box_px.iter().zip(&b.box_px).map(|(a, b)| a.total_cmp(b)).find(|order| order.is_ne());
    b.score.total_cmp(&a.score).then(a.class.cmp(&b.class)).then_with(|| by_place().unwrap_or(Ordering::Equal))
}

/// An output `[1, n, m]` of a row a cell, level by level.
struct Levels {
    output: Output,
    strides: Vec<usize>,
}

/// A cell of a level of `stride` pixels.
struct Cell {
    stride: usize,
    column: usize,
    row: usize,
}

impl Levels {
    fn new(output: Output, strides: &[usize]) -> Result<Self> {
        Ok(Self { output, strides: checked_strides(strides)? })
    }

    /// Shows every cell and its values, at least `width_min` of them, to `see`.
    fn each(
        &self,
        outputs: &[Tensor],
        canvas_px: (u32, u32),
        width_min: usize,
        see: &mut dyn FnMut(Cell, &[f32]),
    ) -> Result<()> {
        let (count, width, values) = self.output.rows(outputs, width_min)?;
        let levels = self.strides.iter().map(|&stride| (stride, cells(canvas_px, stride)));
        let expected: usize = levels.clone().map(|(_, (columns, rows))| columns * rows).sum();
        if count != expected {
            let (name, strides, (across, down)) = (&self.output.name, &self.strides, canvas_px);
            return Err(Error::invalid(format!(
                "output '{name}' has {count} rows, but strides {strides:?} on {across}x{down} make {expected}"
            )));
        }
        let places = levels.flat_map(|(stride, (columns, rows))| {
            (0..rows).flat_map(move |row| (0..columns).map(move |column| Cell { stride, column, row }))
        });
        places.zip(values.chunks_exact(width)).for_each(|(cell, row)| see(cell, row));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
