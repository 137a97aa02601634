//! The TensorFlow Object Detection API: frames go in as they are, boxes come out after suppression.

use bytes::Bytes;
use engine::{DataType, Error, Result, Tensor};
use store::Manifest;
use store::task::Channels;

use super::{Detected, Detector, Output, best_first, check_picture};
use crate::{Fit, Picture};

/// The most rows that are read; the API's own models give 100.
const ROWS_MAX: usize = 100;

/// Where the four outputs are.
pub(super) struct Odapi {
    boxes: Output,
    scores: Output,
    classes: Output,
    count: Output,
}

impl Odapi {
    /// The detector whose outputs have these names, in the order of [`Detection::Odapi`](store::task::Detection).
    pub(super) fn new(manifest: &Manifest, names: [&str; 4]) -> Result<Self> {
        let output = |name| Output::named(manifest, name);
        let [boxes, scores, classes, count] = names;
        Ok(Self { boxes: output(boxes)?, scores: output(scores)?, classes: output(classes)?, count: output(count)? })
    }
}

impl Detector for Odapi {
    fn input_format(&self) -> (Fit, Channels) {
        (Fit::Source, Channels::Rgb)
    }

    fn prepare(&self, picture: &Picture) -> Result<Vec<Tensor>> {
        let (width, height) = (picture.width as usize, picture.height as usize);
        check_picture(picture, width, height)?;
        Ok(vec![Tensor::new(DataType::U8, vec![1, height, width, 3], Bytes::copy_from_slice(&picture.pixels))?])
    }

    fn detect(&self, outputs: &[Tensor], source_px: (u32, u32), threshold: f32) -> Result<Vec<Detected>> {
        let shape = self.scores.shape(outputs)?;
        let &[1, rows] = shape else {
            return Err(Error::invalid(format!("output '{}' is of shape {shape:?}, not [1, rows]", self.scores.name)));
        };
        let scores = self.scores.values(outputs, &[1, rows])?;
        let boxes = self.boxes.values(outputs, &[1, rows, 4])?;
        let classes = self.classes.values(outputs, &[1, rows])?;
        let count = self.count.values(outputs, &[1])?;
        // A cast from a float saturates, so a negative count and one that is no number are both zero.
        let count = (count[0].round() as usize).min(ROWS_MAX);
        let rows = scores.iter().zip(classes).zip(boxes.chunks_exact(4)).take(count);
        let (width, height) = (source_px.0 as f32, source_px.1 as f32);
        let mut found: Vec<Detected> = rows
            .filter(|&((&score, &class), _)| score >= threshold && class >= 0.0)
            .filter_map(|((&score, &class), row)| {
                let [top, left, bottom, right] = [row[0], row[1], row[2], row[3]];
                let sides = [left * width, top * height, right * width, bottom * height];
                let whole = sides.iter().all(|side| side.is_finite());
                let [left, top, right, bottom] = sides;
                let box_px = [left.max(0.0), top.max(0.0), right.min(width), bottom.min(height)];
                (whole && box_px[0] < box_px[2] && box_px[1] < box_px[3]).then(|| Detected {
                    class: class.round() as u32,
                    score,
                    box_px,
                })
            })
            .collect();
        found.sort_unstable_by(best_first);
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::manifest;
    use super::*;
    use engine::ErrorKind;

    const NAMES: [&str; 4] = ["detection_boxes", "detection_scores", "detection_classes:0", "num_detections"];

    const NAN: f32 = f32::NAN;

    fn tensors(boxes: &[f32], scores: &[f32], classes: &[f32], count: f32) -> [Tensor; 4] {
        let n = scores.len();
        [
            Tensor::from_f32(vec![1, n, 4], boxes.to_vec()).unwrap(),
            Tensor::from_f32(vec![1, n], scores.to_vec()).unwrap(),
            Tensor::from_f32(vec![1, n], classes.to_vec()).unwrap(),
            Tensor::from_f32(vec![1], vec![count]).unwrap(),
        ]
    }

    fn odapi() -> Odapi {
        Odapi::new(&manifest(None, &NAMES), NAMES).unwrap()
    }

    #[test]
    fn rows_become_boxes_in_pixels() {
        let rows = [0.1, 0.2, 0.5, 0.6, /**/ -1.0, 0.0, 0.5, 2.0, /**/ 0.0, 0.0, 1.0, 1.0];
        let first = Detected { class: 1, score: 0.5, box_px: [20.0, 5.0, 60.0, 25.0] };
        let second = Detected { class: 3, score: 0.9, box_px: [0.0, 0.0, 100.0, 25.0] };
        let third = Detected { class: 2, score: 0.4, box_px: [0.0, 0.0, 100.0, 50.0] };
        type Row<'a> = (&'a [f32], &'a [f32], f32, f32, &'a [Detected]);
        let table: [Row<'_>; 8] = [
            (&[0.5, 0.9, 0.4], &[1.0, 2.9, 2.0], 3.0, 0.4, &[second, first, third]),
            (&[0.5, 0.9, 0.4], &[1.0, 2.9, 2.0], 3.0, 0.41, &[second, first]),
            (&[0.5, 0.9, 0.4], &[1.0, 2.9, 2.0], 1.0, 0.0, &[first]),
            (&[0.5, 0.9, 0.4], &[1.0, 2.9, 2.0], 1e9, 0.5, &[second, first]),
            (&[0.5, 0.9, 0.4], &[1.0, 2.9, 2.0], -5.0, 0.0, &[]),
            (&[0.5, 0.9, 0.4], &[1.0, 2.9, 2.0], NAN, 0.0, &[]),
            (&[NAN, 0.9, 0.4], &[1.0, NAN, -2.0], 3.0, 0.0, &[]),
            (&[0.5, 0.9, 0.4], &[1.0, 2.9, 2.0], 3.0, NAN, &[]),
        ];
        for (scores, classes, count, threshold, want) in table {
            let got = odapi().detect(&tensors(&rows, scores, classes, count), (100, 50), threshold).unwrap();
            let close = |a: &Detected, b: &Detected| {
                (a.class, a.score) == (b.class, b.score)
                    && a.box_px.iter().zip(b.box_px).all(|(a, b)| (a - b).abs() < 1e-4)
            };
            assert!(
                got.len() == want.len() && got.iter().zip(want).all(|(a, b)| close(a, b)),
                "{scores:?} {classes:?} {count} {threshold}: {got:?}"
            );
        }
    }

    #[test]
    fn hostile_outputs_are_refused_or_passed_over() {
        let nothing = [
            tensors(&[NAN, 0.0, 1.0, 1.0], &[0.9], &[1.0], 1.0),
            tensors(&[0.0, 0.0, f32::INFINITY, 1.0], &[0.9], &[1.0], 1.0),
            tensors(&[0.9, 0.9, 0.1, 0.1], &[0.9], &[1.0], 1.0),
            tensors(&[], &[], &[], 3.0),
        ];
        for outputs in nothing {
            assert_eq!(odapi().detect(&outputs, (10, 10), 0.1).unwrap(), []);
        }
        let good = || tensors(&[0.0; 8], &[0.9; 2], &[1.0; 2], 1.0).to_vec();
        for index in 0..4 {
            let mut wrong_shape = good();
            wrong_shape[index] = Tensor::from_f32(vec![3], vec![0.0; 3]).unwrap();
            let mut wrong_type = good();
            wrong_type[index] = Tensor::new(DataType::U8, vec![1, 2], Bytes::from_static(&[1, 1])).unwrap();
            for outputs in [wrong_shape, wrong_type, good()[..index].to_vec()] {
                assert_eq!(odapi().detect(&outputs, (10, 10), 0.1).unwrap_err().kind, ErrorKind::InvalidInput);
            }
        }
    }

    #[test]
    fn a_frame_goes_in_as_it_is() {
        let mut picture = Picture { width: 2, height: 1, pixels: vec![1, 2, 3, 4, 5, 6] };
        let inputs = odapi().prepare(&picture).unwrap();
        assert_eq!((inputs[0].shape(), &inputs[0].data()[..]), (&[1, 1, 2, 3][..], &picture.pixels[..]));
        picture.pixels.pop();
        assert_eq!(odapi().prepare(&picture).unwrap_err().kind, ErrorKind::InvalidInput);
    }
}
