//! TorchScript archives: what `torch.jit.save` writes, as TorchServe, Triton's libtorch backend and others serve it.
//!
//! The archive holds code and weights, and libtorch reads it as one file: so that is what is packed, by its content, with a
//! program that says what its `forward` takes and gives. It is loaded whole. Before any runtime sees it, it is looked
//! through: `archive.rs` reads it, `forbidden.rs` and `depth.rs` its code, `pickle.rs` where its tensors lie.

mod archive;
mod depth;
mod forbidden;
pub(crate) mod pickle;
mod signature;

use std::path::Path;

use bytes::Bytes;
use engine::{Engine, Error, Outlet, Result, Runtimes, Session, TorchScript};
use serde::{Deserialize, Serialize};

pub use signature::Declared;

use crate::manifest::{Io, Manifest, PORTABLE, ProgramKind, Source};
use crate::onnx::apart::items_are_apart;
use crate::onnx::import::{BATCH_MAX, Compiled, Imported};
use crate::whole::{Place, outlets};
use crate::{Store, atomic};
use archive::Archive;

/// The source's format in a manifest.
pub(crate) const FORMAT: &str = "torch-script";

/// The file's name in a manifest's list.
const FILE: &str = "torch_script/model.pt";

/// What such files are called.
const ENDINGS: [&str; 4] = ["pt", "pth", "jit", "torchscript"];

/// The program of a module: its signature. Its file is in the manifest's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Description {
    inputs: Vec<Place>,
    outputs: Vec<Place>,
    /// The archive's hash, so that two models of one signature and other weights are two programs.
    archive: String,
}

/// Whether `path` is called as a TorchScript file is.
pub(crate) fn is_torch_script(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known)) && !path.is_dir()
}

/// Identifies the archive at `path` with what is said of its signature.
///
/// # Errors
/// As the file system's, naming the file.
pub(crate) fn identify(path: &Path, declared: &Declared) -> Result<Source> {
    let bytes = engine::map::map_file(path)?;
    let declared = serde_json::to_vec(declared).map_err(|error| Error::internal(error.to_string()))?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes).update(&declared);
    Ok(Source { format: FORMAT.to_owned(), hash: hasher.finalize().to_hex().to_string(), bytes: bytes.len() as u64 })
}

/// Copies the file at `path` into `folder`, and returns the copy's path.
///
/// # Errors
/// As the file system's, naming the file.
pub(crate) fn snapshot(path: &Path, folder: &Path) -> Result<std::path::PathBuf> {
    let target = folder.join("model.pt");
    std::fs::copy(path, &target).map_err(|source| atomic::io_error(path, "cannot be copied", &source))?;
    Ok(target)
}

/// That `bytes` are an archive that may be loaded: nothing in it reaches outside of it, and its tensors are where it says.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for what is no such archive, with the way to make one;
/// [`Unsupported`](engine::ErrorKind::Unsupported) for one that does what no artefact may do.
pub(crate) fn check(bytes: &[u8]) -> Result<()> {
    const CONVERT: &str = "it is what torch.save leaves, a pickle, which can run any code; in Python write what can be \
                           served, torch.jit.save(torch.jit.trace(model.eval(), example), 'model.pt'); a model of the \
                           Hugging Face libraries packs from its folder, saved with safe_serialization=True";
    // The second protocol of Python's pickles begins so; a zip archive otherwise.
    if bytes.starts_with(&[0x80, 2]) || bytes.starts_with(&[0x80, 4]) {
        return Err(Error::invalid(CONVERT));
    }
    if !bytes.starts_with(b"PK") {
        return Err(Error::invalid("it is no TorchScript archive, which is a zip file that torch.jit.save writes"));
    }
    let archive = Archive::read(bytes)?;
    if !archive.names().any(|name| name == "constants.pkl") {
        return Err(Error::invalid(CONVERT));
    }
    if archive.names().any(|name| name == "model.json") {
        return Err(Error::unsupported(
            "it is of a libtorch before 1.4, whose archives are read in another way; load it in Python and save it again \
             with torch.jit.save",
        ));
    }
    forbidden::check(&archive)?;
    for (name, folder) in [("constants.pkl", "constants/"), ("data.pkl", "data/")] {
        let checked = pickle::check(&archive.content(name)?, &|file| archive.stored_bytes(&format!("{folder}{file}")));
        checked.map_err(|error| error.context(format!("its '{name}'")))?;
    }
    Ok(())
}

/// A session of the archive at `path`, to see what it answers.
///
/// # Errors
/// As [`import`].
pub(crate) fn session(runtimes: &Runtimes, path: &Path, declared: &Declared) -> Result<Box<dyn Session>> {
    let bytes = engine::map::map_file(path)?;
    describe(runtimes, &bytes, declared)?.session(runtimes, &bytes)
}

/// Reads the archive at `path`, and has it loaded and run: so it is known that it can be, what it returns, and whether its
/// items are apart.
///
/// # Errors
/// As [`check`], and [`Unavailable`](engine::ErrorKind::Unavailable) when there is no libtorch,
/// [`Unsupported`](engine::ErrorKind::Unsupported) when it refuses the module, and whatever the signature lacks.
pub(crate) fn import(
    runtimes: &Runtimes,
    path: &Path,
    declared: &Declared,
) -> Result<(Imported, Vec<(String, Bytes)>)> {
    let bytes = engine::map::map_file(path)?;
    let description = describe(runtimes, &bytes, declared)?;
    let session = description.session(runtimes, &bytes)?;
    let none = runtimes.bind(Vec::new())?;
    let max_batch_size = if items_are_apart(session.as_ref(), none.as_ref()) { BATCH_MAX } else { 0 };
    let program = serde_json::to_vec(&description)
        .map_err(|error| Error::internal(format!("a program does not serialise: {error}")))?;
    let form = Compiled {
        program: program.into(),
        kind: ProgramKind::TorchScript,
        target: PORTABLE.to_owned(),
        why_whole: Some("libtorch keeps the weights of a module in it".to_owned()),
        weights: Vec::new(),
        origins: Vec::new(),
    };
    let signature = session.signature().clone();
    let imported = Imported { signature, max_batch_size, per_cpu: false, forms: vec![form], notes: Vec::new() };
    Ok((imported, vec![(FILE.to_owned(), bytes)]))
}

fn describe(runtimes: &Runtimes, bytes: &Bytes, declared: &Declared) -> Result<Description> {
    check(bytes)?;
    let module = runtimes.torch()?.module(bytes)?;
    let inputs = signature::inputs(&module, declared)?;
    let outputs = signature::outputs(&module, &inputs, &declared.outputs)?;
    let place = |outlet: Outlet| Place { io: Io::from_spec(&outlet.spec), tensor: outlet.tensor };
    Ok(Description {
        inputs: inputs.into_iter().map(place).collect(),
        outputs: outputs.into_iter().map(place).collect(),
        archive: blake3::hash(bytes).to_hex().to_string(),
    })
}

impl Description {
    fn with<T>(&self, archive: &[u8], use_it: impl FnOnce(&TorchScript<'_>) -> Result<T>) -> Result<T> {
        use_it(&TorchScript { archive, inputs: &outlets(&self.inputs)?, outputs: &outlets(&self.outputs)? })
    }

    fn session(&self, runtimes: &Runtimes, archive: &[u8]) -> Result<Box<dyn Session>> {
        let mut sessions = self.with(archive, |model| runtimes.torch_script(model, 1))?;
        sessions.pop().ok_or_else(|| Error::internal("the runtime gave no session"))
    }
}

impl Store {
    /// Hands `use_it` the module that `manifest` names.
    ///
    /// # Errors
    /// [`Corrupt`](engine::ErrorKind::Corrupt) for bytes that are not those that were packed, as
    /// [`check`] for a pack that others made, and the call's own.
    pub fn with_torch_script<T>(
        &self,
        manifest: &Manifest,
        use_it: impl FnOnce(&TorchScript<'_>) -> Result<T>,
    ) -> Result<T> {
        let program = self.program(&manifest.program)?;
        let corrupt = |why: String| {
            Error::corrupt(format!("the program is no TorchScript module's: {why}; pack the model again"))
        };
        let description: Description = serde_json::from_slice(&program).map_err(|error| corrupt(error.to_string()))?;
        if manifest.files.get(FILE) != Some(&description.archive) {
            return Err(corrupt("its archive is not the manifest's".to_owned()));
        }
        let archive = self.file(manifest, FILE)?;
        check(&archive)?;
        description.with(&archive, use_it)
    }
}
