//! Triton's model configuration in terms of ours: what is honoured, what is passed over and said so, and what is refused
//! because passing over it would change answers.

use std::collections::BTreeMap;

use engine::{Error, Result};
use proto::inference::model_config::SchedulingChoice;
use proto::inference::model_optimization_policy::ModelPriority;
use proto::inference::model_queue_policy::TimeoutAction;
use proto::inference::model_version_policy::PolicyChoice;
use proto::inference::{self as wire, ModelConfig, ModelDynamicBatching, ModelVersionPolicy};

use super::listing::VersionPolicy;
use super::settings::{Declared, Settings};
use super::text;
use crate::manifest::Io;
use crate::serving::LatencyClass;
use crate::torch_script::Declared as Signature;
use crate::{Serving, name};

/// The settings of the model called `model` in the text of its `config.pbtxt`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a text that is no configuration or does not agree with itself,
/// [`Unsupported`](engine::ErrorKind::Unsupported) for a model that this build cannot serve as it is meant.
pub(crate) fn read(model: &str, text: &str) -> Result<Settings> {
    settings(model, text::model_config(text)?)
}

/// The settings in the JSON of a repository API's `config` parameter.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_json(model: &str, json: &str) -> Result<Settings> {
    settings(model, text::model_config_json(json)?)
}

/// What the configuration in `text`, of a model of whatever name, says of inputs and outputs.
///
/// # Errors
/// As [`read`].
pub(crate) fn signature(text: &str) -> Result<Signature> {
    let config = text::model_config(text)?;
    let name = config.name.clone();
    let declared = settings(&name, config)?.declared.unwrap_or_default();
    Ok(Signature { inputs: declared.inputs, outputs: declared.outputs })
}

fn settings(model: &str, config: ModelConfig) -> Result<Settings> {
    if !config.name.is_empty() && config.name != model {
        return Err(Error::invalid(format!(
            "the configuration is of '{}'; its name must be its folder's",
            config.name
        )));
    }
    refuse(&config)?;
    let mut ignored = ignored(&config);
    let max_batch_size = batch_size(&config)?;
    let mut serving = Serving { max_batch_size, ..Serving::default() };
    if let Some(SchedulingChoice::DynamicBatching(batching)) = &config.scheduling_choice {
        schedule(batching, &mut serving, &mut ignored)?;
    }
    serving.latency_class = match config.optimization.as_ref().map(wire::ModelOptimizationPolicy::priority) {
        Some(ModelPriority::PriorityMax) => Some(LatencyClass::Interactive),
        Some(ModelPriority::PriorityMin) => Some(LatencyClass::Background),
        Some(ModelPriority::PriorityDefault) | None => None,
    };
    serving.pin = pin(&config)?;
    let batched = max_batch_size.is_some_and(|size| size > 0);
    let mut label_files = BTreeMap::new();
    for output in config.output.iter().filter(|output| !output.label_filename.is_empty()) {
        name::check(&output.label_filename).map_err(|error| error.context("label_filename"))?;
        label_files.insert(output.name.clone(), output.label_filename.clone());
    }
    let model_file = config.default_model_filename;
    if !model_file.is_empty() {
        name::check(&model_file).map_err(|error| error.context("default_model_filename"))?;
    }
    let inputs = config.input.iter().map(|input| (&input.name, &input.dims, &input.reshape));
    let outputs = config.output.iter().map(|output| (&output.name, &output.dims, &output.reshape));
    let (input_reshapes, output_reshapes) = (reshapes(inputs, batched)?, reshapes(outputs, batched)?);
    let input = |input: wire::ModelInput| tensor(input.data_type(), input.name, &input.dims, batched);
    let output = |output: wire::ModelOutput| tensor(output.data_type(), output.name, &output.dims, batched);
    let declared = Declared {
        max_batch_size,
        inputs: config.input.into_iter().map(input).collect::<Result<_>>()?,
        outputs: config.output.into_iter().map(output).collect::<Result<_>>()?,
        input_reshapes,
        output_reshapes,
        policy: config.version_policy.map(policy).transpose()?.flatten(),
        label_files,
        parameters: config.parameters.into_iter().map(|(key, value)| (key, value.string_value)).collect(),
        model_file,
        is_torch_script: config.platform == LIBTORCH.0 || config.backend == LIBTORCH.1,
    };
    Ok(Settings { serving, declared: Some(declared), class_names: BTreeMap::new(), ignored })
}

/// Triton's platform and backend of TorchScript modules.
const LIBTORCH: (&str, &str) = ("pytorch_libtorch", "pytorch");

/// The one parameter that means something here: whether the model stays in memory.
const PIN: &str = "pin";

fn pin(config: &ModelConfig) -> Result<Option<bool>> {
    let given = config.parameters.get(PIN).map(|value| value.string_value.as_str());
    match given {
        None => Ok(None),
        Some("true") => Ok(Some(true)),
        Some("false") => Ok(Some(false)),
        Some(other) => Err(Error::invalid(format!("its parameter 'pin' is '{other}'; it has to be true or false"))),
    }
}

/// What a server cannot pass over and answer the same.
fn refuse(config: &ModelConfig) -> Result<()> {
    let (platform, backend) = (&config.platform, &config.backend);
    let known =
        [("onnxruntime_onnx", "onnxruntime"), ("tensorflow_savedmodel", "tensorflow"), (LIBTORCH.0, LIBTORCH.1)];
    let ours =
        known.iter().any(|known| ["", known.0].contains(&&platform[..]) && ["", known.1].contains(&&backend[..]));
    let ensemble =
        platform == "ensemble" || matches!(config.scheduling_choice, Some(SchedulingChoice::EnsembleScheduling(_)));
    if ensemble {
        return Err(Error::unsupported(
            "it is an ensemble, and this build serves single models; call its models one by one",
        ));
    }
    if !ours {
        let (field, word) = if backend.is_empty() { ("platform", platform) } else { ("backend", backend) };
        return Err(Error::unsupported(format!(
            "its {field} is '{word}', and this build runs ONNX, SavedModels and TorchScript; export the model as ONNX, put \
             it there as model.onnx and set backend to 'onnxruntime'"
        )));
    }
    let stateful = matches!(config.scheduling_choice, Some(SchedulingChoice::SequenceBatching(_)));
    let decoupled = config.model_transaction_policy.as_ref().is_some_and(|policy| policy.decoupled);
    let agents = config.model_repository_agents.as_ref().is_some_and(|agents| !agents.agents.is_empty());
    let libraries =
        config.model_operations.as_ref().is_some_and(|operations| !operations.op_library_filename.is_empty());
    for (asked, field) in [
        (stateful, "sequence_batching"),
        (decoupled, "model_transaction_policy.decoupled"),
        (config.input.iter().any(|input| input.allow_ragged_batch), "allow_ragged_batch"),
        (config.input.iter().any(|input| input.is_shape_tensor), "is_shape_tensor"),
        (!config.batch_input.is_empty(), "batch_input"),
        (!config.batch_output.is_empty(), "batch_output"),
        (agents, "model_repository_agents"),
        (libraries, "model_operations"),
    ] {
        if asked {
            return Err(Error::unsupported(format!(
                "its configuration asks for {field}, which this build does not do, and answers would differ without it"
            )));
        }
    }
    Ok(())
}

/// What changes how a model is run and not what it answers.
fn ignored(config: &ModelConfig) -> Vec<String> {
    let batching = match &config.scheduling_choice {
        Some(SchedulingChoice::DynamicBatching(batching)) => Some(batching),
        _ => None,
    };
    let optimization = config.optimization.as_ref();
    let caches = config.response_cache.as_ref().is_some_and(|cache| cache.enable);
    [
        (!config.instance_group.is_empty(), "instance_group"),
        (
            optimization.is_some_and(|policy| {
                wire::ModelOptimizationPolicy { priority: 0, ..policy.clone() } != Default::default()
            }),
            "optimization",
        ),
        (!config.model_warmup.is_empty(), "model_warmup"),
        (caches, "response_cache"),
        (!config.cc_model_filenames.is_empty(), "cc_model_filenames"),
        (!config.metric_tags.is_empty(), "metric_tags"),
        (config.model_metrics.is_some(), "model_metrics"),
        (config.parameters.keys().any(|key| key != PIN), "parameters"),
        (!config.runtime.is_empty(), "runtime"),
        (config.input.iter().any(|input| input.optional), "optional"),
        (batching.is_some_and(|batching| batching.preserve_ordering), "preserve_ordering"),
        (batching.is_some_and(|batching| !batching.priority_queue_policy.is_empty()), "priority_queue_policy"),
    ]
    .into_iter()
    .filter(|&(there, _)| there)
    .map(|(_, field)| field.to_owned())
    .collect()
}

/// `None` when a configuration leaves tensors and batches to the file, as one that is filled in by the server does.
fn batch_size(config: &ModelConfig) -> Result<Option<u64>> {
    let size = u64::try_from(config.max_batch_size)
        .map_err(|_| Error::invalid(format!("max_batch_size is {}; it has to be 0 or more", config.max_batch_size)))?;
    let left_open = size == 0 && config.input.is_empty() && config.output.is_empty();
    Ok((!left_open).then_some(size))
}

fn schedule(batching: &ModelDynamicBatching, serving: &mut Serving, ignored: &mut Vec<String>) -> Result<()> {
    let max = serving.max_batch_size.filter(|&size| size > 0);
    for &size in &batching.preferred_batch_size {
        let fits = u64::try_from(size).ok().filter(|&size| size > 0 && max.is_none_or(|max| size <= max));
        let size = fits.ok_or_else(|| {
            Error::invalid(format!("preferred_batch_size {size} is not between 1 and the max_batch_size"))
        })?;
        serving.preferred_batch_sizes.push(size);
    }
    serving.max_queue_delay_us = Some(batching.max_queue_delay_microseconds);
    let level = |level: u64, field: &str| {
        u32::try_from(level).map_err(|_| Error::invalid(format!("{field} is {level}; it has to fit 32 bits")))
    };
    let levels = level(batching.priority_levels, "priority_levels")?;
    let default = level(batching.default_priority_level, "default_priority_level")?;
    if default > levels || (levels > 0 && default == 0) {
        return Err(Error::invalid(format!("default_priority_level is {default} of {levels} priority_levels")));
    }
    serving.priority_levels = (levels > 0).then_some(levels);
    serving.default_priority = (default > 0).then_some(default);
    if let Some(policy) = &batching.default_queue_policy {
        serving.queue_capacity = usize::try_from(policy.max_queue_size).ok().filter(|&size| size > 0);
        let limit_us = policy.default_timeout_microseconds;
        if policy.timeout_action() == TimeoutAction::Delay {
            // A request that is late would go last; it is never refused for it, so there is no limit to set.
            ignored.push("timeout_action DELAY".to_owned());
        } else if limit_us > 0 {
            serving.queue_time_limit_ms = Some(limit_us.div_ceil(1000));
        }
    }
    Ok(())
}

fn policy(policy: ModelVersionPolicy) -> Result<Option<VersionPolicy>> {
    Ok(match policy.policy_choice {
        None => None,
        Some(PolicyChoice::All(_)) => Some(VersionPolicy::All),
        Some(PolicyChoice::Latest(latest)) => Some(VersionPolicy::Latest(latest.num_versions)),
        Some(PolicyChoice::Specific(specific)) => Some(VersionPolicy::Specific(numbers(&specific.versions)?)),
    })
}

/// `versions` as numbers of ours.
pub(super) fn numbers(versions: &[i64]) -> Result<Vec<u64>> {
    let number = |&version: &i64| {
        u64::try_from(version)
            .map_err(|_| Error::invalid(format!("version {version} of the version policy is negative")))
    };
    versions.iter().map(number).collect()
}

fn tensor(kind: wire::DataType, name: String, dims: &[i64], batched: bool) -> Result<Io> {
    if let Some(dim) = dims.iter().find(|&&dim| dim < -1 || dim == 0) {
        return Err(Error::invalid(format!("'{name}' has the dimension {dim}; dimensions are 1 or more, or -1")));
    }
    let datatype = match kind {
        wire::DataType::TypeInvalid => "",
        wire::DataType::TypeString => "BYTES",
        other => other.as_str_name().trim_start_matches("TYPE_"),
    };
    // Without dimensions they are the file's.
    let shape = if dims.is_empty() { Vec::new() } else { with_batch(dims, batched) };
    Ok(Io { name, datatype: datatype.to_owned(), shape, any_rank: false })
}

fn with_batch(dims: &[i64], batched: bool) -> Vec<i64> {
    if batched { [&[-1], dims].concat() } else { dims.to_vec() }
}

/// The model's own shapes of those tensors that clients know in another shape, by name.
fn reshapes<'a>(
    tensors: impl Iterator<Item = (&'a String, &'a Vec<i64>, &'a Option<wire::ModelTensorReshape>)>,
    batched: bool,
) -> Result<BTreeMap<String, Vec<i64>>> {
    let reshaped = tensors.filter_map(|(name, dims, reshape)| Some((name, dims, &reshape.as_ref()?.shape)));
    let one = |(name, dims, shape): (&String, &Vec<i64>, &Vec<i64>)| {
        // As many elements, whatever the dimensions that vary come to.
        let elements = |dims: &[i64]| {
            let varying = dims.iter().filter(|&&dim| dim == -1).count();
            let fixed = dims
                .iter()
                .filter(|&&dim| dim != -1)
                .try_fold(1i64, |product, &dim| (dim > 0).then(|| product.checked_mul(dim)).flatten());
            fixed.map(|fixed| (varying, fixed))
        };
        match (elements(dims), elements(shape)) {
            (Some(outside), Some(inside)) if !dims.is_empty() && outside == inside => {
                Ok((name.clone(), with_batch(shape, batched)))
            }
            _ => Err(Error::invalid(format!(
                "'{name}' has dims {dims:?} and is reshaped to {shape:?}; both need the same number of elements, and as \
                 many dimensions of -1"
            ))),
        }
    };
    reshaped.map(one).collect()
}

#[cfg(test)]
mod tests {
    use engine::ErrorKind;

    use super::*;

    #[test]
    fn what_is_honoured_becomes_ours() {
        let text = r#"
            name: "m" platform: "onnxruntime_onnx" max_batch_size: 16
            input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, -1 ] } ]
            output [ { name: "y" data_type: TYPE_STRING dims: [ 2 ] label_filename: "labels.txt" } ]
            version_policy { specific { versions: [ 1, 3 ] } }
            dynamic_batching {
                preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 100 priority_levels: 3 default_priority_level: 2
                default_queue_policy { max_queue_size: 7 default_timeout_microseconds: 1500 }
            }
            optimization { priority: PRIORITY_MAX }
            instance_group [ { count: 2 kind: KIND_CPU } ]
            parameters { key: "k" value { string_value: "v" } } parameters { key: "pin" value { string_value: "true" } }"#;
        let settings = read("m", text).unwrap();
        let want = Serving {
            max_batch_size: Some(16),
            preferred_batch_sizes: vec![4, 8],
            max_queue_delay_us: Some(100),
            queue_capacity: Some(7),
            queue_time_limit_ms: Some(2),
            default_priority: Some(2),
            priority_levels: Some(3),
            pin: Some(true),
            latency_class: Some(LatencyClass::Interactive),
        };
        assert_eq!(settings.serving, want);
        assert_eq!(settings.ignored, ["instance_group", "parameters"]);
        let declared = settings.declared.unwrap();
        assert_eq!((&declared.inputs[0].shape[..], &declared.outputs[0].datatype[..]), (&[-1, 3, -1][..], "BYTES"));
        assert_eq!(declared.policy, Some(VersionPolicy::Specific(vec![1, 3])));
        assert_eq!((&declared.label_files["y"][..], &declared.parameters["k"][..]), ("labels.txt", "v"));
        let text = r#"
            max_batch_size: 4 input { name: "x" dims: 1 reshape { } } output { name: "y" dims: [ -1, 6 ] reshape { shape: [ 2, -1, 3 ] } }"#;
        let declared = read("m", text).unwrap().declared.unwrap();
        assert_eq!((&declared.inputs[0].shape[..], &declared.input_reshapes["x"][..]), (&[-1, 1][..], &[-1][..]));
        assert_eq!(declared.output_reshapes["y"], [-1, 2, -1, 3]);
        let json = r#"{"max_batch_size": 16, "version_policy": {"latest": {"num_versions": 2}}}"#;
        let declared = read_json("m", json).unwrap().declared.unwrap();
        assert_eq!((declared.max_batch_size, declared.policy), (Some(16), Some(VersionPolicy::Latest(2))));
    }

    #[test]
    fn what_is_left_out_is_left_to_the_file() {
        for (text, want) in [
            ("", None),
            ("dynamic_batching { }", None),
            ("max_batch_size: 4", Some(4)),
            ("input { name: \"x\" }", Some(0)),
        ] {
            assert_eq!(read("m", text).unwrap().serving.max_batch_size, want, "{text}");
        }
        assert_eq!(read("m", "").unwrap().serving.max_queue_delay_us, None);
        assert_eq!(read("m", "dynamic_batching { }").unwrap().serving.max_queue_delay_us, Some(0));
    }

    #[test]
    fn what_would_change_answers_is_refused_by_name() {
        for (text, kind, says) in [
            ("name: \"other\"", ErrorKind::InvalidInput, "'other'"),
            ("platform: \"tensorrt_plan\"", ErrorKind::Unsupported, "tensorrt_plan"),
            ("backend: \"python\"", ErrorKind::Unsupported, "'python'"),
            ("platform: \"pytorch_libtorch\" backend: \"python\"", ErrorKind::Unsupported, "'python'"),
            ("platform: \"ensemble\"", ErrorKind::Unsupported, "ensemble"),
            ("ensemble_scheduling { step [ { model_name: \"a\" } ] }", ErrorKind::Unsupported, "ensemble"),
            (
                "sequence_batching { oldest { max_candidate_sequences: 4 } }",
                ErrorKind::Unsupported,
                "sequence_batching",
            ),
            ("model_transaction_policy { decoupled: true }", ErrorKind::Unsupported, "decoupled"),
            ("input { name: \"x\" reshape { shape: [ 1 ] } }", ErrorKind::InvalidInput, "reshaped to [1]"),
            ("input { name: \"x\" dims: [ 2, 3 ] reshape { shape: 5 } }", ErrorKind::InvalidInput, "reshaped to [5]"),
            ("input { name: \"x\" dims: [ 2, -1 ] reshape { shape: 2 } }", ErrorKind::InvalidInput, "reshaped to [2]"),
            ("output { name: \"y\" dims: 1 reshape { shape: [ -1, 0 ] } }", ErrorKind::InvalidInput, "reshaped to"),
            ("input { name: \"x\" allow_ragged_batch: true }", ErrorKind::Unsupported, "allow_ragged_batch"),
            ("max_batch_size: -1", ErrorKind::InvalidInput, "max_batch_size"),
            ("max_batch_size: 2 dynamic_batching { preferred_batch_size: 4 }", ErrorKind::InvalidInput, "preferred"),
            ("dynamic_batching { default_priority_level: 4 priority_levels: 2 }", ErrorKind::InvalidInput, "priority"),
            ("default_model_filename: \"../m.onnx\"", ErrorKind::InvalidInput, "default_model_filename"),
            ("output { name: \"y\" label_filename: \"/etc/passwd\" }", ErrorKind::InvalidInput, "label_filename"),
            ("input { name: \"x\" dims: 0 }", ErrorKind::InvalidInput, "dimension 0"),
            ("version_policy { specific { versions: -1 } }", ErrorKind::InvalidInput, "version -1"),
        ] {
            let error = read("m", text).unwrap_err();
            assert_eq!(error.kind, kind, "{text}: {error}");
            assert!(error.message.contains(says), "{text}: {error}");
        }
        assert!(read("m", "model_transaction_policy { } response_cache { }").unwrap().ignored.is_empty());
    }
}
