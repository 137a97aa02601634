//! The functions of TensorFlow's C API that are used, found by name in the shared library.
//!
//! Names, types and who owns what are those of `tensorflow/c/c_api.h`, `tf_tensor.h`, `tf_tstring.h`, `tf_buffer.h` and
//! `tf_status.h` of release 2.21; the C API has promised to keep them since 1.0 (TF_TString since 2.4).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;

use libloading::os::unix::{Library as Shared, RTLD_LAZY, RTLD_LOCAL};

use super::LIBRARY_VARIABLE;
use crate::functions::functions;
use crate::runtime::why;
use crate::{Error, ErrorKind, Result};

/// `TF_Status`, opaque.
#[repr(C)]
pub(super) struct TfStatus(c_void);
/// `TF_SessionOptions`, opaque.
#[repr(C)]
pub(super) struct TfSessionOptions(c_void);
/// `TF_Graph`, opaque.
#[repr(C)]
pub(super) struct TfGraph(c_void);
/// `TF_Session`, opaque.
#[repr(C)]
pub(super) struct TfSession(c_void);
/// `TF_Operation`, opaque.
#[repr(C)]
pub(super) struct TfOperation(c_void);
/// `TF_Tensor`, opaque.
#[repr(C)]
pub(super) struct TfTensor(c_void);

/// `TF_Output`: one output of an operation of a graph.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct TfOutput {
    pub(super) operation: *mut TfOperation,
    pub(super) index: c_int,
}

/// `TF_TString`: a string in a tensor. Its 24 bytes are a union that only the library's functions may read.
#[repr(C, align(8))]
pub(super) struct TfString([u8; 24]);

/// What a tensor's memory is given back with: data, length and the argument that was given.
pub(super) type Deallocator = unsafe extern "C" fn(*mut c_void, usize, *mut c_void);

functions! {
    version: "TF_Version" = fn() -> *const c_char;
    new_status: "TF_NewStatus" = fn() -> *mut TfStatus;
    delete_status: "TF_DeleteStatus" = fn(*mut TfStatus);
    code: "TF_GetCode" = fn(*const TfStatus) -> c_int;
    message: "TF_Message" = fn(*const TfStatus) -> *const c_char;
    new_session_options: "TF_NewSessionOptions" = fn() -> *mut TfSessionOptions;
    set_config: "TF_SetConfig" = fn(*mut TfSessionOptions, *const c_void, usize, *mut TfStatus);
    delete_session_options: "TF_DeleteSessionOptions" = fn(*mut TfSessionOptions);
    new_graph: "TF_NewGraph" = fn() -> *mut TfGraph;
    delete_graph: "TF_DeleteGraph" = fn(*mut TfGraph);
    operation: "TF_GraphOperationByName" = fn(*mut TfGraph, *const c_char) -> *mut TfOperation;
    outputs_of: "TF_OperationNumOutputs" = fn(*mut TfOperation) -> c_int;
    load_saved_model: "TF_LoadSessionFromSavedModel" = fn(
        *const TfSessionOptions, *const c_void, *const c_char, *const *const c_char, c_int, *mut TfGraph, *mut c_void,
        *mut TfStatus
    ) -> *mut TfSession;
    close_session: "TF_CloseSession" = fn(*mut TfSession, *mut TfStatus);
    delete_session: "TF_DeleteSession" = fn(*mut TfSession, *mut TfStatus);
    run: "TF_SessionRun" = fn(
        *mut TfSession, *const c_void, *const TfOutput, *const *mut TfTensor, c_int, *const TfOutput,
        *mut *mut TfTensor, c_int, *const *const TfOperation, c_int, *mut c_void, *mut TfStatus
    );
    new_tensor: "TF_NewTensor" = fn(
        c_int, *const i64, c_int, *mut c_void, usize, Deallocator, *mut c_void
    ) -> *mut TfTensor;
    delete_tensor: "TF_DeleteTensor" = fn(*mut TfTensor);
    tensor_type: "TF_TensorType" = fn(*const TfTensor) -> c_int;
    rank: "TF_NumDims" = fn(*const TfTensor) -> c_int;
    dim: "TF_Dim" = fn(*const TfTensor, c_int) -> i64;
    byte_size: "TF_TensorByteSize" = fn(*const TfTensor) -> usize;
    data: "TF_TensorData" = fn(*const TfTensor) -> *mut c_void;
    string_init: "TF_StringInit" = fn(*mut TfString);
    string_copy: "TF_StringCopy" = fn(*mut TfString, *const c_char, usize);
    string_data: "TF_StringGetDataPointer" = fn(*const TfString) -> *const c_char;
    string_size: "TF_StringGetSize" = fn(*const TfString) -> usize;
    string_dealloc: "TF_StringDealloc" = fn(*mut TfString);
}

impl Library {
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable), with the fix.
    #[expect(unsafe_code, reason = "a shared library runs its own code when it is loaded")]
    pub(super) fn open(path: &Path) -> Result<Self> {
        // Local, so that nothing of it stands in for what another runtime brings along; lazy, as it has a hundred
        // thousand functions.
        // SAFETY: the library's initialisers are those of TensorFlow, or of whatever the operator names in its place.
        let shared = unsafe { Shared::open(Some(path), RTLD_LAZY | RTLD_LOCAL) };
        shared.and_then(Self::find).map_err(|source| {
            let reason = why(&source);
            Error::unavailable(format!(
                "TensorFlow cannot be loaded: {reason}; set {LIBRARY_VARIABLE} to the file libtensorflow_cc.so.2 of \
                 release 2.16 or newer, with libtensorflow_framework.so.2 beside it (the PyPI package 'tensorflow-cpu' \
                 holds both)"
            ))
        })
    }

    #[expect(unsafe_code, reason = "a string of the library's")]
    pub(super) fn version(&self) -> String {
        // SAFETY: the library returns a static string.
        unsafe { CStr::from_ptr((self.version)()) }.to_string_lossy().into_owned()
    }

    /// Calls `call` with a status and returns its result, or the status when it is not that of success.
    #[expect(unsafe_code, reason = "a status is made, read and freed through the C API")]
    pub(super) fn checked<T>(&self, call: impl FnOnce(*mut TfStatus) -> T) -> (T, Result<()>) {
        /// Freed on a panic of the call, too.
        struct Status<'a>(&'a Library, *mut TfStatus);
        impl Drop for Status<'_> {
            fn drop(&mut self) {
                // SAFETY: it came from TF_NewStatus and is deleted nowhere else.
                unsafe { (self.0.delete_status)(self.1) }
            }
        }
        // SAFETY: no arguments; the result is ours until it is deleted.
        let status = Status(self, unsafe { (self.new_status)() });
        let result = call(status.1);
        // SAFETY: the status is live; the message belongs to it and is copied before it goes.
        let (code, message) =
            unsafe { ((self.code)(status.1), CStr::from_ptr((self.message)(status.1)).to_string_lossy().into_owned()) };
        let outcome = kind(code).map_or(Ok(()), |kind| Err(Error::new(kind, first_line(&message))));
        (result, outcome)
    }
}

/// `TF_Code`, which is gRPC's list of codes; `None` for success.
fn kind(code: c_int) -> Option<ErrorKind> {
    Some(match code {
        0 => return None,
        // INVALID_ARGUMENT, OUT_OF_RANGE: a shape or value that an operation does not take.
        3 | 11 => ErrorKind::InvalidInput,
        5 => ErrorKind::NotFound,
        8 => ErrorKind::Exhausted,
        // FAILED_PRECONDITION: a variable that nothing was restored to, for one.
        9 => ErrorKind::FailedPrecondition,
        12 => ErrorKind::Unsupported,
        _ => ErrorKind::Internal,
    })
}

/// What follows the first line is a trace through the graph.
fn first_line(message: &str) -> &str {
    message.lines().find(|line| !line.trim().is_empty()).unwrap_or("it gave no reason").trim()
}
