//! A model that is looked at before it is packed: what it says of itself, and what it answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use engine::{Engine, Load, Result, Runtimes, Session, Signature, Tensor, Weights};

use crate::manifest::ProgramKind;
use crate::onnx::compile::aligned;
use crate::onnx::import::{self, Compiled};
use crate::pack::Request;
use crate::padding::Padding;
use crate::picture::Resample;
use crate::task::Text;
use crate::{padding, saved_model, torch_script};

/// A size to which a graph scales something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnSize {
    /// Pixels across.
    pub width: u32,
    /// Pixels down.
    pub height: u32,
    /// How it does that.
    pub resample: Resample,
}

/// An ONNX file, a SavedModel or a TorchScript file with a session of its own.
pub struct Specimen {
    /// What its exporter wrote beside the graph, by key.
    pub words: BTreeMap<String, String>,
    /// The sizes to which its graph brings something by itself, a picture perhaps; in no order.
    pub own_sizes: Vec<OwnSize>,
    session: Box<dyn Session>,
    no_weights: Arc<dyn Weights>,
}

impl Specimen {
    /// Opens the model at `path`; `declared` is what is said of a TorchScript file.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is none of them, [`Unsupported`](engine::ErrorKind::Unsupported)
    /// when the runtime cannot run it.
    pub fn open(runtimes: &Runtimes, path: &Path, declared: &torch_script::Declared) -> Result<Self> {
        let open = || {
            let ((words, own_sizes), session) = if saved_model::is_saved_model(path) {
                let (session, own_sizes) = saved_model::session(runtimes, path)?;
                ((BTreeMap::new(), own_sizes), session)
            } else if torch_script::is_torch_script(path) {
                ((BTreeMap::new(), Vec::new()), torch_script::session(runtimes, path, declared)?)
            } else {
                (import::says(path)?, runtimes.onnx().session_from_file(path)?)
            };
            Ok(Self { words, own_sizes, session, no_weights: runtimes.bind(Vec::new())? })
        };
        open().map_err(|error: engine::Error| error.context(path.display()))
    }

    /// Its inputs and outputs.
    pub fn signature(&self) -> &Signature {
        self.session.signature()
    }

    /// All outputs for `inputs`, both in signature order.
    ///
    /// # Errors
    /// The runtime's refusal.
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>> {
        let all: Vec<usize> = (0..self.session.signature().outputs.len()).collect();
        self.session.run(self.no_weights.as_ref(), inputs, &all)
    }
}

/// The padding of `form`, which is of what `request` names and reads `text`, when it was seen to answer the same with it as
/// without.
///
/// # Errors
/// When its runtime cannot load it.
pub(crate) fn padding(
    runtimes: &Runtimes,
    request: &Request,
    (form, signature): (&Compiled, &Signature),
    text: &Text,
) -> Result<Option<Padding>> {
    let (program, weights) = (&form.program, form.weights.len());
    let session = match form.kind {
        ProgramKind::Lifted => runtimes.session(program, weights, Load::AsIs)?,
        ProgramKind::Whole => runtimes.session(program, weights, Load::Optimise)?,
        ProgramKind::SavedModel => saved_model::session(runtimes, &request.path)?.0,
        ProgramKind::TorchScript => torch_script::session(runtimes, &request.path, &request.signature)?,
    };
    let weights = runtimes.bind(form.weights.iter().map(aligned).collect::<Result<_>>()?)?;
    Ok(padding::seen(session.as_ref(), weights.as_ref(), signature, text))
}
