//! Tensors on both sides of the C API: ours lent to the runtime, the runtime's held until we are done.

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};

use bytes::Bytes;

use super::library::{Library, TfString, TfTensor};
use crate::{DataType, Error, Result, Tensor, strings_from_wire, strings_to_wire};

/// A tensor of the runtime, released on drop.
pub(super) struct Value {
    library: &'static Library,
    pointer: NonNull<TfTensor>,
}

// SAFETY: a TF_Tensor is a handle on a buffer with an atomic count; any thread may hold, read and delete it.
#[expect(unsafe_code, reason = "see the safety argument")]
unsafe impl Send for Value {}

impl Drop for Value {
    #[expect(unsafe_code, reason = "the C API's release")]
    fn drop(&mut self) {
        // SAFETY: the pointer is that of a live tensor and is deleted nowhere else.
        unsafe { (self.library.delete_tensor)(self.pointer.as_ptr()) }
    }
}

impl Value {
    /// A value of `tensor`. Dense bytes are lent where they lie on the boundaries that the runtime asks for, and copied by
    /// it where they do not; strings are copied. Either is given back when the runtime lets go of it, which may be later
    /// than the run: a graph with state may keep what it was fed.
    pub(super) fn lend(library: &'static Library, tensor: &Tensor) -> Result<Self> {
        match tensor.dtype() {
            DataType::Bytes => Self::copy_strings(library, tensor),
            _ => Self::lend_dense(library, tensor),
        }
    }

    /// Takes over a tensor that the runtime made.
    pub(super) fn adopt(library: &'static Library, pointer: *mut TfTensor) -> Result<Self> {
        let pointer = NonNull::new(pointer).ok_or_else(|| Error::internal("TensorFlow returned no tensor"))?;
        Ok(Self { library, pointer })
    }

    pub(super) fn as_ptr(&self) -> *mut TfTensor {
        self.pointer.as_ptr()
    }

    fn lend_dense(library: &'static Library, tensor: &Tensor) -> Result<Self> {
        let owner = Box::new(tensor.data().clone());
        let (data, len) = (owner.as_ptr().cast_mut().cast(), owner.len());
        Self::new(library, tensor, (data, len), give_back_bytes, Box::into_raw(owner).cast())
    }

    #[expect(unsafe_code, reason = "strings are written through the C API")]
    fn copy_strings(library: &'static Library, tensor: &Tensor) -> Result<Self> {
        // A zeroed TF_TString is what TF_StringInit makes; it is called all the same, as the header asks.
        let mut strings: Vec<TfString> = Vec::with_capacity(tensor.len());
        for string in strings_from_wire(tensor.data())? {
            let place = strings.spare_capacity_mut().first_mut().ok_or_else(|| Error::internal("a string too many"))?;
            // SAFETY: the place is within the vector's capacity and is written by TF_StringInit before the length
            // counts it; TF_StringCopy copies exactly the string's bytes.
            unsafe {
                (library.string_init)(place.as_mut_ptr());
                (library.string_copy)(place.as_mut_ptr(), string.as_ptr().cast(), string.len());
                strings.set_len(strings.len() + 1);
            }
        }
        let mut owner = Box::new(Strings { library, strings });
        let data = owner.strings.as_mut_ptr();
        let len = owner.strings.len() * size_of::<TfString>();
        Self::new(library, tensor, (data.cast(), len), give_back_strings, Box::into_raw(owner).cast())
    }

    /// A value over memory that `owner` keeps until `give_back` is called with it.
    #[expect(unsafe_code, reason = "a tensor is made over our memory through the C API")]
    fn new(
        library: &'static Library,
        tensor: &Tensor,
        (data, len): (*mut c_void, usize),
        give_back: super::library::Deallocator,
        owner: *mut c_void,
    ) -> Result<Self> {
        let shape: Vec<i64> = tensor.shape().iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect();
        let rank = c_int::try_from(shape.len()).unwrap_or(c_int::MAX);
        // SAFETY: `len` bytes at `data` are readable until `give_back` is called, which the runtime does exactly once,
        // when the last of its references goes or, after copying, at once; it does so as well when it makes no tensor.
        // It never writes to what is fed: the tensor's own reference keeps it from being reused in place.
        let pointer =
            unsafe { (library.new_tensor)(code(tensor.dtype()), shape.as_ptr(), rank, data, len, give_back, owner) };
        Self::adopt(library, pointer)
    }

    /// The value as a tensor of ours; dense bytes are shared, and the value lives until the tensor is dropped.
    #[expect(unsafe_code, reason = "type, shape and data are read through the C API")]
    pub(super) fn into_tensor(self) -> Result<Tensor> {
        let (library, pointer) = (self.library, self.pointer.as_ptr());
        // SAFETY: the tensor is live, and the axes asked for are those it has.
        let (kind, shape, data, len) = unsafe {
            let shape: Vec<i64> = (0..(library.rank)(pointer)).map(|axis| (library.dim)(pointer, axis)).collect();
            ((library.tensor_type)(pointer), shape, (library.data)(pointer), (library.byte_size)(pointer))
        };
        let dtype = datatype(kind)?;
        let shape = shape
            .into_iter()
            .map(|dim| usize::try_from(dim).map_err(|_| Error::internal("TensorFlow returned a negative size")))
            .collect::<Result<Vec<_>>>()?;
        let data = match (dtype, NonNull::new(data.cast::<u8>())) {
            (DataType::Bytes, Some(data)) => strings(library, data.cast(), crate::element_count(&shape)?),
            (_, Some(data)) if len > 0 => Bytes::from_owner(Output { _value: self, data, len }),
            _ => Bytes::new(),
        };
        Tensor::new(dtype, shape, data)
    }
}

/// The `count` strings at `data`, framed as ours are.
#[expect(unsafe_code, reason = "strings are read through the C API")]
fn strings(library: &Library, data: NonNull<TfString>, count: usize) -> Bytes {
    let string = |index| {
        // SAFETY: a tensor of strings holds as many as its shape says, and they do not change while it is ours.
        unsafe {
            let string = data.as_ptr().add(index);
            let size = (library.string_size)(string);
            match NonNull::new((library.string_data)(string).cast_mut().cast::<u8>()) {
                Some(start) if size > 0 => std::slice::from_raw_parts(start.as_ptr(), size),
                _ => &[],
            }
        }
    };
    strings_to_wire((0..count).map(string)).into()
}

#[expect(unsafe_code, reason = "the way back of what was handed over as a raw pointer")]
unsafe extern "C" fn give_back_bytes(_data: *mut c_void, _len: usize, owner: *mut c_void) {
    // SAFETY: the argument is the box that `lend_dense` handed over, and the runtime calls this once.
    drop(unsafe { Box::from_raw(owner.cast::<Bytes>()) });
}

/// Strings that the runtime was lent.
struct Strings {
    library: &'static Library,
    strings: Vec<TfString>,
}

impl Drop for Strings {
    #[expect(unsafe_code, reason = "strings are freed through the C API")]
    fn drop(&mut self) {
        for string in &mut self.strings {
            // SAFETY: each was made by TF_StringInit, and is freed once.
            unsafe { (self.library.string_dealloc)(ptr::from_mut(string)) }
        }
    }
}

#[expect(unsafe_code, reason = "the way back of what was handed over as a raw pointer")]
unsafe extern "C" fn give_back_strings(_data: *mut c_void, _len: usize, owner: *mut c_void) {
    // SAFETY: the argument is the box that `copy_strings` handed over, and the runtime calls this once.
    drop(unsafe { Box::from_raw(owner.cast::<Strings>()) });
}

/// The elements of a tensor of the runtime.
struct Output {
    /// Owns the memory that `data` points at.
    _value: Value,
    data: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is not written after the run returned it, and the value that owns it may move between threads.
#[expect(unsafe_code, reason = "see the safety argument")]
unsafe impl Send for Output {}

impl AsRef<[u8]> for Output {
    #[expect(unsafe_code, reason = "a slice over the runtime's memory")]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the runtime says that `len` bytes are at `data`, and the value keeps them.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

/// `TF_DataType`'s number (tensorflow/c/tf_datatype.h).
fn code(dtype: DataType) -> c_int {
    match dtype {
        DataType::F32 => 1,
        DataType::F64 => 2,
        DataType::I32 => 3,
        DataType::U8 => 4,
        DataType::I16 => 5,
        DataType::I8 => 6,
        DataType::Bytes => 7,
        DataType::I64 => 9,
        DataType::Bool => 10,
        DataType::Bf16 => 14,
        DataType::U16 => 17,
        DataType::F16 => 19,
        DataType::U32 => 22,
        DataType::U64 => 23,
    }
}

fn datatype(number: c_int) -> Result<DataType> {
    DataType::ALL
        .into_iter()
        .find(|&dtype| code(dtype) == number)
        .ok_or_else(|| Error::unsupported(format!("TensorFlow's datatype {number} has no serving datatype")))
}
