//! What serving and working both stand on: a store, a runtime, residency, the scheduler and its lanes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use engine::onnx::{LIBRARY_VARIABLE, Onnx};
use serve::{Control, Metrics, QueueLimits, Residency, Scheduler};
use store::{Serving, Store};

use crate::exit::Exit;

/// Loads ONNX Runtime from where the environment says, or from where the system keeps it.
pub(crate) fn onnx() -> Result<Onnx, Exit> {
    let library = std::env::var_os(LIBRARY_VARIABLE).map(PathBuf::from);
    Onnx::load(library.as_deref()).map_err(|error| Exit::Configuration(error.message))
}

/// Starts a scheduler over the store at `place`, a lane on every core that this process may use; `overrides` say how
/// single models are served.
pub(crate) fn start(
    place: &str,
    limits: QueueLimits,
    control: Control,
    overrides: BTreeMap<String, Serving>,
) -> Result<Arc<Scheduler>, Exit> {
    let store = Store::open(place).map_err(|error| Exit::configuration(&error))?;
    let onnx = Arc::new(onnx()?);
    on_lanes(limits, |lanes| Residency::open_with(store, onnx, lanes, control, overrides))
}

/// As [`start`], on a runtime that is loaded already.
pub(crate) fn start_with(
    store: Store,
    onnx: Arc<Onnx>,
    limits: QueueLimits,
    control: Control,
) -> Result<Arc<Scheduler>, Exit> {
    on_lanes(limits, |lanes| Residency::open(store, onnx, lanes, control))
}

fn on_lanes(
    limits: QueueLimits,
    open: impl FnOnce(usize) -> engine::Result<Residency>,
) -> Result<Arc<Scheduler>, Exit> {
    let cores = engine::cpu::lane_cores();
    let residency = Arc::new(open(cores.len())?);
    Ok(Scheduler::start(residency, &cores, limits, Arc::new(Metrics::default()))?)
}
