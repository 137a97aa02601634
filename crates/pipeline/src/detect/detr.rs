//! DETR and RT-DETR: a fixed number of queries, each with scores and one box in shares of the input.

use engine::{Result, Tensor};

use super::{Boxes, Detected, Output, around, highest};

/// A softmax over the classes and, last, nothing.
pub(super) struct Detr {
    pub(super) logits: Output,
    pub(super) boxes: Output,
}

/// A sigmoid for each class.
pub(super) struct RtDetr {
    pub(super) logits: Output,
    pub(super) boxes: Output,
}

impl Boxes for Detr {
    fn find(&self, outputs: &[Tensor], canvas_px: (u32, u32), threshold: f32, found: &mut Vec<Detected>) -> Result<()> {
        let (rows, width, logits) = self.logits.rows(outputs, 2)?;
        let boxes = self.boxes.values(outputs, &[1, rows, 4])?;
        for (logits, row) in logits.chunks_exact(width).zip(boxes.chunks_exact(4)) {
            let Some((class, best)) = highest(&logits[..width - 1]) else { continue };
            // The largest exponent is zero, so that none overflows.
            let top = best.max(logits[width - 1]);
            let score = (best - top).exp() / logits.iter().map(|logit| (logit - top).exp()).sum::<f32>();
            if score >= threshold {
                found.push(Detected { class, score, box_px: in_pixels(row, canvas_px) });
            }
        }
        Ok(())
    }

    fn iou(&self) -> Option<f32> {
        None
    }
}

impl Boxes for RtDetr {
    fn find(&self, outputs: &[Tensor], canvas_px: (u32, u32), threshold: f32, found: &mut Vec<Detected>) -> Result<()> {
        let (rows, width, logits) = self.logits.rows(outputs, 1)?;
        let boxes = self.boxes.values(outputs, &[1, rows, 4])?;
        for (logits, row) in logits.chunks_exact(width).zip(boxes.chunks_exact(4)) {
            for (class, logit) in (0u32..).zip(logits) {
                let score = 1.0 / (1.0 + (-logit).exp());
                if score >= threshold {
                    found.push(Detected { class, score, box_px: in_pixels(row, canvas_px) });
                }
            }
        }
        Ok(())
    }

    fn iou(&self) -> Option<f32> {
        None
    }
}

/// A box of middle and size in shares.
fn in_pixels(row: &[f32], canvas_px: (u32, u32)) -> [f32; 4] {
    let (width, height) = (canvas_px.0 as f32, canvas_px.1 as f32);
    around(row[0] * width, row[1] * height, row[2] * width, row[3] * height)
}
