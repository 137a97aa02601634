//! [`Runtimes`]: every runtime that a process has, behind one face.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use crate::onnx::Onnx;
use crate::tensorflow::TensorFlow;
use crate::torch::Torch;
use crate::{Engine, Extra, LaidOut, Load, Result, SavedModel, Session, Tensor, TorchScript, Weights};

/// ONNX Runtime, and TensorFlow and libtorch from when a model first needs them: their libraries are many times as large.
pub struct Runtimes {
    onnx: Arc<Onnx>,
    libraries: Libraries,
    /// Set by the first model that needs it; read by all that follow. As is the next.
    tensorflow: OnceLock<Result<TensorFlow>>,
    torch: OnceLock<Result<Torch>>,
}

/// Where the libraries of those runtimes are that only some models need; `None` where they are looked for by themselves.
#[derive(Clone, Debug, Default)]
pub struct Libraries {
    /// See [`TensorFlow::load`].
    pub tensorflow: Option<PathBuf>,
    /// See [`Torch::load`].
    pub torch: Option<PathBuf>,
}

impl Runtimes {
    /// `onnx`, and the others from `libraries`.
    pub fn new(onnx: Arc<Onnx>, libraries: Libraries) -> Self {
        Self { onnx, libraries, tensorflow: OnceLock::new(), torch: OnceLock::new() }
    }

    /// ONNX Runtime by itself, for what it alone can do.
    pub fn onnx(&self) -> &Arc<Onnx> {
        &self.onnx
    }

    fn tensorflow(&self) -> Result<&TensorFlow> {
        let tensorflow = self.tensorflow.get_or_init(|| TensorFlow::load(self.libraries.tensorflow.as_deref()));
        tensorflow.as_ref().map_err(Clone::clone)
    }

    /// libtorch by itself, which can look into an archive before anybody knows its signature.
    ///
    /// # Errors
    /// As [`Torch::load`].
    pub fn torch(&self) -> Result<&Torch> {
        let torch = self.torch.get_or_init(|| Torch::load(self.libraries.torch.as_deref()));
        torch.as_ref().map_err(Clone::clone)
    }
}

impl Engine for Runtimes {
    fn description(&self) -> String {
        let tensorflow = self.tensorflow.get().and_then(|loaded| loaded.as_ref().ok()).map(TensorFlow::description);
        let torch = self.torch.get().and_then(|loaded| loaded.as_ref().ok()).map(Torch::description);
        let all: Vec<_> = [Some(self.onnx.description()), tensorflow, torch].into_iter().flatten().collect();
        all.join(", ")
    }

    fn session(&self, program: &[u8], weights: usize, load: Load) -> Result<Box<dyn Session>> {
        self.onnx.session(program, weights, load)
    }

    fn bring(&self, extra: Extra) -> Result<()> {
        match extra {
            Extra::TensorFlow => self.tensorflow().map(drop),
            Extra::Torch => self.torch().map(drop),
        }
    }

    fn saved_model(&self, model: &SavedModel<'_>, lanes: usize) -> Result<Vec<Box<dyn Session>>> {
        self.tensorflow()?.saved_model(model, lanes)
    }

    fn torch_script(&self, model: &TorchScript<'_>, lanes: usize) -> Result<Vec<Box<dyn Session>>> {
        self.torch()?.torch_script(model, lanes)
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
