//! NanoDet: a stretched, normalised picture in; per stride class scores and the distances of a box's four sides, each
//! a distribution over bins, out. The layout of the tensors is [`Detection::Nanodet`]'s.

use engine::{Error, Result, Tensor};
use store::Manifest;
use store::task::{Channels, Detection};

use super::nms::suppress;
use super::{Detected, Detector, Output, best_first, check_picture};
use crate::{Fit, Picture};

/// The most boxes that go into suppression, the best of them: a threshold of zero must not take for ever.
const CANDIDATES_MAX: usize = 4096;
/// The widest input; keeps every product of sizes far from overflow.
const SIDE_MAX: usize = 8192;

/// A NanoDet and where its outputs are.
pub(super) struct Nanodet {
    width: usize,
    height: usize,
    channels: Channels,
    levels: Vec<Level>,
    bins: usize,
    iou: f32,
    /// For each channel, what each byte becomes.
    normalised: [[f32; 256]; 3],
}

/// One feature level: a grid of cells of `stride` input pixels.
struct Level {
    stride: usize,
    scores: Output,
    boxes: Output,
}

impl Nanodet {
    pub(super) fn new(manifest: &Manifest, detection: &Detection) -> Result<Self> {
        let refuse = |what: &str| {
            Error::invalid(format!("the task of model '{}' {what}: pack it again with the right task", manifest.name))
        };
        let Detection::Nanodet { width, height, mean, std, channels, levels, bins, iou } = detection else {
            return Err(refuse("is not NanoDet's"));
        };
        let side = 1..=SIDE_MAX;
        if !side.contains(width) || !side.contains(height) || !(1..=256).contains(bins) || !iou.is_finite() {
            return Err(refuse("states a size, a number of bins or an overlap that cannot be"));
        }
        if levels.is_empty() || levels.iter().any(|level| !side.contains(&level.stride)) {
            return Err(refuse("states no levels, or one with a stride that cannot be"));
        }
        if mean.iter().chain(std).any(|value| !value.is_finite()) || std.contains(&0.0) {
            return Err(refuse("states a mean or a standard deviation that cannot be"));
        }
        let output = |name: &str| Output::named(manifest, name);
        let levels = levels
            .iter()
            .map(|level| {
                Ok(Level { stride: level.stride, scores: output(&level.scores)?, boxes: output(&level.boxes)? })
            })
            .collect::<Result<_>>()?;
        let normalised = [0, 1, 2].map(|c| std::array::from_fn(|byte| byte as f32 * (1.0 / std[c]) - mean[c] / std[c]));
        Ok(Self { width: *width, height: *height, channels: *channels, levels, bins: *bins, iou: *iou, normalised })
    }

    /// Adds the boxes of `level` that some class claims with `threshold`, in pixels of the input.
    fn collect(&self, level: &Level, outputs: &[Tensor], threshold: f32, found: &mut Vec<Detected>) -> Result<()> {
        let columns = self.width.div_ceil(level.stride);
        let cells = columns * self.height.div_ceil(level.stride);
        let shape = level.scores.shape(outputs)?;
        let classes = match *shape {
            [1, n, classes] if n == cells && classes > 0 => classes,
            _ => {
                let (name, stride, width, height) = (&level.scores.name, level.stride, self.width, self.height);
                return Err(Error::invalid(format!(
                    "output '{name}' is of shape {shape:?}, but stride {stride} on {width}x{height} makes [1, {cells}, classes]"
                )));
            }
        };
        let scores = level.scores.values(outputs, &[1, cells, classes])?;
        let boxes = level.boxes.values(outputs, &[1, cells, 4 * self.bins])?;
        for (cell, (scores, bins)) in scores.chunks_exact(classes).zip(boxes.chunks_exact(4 * self.bins)).enumerate() {
            // Nearly every cell is empty; without an early way out, this is a handful of wide comparisons.
            if !scores.iter().fold(false, |any, &score| any | (score >= threshold)) {
                continue;
            }
            let Some(box_px) = self.decode(cell % columns, cell / columns, level.stride, bins) else {
                continue;
            };
            let claimed = scores.iter().enumerate().filter(|&(_, &score)| score >= threshold);
            found.extend(claimed.map(|(class, &score)| Detected { class: class as u32, score, box_px }));
        }
        Ok(())
    }

    /// The box around a cell's centre, clipped to the input; `None` when it has no area or is no number.
    fn decode(&self, column: usize, row: usize, stride: usize, bins: &[f32]) -> Option<[f32; 4]> {
        let stride = stride as f32;
        let (x, y) = ((column as f32 + 0.5) * stride, (row as f32 + 0.5) * stride);
        let side = |index: usize| expectation(&bins[index * self.bins..][..self.bins]) * stride;
        let [left, top, right, bottom] = [x - side(0), y - side(1), x + side(2), y + side(3)];
        let clipped = [left.max(0.0), top.max(0.0), right.min(self.width as f32), bottom.min(self.height as f32)];
        let whole = [left, top, right, bottom].iter().all(|side| side.is_finite());
        (whole && clipped[0] < clipped[2] && clipped[1] < clipped[3]).then_some(clipped)
    }
}

impl Detector for Nanodet {
    fn input_format(&self) -> (Fit, Channels) {
        (Fit::Exact { width: self.width as u32, height: self.height as u32 }, self.channels)
    }

    fn prepare(&self, picture: &Picture) -> Result<Vec<Tensor>> {
        check_picture(picture, self.width, self.height)?;
        // A byte has 256 values, so what each becomes is looked up; a load and a store are all there is to a pixel,
        // and extending an empty vector writes its memory once.
        let mut planes = Vec::with_capacity(picture.pixels.len());
        for (channel, normalised) in self.normalised.iter().enumerate() {
            planes.extend(picture.pixels.chunks_exact(3).map(|pixel| normalised[usize::from(pixel[channel])]));
        }
        Ok(vec![Tensor::from_f32(vec![1, 3, self.height, self.width], planes)?])
    }

    fn detect(&self, outputs: &[Tensor], source_px: (u32, u32), threshold: f32) -> Result<Vec<Detected>> {
        let mut found = Vec::new();
        for level in &self.levels {
            self.collect(level, outputs, threshold, &mut found)?;
        }
        if found.len() > CANDIDATES_MAX {
            found.select_nth_unstable_by(CANDIDATES_MAX, best_first);
            found.truncate(CANDIDATES_MAX);
        }
        let mut kept = suppress(found, self.iou);
        let (width, height) = (source_px.0 as f32, source_px.1 as f32);
        let (across, down) = (width / self.width as f32, height / self.height as f32);
        for detected in &mut kept {
            let [left, top, right, bottom] = detected.box_px;
            detected.box_px = [left * across, top * down, (right * across).min(width), (bottom * down).min(height)];
        }
        Ok(kept)
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

#[cfg(test)]
mod tests {
    use engine::{DataType, ErrorKind};
    use serde_json::json;
    use store::task::NanodetLevel;

    use super::super::tests::manifest;
    use super::*;

    const CLASSES: usize = 3;
    const BINS: usize = 4;

    fn level(stride: usize) -> NanodetLevel {
        NanodetLevel { stride, scores: format!("s{stride}"), boxes: format!("b{stride}") }
    }

    /// A model of 20x12 pixels: 3x2 cells of stride 8, 2x1 of stride 16.
    fn task() -> Detection {
        Detection::Nanodet {
            width: 20,
            height: 12,
            mean: [10.0, 0.0, 1.0],
            std: [2.0, 1.0, 4.0],
            channels: Channels::Bgr,
            levels: vec![level(8), level(16)],
            bins: BINS,
            iou: 0.5,
        }
    }

    fn nanodet(task: &Detection) -> Result<Nanodet> {
        Nanodet::new(&manifest(None, &["s8", "b8", "b16", "s16"]), task)
    }

    /// Outputs in which every cell is empty, but cell `at` of stride 8, which has `scores` and a box of one cell's
    /// length to each side.
    fn outputs(at: usize, scores: [f32; CLASSES], logit: f32) -> Vec<Tensor> {
        let zeros = |cells: usize, values: usize| vec![0.0f32; cells * values];
        let (mut s8, mut b8) = (zeros(6, CLASSES), zeros(6, 4 * BINS));
        s8[at * CLASSES..][..CLASSES].copy_from_slice(&scores);
        // All of the weight on bin 1.
        (0..4).for_each(|side| b8[(at * 4 + side) * BINS + 1] = logit);
        [
            (s8, vec![1, 6, CLASSES]),
            (b8, vec![1, 6, 4 * BINS]),
            (zeros(2, 4 * BINS), vec![1, 2, 4 * BINS]),
            (zeros(2, CLASSES), vec![1, 2, CLASSES]),
        ]
        .map(|(values, shape)| Tensor::from_f32(shape, values).unwrap())
        .to_vec()
    }

    #[test]
    fn a_cell_becomes_a_box_in_source_pixels() {
        // Cell 4 is column 1, row 1: its centre is (12, 12), its box (4, 4) to (20, 20), clipped to 20x12.
        type Row<'a> = (usize, [f32; 3], f32, f32, &'a [(u32, f32, [f32; 4])]);
        let table: [Row<'_>; 6] = [
            (4, [0.0, 0.7, 0.0], 200.0, 0.4, &[(1, 0.7, [8.0, 12.0, 40.0, 36.0])]),
            (0, [0.4, 0.0, 0.5], 200.0, 0.4, &[(2, 0.5, [0.0, 0.0, 24.0, 36.0]), (0, 0.4, [0.0, 0.0, 24.0, 36.0])]),
            (0, [0.4, 0.0, 0.5], 200.0, 0.6, &[]),
            (0, [0.4, f32::NAN, 0.0], 200.0, f32::NAN, &[]),
            (0, [0.9, 0.9, 0.9], f32::NAN, 0.4, &[]),
            (0, [0.9, 0.9, 0.9], f32::INFINITY, 0.4, &[]),
        ];
        for (at, scores, logit, threshold, want) in table {
            let got = nanodet(&task()).unwrap().detect(&outputs(at, scores, logit), (40, 36), threshold).unwrap();
            let got: Vec<_> = got.iter().map(|d| (d.class, d.score, d.box_px)).collect();
            assert_eq!(got, want, "{at} {scores:?} {logit} {threshold}");
        }
    }

    #[test]
    fn a_threshold_of_zero_is_no_trap() {
        let got = nanodet(&task()).unwrap().detect(&outputs(4, [0.9, 0.0, 0.0], 1.0), (20, 12), 0.0).unwrap();
        assert!(got.len() > 3 && got[0].score == 0.9 && got.len() <= CANDIDATES_MAX, "{got:?}");
    }

    #[test]
    fn outputs_that_do_not_fit_are_refused_by_name() {
        let good = || outputs(0, [0.9; 3], 1.0);
        let shapes: [&[usize]; 7] = [&[1, 6], &[2, 6, 3], &[1, 7, 3], &[1, 6, 0], &[1, 6, 3, 1], &[], &[1, 6, 15]];
        for (index, name) in ["'s8'", "'b8'", "'b16'", "'s16'"].into_iter().enumerate() {
            for shape in shapes {
                if (name, shape) == ("'s8'", &[1, 6, 15]) {
                    continue;
                }
                let count = shape.iter().product();
                let mut wrong = good();
                wrong[index] = Tensor::from_f32(shape.to_vec(), vec![0.9; count]).unwrap();
                let error = nanodet(&task()).unwrap().detect(&wrong, (20, 12), 0.4).unwrap_err();
                assert!(error.kind == ErrorKind::InvalidInput && error.message.contains(name), "{error}");
            }
            let mut wrong = good();
            let shape = wrong[index].shape().to_vec();
            wrong[index] = Tensor::new(DataType::U8, shape.clone(), vec![0; shape.iter().product()].into()).unwrap();
            for outputs in [wrong, good()[..index].to_vec()] {
                let error = nanodet(&task()).unwrap().detect(&outputs, (20, 12), 0.4).unwrap_err();
                assert_eq!(error.kind, ErrorKind::InvalidInput);
            }
        }
    }

    #[test]
    fn a_frame_becomes_normalised_planes() {
        let pixels: Vec<u8> = (0..20 * 12 * 3).map(|i| (i % 251) as u8).collect();
        let picture = Picture { width: 20, height: 12, pixels };
        let detector = nanodet(&task()).unwrap();
        let inputs = detector.prepare(&picture).unwrap();
        let (got, shape) = (inputs[0].as_f32().unwrap(), inputs[0].shape());
        assert_eq!(shape, [1, 3, 12, 20]);
        for (i, pixel) in picture.pixels.chunks(3).enumerate() {
            let [b, g, r] = [pixel[0], pixel[1], pixel[2]].map(f32::from);
            let want = [(b - 10.0) / 2.0, g, (r - 1.0) / 4.0];
            assert_eq!([got[i], got[240 + i], got[480 + i]], want, "pixel {i}");
        }
        let short = Picture { pixels: vec![0; 9], ..picture };
        let turned = Picture { width: 12, height: 20, pixels: picture.pixels };
        for wrong in [short, turned] {
            assert_eq!(detector.prepare(&wrong).unwrap_err().kind, ErrorKind::InvalidInput);
        }
        assert_eq!(detector.input_format(), (Fit::Exact { width: 20, height: 12 }, Channels::Bgr));
    }

    #[test]
    fn a_task_that_cannot_be_is_refused() {
        let table = [
            ("/width", json!(0)),
            ("/height", json!(usize::MAX)),
            ("/bins", json!(0)),
            // Beyond what single precision holds: infinity.
            ("/iou", json!(1e39)),
            ("/std/1", json!(0.0)),
            ("/mean/2", json!(1e39)),
            ("/levels", json!([])),
            ("/levels/0/stride", json!(0)),
            ("/levels/0/boxes", json!("absent")),
        ];
        for (field, value) in table {
            let mut task = serde_json::to_value(task()).unwrap();
            *task.pointer_mut(field).unwrap() = value;
            let task = serde_json::from_value(task).unwrap();
            assert_eq!(nanodet(&task).err().map(|error| error.kind), Some(ErrorKind::InvalidInput), "{field}");
        }
        assert!(nanodet(&task()).is_ok());
    }
}
