//! Tensors that clients know in one shape and the model in another, of the same elements.

use std::collections::BTreeMap;

use engine::{Error, Result, Signature, Tensor, TensorSpec};
use store::repository::Declared;

/// The shapes that a model itself has, of those inputs and outputs that clients know in another.
#[derive(Debug, Default)]
pub(crate) struct Reshapes {
    /// By input, in the order of the signature; empty when there are none.
    inputs: Vec<Option<Shapes>>,
    outputs: Vec<Option<Shapes>>,
}

/// One tensor's shapes, with the batch where there is one. Both have as many dimensions that vary, which are -1, and go by
/// their order.
#[derive(Debug)]
struct Shapes {
    outside: Vec<i64>,
    inside: Vec<i64>,
}

impl Reshapes {
    /// Those that are `declared` for a model whose clients see `signature`.
    pub(crate) fn of(declared: &Declared, signature: &Signature) -> Self {
        let shapes = |specs: &[TensorSpec], reshapes: &BTreeMap<String, Vec<i64>>| {
            if reshapes.is_empty() {
                return Vec::new();
            }
            let one = |spec: &TensorSpec| {
                let inside = reshapes.get(&spec.name)?.clone();
                Some(Shapes { outside: spec.shape.clone(), inside })
            };
            specs.iter().map(one).collect()
        };
        Self {
            inputs: shapes(&signature.inputs, &declared.input_reshapes),
            outputs: shapes(&signature.outputs, &declared.output_reshapes),
        }
    }

    /// `inputs`, all of them and in order, as the model takes them.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for an input that is not of the shape that clients see.
    pub(crate) fn taken(&self, mut inputs: Vec<Tensor>) -> Result<Vec<Tensor>> {
        for (input, shapes) in inputs.iter_mut().zip(&self.inputs) {
            if let Some(Shapes { outside, inside }) = shapes {
                *input = reshaped(input, outside, inside)?;
            }
        }
        Ok(inputs)
    }

    /// `tensor`, the model's output at `index`, as clients get it.
    ///
    /// # Errors
    /// [`Internal`](engine::ErrorKind::Internal) for an output that is not of the shape that the model is said to have.
    pub(crate) fn given(&self, index: usize, tensor: Tensor) -> Result<Tensor> {
        match self.outputs.get(index) {
            Some(Some(Shapes { outside, inside })) => {
                reshaped(&tensor, inside, outside).map_err(|error| Error::internal(error.message))
            }
            _ => Ok(tensor),
        }
    }
}

/// `tensor`, which is of the shape `from`, as one of the shape `to`; its bytes are shared.
fn reshaped(tensor: &Tensor, from: &[i64], to: &[i64]) -> Result<Tensor> {
    let shape = tensor.shape();
    let misfit =
        || Error::invalid(format!("a tensor of shape {shape:?} is none of {from:?}, which is reshaped to {to:?}"));
    if shape.len() != from.len() {
        return Err(misfit());
    }
    let mut varying = from.iter().zip(shape).filter(|(dim, _)| **dim < 0).map(|(_, &size)| size);
    let shape = to.iter().map(|&dim| usize::try_from(dim).ok().or_else(|| varying.next()));
    let shape = shape.collect::<Option<Vec<usize>>>().ok_or_else(misfit)?;
    Tensor::new(tensor.dtype(), shape, tensor.data().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(shape: &[usize], from: &[i64], to: &[i64], want: Option<&[usize]>) {
        let tensor = Tensor::from_f32(shape.to_vec(), vec![1.0; shape.iter().product()]).unwrap();
        let got = reshaped(&tensor, from, to);
        assert_eq!(got.as_ref().ok().map(Tensor::shape), want, "{got:?}");
        if let Ok(got) = got {
            assert_eq!(got.data(), tensor.data());
        }
    }

    #[test]
    fn dimensions_that_vary_keep_their_order_and_elements_theirs() {
        check(&[5, 1], &[-1, 1], &[-1], Some(&[5]));
        check(&[5], &[-1], &[-1, 1], Some(&[5, 1]));
        check(&[2, 7, 6], &[-1, -1, 6], &[-1, 2, -1, 3], Some(&[2, 2, 7, 3]));
        check(&[0, 4], &[-1, 4], &[-1, 2, 2], Some(&[0, 2, 2]));
        check(&[4], &[4], &[2, 2], Some(&[2, 2]));
        // What a runtime gives against its own word.
        check(&[5], &[-1, 1], &[-1], None);
        check(&[5, 2], &[-1, 1], &[-1], None);
        check(&[5], &[5], &[-1], None);
    }
}
