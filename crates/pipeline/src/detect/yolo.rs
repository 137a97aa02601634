//! The families of YOLO. The layouts of their tensors are those of [`Head`](store::task::Head).

use engine::{Error, Result, Tensor};

use super::{Boxes, Detected, Levels, Output, around, highest};

/// A row a box: middle, size, whether there is anything, which class it is then (v5, v6, v7).
pub(super) struct Rows {
    pub(super) output: Output,
    pub(super) iou: f32,
}

/// A column a box: middle, size, scores (v8 and later).
pub(super) struct Columns {
    pub(super) output: Output,
    pub(super) iou: f32,
}

/// Boxes that the graph has chosen: corners, score, class (v10, v26).
pub(super) struct Chosen {
    pub(super) output: Output,
}

/// Rows as in v5, but places and sizes in strides from their cell (YOLOX).
pub(super) struct Offsets {
    pub(super) levels: Levels,
    pub(super) iou: f32,
}

/// The class and score of a row whose first four values are its box; `None` below the threshold.
fn claimed(row: &[f32], threshold: f32) -> Option<(u32, f32)> {
    let anything = row[4];
    // Nearly every row is empty, and no score is more than this.
    if anything < threshold || anything.is_nan() {
        return None;
    }
    let (class, score) = highest(&row[5..])?;
    let score = anything * score;
    (score >= threshold).then_some((class, score))
}

impl Boxes for Rows {
    fn find(&self, outputs: &[Tensor], _: (u32, u32), threshold: f32, found: &mut Vec<Detected>) -> Result<()> {
        let (_, width, values) = self.output.rows(outputs, 6)?;
        for row in values.chunks_exact(width) {
            if let Some((class, score)) = claimed(row, threshold) {
                found.push(Detected { class, score, box_px: around(row[0], row[1], row[2], row[3]) });
            }
        }
        Ok(())
    }

    fn iou(&self) -> Option<f32> {
        Some(self.iou)
    }
}

impl Boxes for Columns {
    fn find(&self, outputs: &[Tensor], _: (u32, u32), threshold: f32, found: &mut Vec<Detected>) -> Result<()> {
        let shape = self.output.shape(outputs)?;
        let &[1, rows, boxes] = shape else { return Err(self.unfit(shape)) };
        if rows < 5 {
            return Err(self.unfit(shape));
        }
        if boxes == 0 {
            return Ok(());
        }
        let values = self.output.values(outputs, &[1, rows, boxes])?;
        let (places, scores) = values.split_at(4 * boxes);
        // Class by class, as the values lie: a wide comparison and a choice each. No number is not higher than anything.
        let mut best = vec![(f32::NEG_INFINITY, 0u32); boxes];
        for (class, scores) in (0u32..).zip(scores.chunks_exact(boxes)) {
            for (best, &score) in best.iter_mut().zip(scores) {
                if score > best.0 {
                    *best = (score, class);
                }
            }
        }
        let place = |row: usize, at: usize| places[row * boxes + at];
        for (at, &(score, class)) in best.iter().enumerate().filter(|(_, (score, _))| *score >= threshold) {
            let box_px = around(place(0, at), place(1, at), place(2, at), place(3, at));
            found.push(Detected { class, score, box_px });
        }
        Ok(())
    }

    fn iou(&self) -> Option<f32> {
        Some(self.iou)
    }
}

impl Columns {
    fn unfit(&self, shape: &[usize]) -> Error {
        let name = &self.output.name;
        Error::invalid(format!(
            "output '{name}' is of shape {shape:?}, but the model's task promises [1, 4 + classes, n]"
        ))
    }
}

impl Boxes for Chosen {
    fn find(&self, outputs: &[Tensor], _: (u32, u32), threshold: f32, found: &mut Vec<Detected>) -> Result<()> {
        let (_, width, values) = self.output.rows(outputs, 6)?;
        for row in values.chunks_exact(width) {
            let (score, class) = (row[4], row[5]);
            if score >= threshold && class >= 0.0 {
                found.push(Detected { class: class.round() as u32, score, box_px: [row[0], row[1], row[2], row[3]] });
            }
        }
        Ok(())
    }

    fn iou(&self) -> Option<f32> {
        None
    }
}

impl Boxes for Offsets {
    fn find(&self, outputs: &[Tensor], canvas_px: (u32, u32), threshold: f32, found: &mut Vec<Detected>) -> Result<()> {
        self.levels.each(outputs, canvas_px, 6, &mut |cell, row| {
            if let Some((class, score)) = claimed(row, threshold) {
                let stride = cell.stride as f32;
                let along = |offset: f32, index: usize| (offset + index as f32) * stride;
                let middle = (along(row[0], cell.column), along(row[1], cell.row));
                let box_px = around(middle.0, middle.1, row[2].exp() * stride, row[3].exp() * stride);
                found.push(Detected { class, score, box_px });
            }
        })
    }

    fn iou(&self) -> Option<f32> {
        Some(self.iou)
    }
}
