//! What a detector's tensors mean: pictures to inputs, outputs to boxes in the pixels of the source.

use std::cmp::Ordering;

use engine::{Error, Result, Tensor};
use store::Manifest;
use store::task::{Channels, Detection, Task};

use crate::{Fit, Picture};

mod nanodet;
mod nms;
mod odapi;

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

/// The two ends of one family of detectors.
pub trait Detector: Send + Sync {
    /// The picture that [`Detector::prepare`] wants.
    fn input_format(&self) -> (Fit, Channels);

    /// The inputs for one picture, in signature order.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is not of [`Detector::input_format`].
    fn prepare(&self, picture: &Picture) -> Result<Vec<Tensor>>;

    /// The objects that `outputs`, in signature order, report with at least `threshold`, in a picture that was `source_px`
    /// (width, height) before it was fitted: best first.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the output that is not of the shape or type that the
    /// model's task promises.
    fn detect(&self, outputs: &[Tensor], source_px: (u32, u32), threshold: f32) -> Result<Vec<Detected>>;
}

/// The detector that `manifest` describes.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the model was packed without a task, or with one that does
/// not fit its outputs.
pub fn for_model(manifest: &Manifest) -> Result<Box<dyn Detector>> {
    let Some(Task::ObjectDetection(detection)) = &manifest.task else {
        return Err(Error::invalid(format!(
            "model '{}' does not say what its outputs mean: pack it again with `--task object-detection`",
            manifest.name
        )));
    };
    Ok(match detection {
        Detection::Nanodet { .. } => Box::new(nanodet::Nanodet::new(manifest, detection)?),
        Detection::Odapi { boxes, scores, classes, count } => {
            Box::new(odapi::Odapi::new(manifest, [boxes, scores, classes, count])?)
        }
    })
}

/// Best first; equals in the order of class and place, so that the order depends on nothing else.
fn best_first(a: &Detected, b: &Detected) -> Ordering {
    let by_place = || a.box_px.iter().zip(&b.box_px).map(|(a, b)| a.total_cmp(b)).find(|order| order.is_ne());
    b.score.total_cmp(&a.score).then(a.class.cmp(&b.class)).then_with(|| by_place().unwrap_or(Ordering::Equal))
}

/// An output of the model that the detector reads.
struct Output {
    name: String,
    index: usize,
}

impl Output {
    fn named(manifest: &Manifest, name: &str) -> Result<Self> {
        let index = manifest.outputs.iter().position(|output| output.name == name).ok_or_else(|| {
            let have: Vec<&str> = manifest.outputs.iter().map(|output| output.name.as_str()).collect();
            Error::invalid(format!(
                "model '{}' has no output '{name}' that its task needs, only {have:?}: pack it again",
                manifest.name
            ))
        })?;
        Ok(Self { name: name.to_owned(), index })
    }

    fn tensor<'a>(&self, outputs: &'a [Tensor]) -> Result<&'a Tensor> {
        outputs.get(self.index).ok_or_else(|| {
            let (name, index, count) = (&self.name, self.index, outputs.len());
            Error::invalid(format!("output '{name}' is number {index}, but the answer has only {count} outputs"))
        })
    }

    fn shape<'a>(&self, outputs: &'a [Tensor]) -> Result<&'a [usize]> {
        self.tensor(outputs).map(Tensor::shape)
    }

    /// The values, when they are single precision and of `shape`.
    fn values<'a>(&self, outputs: &'a [Tensor], shape: &[usize]) -> Result<&'a [f32]> {
        let tensor = self.tensor(outputs)?;
        tensor.as_f32().filter(|_| tensor.shape() == shape).ok_or_else(|| {
            let (name, dtype, got) = (&self.name, tensor.dtype(), tensor.shape());
            Error::invalid(format!("output '{name}' is {dtype} {got:?}, but the model's task promises FP32 {shape:?}"))
        })
    }
}

/// Checks that `picture` holds `width` x `height` pixels.
fn check_picture(picture: &Picture, width: usize, height: usize) -> Result<()> {
    let (got_width, got_height) = (picture.width as usize, picture.height as usize);
    let bytes = width.checked_mul(height).and_then(|pixels| pixels.checked_mul(3));
    if (got_width, got_height) == (width, height) && bytes == Some(picture.pixels.len()) && bytes != Some(0) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the picture is {got_width}x{got_height} in {} bytes, but the model wants {width}x{height} with 3 bytes a pixel",
        picture.pixels.len()
    )))
}

#[cfg(test)]
mod tests {
    use store::manifest::{Io, ProgramKind, ProgramRef, Source};

    use super::*;

    /// A manifest with nothing in it but `task` and the names of the outputs.
    pub(super) fn manifest(task: Option<Detection>, outputs: &[&str]) -> Manifest {
        let io =
            |name: &str| Io { name: name.to_owned(), datatype: "FP32".to_owned(), shape: vec![-1], any_rank: false };
        Manifest {
            format: store::manifest::FORMAT,
            name: "m".to_owned(),
            version: 1,
            source: Source { format: "onnx".to_owned(), hash: String::new(), bytes: 0 },
            program: ProgramRef {
                hash: String::new(),
                kind: ProgramKind::Whole,
                target: "portable".to_owned(),
                why_whole: None,
            },
            inputs: vec![io("in")],
            outputs: outputs.iter().map(|name| io(name)).collect(),
            max_batch_size: 0,
            task: task.map(Task::ObjectDetection),
            labels: Default::default(),
            files: Default::default(),
            weights: Default::default(),
            others: Default::default(),
            precision: Default::default(),
            per_cpu: false,
        }
    }

    #[test]
    fn a_model_without_a_usable_task_is_refused_with_the_cure() {
        let [boxes, scores, classes, count] = ["b", "s", "c", "n"].map(str::to_owned);
        let odapi = Detection::Odapi { boxes, scores, classes, count };
        let table = [
            (manifest(None, &[]), "--task object-detection"),
            (manifest(Some(odapi), &["b", "c", "n"]), "no output 's'"),
        ];
        for (manifest, words) in table {
            let error = for_model(&manifest).err().unwrap();
            assert!(error.message.contains(words), "{error}");
        }
    }
}
