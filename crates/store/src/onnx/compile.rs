//! From a graph that was taken apart to a program that is built and bound, as often as somebody wants another form of it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use engine::onnx::Onnx;
use engine::{Engine, Load, Result, Session, Tensor, Weights};
use prost::Message;

use super::canonical::{self, Names};
use super::lift::Weight;
use super::made::Made;
use super::tensor;
use super::wire::{Model, TensorProto};

/// A graph and its weights, before anything is made of either.
pub(crate) struct Parts {
    pub(crate) model: Model,
    pub(crate) weights: Vec<Weight>,
    /// Holds the numbers that are not in the graph's own messages.
    pub(crate) folder: Option<tempfile::TempDir>,
}

/// A program with its weights, ready to run.
pub(crate) struct Built {
    pub(crate) program: Bytes,
    /// In program order.
    pub(crate) weights: Vec<Tensor>,
    pub(crate) session: Box<dyn Session>,
    pub(crate) bound: Arc<dyn Weights>,
    pub(crate) names: Names,
}

/// What was made of weights so far, by the exporter's tensor, so that another form of a graph makes only what is new in it.
#[derive(Default)]
pub(crate) struct Known(HashMap<(String, Made), Tensor>);

impl Parts {
    /// Builds what `rewrite` makes of the graph.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when a weight is not as it says. The inner error is the runtime's refusal.
    pub(crate) fn build(
        &self,
        engine: &Onnx,
        known: &mut Known,
        rewrite: &dyn Fn(&mut Model, &mut Vec<Weight>),
    ) -> Result<std::result::Result<Built, String>> {
        let folder = self.folder.as_ref().map_or(Path::new(""), tempfile::TempDir::path);
        let (mut model, mut weights) = (self.model.clone(), self.weights.clone());
        rewrite(&mut model, &mut weights);
        // A constant that stays in the program carries its own numbers there.
        let graph = model.graph.get_or_insert_default();
        graph.each_tensor_mut(&mut |kept| tensor::inline(kept, folder))?;
        let names = canonical::canonicalise(&mut model, &mut weights);
        let program = Bytes::from(model.encode_to_vec());
        let originals = names.originals();
        let original = |weight: &Weight| weight.tensor.name.as_deref().and_then(|name| originals.get(name).copied());
        let numbers = weights.iter().map(|weight| known.numbers(weight, original(weight).unwrap_or_default(), folder));
        let weights = numbers.collect::<Result<Vec<_>>>()?;
        drop(originals);
        let session = match engine.session(&program, weights.len(), Load::AsIs) {
            Ok(session) => session,
            Err(refusal) => return Ok(Err(names.translate(&refusal.message))),
        };
        let bound = engine.bind(weights.iter().map(aligned).collect::<Result<_>>()?)?;
        Ok(Ok(Built { program, weights, session, bound, names }))
    }
}

impl Known {
    /// `weight`, which its exporter called `original`, as its program takes it.
    fn numbers(&mut self, weight: &Weight, original: &str, folder: &Path) -> Result<Tensor> {
        let read = |tensor: &TensorProto| tensor::read(tensor, folder);
        if weight.made == Made::AsIs {
            return read(&weight.tensor);
        }
        let key = (original.to_owned(), weight.made);
        if let Some(known) = self.0.get(&key) {
            return Ok(known.clone());
        }
        let made = weight.made.of(&read(&weight.tensor)?)?;
        self.0.insert(key, made.clone());
        Ok(made)
    }
}

/// Bytes of a scratch file need not be aligned as a segment's are.
pub(crate) fn aligned(tensor: &Tensor) -> Result<Tensor> {
    let size = tensor.dtype().size_bytes().unwrap_or(1);
    if tensor.data().as_ptr().addr().is_multiple_of(size) {
        return Ok(tensor.clone());
    }
    // Vectors of this size come from the allocator at 16-byte boundaries.
    Tensor::new(tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec().into())
}
