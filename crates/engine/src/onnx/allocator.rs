//! Where the runtime's memory comes from: large blocks from [`crate::blocks`], the rest from the C library's heap.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ort::AsPointer;
use ort::environment::Environment;
use ort::sys::{self, OrtAllocator};

use super::value::{check, cpu_memory};
use crate::Result;
use crate::blocks::{Block, LARGE_BYTES};

/// What small memory is aligned to: what the runtime's own allocator does on CPUs with vectors of 64 bytes.
const ALIGN_BYTES: usize = 64;
/// Blocks begin at a page, of which there are none smaller.
const PAGE_BYTES: usize = 4096;

/// The blocks that the runtime has, by their addresses. Owned by the runtime: what it frees leaves, whoever frees it.
static LENT: Mutex<BTreeMap<usize, Block>> = Mutex::new(BTreeMap::new());

/// Has sessions that ask for the environment's allocator take memory from here.
///
/// # Errors
/// The runtime's own.
#[expect(unsafe_code, reason = "an allocator is handed over through the C API")]
pub(super) fn register(environment: &Environment) -> Result<()> {
    // Asked for by `info`, which has no way to say that there is none.
    cpu_memory()?;
    // Never freed: sessions may be in use when the process ends.
    let allocator = Box::leak(Box::new(OrtAllocator {
        Alloc: Some(alloc),
        Free: Some(free),
        Info: Some(info),
        Reserve: Some(reserve),
        // SAFETY: a plain structure with the version that this was compiled with and none of the functions; those that
        // are not given above may be absent.
        ..unsafe { OrtAllocator::default() }
    }));
    // SAFETY: the environment is live, and the allocator lives for ever.
    check(unsafe { (ort::api().RegisterAllocator)(environment.ptr().cast_mut(), &raw mut *allocator) })
}

#[expect(unsafe_code, reason = "called by the runtime")]
unsafe extern "system" fn alloc(_: *mut OrtAllocator, size_bytes: usize) -> *mut c_void {
    take(size_bytes)
}

#[expect(unsafe_code, reason = "called by the runtime")]
unsafe extern "system" fn reserve(_: *const OrtAllocator, size_bytes: usize) -> *mut c_void {
    take(size_bytes)
}

#[expect(unsafe_code, reason = "called by the runtime")]
unsafe extern "system" fn info(_: *const OrtAllocator) -> *const sys::OrtMemoryInfo {
    // It was made before the allocator was registered.
    cpu_memory().unwrap_or(ptr::null())
}

/// Null when there is no more memory, which the runtime makes an error of its own.
#[expect(unsafe_code, reason = "a call of the C library")]
fn take(size_bytes: usize) -> *mut c_void {
    if size_bytes == 0 {
        return ptr::null_mut();
    }
    if size_bytes < LARGE_BYTES {
        let mut memory = ptr::null_mut();
        // SAFETY: the alignment is a power of two and a multiple of a pointer's size, and the pointer is written to only
        // when there was memory.
        let failed = unsafe { libc::posix_memalign(&raw mut memory, ALIGN_BYTES, size_bytes) } != 0;
        return if failed { ptr::null_mut() } else { memory };
    }
    let Ok(mut block) = Block::take(size_bytes) else { return ptr::null_mut() };
    // Moving the block does not move its memory, and nobody looks into it until the runtime frees it.
    let memory = block.as_mut().as_mut_ptr();
    lent().insert(memory.addr(), block);
    memory.cast()
}

#[expect(unsafe_code, reason = "called by the runtime, and a call of the C library")]
unsafe extern "system" fn free(_: *mut OrtAllocator, memory: *mut c_void) {
    // What the heap gives out may begin at a page as well; it is at no address of a block that is lent.
    let block = memory.addr().is_multiple_of(PAGE_BYTES).then(|| lent().remove(&memory.addr())).flatten();
    if block.is_none() {
        // SAFETY: the runtime frees what it got from `take`, once: null, or the heap's since it is no block.
        unsafe { libc::free(memory) }
    }
}

fn lent() -> MutexGuard<'static, BTreeMap<usize, Block>> {
    LENT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::super::{LIBRARY_VARIABLE, Onnx};
    use super::{LARGE_BYTES, lent};
    use crate::{DataType, Engine, Load, Tensor};

    #[test]
    fn what_a_run_answers_is_a_block_until_it_is_dropped() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let fetched = root.join(".cache/onnxruntime/1.31.1/libonnxruntime.so");
        let library = std::env::var_os(LIBRARY_VARIABLE).map_or(fetched, PathBuf::from);
        let onnx = Onnx::load(Some(&library)).expect("'make setup' fetches the runtime");
        let program = std::fs::read(root.join("assets/nanodet_g_coco80.onnx")).unwrap();
        let session = onnx.session(&program, 0, Load::Optimise).unwrap();
        let weights = onnx.bind(Vec::new()).unwrap();
        let answers = |value: u8| {
            let data = crate::blocks::written(3 * 416 * 416 * 4, |bytes| {
                bytes.as_chunks_mut().0.fill(f32::from(value).to_le_bytes());
            });
            let picture = Tensor::new(DataType::F32, vec![1, 3, 416, 416], data.unwrap()).unwrap();
            let answers = session.run(weights.as_ref(), &[picture], &[0, 1, 2, 3, 4, 5]).unwrap();
            answers.into_iter().filter(|answer| answer.data().len() >= LARGE_BYTES).collect::<Vec<_>>()
        };
        let (first, other, again) = (answers(1), answers(200), answers(1));
        // Of the finest level: 80 scores and 44 bins of each of 52 x 52 places, 865 and 476 kB.
        assert_eq!(first.len(), 2);
        assert!(first == again && first != other, "what a block held before is in no answer");
        let addresses: Vec<usize> = first.iter().map(|answer| answer.data().as_ptr().addr()).collect();
        let are_lent = || addresses.iter().map(|address| lent().contains_key(address)).collect::<Vec<_>>();
        assert_eq!(are_lent(), [true, true]);
        drop((first, other, again));
        assert_eq!(are_lent(), [false, false]);
    }
}
