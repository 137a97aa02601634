//! Sessions with one model's weights inside: the runtime lays them out for its kernels, writes that to a file, and maps it.

use std::ffi::CString;
use std::path::Path;

use ort::AsPointer;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use super::value::{Bound, Value, check};
use super::{Onnx, refused, run, without_arena};
use crate::map::torn;
use crate::{Error, LaidOut, Result, Session, Tensor};

/// What is in `folder` until it is mapped.
const GRAPH: &str = "graph.onnx";
const WEIGHTS: &str = "weights";

/// Has the runtime write the graph, and the weights both as they are and as its kernels read them.
pub(super) fn lay_out(onnx: &Onnx, graph: &[u8], weights: &[(String, Tensor)], folder: &Path) -> Result<LaidOut> {
    let laid_out = LaidOut { graph: folder.join(GRAPH), weights: folder.join(WEIGHTS) };
    let bound = Bound::new(weights.iter().map(|(_, weight)| weight.clone()).collect())?;
    // What can be fused was when the model was packed.
    let mut builder = without_arena(onnx.builder(GraphOptimizationLevel::Disable)?)?
        .with_optimized_model_path(&laid_out.graph)
        .and_then(|set| set.with_config_entry("session.optimized_model_external_initializers_file_name", WEIGHTS))
        .and_then(|set| {
            set.with_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        })
        .and_then(|set| set.with_config_entry("session.save_external_prepacked_constant_initializers", "1"))
        .map_err(|source| refused("ONNX Runtime refuses the settings", &source))?;
    give(&mut builder, weights, &bound.values)?;
    // The session itself holds all of it in memory; the one that maps it is made from the files.
    let built = torn::reading(|| builder.commit_from_memory(graph)).map(drop);
    bound.check()?;
    built.map_err(|reason| refused("ONNX Runtime refuses the graph", &reason))?;
    Ok(laid_out)
}

/// The session that maps what was written.
pub(super) fn session(onnx: &Onnx, laid_out: &LaidOut) -> Result<Box<dyn Session>> {
    let session = without_arena(onnx.builder(GraphOptimizationLevel::Disable)?)?
        .commit_from_file(&laid_out.graph)
        .map_err(|reason| refused("ONNX Runtime refuses the graph that it wrote", &reason))?;
    run::OnnxSession::new(session, 0).map(|session| Box::new(session) as Box<dyn Session>)
}

/// Gives the session that will be built `values` for its constants. They have to live until it is.
#[expect(unsafe_code, reason = "a setting of the C API")]
fn give(builder: &mut SessionBuilder, weights: &[(String, Tensor)], values: &[Value]) -> Result<()> {
    let name = |(name, _): &(String, Tensor)| CString::new(&name[..]);
    let names = weights.iter().map(name).collect::<std::result::Result<Vec<_>, _>>();
    let owned = names.map_err(|_| Error::unsupported("a weight's name holds a NUL byte"))?;
    let names: Vec<_> = owned.iter().map(|name| name.as_ptr()).collect();
    let values: Vec<_> = values.iter().map(Value::as_ptr).collect();
    if names.is_empty() {
        return Ok(());
    }
    // SAFETY: the options are live, and are changed by nobody else while they are borrowed. Names and values are as many as
    // is said; the names are copied, and the values, which the runtime counts its uses of, are the caller's until then.
    check(unsafe {
        (ort::api().AddExternalInitializers)(builder.ptr_mut(), names.as_ptr(), values.as_ptr(), names.len())
    })
}
