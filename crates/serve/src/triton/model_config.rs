//! [`ModelConfig`]: how a model is run, in the terms of Triton's model configuration.

use std::collections::BTreeMap;

use engine::{DataType, TensorSpec};
use store::repository::VersionPolicy;

use crate::desk;
use crate::hold::HOLD_MAX;
use crate::people::Face;
use crate::{Model, Scheduler};

/// How a model is run.
#[derive(Clone, Debug)]
pub(crate) struct ModelConfig {
    pub(crate) name: String,
    pub(crate) platform: &'static str,
    pub(crate) backend: &'static str,
    /// 0 when the first dimension is no batch.
    pub(crate) max_batch_size: u64,
    pub(crate) inputs: Vec<TensorConfig>,
    pub(crate) outputs: Vec<TensorConfig>,
    /// Which versions are served.
    pub(crate) policy: VersionPolicy,
    /// How requests are put together; `None` when they are not.
    pub(crate) batching: Option<Batching>,
    /// Runs at once: one on each lane.
    pub(crate) lanes: usize,
    /// The name of the file in a version's folder; empty for the usual.
    pub(crate) model_file: String,
    /// What the model's configuration says to a backend.
    pub(crate) parameters: BTreeMap<String, String>,
}

/// How requests are put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batching {
    /// Sizes at which a batch leaves at once, ascending; empty when they are learnt.
    pub(crate) preferred_sizes: Vec<u64>,
    /// The longest that a request is held back; the bound of what is learnt, unless it is set.
    pub(crate) delay_us: u64,
    /// How many priorities there are, when their number is set.
    pub(crate) priority_levels: Option<u32>,
    /// The priority of requests that bring none, when it is set.
    pub(crate) default_priority: Option<u32>,
}

/// One input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorConfig {
    pub(crate) name: String,
    pub(crate) dtype: DataType,
    /// Dimensions without the batch; -1 varies.
    pub(crate) dims: Vec<i64>,
    /// The file of an output's class names; empty when there is none.
    pub(crate) label_file: String,
    /// Whether a request may come without it.
    pub(crate) optional: bool,
}

impl ModelConfig {
    /// The configuration of the model that `face` is of, on `scheduler`.
    pub(crate) fn of(scheduler: &Scheduler, face: &Face) -> Self {
        let (model, residency) = (face.model(), scheduler.residency());
        let manifest = model.manifest();
        let mut declared = model.declared().cloned().unwrap_or_default();
        let model_max = declared.max_batch_size.unwrap_or_else(|| model.max_batch_size());
        // Of people's inputs each is run by itself, with whatever fits.
        let max_batch_size = if face.is_for_people() { desk::ITEMS_MAX as u64 } else { model_max };
        let tensors = |specs: &[TensorSpec]| {
            let file = |spec: &TensorSpec| declared.label_files.get(&spec.name).cloned().unwrap_or_default();
            let own = |spec: &TensorSpec| TensorConfig {
                label_file: file(spec),
                optional: face.may_lack(&spec.name),
                ..tensor(spec, max_batch_size > 0)
            };
            specs.iter().map(own).collect()
        };
        let (inputs, outputs) = (tensors(&face.signature().inputs), tensors(&face.signature().outputs));
        // Where this model's answers are found. Its configuration may use the words for something else.
        let task = manifest.task.as_ref().map(|task| ("task", task.name().to_owned()));
        for (key, value) in task.into_iter().chain(face.second_name(residency).map(|name| ("answers", name))) {
            declared.parameters.entry(key.to_owned()).or_insert(value);
        }
        let served = || VersionPolicy::Specific(residency.versions(&manifest.name));
        Self {
            name: face.name(),
            platform: model.platform(),
            backend: model.backend(),
            max_batch_size,
            batching: (model_max > 1).then(|| Batching::of(model)),
            inputs,
            outputs,
            policy: declared.policy.clone().unwrap_or_else(served),
            lanes: scheduler.lanes(),
            model_file: declared.model_file,
            parameters: declared.parameters,
        }
    }
}

impl Batching {
    fn of(model: &Model) -> Self {
        let serving = model.serving();
        let mut preferred_sizes = serving.preferred_batch_sizes.clone();
        // A size that no batch reaches is not waited for.
        preferred_sizes.retain(|size| (1..=model.max_batch_size()).contains(size));
        let automatic_us = u64::try_from(HOLD_MAX.as_micros()).unwrap_or(u64::MAX);
        Self {
            preferred_sizes,
            delay_us: serving.max_queue_delay_us.unwrap_or(automatic_us),
            priority_levels: serving.priority_levels,
            default_priority: serving.default_priority,
        }
    }
}

fn tensor(spec: &TensorSpec, batched: bool) -> TensorConfig {
    let dims = if batched { spec.shape.get(1..).unwrap_or_default() } else { &spec.shape[..] };
    TensorConfig {
        name: spec.name.clone(),
        dtype: spec.dtype,
        dims: dims.to_vec(),
        label_file: String::new(),
        optional: false,
    }
}

impl TensorConfig {
    /// The configuration's name of the element type.
    pub(crate) fn data_type(&self) -> &'static str {
        match self.dtype {
            DataType::Bool => "TYPE_BOOL",
            DataType::U8 => "TYPE_UINT8",
            DataType::U16 => "TYPE_UINT16",
            DataType::U32 => "TYPE_UINT32",
            DataType::U64 => "TYPE_UINT64",
            DataType::I8 => "TYPE_INT8",
            DataType::I16 => "TYPE_INT16",
            DataType::I32 => "TYPE_INT32",
            DataType::I64 => "TYPE_INT64",
            DataType::F16 => "TYPE_FP16",
            DataType::Bf16 => "TYPE_BF16",
            DataType::F32 => "TYPE_FP32",
            DataType::F64 => "TYPE_FP64",
            DataType::Bytes => "TYPE_STRING",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dims_leave_the_batch_out_when_there_is_one() {
        for (shape, batched, want) in [
            (&[-1, 3, 416][..], true, &[3, 416][..]),
            (&[-1, 3, 416], false, &[-1, 3, 416]),
            (&[-1], true, &[]),
            (&[], false, &[]),
            (&[], true, &[]),
        ] {
            let spec =
                TensorSpec { name: "x".to_owned(), dtype: DataType::F32, shape: shape.to_vec(), any_rank: false };
            assert_eq!(tensor(&spec, batched).dims, want, "{shape:?}, batched: {batched}");
        }
    }

    #[test]
    fn every_datatype_has_the_name_that_the_configuration_knows() {
        for dtype in DataType::ALL {
            let spec = TensorSpec { name: String::new(), dtype, shape: Vec::new(), any_rank: false };
            let name = tensor(&spec, false).data_type();
            assert!(proto::inference::DataType::from_str_name(name).is_some(), "{name}");
            if dtype != DataType::Bytes {
                assert_eq!(name.strip_prefix("TYPE_"), Some(dtype.name()));
            }
        }
    }
}
