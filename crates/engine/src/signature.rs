//! [`Signature`]: what a model takes and gives.

use crate::{DataType, Error, Result, Tensor};

/// One input or output: `-1` stands for a dimension that varies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name that clients use.
    pub name: String,
    /// The element type.
    pub dtype: DataType,
    /// Dimensions, outermost first; `-1` where any size is accepted.
    pub shape: Vec<i64>,
}

impl TensorSpec {
    /// Checks that `tensor` can stand for this input.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput), naming the input, what it wants and what it got.
    pub fn check(&self, tensor: &Tensor) -> Result<()> {
        if tensor.dtype() != self.dtype {
            return Err(Error::invalid(format!(
                "input '{}' wants datatype {}, but the request has {}",
                self.name,
                self.dtype,
                tensor.dtype()
            )));
        }
        let fits = tensor.shape().len() == self.shape.len()
            && self.shape.iter().zip(tensor.shape()).all(|(&want, &got)| want < 0 || usize::try_from(want) == Ok(got));
        if fits {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "input '{}' wants shape {:?} (-1 is any size), but the request has {:?}",
            self.name,
            self.shape,
            tensor.shape()
        )))
    }
}

/// A model's inputs and outputs, in the order of its graph.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signature {
    /// What must be given; weights that were lifted out are not among them.
    pub inputs: Vec<TensorSpec>,
    /// What can be asked for.
    pub outputs: Vec<TensorSpec>,
}
