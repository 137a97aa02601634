//! How far a model's answers in eight bits are from those of the original: measured on a user's inputs or on made-up ones,
//! kept with the model, and the reason to refuse a pack that is too far off.

mod samples;
pub(crate) use samples::{Samples, Vocabularies};

use bytes::Bytes;
use engine::{Error, Result, Signature, Tensor};
use serde::{Deserialize, Serialize};

use crate::pack::Request;
use crate::{Manifest, Store};

/// The file of a model that holds its [`Accuracy`] as JSON.
pub const FILE: &str = "accuracy.json";

/// The largest relative error that is taken when nobody says otherwise: answers that are this far from the original's are
/// as far as those of two fine-tunes by different seeds may be.
pub const TOLERANCE: f64 = 0.1;

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accuracy {
    /// Where the inputs came from.
    pub inputs: String,
    /// How many times the two models were run.
    pub samples: usize,
    /// The largest relative error of an output that was to be taken.
    pub tolerance: f64,
    /// In the order of the signature.
    pub outputs: Vec<OutputAccuracy>,
    /// Weights that stayed floats because the answers were too far off with them in eight bits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floats: Vec<String>,
}

/// One output over all samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutputAccuracy {
    /// As clients know it.
    pub name: String,
    /// The length of the difference by the length of the original.
    pub relative_error: f64,
    /// The largest difference by the largest value.
    pub max_error: f64,
    /// The mean difference by the mean size.
    pub mean_error: f64,
    /// Of the angle between the two, each taken as one vector.
    pub cosine: f64,
    /// How often the largest value along the last axis is at the same place, where there is more than one.
    pub agreement: Option<f64>,
}

impl Accuracy {
    /// The output that is furthest off.
    pub fn worst(&self) -> Option<&OutputAccuracy> {
        self.outputs.iter().max_by(|a, b| a.relative_error.total_cmp(&b.relative_error))
    }

    /// As a file of its model: name and bytes.
    pub(crate) fn file(&self) -> Result<(String, Bytes)> {
        let text = serde_json::to_vec(self).map_err(|error| Error::internal(error.to_string()))?;
        Ok((FILE.to_owned(), text.into()))
    }

    /// What was measured when `manifest` was packed; `None` when its weights are as its source has them.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when the store does not hold what it should.
    pub fn of(store: &Store, manifest: &Manifest) -> Result<Option<Self>> {
        if !manifest.files.contains_key(FILE) {
            return Ok(None);
        }
        let bytes = store.file(manifest, FILE)?;
        serde_json::from_slice(&bytes).map(Some).map_err(|error| Error::corrupt(format!("{FILE}: {error}")))
    }

    /// Whether all outputs are near enough; what is no number is not.
    pub fn is_near_enough(&self) -> bool {
        self.is_within(self.tolerance)
    }

    /// Whether it was measured as `request` wants it, and is near enough for it.
    pub(crate) fn is_enough_for(&self, request: &Request) -> bool {
        let inputs = request.calibration.as_deref().map(|file| file.display().to_string());
        inputs.is_none_or(|inputs| inputs == self.inputs) && self.is_within(request.tolerance.unwrap_or(TOLERANCE))
    }

    fn is_within(&self, tolerance: f64) -> bool {
        self.outputs.iter().all(|output| output.relative_error <= tolerance)
    }
}

/// Sums over the samples seen so far.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    difference: f64,
    squared_difference: f64,
    largest_difference: f64,
    size: f64,
    squared_size: f64,
    largest: f64,
    squared_other: f64,
    product: f64,
    rows: u64,
    same_place: u64,
}

/// Compares `got` with `want`, sample by sample, each in the order of `signature`'s outputs.
pub(crate) fn compare(signature: &Signature, want: &[Vec<Tensor>], got: &[Vec<Tensor>]) -> Vec<OutputAccuracy> {
    let output = |(at, spec): (usize, &engine::TensorSpec)| {
        let mut sums = Sums::default();
        let mut same_shape = true;
        for (want, got) in want.iter().zip(got) {
            match (want.get(at), got.get(at)) {
                (Some(want), Some(got)) if want.shape() == got.shape() && want.dtype() == got.dtype() => {
                    sums.add(want, got);
                }
                _ => same_shape = false,
            }
        }
        sums.told(&spec.name, same_shape)
    };
    signature.outputs.iter().enumerate().map(output).collect()
}

impl Sums {
    fn add(&mut self, want: &Tensor, got: &Tensor) {
        let (Some(numbers), Some(others)) = (want.as_f32(), got.as_f32()) else {
            // Whole numbers, halves and strings are the same or they are not.
            let off = f64::from(u8::from(want.data() != got.data()));
            (self.squared_difference, self.squared_size) = (self.squared_difference + off, self.squared_size + 1.0);
            return;
        };
        for (&want, &got) in numbers.iter().zip(others) {
            let (want, got) = (f64::from(want), f64::from(got));
            // Where both say the same, an infinity for one, there is no difference.
            let off = if want.to_bits() == got.to_bits() { 0.0 } else { (want - got).abs() };
            let (want, got) = if want.is_finite() { (want, got) } else { (0.0, 0.0) };
            self.difference += off;
            self.squared_difference += off * off;
            self.largest_difference = self.largest_difference.max(off);
            self.size += want.abs();
            self.squared_size += want * want;
            self.largest = self.largest.max(want.abs());
            self.squared_other += got * got;
            self.product += want * got;
        }
        let width = want.shape().last().copied().unwrap_or(0);
        if width > 1 {
            let place = |row: &[f32]| row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(at, _)| at);
            for (want, got) in numbers.chunks(width).zip(others.chunks(width)) {
                self.rows += 1;
                self.same_place += u64::from(place(want) == place(got));
            }
        }
    }

    fn told(self, name: &str, same_shape: bool) -> OutputAccuracy {
        let by = |part: f64, whole: f64| {
            if !same_shape {
                f64::INFINITY
            } else if part == 0.0 {
                0.0
            } else {
                part / whole
            }
        };
        let lengths = (self.squared_size * self.squared_other).sqrt();
        OutputAccuracy {
            name: name.to_owned(),
            relative_error: by(self.squared_difference.sqrt(), self.squared_size.sqrt()),
            max_error: by(self.largest_difference, self.largest),
            mean_error: by(self.difference, self.size),
            cosine: if lengths > 0.0 { self.product / lengths } else { 1.0 },
            agreement: (self.rows > 0).then(|| self.same_place as f64 / self.rows as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use engine::{DataType, TensorSpec};

    use super::*;

    #[test]
    fn what_is_told_is_what_differs() {
        let spec =
            |name: &str| TensorSpec { name: name.to_owned(), dtype: DataType::F32, shape: vec![-1], any_rank: false };
        let signature = Signature { inputs: Vec::new(), outputs: vec![spec("y")] };
        let of =
            |shape: &[usize], values: &[f32]| vec![vec![Tensor::from_f32(shape.to_vec(), values.to_vec()).unwrap()]];
        for (what, want, got, relative, max, agreement) in [
            ("same", of(&[1, 2], &[3.0, 4.0]), of(&[1, 2], &[3.0, 4.0]), 0.0, 0.0, Some(1.0)),
            ("near", of(&[1, 2], &[3.0, 4.0]), of(&[1, 2], &[3.0, 4.5]), 0.1, 0.125, Some(1.0)),
            ("another class", of(&[1, 2], &[3.0, 4.0]), of(&[1, 2], &[4.0, 3.0]), 2f64.sqrt() / 5.0, 0.25, Some(0.0)),
            ("one number", of(&[1, 1], &[2.0]), of(&[1, 1], &[1.0]), 0.5, 0.5, None),
            ("infinite alike", of(&[2], &[f32::INFINITY, 1.0]), of(&[2], &[f32::INFINITY, 1.0]), 0.0, 0.0, Some(1.0)),
            ("no number", of(&[2], &[1.0, 1.0]), of(&[2], &[f32::NAN, 1.0]), f64::NAN, 0.0, None),
            ("another shape", of(&[2], &[1.0, 1.0]), of(&[1], &[1.0]), f64::INFINITY, f64::INFINITY, None),
        ] {
            let [told] = compare(&signature, &want, &got).try_into().unwrap();
            let accuracy = Accuracy {
                inputs: String::new(),
                samples: 1,
                tolerance: 0.11,
                outputs: vec![told.clone()],
                floats: vec![],
            };
            if relative.is_nan() {
                assert!(told.relative_error.is_nan() && !accuracy.is_near_enough(), "{what}");
                continue;
            }
            let close = |a: f64, b: f64| (a - b).abs() < 1e-6 || a == b;
            assert!(close(told.relative_error, relative) && close(told.max_error, max), "{what}: {told:?}");
            assert!(agreement.is_none() || told.agreement == agreement, "{what}: {told:?}");
            assert_eq!(accuracy.is_near_enough(), relative <= 0.11, "{what}");
        }
    }
}
