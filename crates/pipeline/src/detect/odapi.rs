//! The TensorFlow Object Detection API: boxes come out after suppression, as shares of the picture.

use engine::{Result, Tensor};

use super::{Boxes, Detected, Output};

/// The most rows that are read; the API's own models give 100.
const ROWS_MAX: usize = 100;

/// Where the outputs are: boxes, scores, classes and count.
pub(super) struct Odapi(pub(super) [Output; 4]);

impl Boxes for Odapi {
    fn find(&self, outputs: &[Tensor], canvas_px: (u32, u32), threshold: f32, found: &mut Vec<Detected>) -> Result<()> {
        let [boxes, scores, classes, count] = &self.0;
        let rows = match *scores.shape(outputs)? {
            [1, rows] => rows,
            _ => 0,
        };
        let scores = scores.values(outputs, &[1, rows])?;
        let boxes = boxes.values(outputs, &[1, rows, 4])?;
        let classes = classes.values(outputs, &[1, rows])?;
        let count = count.values(outputs, &[1])?;
        // A cast from a float saturates, so a negative count and one that is no number are both zero.
        let count = (count[0].round() as usize).min(ROWS_MAX);
        let (width, height) = (canvas_px.0 as f32, canvas_px.1 as f32);
        for ((&score, &class), row) in scores.iter().zip(&classes[..]).zip(boxes.chunks_exact(4)).take(count) {
            if score >= threshold && class >= 0.0 {
                let box_px = [row[1] * width, row[0] * height, row[3] * width, row[2] * height];
                found.push(Detected { class: class.round() as u32, score, box_px });
            }
        }
        Ok(())
    }

    fn iou(&self) -> Option<f32> {
        None
    }
}
