//! A TorchScript module: what its `forward` takes, and running it.

use std::ptr::{self, NonNull};

use super::library::{Library, RawAnswer, RawModule, text};
use super::value::{self, Lent};
use crate::{Error, ErrorKind, Result, Tensor};

/// libtorch reads a module's code by recursion. Of this stack only what is used takes memory.
const STACK_BYTES: usize = 256 << 20;

/// A module, loaded and frozen.
pub struct Module {
    library: &'static Library,
    pointer: NonNull<RawModule>,
    arguments: Vec<Argument>,
}

/// An argument of `forward`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name in the code.
    pub name: String,
    /// Its type in TorchScript's words, for people.
    pub kind: String,
    /// Whether a tensor can stand for it.
    pub is_tensor: bool,
    /// Whether nothing need be given for it.
    pub is_optional: bool,
}

// SAFETY: a frozen module has no state that a run changes (the shim refuses one that does), libtorch's executors lock what
// they compile, and the shim says that several threads may call `run` at once; nothing else is called after loading.
#[expect(unsafe_code, reason = "see the safety argument")]
unsafe impl Send for Module {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "see the safety argument")]
unsafe impl Sync for Module {}

impl Drop for Module {
    #[expect(unsafe_code, reason = "the shim's release")]
    fn drop(&mut self) {
        // SAFETY: the module is ours, no run holds it, and it is freed nowhere else.
        unsafe { (self.library.unload)(self.pointer.as_ptr()) }
    }
}

impl Module {
    /// Loads the module on a thread of its own, which has the stack for it and is gone afterwards.
    pub(super) fn load(library: &'static Library, archive: &[u8]) -> Result<Self> {
        let failed = |why: &dyn std::fmt::Display| Error::internal(format!("no thread loads the module: {why}"));
        std::thread::scope(|scope| {
            let named = std::thread::Builder::new().name("torch-load".to_owned()).stack_size(STACK_BYTES);
            let loading = named.spawn_scoped(scope, || Self::load_here(library, archive));
            loading.map_err(|source| failed(&source))?.join().map_err(|_| failed(&"it panicked"))?
        })
    }

    #[expect(unsafe_code, reason = "a module is loaded through the shim")]
    fn load_here(library: &'static Library, archive: &[u8]) -> Result<Self> {
        // SAFETY: the bytes are there for the call, which keeps none of them.
        let loaded =
            library.checked(|failure| unsafe { (library.load)(archive.as_ptr().cast(), archive.len(), failure) });
        let pointer = loaded.map_err(|error| {
            let kind = if error.kind == ErrorKind::Exhausted { error.kind } else { ErrorKind::Unsupported };
            Error::new(kind, format!("libtorch refuses the module: {}", error.message))
        })?;
        let mut module = Self { library, pointer, arguments: Vec::new() };
        let raw = pointer.as_ptr();
        // SAFETY: the module is live, the indices are within its count, and strings are copied.
        module.arguments = unsafe {
            let argument = |index| {
                let flags = (library.argument_flags)(raw, index);
                Argument {
                    name: text((library.argument_name)(raw, index)),
                    kind: text((library.argument_type)(raw, index)),
                    is_tensor: flags & 1 != 0,
                    is_optional: flags & 2 != 0,
                }
            };
            (0..(library.arguments)(raw)).map(argument).collect()
        };
        Ok(module)
    }

    /// What `forward` takes, in order.
    pub fn arguments(&self) -> &[Argument] {
        &self.arguments
    }

    /// Runs `forward` on `inputs`, one an argument and `None` where one is left out. What it returns comes with the names
    /// that it has there, of a dict's keys or a named tuple's fields.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) when the module refuses the inputs, with its reason;
    /// [`Unsupported`](ErrorKind::Unsupported) for an answer that is no tensor.
    #[expect(unsafe_code, reason = "forward is called through the shim")]
    pub fn run(&self, inputs: &[Option<&Tensor>]) -> Result<Vec<(Option<String>, Tensor)>> {
        if inputs.len() != self.arguments.len() {
            let (want, got) = (self.arguments.len(), inputs.len());
            return Err(Error::internal(format!("forward takes {want} arguments, but got {got}")));
        }
        let library = self.library;
        let lent = inputs.iter().map(|input| input.map(Lent::new).transpose()).collect::<Result<Vec<_>>>()?;
        let raw: Vec<_> = lent.iter().map(|input| input.as_ref().map(Lent::lend)).collect();
        let pointers: Vec<_> = raw.iter().map(|input| input.as_ref().map_or(ptr::null(), ptr::from_ref)).collect();
        // SAFETY: the module is live; the arrays and the dimensions that `lent` holds outlive the call, whose answer keeps
        // the tensors' bytes by their owners and nothing else.
        let answer = library.checked(|failure| unsafe {
            (library.run)(self.pointer.as_ptr(), pointers.as_ptr(), pointers.len(), value::give_back, failure)
        })?;
        Answer { library, pointer: answer }.into_tensors()
    }
}

/// What `forward` returned, released on drop.
struct Answer {
    library: &'static Library,
    pointer: NonNull<RawAnswer>,
}

impl Drop for Answer {
    #[expect(unsafe_code, reason = "the shim's release")]
    fn drop(&mut self) {
        // SAFETY: the answer is ours and is freed nowhere else; its tensors are counted by themselves.
        unsafe { (self.library.free_answer)(self.pointer.as_ptr()) }
    }
}

impl Answer {
    #[expect(unsafe_code, reason = "an answer is read through the shim")]
    fn into_tensors(self) -> Result<Vec<(Option<String>, Tensor)>> {
        let (library, raw) = (self.library, self.pointer.as_ptr());
        // SAFETY: the answer is live, and the indices are within its count; names are copied.
        let (count, named) = unsafe { ((library.answer_count)(raw), (library.answer_kind)(raw) == 2) };
        let tensor = |index| {
            // SAFETY: as above.
            let (name, output) =
                unsafe { (text((library.answer_name)(raw, index)), (library.answer_tensor)(raw, index)) };
            Ok((named.then_some(name), value::Output::adopt(library, output)?.into_tensor()?))
        };
        (0..count).map(tensor).collect()
    }
}
