//! Tensors on both sides of the C API: ours lent to the runtime without a copy, the runtime's held until we are done.

use std::any::Any;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use ort::sys::{self, ONNXTensorElementDataType as Element};

use crate::map::torn;
use crate::map::watched::{self, Watch};
use crate::{DataType, Error, ErrorKind, Result, Tensor, Weights, map, memory, strings_from_wire, strings_to_wire};

/// Where the runtime's sums take vectors from: with elements at other addresses it splits a sum elsewhere, and then the
/// last bit of an answer depends on how long the header of a request is.
const VECTOR_BYTES: usize = 16;

/// Turns a status of the C API into a result, and frees it.
#[expect(unsafe_code, reason = "a status is read and freed through the C API")]
pub(super) fn check(status: sys::OrtStatusPtr) -> Result<()> {
    let Some(status) = NonNull::new(status.0) else { return Ok(()) };
    let api = ort::api();
    // SAFETY: the status is not null and is ours to read until ReleaseStatus; the message is copied before that.
    let (code, message) = unsafe {
        let code = (api.GetErrorCode)(status.as_ptr());
        let message = std::ffi::CStr::from_ptr((api.GetErrorMessage)(status.as_ptr())).to_string_lossy().into_owned();
        (api.ReleaseStatus)(status.as_ptr());
        (code, message)
    };
    let kind = match code {
        sys::OrtErrorCode::ORT_INVALID_ARGUMENT => ErrorKind::InvalidInput,
        sys::OrtErrorCode::ORT_NOT_IMPLEMENTED => ErrorKind::Unsupported,
        _ => ErrorKind::Internal,
    };
    Err(Error::new(kind, message))
}

/// A value of the runtime, released on drop, with the bytes it points at when they are ours.
pub(super) struct Value {
    pointer: NonNull<sys::OrtValue>,
    /// Keeps the bytes alive that the value points at; empty when the runtime owns them. Never read here.
    lent: Bytes,
}

// SAFETY: a value is a reference-counted handle that the runtime lets any thread hold and release; ours are only read
// once they are made.
#[expect(unsafe_code, reason = "see the safety argument")]
unsafe impl Send for Value {}
// SAFETY: as above: Run takes inputs as const and copies the handle, whose count is atomic.
#[expect(unsafe_code, reason = "see the safety argument")]
unsafe impl Sync for Value {}

impl Drop for Value {
    #[expect(unsafe_code, reason = "the C API's release")]
    fn drop(&mut self) {
        // SAFETY: the pointer came from the runtime, is not null, and is released nowhere else.
        unsafe { (ort::api().ReleaseValue)(self.pointer.as_ptr()) }
    }
}

impl Value {
    /// A value over `tensor`'s own bytes (strings are copied: the runtime keeps them as objects).
    pub(super) fn lend(tensor: &Tensor) -> Result<Self> {
        match tensor.dtype().size_bytes() {
            Some(size) => Self::lend_dense(map::aligned(tensor.data(), size.max(VECTOR_BYTES)), tensor),
            None => Self::copy_strings(tensor),
        }
    }

    /// A value over the bytes of `weight`, wherever they lie. Its kernels load vectors from any address; a weight is at the
    /// same one of its file every time, so that sums over it are split the same every time.
    fn lend_weight(weight: &Tensor) -> Result<Self> {
        // A copy would be private memory that nobody budgets, so a segment that is not aligned for its numbers is refused.
        let align = weight.dtype().size_bytes().unwrap_or(1);
        if !weight.is_empty() && !weight.data().as_ptr().addr().is_multiple_of(align) {
            return Err(Error::corrupt(
                "a weight does not start at a multiple of its element size; pack the model again",
            ));
        }
        match weight.dtype().size_bytes() {
            Some(_) => Self::lend_dense(weight.data().clone(), weight),
            None => Self::copy_strings(weight),
        }
    }

    /// Takes over a value that the runtime made.
    pub(super) fn adopt(pointer: *mut sys::OrtValue) -> Result<Self> {
        NonNull::new(pointer)
            .map(|pointer| Self { pointer, lent: Bytes::new() })
            .ok_or_else(|| Error::internal("the runtime returned no value"))
    }

    pub(super) fn as_ptr(&self) -> *const sys::OrtValue {
        self.pointer.as_ptr()
    }

    #[expect(unsafe_code, reason = "a tensor is made over our bytes through the C API")]
    fn lend_dense(data: Bytes, tensor: &Tensor) -> Result<Self> {
        let shape = dims(tensor.shape())?;
        let mut pointer = ptr::null_mut();
        // SAFETY: memory and shape outlive the call, the data outlives the value (kept beside it), its length was
        // checked against shape and datatype by Tensor::new, and the runtime only reads inputs.
        check(unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(
                cpu_memory()?,
                data.as_ptr().cast_mut().cast(),
                data.len(),
                shape.as_ptr(),
                shape.len(),
                element(tensor.dtype()),
                &raw mut pointer,
            )
        })?;
        let mut value = Self::adopt(pointer)?;
        value.lent = data;
        Ok(value)
    }

    #[expect(unsafe_code, reason = "strings are filled in through the C API")]
    fn copy_strings(tensor: &Tensor) -> Result<Self> {
        let api = ort::api();
        let shape = dims(tensor.shape())?;
        let mut allocator = ptr::null_mut();
        let mut pointer = ptr::null_mut();
        // SAFETY: the default allocator is the runtime's own and lives as long as it.
        check(unsafe { (api.GetAllocatorWithDefaultOptions)(&raw mut allocator) })?;
        // SAFETY: the shape outlives the call, and its length is the slice's.
        check(unsafe {
            (api.CreateTensorAsOrtValue)(
                allocator,
                shape.as_ptr(),
                shape.len(),
                element(DataType::Bytes),
                &raw mut pointer,
            )
        })?;
        let value = Self::adopt(pointer)?;
        for (index, string) in strings_from_wire(tensor.data())?.enumerate() {
            let mut buffer = ptr::null_mut();
            // SAFETY: the index is below the element count (Tensor::new counted the strings), and the buffer the
            // runtime returns has exactly the length that was asked for.
            unsafe {
                check((api.GetResizedStringTensorElementBuffer)(pointer, index, string.len(), &raw mut buffer))?;
                ptr::copy_nonoverlapping(string.as_ptr(), buffer.cast(), string.len());
            }
        }
        Ok(value)
    }

    /// The value as a tensor of ours; dense bytes are shared, and the value lives until the tensor is dropped.
    pub(super) fn into_tensor(self) -> Result<Tensor> {
        let (dtype, shape) = self.datatype_and_shape()?;
        let count = crate::element_count(&shape)?;
        let data = match dtype.size_bytes() {
            Some(size) => self.into_dense(count * size)?,
            None => self.read_strings(count)?,
        };
        Tensor::new(dtype, shape, data)
    }

    #[expect(unsafe_code, reason = "type and shape are read through the C API")]
    pub(super) fn datatype_and_shape(&self) -> Result<(DataType, Vec<usize>)> {
        let mut kind = Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
        let mut dims = ptr::null();
        let mut rank = 0;
        // SAFETY: the value is a live tensor; the shape the runtime points at belongs to the value and is copied
        // before the value can go.
        let shape = unsafe {
            check((ort::api().GetTensorElementTypeAndShapeDataReference)(
                self.pointer.as_ptr(),
                &raw mut kind,
                &raw mut dims,
                &raw mut rank,
            ))?;
            if rank == 0 { &[][..] } else { std::slice::from_raw_parts(dims, rank) }
        };
        let shape = shape
            .iter()
            .map(|&dim: &i64| usize::try_from(dim).map_err(|_| Error::internal("the runtime returned a negative size")))
            .collect::<Result<_>>()?;
        Ok((datatype(kind)?, shape))
    }

    #[expect(unsafe_code, reason = "the address of the elements is read through the C API")]
    fn into_dense(self, len: usize) -> Result<Bytes> {
        let mut data = ptr::null_mut();
        // SAFETY: the value is a live, dense CPU tensor.
        check(unsafe { (ort::api().GetTensorMutableData)(self.pointer.as_ptr(), &raw mut data) })?;
        match NonNull::new(data.cast::<u8>()) {
            Some(data) if len > 0 => Ok(Bytes::from_owner(Output { _value: self, data, len })),
            _ => Ok(Bytes::new()),
        }
    }

    #[expect(unsafe_code, reason = "strings are read through the C API")]
    fn read_strings(&self, count: usize) -> Result<Bytes> {
        let api = ort::api();
        let mut strings = Vec::with_capacity(count);
        for index in 0..count {
            let mut len = 0;
            // SAFETY: the index is below the element count; the buffer has the length that the runtime just named.
            unsafe {
                check((api.GetStringTensorElementLength)(self.pointer.as_ptr(), index, &raw mut len))?;
                let mut string = vec![0u8; len];
                check((api.GetStringTensorElement)(self.pointer.as_ptr(), len, index, string.as_mut_ptr().cast()))?;
                strings.push(string);
            }
        }
        Ok(strings_to_wire(strings.iter().map(Vec::as_slice)).into())
    }
}

/// The elements of a value of the runtime.
struct Output {
    /// Owns the memory that `data` points at.
    _value: Value,
    data: NonNull<u8>,
    len: usize,
}

// SAFETY: the memory is never written after Run returned it, and the value that owns it may move between threads.
#[expect(unsafe_code, reason = "see the safety argument")]
unsafe impl Send for Output {}

impl AsRef<[u8]> for Output {
    #[expect(unsafe_code, reason = "a slice over the runtime's memory")]
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the runtime allocated `len` bytes at `data` (shape times element size), and the value keeps them.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr(), self.len) }
    }
}

/// Weights as values, in program order.
pub(super) struct Bound {
    pub(super) values: Vec<Value>,
    mapped_bytes: u64,
    /// How many maps were torn when it was last looked whether one of its own was. Any thread's that runs on it.
    torn_seen: AtomicUsize,
    /// The files of them that others may write, each once.
    watched: Vec<Arc<Watch>>,
}

impl Bound {
    pub(super) fn new(weights: Vec<Tensor>) -> Result<Self> {
        let mapped_bytes = weights.iter().map(|weight| weight.data().len() as u64).sum();
        let mut watched: Vec<Arc<Watch>> = Vec::new();
        for watch in weights.iter().filter_map(|weight| watched::of(weight.data())) {
            if !watched.iter().any(|known| Arc::ptr_eq(known, &watch)) {
                watched.push(watch);
            }
        }
        let values = weights
            .into_iter()
            .map(|weight| Value::lend_weight(&weight).map_err(|error| Error::corrupt(error.message)))
            .collect::<Result<_>>()?;
        Ok(Self { values, mapped_bytes, torn_seen: AtomicUsize::new(0), watched })
    }

    /// That the files of all of them still had what was read of them, and that it is what was mapped.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt): what was computed with them is worth nothing.
    pub(super) fn check_read(&self) -> Result<()> {
        if let Some(watch) = self.watched.iter().find(|watch| watch.is_written()) {
            let path = watch.path().display();
            return Err(Error::corrupt(format!(
                "{path}: it was written since its weights were mapped; pack the model again"
            )));
        }
        self.check()
    }

    /// That the files of all of them have what is mapped.
    ///
    /// # Errors
    /// As [`check_read`](Self::check_read).
    pub(super) fn check(&self) -> Result<()> {
        let torn = torn::count();
        if torn == self.torn_seen.load(Ordering::Relaxed) {
            return Ok(());
        }
        if self.values.iter().any(|value| torn::is_torn(&value.lent)) {
            return Err(Error::corrupt(
                "the file of its weights was cut, or its disk cannot read it; put it back, or pack the model again",
            ));
        }
        self.torn_seen.store(torn, Ordering::Relaxed);
        Ok(())
    }

    /// The bound form behind `weights`.
    pub(super) fn of(weights: &dyn Weights) -> Result<&Self> {
        (weights as &dyn Any).downcast_ref().ok_or_else(|| Error::internal("the weights were bound to another runtime"))
    }
}

impl Weights for Bound {
    fn mapped_bytes(&self) -> u64 {
        self.mapped_bytes
    }

    fn private_bytes(&self) -> u64 {
        self.values.len() as u64 * value_bytes()
    }
}

/// What a bound weight takes of the heap, the runtime's object and ours: seen once, on many of them.
fn value_bytes() -> u64 {
    const VALUES: usize = 1024;
    static BYTES: OnceLock<u64> = OnceLock::new();
    *BYTES.get_or_init(|| {
        let weight = Tensor::new(DataType::F32, vec![2, 2], Bytes::from_static(&[0; 16]));
        let before = memory::heap_bytes();
        let values: Vec<_> = (0..VALUES).filter_map(|_| Value::lend(weight.as_ref().ok()?).ok()).collect();
        let grown = memory::heap_bytes().saturating_sub(before);
        // Less than the objects' own size is another thread's doing.
        (grown / values.len().max(1) as u64).max(size_of::<Value>() as u64)
    })
}

/// The description of plain CPU memory; made once, never freed, shared by every thread.
#[expect(unsafe_code, reason = "made through the C API")]
pub(super) fn cpu_memory() -> Result<*const sys::OrtMemoryInfo> {
    struct Shared(*const sys::OrtMemoryInfo);
    // SAFETY: the object is immutable once made.
    unsafe impl Send for Shared {}
    // SAFETY: as above.
    unsafe impl Sync for Shared {}
    static MEMORY: OnceLock<Result<Shared>> = OnceLock::new();
    MEMORY
        .get_or_init(|| {
            let mut info = ptr::null_mut();
            // SAFETY: the out pointer is live for the call.
            check(unsafe {
                (ort::api().CreateCpuMemoryInfo)(
                    sys::OrtAllocatorType::OrtDeviceAllocator,
                    sys::OrtMemType::OrtMemTypeDefault,
                    &raw mut info,
                )
            })?;
            Ok(Shared(info))
        })
        .as_ref()
        .map(|shared| shared.0)
        .map_err(Clone::clone)
}

fn dims(shape: &[usize]) -> Result<Vec<i64>> {
    shape
        .iter()
        .map(|&dim| i64::try_from(dim).map_err(|_| Error::invalid(format!("shape {shape:?} is too large"))))
        .collect()
}

fn element(dtype: DataType) -> Element {
    match dtype {
        DataType::Bool => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL,
        DataType::U8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8,
        DataType::U16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT16,
        DataType::U32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT32,
        DataType::U64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT64,
        DataType::I8 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8,
        DataType::I16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT16,
        DataType::I32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32,
        DataType::I64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64,
        DataType::F16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16,
        DataType::Bf16 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16,
        DataType::F32 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT,
        DataType::F64 => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE,
        DataType::Bytes => Element::ONNX_TENSOR_ELEMENT_DATA_TYPE_STRING,
    }
}

/// The datatype for an element type of the C API.
///
/// # Errors
/// [`Unsupported`](ErrorKind::Unsupported) for the types that no serving protocol carries.
fn datatype(element_type: Element) -> Result<DataType> {
    DataType::ALL
        .into_iter()
        .find(|&dtype| element(dtype) == element_type)
        .ok_or_else(|| Error::unsupported(format!("element type {element_type:?} has no serving datatype")))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    #[test]
    fn weights_are_lent_where_they_lie_and_inputs_where_sums_begin() {
        let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/onnxruntime/1.31.1/libonnxruntime.so");
        let library = std::env::var_os(super::super::LIBRARY_VARIABLE).map_or(fetched, PathBuf::from);
        super::super::Onnx::load(Some(&library)).expect("'make setup' fetches the runtime");
        let whole = map::bytes_from_f32((0u8..32).map(f32::from).collect());
        for shift in [0, 4, 8, 12, 2] {
            let data = whole.slice(shift..shift + 64);
            let tensor = Tensor::new(DataType::F32, vec![16], data.clone()).unwrap();
            match Bound::new(vec![tensor.clone()]) {
                Ok(bound) => assert_eq!(bound.values[0].lent.as_ptr(), data.as_ptr(), "{shift}"),
                Err(error) => assert_eq!((shift, error.kind), (2, ErrorKind::Corrupt)),
            }
            let input = Value::lend(&tensor).unwrap();
            assert!(input.lent == data && input.lent.as_ptr().addr().is_multiple_of(VECTOR_BYTES), "{shift}");
        }
    }
}
