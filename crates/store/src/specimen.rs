//! A model that is looked at before it is packed: what it says of itself, and what it answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use engine::{Engine, Result, Runtimes, Session, Signature, Tensor, Weights};

use crate::onnx::import;
use crate::{saved_model, torch_script};

/// An ONNX file, a SavedModel or a TorchScript file with a session of its own.
pub struct Specimen {
    /// What its exporter wrote beside the graph, by key.
    pub words: BTreeMap<String, String>,
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
            let (words, session) = if saved_model::is_saved_model(path) {
                (BTreeMap::new(), saved_model::session(runtimes, path)?)
            } else if torch_script::is_torch_script(path) {
                (BTreeMap::new(), torch_script::session(runtimes, path, declared)?)
            } else {
                (import::words(path)?, runtimes.onnx().session_from_file(path)?)
            };
            Ok(Self { words, session, no_weights: runtimes.bind(Vec::new())? })
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
