//! The functions of the shim (`shim.cpp`, which says what each does), found by name in the shared library that is made of
//! it. The library brings libtorch along.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::NonNull;

use libloading::os::unix::{Library as Shared, RTLD_LAZY, RTLD_LOCAL};

use super::LIBRARY_VARIABLE;
use crate::functions::functions;
use crate::{Error, ErrorKind, Result};

/// What the shim must say that it is, so that one of another release is found out before it is called.
const ABI: c_int = 1;

/// `ph_torch_failure`, opaque.
#[repr(C)]
pub(super) struct RawFailure(c_void);
/// `ph_torch_module`, opaque.
#[repr(C)]
pub(super) struct RawModule(c_void);
/// `ph_torch_answer`, opaque.
#[repr(C)]
pub(super) struct RawAnswer(c_void);
/// `ph_torch_output`, opaque.
#[repr(C)]
pub(super) struct RawOutput(c_void);

/// `ph_torch_input`: a tensor that is lent.
#[repr(C)]
pub(super) struct RawInput {
    pub(super) dtype: c_int,
    pub(super) rank: c_int,
    pub(super) dims: *const i64,
    pub(super) data: *mut c_void,
    pub(super) owner: *mut c_void,
}

/// What an input's owner is given back with.
pub(super) type GiveBack = unsafe extern "C" fn(*mut c_void);

functions! {
    abi: "ph_torch_abi" = fn() -> c_int;
    version: "ph_torch_version" = fn() -> *const c_char;
    failure_kind: "ph_torch_failure_kind" = fn(*const RawFailure) -> c_int;
    failure_message: "ph_torch_failure_message" = fn(*const RawFailure) -> *const c_char;
    free_failure: "ph_torch_failure_free" = fn(*mut RawFailure);
    load: "ph_torch_load" = fn(*const c_char, usize, *mut *mut RawFailure) -> *mut RawModule;
    unload: "ph_torch_unload" = fn(*mut RawModule);
    arguments: "ph_torch_arguments" = fn(*const RawModule) -> usize;
    argument_name: "ph_torch_argument_name" = fn(*const RawModule, usize) -> *const c_char;
    argument_type: "ph_torch_argument_type" = fn(*const RawModule, usize) -> *const c_char;
    argument_flags: "ph_torch_argument_flags" = fn(*const RawModule, usize) -> c_int;
    run: "ph_torch_run" = fn(
        *const RawModule, *const *const RawInput, usize, GiveBack, *mut *mut RawFailure
    ) -> *mut RawAnswer;
    answer_kind: "ph_torch_answer_kind" = fn(*const RawAnswer) -> c_int;
    answer_count: "ph_torch_answer_count" = fn(*const RawAnswer) -> usize;
    answer_name: "ph_torch_answer_name" = fn(*const RawAnswer, usize) -> *const c_char;
    answer_tensor: "ph_torch_answer_tensor" = fn(*const RawAnswer, usize) -> *mut RawOutput;
    free_answer: "ph_torch_answer_free" = fn(*mut RawAnswer);
    output_dtype: "ph_torch_output_dtype" = fn(*const RawOutput) -> c_int;
    output_rank: "ph_torch_output_rank" = fn(*const RawOutput) -> usize;
    output_dims: "ph_torch_output_dims" = fn(*const RawOutput) -> *const i64;
    output_data: "ph_torch_output_data" = fn(*const RawOutput) -> *const c_void;
    output_bytes: "ph_torch_output_bytes" = fn(*const RawOutput) -> usize;
    free_output: "ph_torch_output_free" = fn(*mut RawOutput);
}

impl Library {
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable), with the fix.
    #[expect(unsafe_code, reason = "a shared library runs its own code when it is loaded")]
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |why: &dyn std::fmt::Display| {
            Error::unavailable(format!(
                "libtorch cannot be loaded: {why}; set {LIBRARY_VARIABLE} to the file libpackhorse_torch.so, which \
                 'scripts/setup.sh torch' makes of a libtorch of release 1.13 or newer"
            ))
        };
        // Local, so that nothing of it stands in for what another runtime brings along.
        // SAFETY: the library's initialisers are those of libtorch, or of whatever the operator names in its place.
        let shared = unsafe { Shared::open(Some(path), RTLD_LAZY | RTLD_LOCAL) };
        let library = shared.and_then(Self::find).map_err(|source| failed(&crate::runtime::why(&source)))?;
        // SAFETY: no arguments, and a number in return.
        let abi = unsafe { (library.abi)() };
        if abi != ABI {
            return Err(failed(&format!("{} is made for another release of this program", path.display())));
        }
        Ok(library)
    }

    #[expect(unsafe_code, reason = "a string of the library's")]
    pub(super) fn version(&self) -> String {
        // SAFETY: the library returns a static string.
        unsafe { text((self.version)()) }
    }

    /// Calls `call` with a place for a failure, and returns what it returns or, where that is nothing, the failure.
    #[expect(unsafe_code, reason = "a failure is read and freed through the shim")]
    pub(super) fn checked<T>(&self, call: impl FnOnce(*mut *mut RawFailure) -> *mut T) -> Result<NonNull<T>> {
        let mut failure = std::ptr::null_mut();
        if let Some(made) = NonNull::new(call(&raw mut failure)) {
            return Ok(made);
        }
        if failure.is_null() {
            return Err(Error::new(ErrorKind::Exhausted, "libtorch has no memory left to say what failed"));
        }
        // SAFETY: the failure is ours, its message belongs to it and is copied before it goes, and it is freed once.
        let (kind, message) = unsafe {
            let told = ((self.failure_kind)(failure), text((self.failure_message)(failure)));
            (self.free_failure)(failure);
            told
        };
        let kind = match kind {
            1 => ErrorKind::InvalidInput,
            2 => ErrorKind::Unsupported,
            3 => ErrorKind::Exhausted,
            _ => ErrorKind::Internal,
        };
        Err(Error::new(kind, reason(&message)))
    }
}

/// The string at `pointer`; empty where there is none.
///
/// # Safety
/// `pointer` is null or a string that is there for the call.
#[expect(unsafe_code, reason = "see the safety argument")]
pub(super) unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// The line that says what is wrong. The interpreter tells it last, below a trace through the module's code; others tell it
/// first.
fn reason(message: &str) -> &str {
    let mut lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let traced = message.contains("Traceback of TorchScript");
    let line = if traced { lines.next_back() } else { lines.next() };
    line.map_or("it gave no reason", |line| line.strip_prefix("RuntimeError: ").unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_told_in_one_line() {
        for (message, want) in [
            (
                "mat1 and mat2 shapes cannot be multiplied\nException raised from meta",
                "mat1 and mat2 shapes cannot be multiplied",
            ),
            (
                "The following operation failed in the TorchScript interpreter.\nTraceback of TorchScript, serialized code \
                 (most recent call last):\n  File \"code/__torch__/m.py\", line 3\n    return torch.add(x, y)\n           \
                 ~~~~~~~~~ <--- HERE\nRuntimeError: The size of tensor a (2) must match\n",
                "The size of tensor a (2) must match",
            ),
            ("\n \n", "it gave no reason"),
        ] {
            assert_eq!(reason(message), want);
        }
    }
}
