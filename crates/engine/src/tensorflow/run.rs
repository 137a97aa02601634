//! A SavedModel that is loaded, and the sessions that run it.

use std::ffi::{CString, c_int};
use std::os::unix::ffi::OsStrExt as _;
use std::ptr;
use std::sync::Arc;

use super::library::{Library, TfGraph, TfOutput, TfSession as RawSession};
use super::value::Value;
use crate::{Error, ErrorKind, Outlet, Result, SavedModel, Session, Signature, Tensor, Weights};

/// `ConfigProto` with `intra_op_parallelism_threads` (field 2) 1 and `inter_op_parallelism_threads` (field 5) -1: an
/// operation has one thread, and operations run on the thread that calls (tensorflow/core/protobuf/config.proto).
const ONE_THREAD: [u8; 13] = [0x10, 1, 0x28, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];

/// A graph and a session with its variables, restored.
pub(super) struct Loaded {
    library: &'static Library,
    graph: *mut TfGraph,
    session: *mut RawSession,
    signature: Signature,
    /// In signature order.
    inputs: Vec<TfOutput>,
    outputs: Vec<TfOutput>,
}

// SAFETY: a session and its graph may be used by several threads at once (c_api.h: "TF_SessionRun is thread-safe"); the
// graph is not changed after it is loaded, and the operations in `inputs` and `outputs` are names of parts of it.
#[expect(unsafe_code, reason = "see the safety argument")]
unsafe impl Send for Loaded {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see the safety argument")]
unsafe impl Sync for Loaded {}

impl Drop for Loaded {
    #[expect(unsafe_code, reason = "the C API's release")]
    fn drop(&mut self) {
        let library = self.library;
        if !self.session.is_null() {
            // There is nothing to be done about a session that does not close.
            // SAFETY: the session is ours, no run holds it (the last handle is gone), and it is deleted nowhere else.
            let _ = library.checked(|status| unsafe { (library.close_session)(self.session, status) });
            // SAFETY: as above.
            let _ = library.checked(|status| unsafe { (library.delete_session)(self.session, status) });
        }
        // SAFETY: the graph is ours; a session counts its own reference.
        unsafe { (library.delete_graph)(self.graph) }
    }
}

impl Loaded {
    #[expect(unsafe_code, reason = "a SavedModel is loaded through the C API")]
    pub(super) fn new(library: &'static Library, model: &SavedModel<'_>) -> Result<Self> {
        let text = |bytes: &[u8]| CString::new(bytes).map_err(|_| Error::invalid("a name holds a NUL byte"));
        let folder = text(model.folder.as_os_str().as_bytes())?;
        let tags = model.tags.iter().map(|tag| text(tag.as_bytes())).collect::<Result<Vec<_>>>()?;
        let tag_pointers: Vec<_> = tags.iter().map(|tag| tag.as_ptr()).collect();
        // SAFETY: no arguments; the graph is ours, and kept in `loaded` from here on.
        let graph = unsafe { (library.new_graph)() };
        let mut loaded = Self {
            library,
            graph,
            session: ptr::null_mut(),
            signature: Signature {
                inputs: model.inputs.iter().map(|outlet| outlet.spec.clone()).collect(),
                outputs: model.outputs.iter().map(|outlet| outlet.spec.clone()).collect(),
            },
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        // SAFETY: no arguments; deleted below on every path, as nothing in between returns.
        let options = unsafe { (library.new_session_options)() };
        // SAFETY: the bytes outlive the call, which copies them.
        let (_, configured) = library.checked(|status| unsafe {
            (library.set_config)(options, ONE_THREAD.as_ptr().cast(), ONE_THREAD.len(), status);
        });
        // SAFETY: all pointers are live for the call, the count is that of the tags; nothing is asked for but the
        // session, so the places for run options and the meta graph are null, as the header allows.
        let (session, outcome) = library.checked(|status| unsafe {
            (library.load_saved_model)(
                options,
                ptr::null(),
                folder.as_ptr(),
                tag_pointers.as_ptr(),
                count(tag_pointers.len()),
                graph,
                ptr::null_mut(),
                status,
            )
        });
        // SAFETY: the options are ours and the session has its copy.
        unsafe { (library.delete_session_options)(options) };
        loaded.session = session;
        configured?;
        outcome.map_err(|error| refused(&error))?;
        loaded.inputs = model.inputs.iter().map(|outlet| loaded.find(outlet)).collect::<Result<_>>()?;
        loaded.outputs = model.outputs.iter().map(|outlet| loaded.find(outlet)).collect::<Result<_>>()?;
        Ok(loaded)
    }

    /// The tensor of the graph that `outlet` names, as `OPERATION:INDEX`.
    #[expect(unsafe_code, reason = "operations are found through the C API")]
    fn find(&self, outlet: &Outlet) -> Result<TfOutput> {
        let missing =
            || Error::corrupt(format!("the graph has no tensor '{}' for '{}'", outlet.tensor, outlet.spec.name));
        let (name, index) = outlet.tensor.rsplit_once(':').unwrap_or((&outlet.tensor, "0"));
        let index: c_int = index.parse().map_err(|_| missing())?;
        let name = CString::new(name).map_err(|_| missing())?;
        // SAFETY: the graph is live and the name is a string; the operation belongs to the graph.
        let operation = unsafe { (self.library.operation)(self.graph, name.as_ptr()) };
        // SAFETY: asked only of an operation that was found.
        let there = !operation.is_null() && (0..unsafe { (self.library.outputs_of)(operation) }).contains(&index);
        there.then_some(TfOutput { operation, index }).ok_or_else(missing)
    }
}

/// A SavedModel that cannot be loaded is the caller's to change, whatever the runtime calls it.
fn refused(error: &Error) -> Error {
    let kind = match error.kind {
        ErrorKind::Exhausted => ErrorKind::Exhausted,
        _ => ErrorKind::Unsupported,
    };
    Error::new(kind, format!("TensorFlow refuses the SavedModel: {}", error.message))
}

/// A lane's handle on a SavedModel.
pub(super) struct TfSession {
    loaded: Arc<Loaded>,
}

impl TfSession {
    pub(super) fn new(loaded: &Arc<Loaded>) -> Self {
        Self { loaded: Arc::clone(loaded) }
    }
}

impl Session for TfSession {
    fn signature(&self) -> &Signature {
        &self.loaded.signature
    }

    #[expect(unsafe_code, reason = "TF_SessionRun is called through the C API")]
    fn run(&self, _weights: &dyn Weights, inputs: &[Tensor], outputs: &[usize]) -> Result<Vec<Tensor>> {
        let loaded = &*self.loaded;
        let library = loaded.library;
        if inputs.len() != loaded.inputs.len() {
            let (want, got) = (loaded.inputs.len(), inputs.len());
            return Err(Error::internal(format!("the model takes {want} inputs, but got {got}")));
        }
        let lent = inputs.iter().map(|tensor| Value::lend(library, tensor)).collect::<Result<Vec<_>>>()?;
        let values: Vec<_> = lent.iter().map(Value::as_ptr).collect();
        let wanted = outputs
            .iter()
            .map(|&index| loaded.outputs.get(index).copied())
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Error::internal("an output index is beyond the signature"))?;
        let mut results = vec![ptr::null_mut(); wanted.len()];
        // SAFETY: the session is live; the arrays have the lengths that are given and outlive the call, which takes no
        // ownership of inputs and hands results over; there are no target operations, options or metadata.
        let ((), outcome) = library.checked(|status| unsafe {
            (library.run)(
                loaded.session,
                ptr::null(),
                loaded.inputs.as_ptr(),
                values.as_ptr(),
                count(values.len()),
                wanted.as_ptr(),
                results.as_mut_ptr(),
                count(wanted.len()),
                ptr::null(),
                0,
                ptr::null_mut(),
                status,
            );
        });
        // Adopted before the outcome is looked at, so that nothing leaks when only some were made.
        let results: Vec<_> = results.into_iter().map(|value| Value::adopt(library, value)).collect();
        outcome?;
        results.into_iter().map(|value| value?.into_tensor()).collect()
    }
}

/// Lists here are as long as a signature.
fn count(len: usize) -> c_int {
    c_int::try_from(len).unwrap_or(c_int::MAX)
}
