//! ONNX Runtime, loaded from a shared library.
//!
//! `ort` loads the library, holds the environment and builds sessions; its API moves between candidates, so this
//! folder alone knows it. Running goes through the C API that `ort` exposes: weights are bound once per model and
//! names are made once per session, so that a run allocates nothing per weight.

#![expect(clippy::result_large_err, reason = "ort returns the builder inside its error; ours are made at once")]

mod allocator;
mod hot;
mod run;
mod value;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ort::AsPointer;
use ort::environment::Environment;
use ort::logging::LogLevel;
use ort::session::Session as OrtSession;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use crate::runtime::Only;
use crate::{Engine, Error, ErrorKind, LaidOut, Load, Result, Session, Tensor, Weights};

/// The environment variable that names the shared library.
pub const LIBRARY_VARIABLE: &str = "PACKHORSE_ONNXRUNTIME";

/// What the runtime itself writes on standard error. A call that fails says why to whoever made it, and an error's line of
/// its own, coloured and in no form that a log here has, would be a client's to cause as often as it likes.
const LOG_LEVEL: LogLevel = LogLevel::Fatal;

/// What [`Onnx::optimise`] may make of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Whatever is quickest here: convolutions may be laid out in blocks of this CPU's vectors.
    Native,
    /// What every CPU computes.
    Portable,
}

/// ONNX Runtime. One per process; loading it again gives the same one.
pub struct Onnx {
    environment: Environment,
    library: PathBuf,
}

impl Onnx {
    /// Loads the runtime from `library`; `None` looks for `libonnxruntime.so` beside the program and then where the
    /// system's loader looks.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) when there is no such library or it is too old, with the fix.
    pub fn load(library: Option<&Path>) -> Result<Self> {
        static STARTED: Only<Environment> = Only::new();
        let (environment, library) = STARTED.load("ONNX Runtime", library, "libonnxruntime.so", start)?;
        Ok(Self { environment, library })
    }

    /// Optimises the graph at `source` and writes it to `graph`, its larger tensors to `tensors` beside it (a bare file
    /// name), so that graph and weights can each be read without the other.
    ///
    /// Constants that happen to be equal stay apart: in the next fine-tune they differ, and the graph must not.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) when the runtime refuses the graph.
    pub fn optimise(&self, source: &Path, graph: &Path, tensors: &str, layout: Layout) -> Result<()> {
        let level = match layout {
            Layout::Native => GraphOptimizationLevel::All,
            Layout::Portable => GraphOptimizationLevel::Level2,
        };
        self.builder(level)?
            .with_optimized_model_path(graph)
            .and_then(|set| set.with_config_entry("session.optimized_model_external_initializers_file_name", tensors))
            .and_then(|set| {
                set.with_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
            })
            .and_then(|set| set.with_config_entry("optimization.disable_specified_optimizers", "ConstantSharing"))
            .map_err(|source| refused("ONNX Runtime refuses the settings", &source))?
            .commit_from_file(source)
            .map(drop)
            .map_err(|reason| refused("ONNX Runtime refuses the graph", &reason))
    }

    /// A session over the file at `path`, optimised at load and with an allocator of its own, as any other program would
    /// build it.
    ///
    /// # Errors
    /// As [`Engine::session`].
    pub fn session_from_file(&self, path: &Path) -> Result<Box<dyn Session>> {
        let session = self
            .builder(GraphOptimizationLevel::All)?
            .commit_from_file(path)
            .map_err(|reason| refused("ONNX Runtime refuses the graph", &reason))?;
        run::OnnxSession::new(session, 0).map(|session| Box::new(session) as Box<dyn Session>)
    }

    fn builder(&self, level: GraphOptimizationLevel) -> Result<SessionBuilder> {
        // A lane is the only thread that computes: the runtime starts none of its own.
        OrtSession::builder(&self.environment)
            .map_err(|source| refused("ONNX Runtime has no session options", &source))?
            .with_intra_threads(1)
            .and_then(|set| set.with_inter_threads(1))
            .and_then(|set| set.with_log_level(LOG_LEVEL))
            .and_then(|set| set.with_optimization_level(level))
            .map_err(|source| refused("ONNX Runtime refuses the settings", &source))
    }
}

impl Engine for Onnx {
    fn description(&self) -> String {
        format!("onnxruntime ({})", self.library.display())
    }

    fn session(&self, program: &[u8], weights: usize, load: Load) -> Result<Box<dyn Session>> {
        let level = match load {
            Load::AsIs => GraphOptimizationLevel::Disable,
            Load::Optimise => GraphOptimizationLevel::All,
        };
        let mut builder = without_arena(self.builder(level)?)?;
        let session =
            builder.commit_from_memory(program).map_err(|reason| refused("ONNX Runtime refuses the graph", &reason))?;
        run::OnnxSession::new(session, weights).map(|session| Box::new(session) as Box<dyn Session>)
    }

    fn lay_out(&self, graph: &[u8], weights: &[(String, Tensor)], folder: &Path) -> Result<LaidOut> {
        hot::lay_out(self, graph, weights, folder)
    }

    fn hot_session(&self, laid_out: &LaidOut) -> Result<Box<dyn Session>> {
        hot::session(self, laid_out)
    }

    fn bind(&self, weights: Vec<Tensor>) -> Result<Arc<dyn Weights>> {
        value::Bound::new(weights).map(|bound| Arc::new(bound) as Arc<dyn Weights>)
    }
}

/// Has what a run needs come from `allocator`. The runtime's own keeps for ever what the largest run of a session took,
/// for each session apart; the heap's memory and blocks are whoever's run is next (docs/decisions/017 and 037).
#[expect(unsafe_code, reason = "a setting of the C API")]
fn without_arena(mut builder: SessionBuilder) -> Result<SessionBuilder> {
    // SAFETY: the options are live, and are changed by nobody else while they are borrowed.
    value::check(unsafe { (ort::api().DisableCpuMemArena)(builder.ptr_mut()) })?;
    builder.with_env_allocators().map_err(|source| refused("ONNX Runtime refuses the settings", &source))
}

fn start(library: &Path) -> Result<Environment> {
    let environment = ort::init_from(library)
        .map_err(|source| {
            let reason = crate::runtime::why_not_loaded(library).unwrap_or_else(|| source.to_string());
            Error::unavailable(format!(
                "ONNX Runtime cannot be loaded: {reason}; set {LIBRARY_VARIABLE} to the file libonnxruntime.so of \
                 release 1.31 or newer (the PyPI package 'onnxruntime' holds one)"
            ))
        })?
        .with_name("packhorse")
        .with_telemetry(false)
        .build()
        .map_err(|source| refused("ONNX Runtime cannot start", &source))?;
    environment.set_log_level(LOG_LEVEL);
    allocator::register(&environment)?;
    Ok(environment)
}

/// `reason` as an error of ours; a runtime's refusal of a graph is the caller's to change.
fn refused<R>(what: &str, reason: &ort::Error<R>) -> Error {
    let kind = match reason.code() {
        ort::ErrorCode::NoSuchFile => ErrorKind::NotFound,
        ort::ErrorCode::RuntimeException | ort::ErrorCode::EngineError => ErrorKind::Internal,
        _ => ErrorKind::Unsupported,
    };
    Error::new(kind, format!("{what}: {}", reason.message()))
}
