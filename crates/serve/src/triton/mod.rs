//! Triton's extensions of the Open Inference Protocol as domain types: what they mean, without any wire.
//!
//! The `http` and `grpc` edges convert to and from these, so an extension means the same on both.

mod classification;
mod logging;
mod model_config;
mod outputs;
mod parameters;
mod shared_memory;

pub(crate) use logging::{LogValue, log_settings};
pub(crate) use model_config::{Batching, ModelConfig, TensorConfig};
pub(crate) use outputs::{Answer, Given, Wish, give};
pub(crate) use parameters::{Parameter, is_its_own, load_options, priority, refuse_sequence, timeout};
pub use shared_memory::SharedMemory;
pub(crate) use shared_memory::{Budget, Region, Span};

use std::sync::Arc;

use engine::Result;

use crate::people::Face;
use crate::{Control, IndexEntry, Management, Model, ModelState, Scheduler, Statistics};

/// The extensions that server metadata lists: exactly those that work on the listener that has these rights, in
/// Triton's names.
pub(crate) fn extensions(
    scheduler: &Scheduler,
    shared_memory: bool,
    management: Option<&Management>,
) -> Vec<&'static str> {
    let mut names =
        vec!["classification", "schedule_policy", "model_configuration", "binary_tensor_data", "statistics"];
    if management.is_some() {
        names.push("logging");
        if scheduler.residency().control() == Control::Explicit {
            names.extend(["model_repository", "model_repository(unload_dependents)"]);
        }
    }
    if shared_memory {
        names.push("system_shared_memory");
    }
    names
}

/// A model version and what it has done.
pub(crate) struct ModelStatistics {
    pub(crate) name: String,
    pub(crate) version: u64,
    pub(crate) statistics: Statistics,
    /// What of it is in memory of its own.
    pub(crate) memory_bytes: u64,
}

/// The statistics of `version` of the model called `name`; without a version those of every version that is served,
/// without a name those of every model.
///
/// # Errors
/// [`NotFound`](engine::ErrorKind::NotFound) or [`Unavailable`](engine::ErrorKind::Unavailable) for the model.
pub(crate) fn statistics(
    scheduler: &Scheduler,
    name: Option<&str>,
    version: Option<u64>,
) -> Result<Vec<ModelStatistics>> {
    let residency = scheduler.residency();
    let models = match (name, version) {
        (None, _) => residency.models(),
        (Some(name), Some(version)) => vec![Arc::clone(Face::of(residency, name, Some(version))?.model())],
        (Some(name), None) => {
            let face = Face::of(residency, name, None)?;
            let own = &face.model().manifest().name;
            // A version may go between the two questions; then it has no statistics any more.
            let versions = residency.versions(own).into_iter();
            versions.filter_map(|version| residency.model(own, Some(version)).ok()).collect()
        }
    };
    let of = |model: Arc<Model>| ModelStatistics {
        name: name.unwrap_or(&model.manifest().name).to_owned(),
        version: model.manifest().version,
        statistics: model.statistics(),
        memory_bytes: residency.bytes_of(&model),
    };
    Ok(models.into_iter().map(of).collect())
}

/// The repository's index; with `ready_only`, of what takes requests.
pub(crate) fn index(scheduler: &Scheduler, ready_only: bool) -> Vec<IndexEntry> {
    let mut entries = scheduler.residency().index();
    entries.retain(|entry| !ready_only || entry.state == ModelState::Ready);
    entries
}

/// The state in the word of the repository extension.
pub(crate) fn state_name(state: ModelState) -> &'static str {
    match state {
        ModelState::Ready => "READY",
        ModelState::Loading => "LOADING",
        ModelState::Unavailable => "UNAVAILABLE",
    }
}
