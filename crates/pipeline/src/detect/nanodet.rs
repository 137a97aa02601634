//! NanoDet, PicoDet and NanoDet-Plus: per cell class scores and the distances of a box's four sides, each a distribution
//! over bins.

use engine::{Error, Result, Tensor};

use super::{Boxes, Cell, Detected, Levels, Output, cells, checked_iou, checked_strides};

/// A head whose levels come out one by one.
pub(super) struct Nanodet {
    levels: Vec<(usize, Output, Output)>,
    bins: usize,
    iou: f32,
}

/// A head whose levels come out together, scores and bins side by side.
pub(super) struct NanodetPlus {
    levels: Levels,
    bins: usize,
    iou: f32,
}

fn checked_bins(bins: usize) -> Result<usize> {
    let wrong = || Error::invalid("its task states a number of bins that cannot be: pack it again with the right task");
    (1..=256).contains(&bins).then_some(bins).ok_or_else(wrong)
}

impl Nanodet {
    /// `levels` are stride, scores and boxes.
    pub(super) fn new(levels: Vec<(usize, Output, Output)>, bins: usize, iou: f32) -> Result<Self> {
        checked_strides(&levels.iter().map(|(stride, ..)| *stride).collect::<Vec<_>>())?;
        Ok(Self { levels, bins: checked_bins(bins)?, iou: checked_iou(iou)? })
    }
}

impl NanodetPlus {
    pub(super) fn new(levels: Levels, bins: usize, iou: f32) -> Result<Self> {
        Ok(Self { levels, bins: checked_bins(bins)?, iou: checked_iou(iou)? })
    }
}

/// Adds the boxes of `cell` that some class claims with `threshold`, clipped to the canvas. Distances are measured from
/// `middle` strides into the cell; `bins` are those of the four sides, one after the other.
fn collect(
    (cell, middle): (Cell, f32),
    (scores, bins): (&[f32], &[f32]),
    canvas_px: (u32, u32),
    threshold: f32,
    found: &mut Vec<Detected>,
) {
    // Nearly every cell is empty; without an early way out, this is a handful of wide comparisons.
    if !scores.iter().fold(false, |any, &score| any | (score >= threshold)) {
        return;
    }
    let stride = cell.stride as f32;
    let along = |index: usize| (index as f32 + middle) * stride;
    let side = |index: usize| expectation(&bins[index * bins.len() / 4..][..bins.len() / 4]) * stride;
    let (x, y) = (along(cell.column), along(cell.row));
    let [left, top, right, bottom] = [x - side(0), y - side(1), x + side(2), y + side(3)];
    let whole = [left, top, right, bottom].iter().all(|side| side.is_finite());
    let box_px = [left.max(0.0), top.max(0.0), right.min(canvas_px.0 as f32), bottom.min(canvas_px.1 as f32)];
    if whole && box_px[0] < box_px[2] && box_px[1] < box_px[3] {
        let claimed = (0u32..).zip(scores).filter(|&(_, &score)| score >= threshold);
        found.extend(claimed.map(|(class, &score)| Detected { class, score, box_px }));
    }
}

impl Boxes for Nanodet {
    fn find(&self, outputs: &[Tensor], canvas_px: (u32, u32), threshold: f32, found: &mut Vec<Detected>) -> Result<()> {
        for (stride, scores, boxes) in &self.levels {
            let (columns, rows) = cells(canvas_px, *stride);
            let cells = columns * rows;
            let classes = match *scores.shape(outputs)? {
                [1, n, classes] if n == cells && classes > 0 => classes,
                ref shape => {
                    let (name, (width, height)) = (&scores.name, canvas_px);
                    return Err(Error::invalid(format!(
                        "output '{name}' is of shape {shape:?}, but stride {stride} on {width}x{height} makes [1, {cells}, classes]"
                    )));
                }
            };
            let scores = scores.values(outputs, &[1, cells, classes])?;
            let boxes = boxes.values(outputs, &[1, cells, 4 * self.bins])?;
            let values = scores.chunks_exact(classes).zip(boxes.chunks_exact(4 * self.bins));
            for (at, values) in values.enumerate() {
                let cell = Cell { stride: *stride, column: at % columns, row: at / columns };
                collect((cell, 0.5), values, canvas_px, threshold, found);
            }
        }
        Ok(())
    }

    fn iou(&self) -> Option<f32> {
        Some(self.iou)
    }
}

impl Boxes for NanodetPlus {
    fn find(&self, outputs: &[Tensor], canvas_px: (u32, u32), threshold: f32, found: &mut Vec<Detected>) -> Result<()> {
        self.levels.each(outputs, canvas_px, 4 * self.bins + 1, &mut |cell, row| {
            let values = row.split_at(row.len() - 4 * self.bins);
            collect((cell, 0.0), values, canvas_px, threshold, found);
        })
    }

    fn iou(&self) -> Option<f32> {
        Some(self.iou)
    }
}

/// The mean of 0, 1, 2, ... under the softmax of `logits`.
fn expectation(logits: &[f32]) -> f32 {
    let top = logits.iter().fold(f32::NEG_INFINITY, |top, &logit| top.max(logit));
    let mut weight = 0.0;
    let mut moment = 0.0;
    for (bin, &logit) in logits.iter().enumerate() {
        // Against the largest, so that none overflows.
        let share = (logit - top).exp();
        weight += share;
        moment += share * bin as f32;
    }
    moment / weight
}
