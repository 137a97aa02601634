//! A module with its signature, and the sessions that run it.

use std::sync::Arc;

use super::module::Module;
use crate::{Error, Outlet, Result, Session, Signature, Tensor, TorchScript, Weights};

/// A module, and which of its arguments and answers are which of the signature's.
pub(super) struct Loaded {
    module: Module,
    signature: Signature,
    /// For each argument of forward the input that stands for it.
    arguments: Vec<Option<usize>>,
    /// Where each output is in what forward returns.
    outputs: Vec<String>,
}

impl Loaded {
    pub(super) fn new(module: Module, model: &TorchScript<'_>) -> Result<Self> {
        let place = |outlet: &Outlet| module.arguments().iter().position(|argument| argument.name == outlet.tensor);
        let mut arguments = vec![None; module.arguments().len()];
        for (index, outlet) in model.inputs.iter().enumerate() {
            let (name, argument) = (&outlet.spec.name, &outlet.tensor);
            let place = place(outlet).and_then(|place| arguments.get_mut(place));
            *place.ok_or_else(|| Error::corrupt(format!("forward has no argument '{argument}' for '{name}'")))? =
                Some(index);
        }
        let spec = |outlets: &[Outlet]| outlets.iter().map(|outlet| outlet.spec.clone()).collect();
        let signature = Signature { inputs: spec(model.inputs), outputs: spec(model.outputs) };
        let outputs = model.outputs.iter().map(|outlet| outlet.tensor.clone()).collect();
        Ok(Self { module, signature, arguments, outputs })
    }
}

/// A lane's handle on a module.
pub(super) struct TorchSession {
    loaded: Arc<Loaded>,
}

impl TorchSession {
    pub(super) fn new(loaded: &Arc<Loaded>) -> Self {
        Self { loaded: Arc::clone(loaded) }
    }
}

impl Session for TorchSession {
    fn signature(&self) -> &Signature {
        &self.loaded.signature
    }

    fn run(&self, _weights: &dyn Weights, inputs: &[Tensor], outputs: &[usize]) -> Result<Vec<Tensor>> {
        let Loaded { module, signature, arguments, outputs: places } = &*self.loaded;
        if inputs.len() != signature.inputs.len() {
            let (want, got) = (signature.inputs.len(), inputs.len());
            return Err(Error::internal(format!("the model takes {want} inputs, but got {got}")));
        }
        let given: Vec<_> = arguments.iter().map(|&index| index.and_then(|index| inputs.get(index))).collect();
        let answer = module.run(&given)?;
        let tensor = |&index: &usize| {
            let place = places.get(index).ok_or_else(|| Error::internal("an output index is beyond the signature"))?;
            let there = match &answer[..] {
                [(Some(_), _), ..] => answer.iter().find(|(name, _)| name.as_ref() == Some(place)),
                unnamed => place.parse().ok().and_then(|place: usize| unnamed.get(place)),
            };
            // What forward returns may depend on what it is given.
            let (_, tensor) = there.ok_or_else(|| {
                let (name, count) = (&signature.outputs[index].name, answer.len());
                Error::invalid(format!(
                    "forward returned {count} tensors for these inputs, and no '{name}' ('{place}')"
                ))
            })?;
            Ok(tensor.clone())
        };
        outputs.iter().map(tensor).collect()
    }
}
