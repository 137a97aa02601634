//! Tensors on both sides of the shim: ours lent to libtorch, libtorch's held until we are done.

use std::ffi::{c_int, c_void};
use std::ptr::NonNull;

use bytes::Bytes;

use super::library::{Library, RawInput, RawOutput};
use crate::{DataType, Error, ErrorKind, Result, Tensor, map};

/// Copies begin at a multiple of this; kernels load vectors from any address.
const ALIGN_BYTES: usize = 16;

/// A tensor of ours that libtorch reads where it lies. It never writes to it: the shim copies what a graph writes into.
pub(super) struct Lent {
    dtype: c_int,
    dims: Vec<i64>,
    data: Bytes,
}

impl Lent {
    pub(super) fn new(tensor: &Tensor) -> Result<Self> {
        let dtype = code(tensor.dtype())
            .ok_or_else(|| Error::unsupported(format!("TorchScript modules are given no {}", tensor.dtype())))?;
        let dims = tensor.shape().iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect();
        Ok(Self { dtype, dims, data: map::aligned(tensor.data(), ALIGN_BYTES) })
    }

    /// As the shim takes it, with an owner of its own that has to be given back; the dimensions are those of `self`.
    pub(super) fn lend(&self) -> RawInput {
        RawInput {
            dtype: self.dtype,
            rank: c_int::try_from(self.dims.len()).unwrap_or(c_int::MAX),
            dims: self.dims.as_ptr(),
            data: self.data.as_ptr().cast_mut().cast(),
            owner: Box::into_raw(Box::new(self.data.clone())).cast(),
        }
    }
}

#[expect(unsafe_code, reason = "the way back of what was handed over as a raw pointer")]
pub(super) unsafe extern "C" fn give_back(owner: *mut c_void) {
    // SAFETY: the argument is the box that `lend` handed over, and the shim calls this once for each.
    drop(unsafe { Box::from_raw(owner.cast::<Bytes>()) });
}

/// A tensor that `forward` returned, released on drop.
pub(super) struct Output {
    library: &'static Library,
    pointer: NonNull<RawOutput>,
    data: NonNull<u8>,
    len: usize,
}

// SAFETY: it is a counted handle on a tensor that nobody writes to after the run returned it; any thread may hold, read and
// free it.
#[expect(unsafe_code, reason = "see the safety argument")]
unsafe impl Send for Output {}

impl Drop for Output {
    #[expect(unsafe_code, reason = "the shim's release")]
    fn drop(&mut self) {
        // SAFETY: the pointer is that of a live output and is freed nowhere else.
        unsafe { (self.library.free_output)(self.pointer.as_ptr()) }
    }
}

impl Output {
    /// Takes over what the shim made.
    #[expect(unsafe_code, reason = "address and length are read through the shim")]
    pub(super) fn adopt(library: &'static Library, pointer: *mut RawOutput) -> Result<Self> {
        let pointer = NonNull::new(pointer)
            .ok_or_else(|| Error::new(ErrorKind::Exhausted, "libtorch has no memory left for an answer"))?;
        // SAFETY: the output is live.
        let (data, len) =
            unsafe { ((library.output_data)(pointer.as_ptr()), (library.output_bytes)(pointer.as_ptr())) };
        // What holds no bytes may have no address.
        let data = NonNull::new(data.cast_mut().cast());
        let len = if data.is_some() { len } else { 0 };
        Ok(Self { library, pointer, data: data.unwrap_or(NonNull::dangling()), len })
    }

    /// The output as a tensor of ours, which shares its bytes.
    #[expect(unsafe_code, reason = "type and shape are read through the shim")]
    pub(super) fn into_tensor(self) -> Result<Tensor> {
        let (library, raw) = (self.library, self.pointer.as_ptr());
        // SAFETY: the output is live, and has as many dimensions as it says, which are copied.
        let (number, dims) = unsafe {
            let rank = (library.output_rank)(raw);
            let dims = NonNull::new((library.output_dims)(raw).cast_mut()).filter(|_| rank > 0);
            let dims = dims.map_or(&[][..], |dims| std::slice::from_raw_parts(dims.as_ptr(), rank));
            ((library.output_dtype)(raw), dims.to_vec())
        };
        let dtype = DataType::ALL.into_iter().find(|&dtype| code(dtype) == Some(number)).ok_or_else(|| {
            Error::unsupported(format!(
                "its forward returns a tensor of libtorch's datatype {number}, which no serving API carries"
            ))
        })?;
        let shape = dims
            .into_iter()
            .map(|dim| usize::try_from(dim).map_err(|_| Error::internal("libtorch returned a negative size")))
            .collect::<Result<Vec<_>>>()?;
        let data = if self.len > 0 { Bytes::from_owner(self) } else { Bytes::new() };
        Tensor::new(dtype, shape, data)
    }
}

impl AsRef<[u8]> for Output {
    #[expect(unsafe_code, reason = "a slice over libtorch's memory")]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the shim says that `len` bytes are at `data`, and the output keeps them.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

/// `c10::ScalarType`'s number (c10/core/ScalarType.h), which the shim holds against its own; none for what libtorch 1.13
/// has not.
fn code(dtype: DataType) -> Option<c_int> {
    Some(match dtype {
        DataType::U8 => 0,
        DataType::I8 => 1,
        DataType::I16 => 2,
        DataType::I32 => 3,
        DataType::I64 => 4,
        DataType::F16 => 5,
        DataType::F32 => 6,
        DataType::F64 => 7,
        DataType::Bool => 11,
        DataType::Bf16 => 15,
        DataType::U16 | DataType::U32 | DataType::U64 | DataType::Bytes => return None,
    })
}
