//! What a classifier's and an embedding model's tensors mean.

use engine::{Error, Result, Tensor};
use store::Manifest;
use store::picture::PictureInput;
use store::task::{PicturePooling, Scores, Task};

use crate::output::Output;
use crate::picture::{Picture, PictureTensor};

/// The two ends of a classifier of pictures.
pub struct Classifier {
    input: PictureTensor,
    output: Output,
    scores: Scores,
}

/// The two ends of a model that makes vectors of pictures.
pub struct Embedder {
    input: PictureTensor,
    output: Output,
    pooling: PicturePooling,
    normalise: bool,
}

/// The way into the one input of `manifest`.
fn way_in(manifest: &Manifest, input: &PictureInput) -> Result<PictureTensor> {
    match &manifest.inputs[..] {
        [only] => PictureTensor::new(input, only),
        others => {
            let names: Vec<&str> = others.iter().map(|input| input.name.as_str()).collect();
            Err(Error::invalid(format!("its task needs one input, a picture, but it has {names:?}")))
        }
    }
}

impl Classifier {
    /// The classifier that `manifest` describes; `None` when its task is another.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the task does not fit the model's inputs and outputs.
    pub fn of(manifest: &Manifest) -> Result<Option<Self>> {
        let Some(Task::ImageClassification(task)) = &manifest.task else { return Ok(None) };
        let (input, output) = (way_in(manifest, &task.input)?, Output::named(&manifest.outputs, &task.output)?);
        Ok(Some(Self { input, output, scores: task.scores }))
    }

    /// The inputs for `picture`, in signature order.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is of a size that cannot be fitted.
    pub fn prepare(&self, picture: &Picture) -> Result<Vec<Tensor>> {
        Ok(vec![self.input.tensor(&self.input.fit(picture)?.0)?])
    }

    /// The `most` best classes of `outputs`, in signature order, and their scores from 0 to 1: best first, equals by
    /// class. What is no number is no score.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the output that is not as the task promises.
    pub fn classes(&self, outputs: &[Tensor], most: usize) -> Result<Vec<(u32, f32)>> {
        let classes = match *self.output.shape(outputs)? {
            [1, classes] => classes,
            ref other => return Err(self.output.unfit(other, "[1, classes]")),
        };
        let values = self.output.values(outputs, &[1, classes])?;
        let scores: Vec<f32> = match self.scores {
            Scores::Probabilities => values.to_vec(),
            Scores::Sigmoid => values.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
            Scores::Softmax => softmax(&values),
        };
        let mut ranked: Vec<(u32, f32)> = (0..).zip(scores).filter(|(_, score)| !score.is_nan()).collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
        ranked.truncate(most);
        Ok(ranked)
    }
}

/// Shares that add up to one; the largest exponent is zero, so that none overflows.
fn softmax(logits: &[f32]) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let shares: Vec<f32> = logits.iter().map(|logit| (logit - top).exp()).collect();
    let sum: f32 = shares.iter().sum();
    shares.iter().map(|share| share / sum).collect()
}

impl Embedder {
    /// The embedding model that `manifest` describes; `None` when its task is another.
    ///
    /// # Errors
    /// As [`Classifier::of`].
    pub fn of(manifest: &Manifest) -> Result<Option<Self>> {
        let Some(Task::ImageEmbedding(task)) = &manifest.task else { return Ok(None) };
        let (input, output) = (way_in(manifest, &task.input)?, Output::named(&manifest.outputs, &task.output)?);
        Ok(Some(Self { input, output, pooling: task.pooling, normalise: task.normalise }))
    }

    /// As [`Classifier::prepare`].
    ///
    /// # Errors
    /// As [`Classifier::prepare`].
    pub fn prepare(&self, picture: &Picture) -> Result<Vec<Tensor>> {
        Ok(vec![self.input.tensor(&self.input.fit(picture)?.0)?])
    }

    /// The vector that `outputs`, in signature order, stand for.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the output that is not as the task promises.
    pub fn vector(&self, outputs: &[Tensor]) -> Result<Vec<f32>> {
        let shape = self.output.shape(outputs)?;
        let values = self.output.values(outputs, shape)?;
        let mut vector = match (self.pooling, shape) {
            (PicturePooling::None, [1, rest @ ..]) if rest.iter().filter(|&&side| side > 1).count() <= 1 => {
                values.to_vec()
            }
            (PicturePooling::Mean, &[1, _, height, width]) if height * width > 0 => {
                let mean = |plane: &[f32]| plane.iter().sum::<f32>() / plane.len() as f32;
                values.chunks_exact(height * width).map(mean).collect()
            }
            (PicturePooling::Mean, &[1, tokens, n]) if tokens > 0 && n > 0 => {
                let mut sums = vec![0.0; n];
                for token in values.chunks_exact(n) {
                    sums.iter_mut().zip(token).for_each(|(sum, value)| *sum += value);
                }
                sums.iter().map(|sum| sum / tokens as f32).collect()
            }
            (PicturePooling::First, &[1, tokens, n]) if tokens > 0 => values[..n].to_vec(),
            (pooling, shape) => return Err(self.output.unfit(shape, &format!("what pooling by {pooling:?} takes"))),
        };
        if self.normalise {
            let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
            // A vector of nothing has no direction, and stays what it is.
            if length > 0.0 {
                vector.iter_mut().for_each(|value| *value /= length);
            }
        }
        Ok(vector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output() -> Output {
        Output { name: "out".to_owned(), index: 0 }
    }

    fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::from_f32(shape.to_vec(), values.to_vec()).unwrap()
    }

    /// A way in for nothing in particular.
    fn input() -> PictureTensor {
        let io = store::manifest::Io {
            name: "in".to_owned(),
            datatype: "UINT8".to_owned(),
            shape: vec![1, 3, -1, -1],
            any_rank: false,
        };
        PictureTensor::new(&PictureInput::raw(), &io).unwrap()
    }

    #[test]
    fn classes_are_ranked() {
        let (two, nan) = (2.0f32.ln(), f32::NAN);
        type Row<'a> = (Scores, &'a [f32], usize, &'a [(u32, f32)]);
        let table: [Row<'_>; 6] = [
            (Scores::Probabilities, &[0.1, 0.7, 0.2], 2, &[(1, 0.7), (2, 0.2)]),
            (Scores::Softmax, &[0.0, two, 0.0], 3, &[(1, 0.5), (0, 0.25), (2, 0.25)]),
            (Scores::Softmax, &[1e30, 0.0], 9, &[(0, 1.0), (1, 0.0)]),
            (Scores::Sigmoid, &[0.0, 2.0 * two, -1e30], 3, &[(1, 0.8), (0, 0.5), (2, 0.0)]),
            (Scores::Probabilities, &[nan, 0.5], 3, &[(1, 0.5)]),
            (Scores::Probabilities, &[0.5], 0, &[]),
        ];
        for (scores, values, most, want) in table {
            let classifier = Classifier { input: input(), output: output(), scores };
            let got = classifier.classes(&[tensor(&[1, values.len()], values)], most).unwrap();
            let close = got.iter().zip(want).all(|(got, want)| got.0 == want.0 && (got.1 - want.1).abs() < 1e-6);
            assert!(got.len() == want.len() && close, "{scores:?} {values:?}: {got:?}");
        }
        let classifier = Classifier { input: input(), output: output(), scores: Scores::Softmax };
        let error = classifier.classes(&[tensor(&[2, 2], &[0.0; 4])], 1).unwrap_err();
        assert!(error.message.contains("'out'"), "{error}");
    }

    #[test]
    fn vectors_are_pooled_and_brought_to_length() {
        type Row<'a> = (PicturePooling, bool, &'a [usize], &'a [f32], Option<&'a [f32]>);
        let table: [Row<'_>; 9] = [
            (PicturePooling::None, false, &[1, 2], &[3.0, 4.0], Some(&[3.0, 4.0])),
            (PicturePooling::None, true, &[1, 2, 1, 1], &[3.0, 4.0], Some(&[0.6, 0.8])),
            (PicturePooling::None, true, &[1, 2], &[0.0, 0.0], Some(&[0.0, 0.0])),
            (PicturePooling::None, false, &[1, 2, 2], &[0.0; 4], None),
            (PicturePooling::Mean, false, &[1, 2, 1, 2], &[1.0, 3.0, 5.0, 7.0], Some(&[2.0, 6.0])),
            (PicturePooling::Mean, false, &[1, 2, 2], &[1.0, 3.0, 5.0, 7.0], Some(&[3.0, 5.0])),
            (PicturePooling::First, false, &[1, 2, 2], &[1.0, 3.0, 5.0, 7.0], Some(&[1.0, 3.0])),
            (PicturePooling::First, false, &[1, 0, 2], &[], None),
            (PicturePooling::Mean, false, &[2, 2, 1], &[0.0; 4], None),
        ];
        for (pooling, normalise, shape, values, want) in table {
            let embedder = Embedder { input: input(), output: output(), pooling, normalise };
            let got = embedder.vector(&[tensor(shape, values)]).ok();
            assert_eq!(got.as_deref(), want, "{pooling:?} {shape:?}");
        }
    }
}
