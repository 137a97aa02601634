//! [`Runtimes`]: every runtime that a process has, behind one face.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::onnx::Onnx;
use crate::tensorflow::TensorFlow;
use crate::{Engine, LaidOut, Load, Result, SavedModel, Session, Tensor, Weights};

/// ONNX Runtime, and TensorFlow from when a model first needs it: its library is thirty times as large.
pub struct Runtimes {
    onnx: Arc<Onnx>,
    tensorflow_library: Option<PathBuf>,
    /// Set by the first model that needs it; read by all that follow.
    tensorflow: OnceLock<Result<TensorFlow>>,
}

impl Runtimes {
    /// `onnx`, and TensorFlow from `tensorflow_library` or where it is looked for by itself.
    pub fn new(onnx: Arc<Onnx>, tensorflow_library: Option<PathBuf>) -> Self {
        Self { onnx, tensorflow_library, tensorflow: OnceLock::new() }
    }

    /// ONNX Runtime by itself, for what it alone can do.
    pub fn onnx(&self) -> &Arc<Onnx> {
        &self.onnx
    }
}

impl Engine for Runtimes {
    fn description(&self) -> String {
        match self.tensorflow.get() {
            Some(Ok(tensorflow)) => format!("{}, {}", self.onnx.description(), tensorflow.description()),
            Some(Err(_)) | None => self.onnx.description(),
        }
    }

    fn session(&self, program: &[u8], weights: usize, load: Load) -> Result<Box<dyn Session>> {
        self.onnx.session(program, weights, load)
    }

    fn saved_model(&self, model: &SavedModel<'_>, lanes: usize) -> Result<Vec<Box<dyn Session>>> {
        let tensorflow = self.tensorflow.get_or_init(|| TensorFlow::load(self.tensorflow_library.as_deref()));
        tensorflow.as_ref().map_err(Clone::clone)?.saved_model(model, lanes)
    }

    fn lay_out(&self, graph: &[u8], weights: &[(String, Tensor)], folder: &Path) -> Result<LaidOut> {
        self.onnx.lay_out(graph, weights, folder)
    }

    fn hot_session(&self, laid_out: &LaidOut) -> Result<Box<dyn Session>> {
        self.onnx.hot_session(laid_out)
    }

    fn bind(&self, weights: Vec<Tensor>) -> Result<Arc<dyn Weights>> {
        self.onnx.bind(weights)
    }
}
