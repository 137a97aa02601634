//! The outputs of a model, by the names that its task gives.

use std::borrow::Cow;

use engine::{DataType, Error, Result, Tensor};
use half::f16;
use store::manifest::Io;

/// An output that somebody reads.
pub(crate) struct Output {
    /// For errors.
    pub(crate) name: String,
    /// Its place in the signature.
    pub(crate) index: usize,
}

impl Output {
    /// The one of that name among a model's `outputs`.
    pub(crate) fn named(outputs: &[Io], name: &str) -> Result<Self> {
        let index = outputs.iter().position(|output| output.name == name).ok_or_else(|| {
            let have: Vec<&str> = outputs.iter().map(|output| output.name.as_str()).collect();
            Error::invalid(format!("it has no output '{name}' that its task needs, only {have:?}: pack it again"))
        })?;
        Ok(Self { name: name.to_owned(), index })
    }

    pub(crate) fn tensor<'a>(&self, outputs: &'a [Tensor]) -> Result<&'a Tensor> {
        outputs.get(self.index).ok_or_else(|| {
            let (name, index, count) = (&self.name, self.index, outputs.len());
            Error::invalid(format!("output '{name}' is number {index}, but the answer has only {count} outputs"))
        })
    }

    pub(crate) fn shape<'a>(&self, outputs: &'a [Tensor]) -> Result<&'a [usize]> {
        self.tensor(outputs).map(Tensor::shape)
    }

    /// The values, when they are floating-point numbers and of `shape`.
    pub(crate) fn values<'a>(&self, outputs: &'a [Tensor], shape: &[usize]) -> Result<Cow<'a, [f32]>> {
        let tensor = self.tensor(outputs)?;
        let halves = || {
            let half = |bytes: &[u8; 2]| f16::from_le_bytes(*bytes).to_f32();
            (tensor.dtype() == DataType::F16).then(|| tensor.data().as_chunks().0.iter().map(half).collect())
        };
        let values = tensor.as_f32().map(Cow::Borrowed).or_else(halves);
        values.filter(|_| tensor.shape() == shape).ok_or_else(|| {
            let (name, dtype, got) = (&self.name, tensor.dtype(), tensor.shape());
            Error::invalid(format!("output '{name}' is {dtype} {got:?}, but the model's task promises FP32 {shape:?}"))
        })
    }

    /// The rows `[1, n, width]`, of at least `width_min` values each: n, width and values.
    pub(crate) fn rows<'a>(&self, outputs: &'a [Tensor], width_min: usize) -> Result<(usize, usize, Cow<'a, [f32]>)> {
        match *self.shape(outputs)? {
            [1, rows, width] if width >= width_min => Ok((rows, width, self.values(outputs, &[1, rows, width])?)),
            ref other => Err(Error::invalid(format!(
                "output '{}' is of shape {other:?}, but the model's task promises [1, n, m] with m of at least {width_min}",
                self.name
            ))),
        }
    }

    /// That the output is of `shape` and not of what was promised.
    pub(crate) fn unfit(&self, shape: &[usize], promised: &str) -> Error {
        Error::invalid(format!(
            "output '{}' is of shape {shape:?}, but the model's task promises {promised}",
            self.name
        ))
    }
}
