//! TensorFlow, loaded from a shared library through its C API, for SavedModels.
//!
//! Its graphs hold their weights in variables, so a SavedModel is loaded whole: one session, which all lanes share,
//! as `TF_SessionRun` may be called by several threads at once. It runs on the calling thread and starts no others for
//! a run.

mod library;
mod run;
mod value;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use library::Library;

use crate::runtime::Only;
use crate::{Result, SavedModel, Session};

/// The environment variable that names the shared library.
pub const LIBRARY_VARIABLE: &str = "PACKHORSE_TENSORFLOW";

/// TensorFlow. One per process; loading it again gives the same one.
pub struct TensorFlow {
    library: &'static Library,
    path: PathBuf,
}

impl TensorFlow {
    /// Loads the runtime from `library`; `None` looks for `libtensorflow_cc.so.2` beside the program and then where the
    /// system's loader looks. The C API's own distribution, `libtensorflow.so.2`, does as well.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when there is no such library, with the fix.
    pub fn load(library: Option<&Path>) -> Result<Self> {
        static LOADED: Only<&'static Library> = Only::new();
        let open = |path: &Path| Ok(&*Box::leak(Box::new(Library::open(path)?)));
        let (library, path) = LOADED.load("TensorFlow", library, "libtensorflow_cc.so.2", open)?;
        Ok(Self { library, path })
    }

    /// The runtime's name and version, for people and for metadata.
    pub fn description(&self) -> String {
        format!("tensorflow {} ({})", self.library.version(), self.path.display())
    }

    /// Loads `model` once and returns a session for each of `lanes`, all of them on the same variables.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when the runtime refuses the graph,
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when the graph does not have a tensor that the signature names.
    pub fn saved_model(&self, model: &SavedModel<'_>, lanes: usize) -> Result<Vec<Box<dyn Session>>> {
        let loaded = Arc::new(run::Loaded::new(self.library, model)?);
        Ok((0..lanes).map(|_| Box::new(run::TfSession::new(&loaded)) as Box<dyn Session>).collect())
    }
}

#[cfg(test)]
mod tests;
