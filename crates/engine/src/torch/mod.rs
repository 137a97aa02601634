//! libtorch, for TorchScript archives, by way of a shim in C: libtorch itself has an API for C++ alone.
//!
//! A module is loaded whole and frozen: one module, which all lanes share, as a frozen module changes nothing while it
//! runs. It runs on the calling thread and starts no others for a run.

mod library;
mod module;
mod session;
mod value;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use library::Library;
pub use module::{Argument, Module};

use crate::runtime::Only;
use crate::{Result, Session, TorchScript};

/// The environment variable that names the shared library that is made of the shim.
pub const LIBRARY_VARIABLE: &str = "PACKHORSE_TORCH";

/// libtorch. One per process; loading it again gives the same one.
pub struct Torch {
    library: &'static Library,
    path: PathBuf,
}

impl Torch {
    /// Loads the runtime by `library`, the shim's; `None` looks for `libpackhorse_torch.so` beside the program and then
    /// where the system's loader looks.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when there is no such library, with the fix.
    pub fn load(library: Option<&Path>) -> Result<Self> {
        static LOADED: Only<&'static Library> = Only::new();
        let open = |path: &Path| Ok(&*Box::leak(Box::new(Library::open(path)?)));
        let (library, path) = LOADED.load("libtorch", library, "libpackhorse_torch.so", open)?;
        Ok(Self { library, path })
    }

    /// The runtime's name and version, for people and for metadata.
    pub fn description(&self) -> String {
        format!("libtorch {} ({})", self.library.version(), self.path.display())
    }

    /// Loads the module in `archive`, the bytes of a TorchScript file whose code was looked through: loading runs some of
    /// it.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when the runtime refuses it, with its reason.
    pub fn module(&self, archive: &[u8]) -> Result<Module> {
        Module::load(self.library, archive)
    }

    /// Loads `model` once and returns a session for each of `lanes`.
    ///
    /// # Errors
    /// As [`module`](Self::module), and [`Corrupt`](crate::ErrorKind::Corrupt) when its forward has no argument that the
    /// signature names.
    pub fn torch_script(&self, model: &TorchScript<'_>, lanes: usize) -> Result<Vec<Box<dyn Session>>> {
        let loaded = Arc::new(session::Loaded::new(self.module(model.archive)?, model)?);
        Ok((0..lanes).map(|_| Box::new(session::TorchSession::new(&loaded)) as Box<dyn Session>).collect())
    }
}

#[cfg(test)]
mod tests;
