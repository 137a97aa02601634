//! Triton's extensions as messages: model configuration, statistics, repository and shared memory.

use std::collections::HashMap;

use engine::{Error, Result};
use proto::inference::model_config::SchedulingChoice;
use proto::inference::model_instance_group::Kind;
use proto::inference::model_repository_parameter::ParameterChoice;
use proto::inference::model_version_policy::{All, Latest, PolicyChoice, Specific};
use proto::inference::repository_index_response::ModelIndex;
use proto::inference::system_shared_memory_status_response::RegionStatus;
use proto::inference::{
    self as wire, InferBatchStatistics, InferStatistics, ModelDynamicBatching, ModelInput, ModelInstanceGroup,
    ModelOutput, ModelParameter, ModelRepositoryParameter, ModelResponseCache, ModelTransactionPolicy,
    ModelVersionPolicy, StatisticDuration,
};
use store::repository::VersionPolicy;

use crate::triton::{self, ModelConfig, ModelStatistics, Parameter, Region, TensorConfig};
use crate::{BatchStatistics, IndexEntry, Spent};

/// The message for `config`.
///
/// # Errors
/// [`Internal`](engine::ErrorKind::Internal) when a number passes the message's 32 bits.
pub(super) fn model_config(config: ModelConfig) -> Result<wire::ModelConfig> {
    let input = |tensor: TensorConfig| ModelInput {
        data_type: data_type(&tensor),
        name: tensor.name,
        dims: tensor.dims,
        optional: tensor.optional,
        ..ModelInput::default()
    };
    let output = |tensor: TensorConfig| ModelOutput {
        data_type: data_type(&tensor),
        name: tensor.name,
        dims: tensor.dims,
        label_filename: tensor.label_file,
        ..ModelOutput::default()
    };
    let batching = config.batching.map(dynamic_batching).transpose()?.map(SchedulingChoice::DynamicBatching);
    let parameter = |(key, string_value): (String, String)| (key, ModelParameter { string_value });
    let lanes = ModelInstanceGroup {
        name: config.name.clone(),
        count: small(config.lanes as u64)?,
        kind: Kind::Cpu.into(),
        ..ModelInstanceGroup::default()
    };
    Ok(wire::ModelConfig {
        platform: config.platform.to_owned(),
        backend: config.backend.to_owned(),
        version_policy: Some(policy(&config.policy)),
        max_batch_size: small(config.max_batch_size)?,
        input: config.inputs.into_iter().map(input).collect(),
        output: config.outputs.into_iter().map(output).collect(),
        instance_group: vec![lanes],
        default_model_filename: config.model_file,
        scheduling_choice: batching,
        parameters: config.parameters.into_iter().map(parameter).collect(),
        model_transaction_policy: Some(ModelTransactionPolicy { decoupled: false }),
        response_cache: Some(ModelResponseCache { enable: false }),
        name: config.name,
        ..wire::ModelConfig::default()
    })
}

fn policy(policy: &VersionPolicy) -> ModelVersionPolicy {
    let choice = match policy {
        VersionPolicy::Latest(count) => PolicyChoice::Latest(Latest { num_versions: (*count).max(1) }),
        VersionPolicy::All => PolicyChoice::All(All {}),
        VersionPolicy::Specific(versions) => {
            let versions = versions.iter().filter_map(|&version| i64::try_from(version).ok()).collect();
            PolicyChoice::Specific(Specific { versions })
        }
    };
    ModelVersionPolicy { policy_choice: Some(choice) }
}

fn dynamic_batching(batching: triton::Batching) -> Result<ModelDynamicBatching> {
    Ok(ModelDynamicBatching {
        preferred_batch_size: batching.preferred_sizes.into_iter().map(small).collect::<Result<_>>()?,
        max_queue_delay_microseconds: batching.delay_us,
        priority_levels: batching.priority_levels.unwrap_or_default().into(),
        default_priority_level: batching.default_priority.unwrap_or_default().into(),
        ..ModelDynamicBatching::default()
    })
}

fn data_type(tensor: &TensorConfig) -> i32 {
    wire::DataType::from_str_name(tensor.data_type()).unwrap_or_default().into()
}

fn small(number: u64) -> Result<i32> {
    i32::try_from(number).map_err(|_| Error::internal(format!("{number} does not fit a configuration's 32 bits")))
}

/// The message for `model`.
pub(super) fn model_statistics(model: ModelStatistics) -> wire::ModelStatistics {
    let statistics = model.statistics;
    wire::ModelStatistics {
        name: model.name,
        version: model.version.to_string(),
        last_inference: statistics.last_inference_ms,
        inference_count: statistics.inference_count,
        execution_count: statistics.execution_count,
        inference_stats: Some(InferStatistics {
            success: duration(statistics.success),
            fail: duration(statistics.fail),
            queue: duration(statistics.queue),
            compute_input: duration(statistics.compute_input),
            compute_infer: duration(statistics.compute_infer),
            compute_output: duration(statistics.compute_output),
            cache_hit: duration(Spent::default()),
            cache_miss: duration(Spent::default()),
        }),
        batch_stats: statistics.batches.into_iter().map(batch_statistics).collect(),
        memory_usage: (model.memory_bytes > 0)
            .then(|| wire::MemoryUsage { r#type: "CPU".to_owned(), id: 0, byte_size: model.memory_bytes })
            .into_iter()
            .collect(),
        response_stats: HashMap::new(),
    }
}

fn batch_statistics(batch: BatchStatistics) -> InferBatchStatistics {
    InferBatchStatistics {
        batch_size: batch.batch_size,
        compute_input: duration(batch.compute_input),
        compute_infer: duration(batch.compute_infer),
        compute_output: duration(batch.compute_output),
    }
}

/// Always there: a client adds up what it finds without asking whether it is there.
#[expect(clippy::unnecessary_wraps, reason = "the message's fields are optional, as all messages in messages are")]
fn duration(Spent { count, ns }: Spent) -> Option<StatisticDuration> {
    Some(StatisticDuration { count, ns })
}

/// The message for a line of the index.
pub(super) fn index_entry(entry: IndexEntry) -> ModelIndex {
    ModelIndex {
        state: triton::state_name(entry.state).to_owned(),
        name: entry.name,
        version: entry.version.map(|version| version.to_string()).unwrap_or_default(),
        reason: entry.reason,
    }
}

/// The model that a repository call means: KServe's clients put its name where Triton's put the repository's.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when neither field names one.
pub(super) fn repository_model(repository_name: String, model_name: String) -> Result<String> {
    let name = if model_name.is_empty() { repository_name } else { model_name };
    if name.is_empty() {
        return Err(Error::invalid("model_name is empty; name the model"));
    }
    Ok(name)
}

/// The value of a repository call's parameter.
pub(super) fn given(parameter: &ModelRepositoryParameter) -> Parameter<'_> {
    match &parameter.parameter_choice {
        Some(ParameterChoice::StringParam(text)) => Parameter::Text(text),
        Some(ParameterChoice::BytesParam(bytes)) => {
            std::str::from_utf8(bytes).map_or(Parameter::Other, Parameter::Text)
        }
        Some(ParameterChoice::BoolParam(truth)) => Parameter::Truth(*truth),
        Some(ParameterChoice::Int64Param(_)) | None => Parameter::Other,
    }
}

/// The message for a region.
pub(super) fn region(region: Region) -> RegionStatus {
    RegionStatus { name: region.name, key: region.key, offset: region.offset, byte_size: region.bytes }
}

#[cfg(test)]
mod tests {
    use engine::DataType;

    use super::*;
    use crate::Statistics;

    #[test]
    fn a_configuration_keeps_its_numbers() {
        let tensor = |name: &str, dtype, dims: &[i64]| TensorConfig {
            name: name.to_owned(),
            dtype,
            dims: dims.into(),
            label_file: String::new(),
            optional: name == "x",
        };
        let config = ModelConfig {
            name: "m".to_owned(),
            platform: "onnxruntime_onnx",
            backend: "onnxruntime",
            max_batch_size: 8,
            batching: Some(triton::Batching {
                preferred_sizes: vec![4],
                delay_us: 900,
                priority_levels: Some(2),
                default_priority: Some(1),
            }),
            inputs: vec![tensor("x", DataType::F16, &[-1])],
            outputs: vec![tensor("y", DataType::Bytes, &[])],
            policy: VersionPolicy::Latest(3),
            lanes: 2,
            model_file: String::new(),
            parameters: [("k".to_owned(), "v".to_owned())].into(),
        };
        let message = model_config(config.clone()).unwrap();
        assert_eq!(message.input[0].data_type(), wire::DataType::TypeFp16);
        assert!(message.input[0].optional);
        assert_eq!(message.output[0].data_type(), wire::DataType::TypeString);
        assert_eq!((message.max_batch_size, message.instance_group[0].count), (8, 2));
        let batching = ModelDynamicBatching {
            preferred_batch_size: vec![4],
            max_queue_delay_microseconds: 900,
            priority_levels: 2,
            default_priority_level: 1,
            ..ModelDynamicBatching::default()
        };
        assert_eq!(message.scheduling_choice, Some(SchedulingChoice::DynamicBatching(batching)));
        assert_eq!(message.parameters["k"].string_value, "v");

        let unbatched = ModelConfig { batching: None, ..config.clone() };
        assert_eq!(model_config(unbatched).unwrap().scheduling_choice, None);
        assert!(model_config(ModelConfig { max_batch_size: 1 << 40, ..config }).is_err());
    }

    #[test]
    fn no_duration_is_left_out() {
        let batches = vec![BatchStatistics { batch_size: 2, ..BatchStatistics::default() }];
        let statistics = Statistics { batches, success: Spent { count: 1, ns: 9 }, ..Statistics::default() };
        let model = ModelStatistics { name: "m".to_owned(), version: 7, statistics, memory_bytes: 5 };
        let message = model_statistics(model);
        let zero = Some(StatisticDuration::default());
        let inference = message.inference_stats.unwrap();
        assert_eq!(inference.success, Some(StatisticDuration { count: 1, ns: 9 }));
        assert_eq!((inference.fail, inference.cache_hit, inference.cache_miss), (zero, zero, zero));
        assert_eq!(message.batch_stats[0].compute_output, zero);
        assert_eq!((message.memory_usage.len(), message.memory_usage[0].byte_size), (1, 5));
    }

    #[test]
    fn the_model_of_a_repository_call() {
        for (repository, model, want) in
            [("", "m", Some("m")), ("r", "m", Some("m")), ("m", "", Some("m")), ("", "", None)]
        {
            let got = repository_model(repository.to_owned(), model.to_owned()).ok();
            assert_eq!(got.as_deref(), want, "'{repository}' '{model}'");
        }
    }
}
