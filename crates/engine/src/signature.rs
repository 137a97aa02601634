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
    /// The model does not say how many dimensions there are. `shape` is then `[-1]`, the nearest that a protocol can
    /// say, and any shape is accepted; an empty `shape` always means a scalar.
    pub any_rank: bool,
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
        if fits || self.any_rank {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_takes_what_its_shape_says() {
        for (shape, any_rank, given, fits) in [
            (&[][..], false, &[][..], true),
            (&[], false, &[1], false),
            (&[-1], false, &[4], true),
            (&[-1], false, &[0], true),
            (&[-1], false, &[], false),
            (&[-1, 3], false, &[2, 3], true),
            (&[-1, 3], false, &[2, 4], false),
            (&[-1], true, &[], true),
            (&[-1], true, &[2, 3, 4], true),
        ] {
            let spec = TensorSpec { name: "x".to_owned(), dtype: DataType::U8, shape: shape.to_vec(), any_rank };
            let tensor = Tensor::new(DataType::U8, given.to_vec(), vec![0; given.iter().product()].into()).unwrap();
            assert_eq!(spec.check(&tensor).is_ok(), fits, "{given:?} for {shape:?}, any rank: {any_rank}");
            let other = TensorSpec { dtype: DataType::F32, ..spec };
            assert!(other.check(&tensor).is_err(), "another datatype never fits");
        }
    }
}
