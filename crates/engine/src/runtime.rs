//! The seam between the house and a runtime: three small, synchronous traits.

use std::any::Any;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, Result, Signature, Tensor, TensorSpec};

/// How a session treats the graph it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// The graph was optimised when it was packed: run it as it stands.
    AsIs,
    /// A plain graph: let the runtime optimise it for this CPU first.
    Optimise,
}

/// A TensorFlow SavedModel: a folder, and the signature of it that is served.
#[derive(Clone, Copy, Debug)]
pub struct SavedModel<'a> {
    /// Holds `saved_model.pb`; read while the session is built, and not afterwards.
    pub folder: &'a Path,
    /// The tags of the graph in it, `serve` as a rule.
    pub tags: &'a [String],
    /// What clients give.
    pub inputs: &'a [Outlet],
    /// What clients get.
    pub outputs: &'a [Outlet],
}

/// A tensor of the signature, and where the model has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outlet {
    /// Its name for clients, and what it is.
    pub spec: TensorSpec,
    /// Of a SavedModel `OPERATION:INDEX`; of a TorchScript module the name of forward's argument and, of what it returns,
    /// the key or the place, counted from 0.
    pub tensor: String,
}

/// A TorchScript module: an archive, and what its `forward` takes and gives.
#[derive(Clone, Copy, Debug)]
pub struct TorchScript<'a> {
    /// The bytes of the file; read while the session is built, and not afterwards.
    pub archive: &'a [u8],
    /// What clients give.
    pub inputs: &'a [Outlet],
    /// What clients get.
    pub outputs: &'a [Outlet],
}

/// A graph with weights inside, laid out for this CPU, in files.
#[derive(Debug)]
pub struct LaidOut {
    /// Names the other.
    pub graph: PathBuf,
    /// The weights, as they were and as kernels read them.
    pub weights: PathBuf,
}

/// A runtime that only some models need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// For SavedModels.
    TensorFlow,
    /// For TorchScript modules.
    Torch,
}

/// A runtime. One per process; shared by every lane and loader.
pub trait Engine: Send + Sync {
    /// The runtime's name and version, for people and for metadata.
    fn description(&self) -> String;

    /// Builds a session for `program`, a serialised graph of which the last `weights` inputs are weights.
    ///
    /// Costs milliseconds to seconds; call it from a loader, never from a lane that has work.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when the runtime refuses the graph, with its own reason.
    fn session(&self, program: &[u8], weights: usize, load: Load) -> Result<Box<dyn Session>>;

    /// Has the library of `extra` loaded, unless it is, so that what it takes by itself is not taken for a model's.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when it is not there.
    fn bring(&self, extra: Extra) -> Result<()> {
        Err(Error::unsupported(format!("this runtime knows no {extra:?}")))
    }

    /// Loads `model` and returns a session for each of `lanes`; its weights are inside, so it runs on none. Takes what a
    /// [`session`](Self::session) takes.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when this runtime reads no SavedModels or refuses this one, with its
    /// own reason; [`Unavailable`](crate::ErrorKind::Unavailable) when the runtime for it is not there.
    fn saved_model(&self, model: &SavedModel<'_>, lanes: usize) -> Result<Vec<Box<dyn Session>>> {
        let _ = (model, lanes);
        Err(Error::unsupported("this runtime reads no SavedModels"))
    }

    /// As [`saved_model`](Self::saved_model), of a TorchScript module.
    ///
    /// # Errors
    /// As [`saved_model`](Self::saved_model).
    fn torch_script(&self, model: &TorchScript<'_>, lanes: usize) -> Result<Vec<Box<dyn Session>>> {
        let _ = (model, lanes);
        Err(Error::unsupported("this runtime reads no TorchScript"))
    }

    /// Lays `weights` out for this CPU's kernels, which are constants of `graph` by these names, and writes both to files in
    /// `folder`. Takes seconds, and up to twice the weights' bytes of memory meanwhile.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) when this runtime lays nothing out or refuses the graph.
    fn lay_out(&self, graph: &[u8], weights: &[(String, Tensor)], folder: &Path) -> Result<LaidOut> {
        let _ = (graph, weights, folder);
        Err(Error::unsupported("this runtime lays out no weights"))
    }

    /// Builds a session of what was laid out, which maps it and runs on no other weights. It needs the files by name no more
    /// when it is built.
    ///
    /// # Errors
    /// As [`lay_out`](Self::lay_out).
    fn hot_session(&self, laid_out: &LaidOut) -> Result<Box<dyn Session>> {
        let _ = laid_out;
        Err(Error::unsupported("this runtime lays out no weights"))
    }

    /// Binds `weights`, in the program's order, so that any session of that program can run on them.
    ///
    /// Copies nothing: the runtime points at the tensors' own bytes, which the result keeps alive.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) when a tensor cannot be represented.
    fn bind(&self, weights: Vec<Tensor>) -> Result<Arc<dyn Weights>>;
}

/// A program ready to run. A runtime that cannot run one twice at the same time has a second caller wait.
pub trait Session: Send + Sync {
    /// The model's inputs and outputs; lifted weights are not among them.
    fn signature(&self) -> &Signature;

    /// Runs the program on `weights` and `inputs` (in signature order) and returns the outputs whose indices are in
    /// `outputs`, in that order.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) when the runtime refuses the inputs.
    fn run(&self, weights: &dyn Weights, inputs: &[Tensor], outputs: &[usize]) -> Result<Vec<Tensor>>;

    /// Whether the program has so many outputs, and so many inputs beside as many weights as were said when it was built.
    /// One that does not count its weights does.
    fn has(&self, _inputs: usize, _outputs: usize) -> bool {
        true
    }

    /// Whether `weights` are as many as the program takes, and of the datatypes and shapes that it states. A program that has
    /// its weights in it takes any.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt), with the first that does not fit.
    fn takes(&self, _weights: &dyn Weights) -> Result<()> {
        Ok(())
    }
}

/// Weights bound to a runtime; shared by lanes, never written.
pub trait Weights: Any + Send + Sync {
    /// Bytes of weight data pointed at; mapped, not private.
    fn mapped_bytes(&self) -> u64;

    /// Bytes of this process's own memory that pointing at them takes.
    fn private_bytes(&self) -> u64;
}

/// What the system's loader says against `library`; `None` when it takes it.
#[expect(unsafe_code, reason = "a shared library runs its own code when it is loaded")]
pub(crate) fn why_not_loaded(library: &Path) -> Option<String> {
    use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL};
    // SAFETY: the library's initialisers are those of the runtime, or of whatever the operator names in its place; whoever
    // asks has had it loaded already, as far as it could be.
    let loaded = unsafe { Library::open(Some(library), RTLD_LAZY | RTLD_LOCAL) };
    loaded.err().map(|error| why(&error))
}

/// `error` in the loader's own words, which name the file.
pub(crate) fn why(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// A runtime that a process loads once: starting one twice is a race inside it, and the threads and static objects of a
/// library of that size could not be told to go.
pub(crate) struct Only<T>(Mutex<Option<(PathBuf, T)>>);

impl<T: Clone> Only<T> {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// What `open` makes of the library at `path` or, where nobody says, of the one called `file` beside the program or where
    /// the system's loader looks; the same again for whoever asks again. With it, where that is.
    ///
    /// # Errors
    /// [`Unavailable`](crate::ErrorKind::Unavailable) when the `runtime` was loaded from somewhere else, and `open`'s own.
    pub(crate) fn load(
        &self,
        runtime: &str,
        path: Option<&Path>,
        file: &str,
        open: impl FnOnce(&Path) -> Result<T>,
    ) -> Result<(T, PathBuf)> {
        let path = path.map_or_else(|| beside_the_program(file), Path::to_path_buf);
        let mut loaded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, it)) = &*loaded {
            if *known != path {
                let (known, path) = (known.display(), path.display());
                return Err(Error::unavailable(format!(
                    "{runtime} is loaded from {known} already, so it cannot be loaded from {path}"
                )));
            }
            return Ok((it.clone(), path));
        }
        let it = open(&path)?;
        *loaded = Some((path.clone(), it.clone()));
        Ok((it, path))
    }
}

/// Where a runtime's library is looked for when nobody says: beside the program, then where the system's loader looks.
fn beside_the_program(name: &str) -> PathBuf {
    std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.join(name)))
        .filter(|beside| beside.exists())
        .unwrap_or_else(|| PathBuf::from(name))
}
