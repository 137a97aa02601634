//! Triton's extensions over HTTP: model configuration, statistics, repository and shared memory, as JSON.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use bytes::Bytes;
use engine::{Error, Result};
use http::{Response, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use store::repository::VersionPolicy;

use super::body::{self, Parts};
use super::router::Target;
use crate::people::Face;
use crate::triton::{self, LogValue, ModelConfig, Parameter, Region, SharedMemory, TensorConfig};
use crate::{LoadOptions, Management, Residency, Scheduler, Spent, Statistics};

/// `GET .../config`
pub(super) fn config(scheduler: &Scheduler, target: &Target) -> Result<Response<Parts>> {
    let face = Face::of(scheduler.residency(), &target.name, target.version)?;
    Ok(body::json(StatusCode::OK, &config_json(&ModelConfig::of(scheduler, &face))))
}

fn config_json(config: &ModelConfig) -> Value {
    let inputs = config.inputs.iter().map(|tensor| {
        json!({
            "name": tensor.name, "data_type": tensor.data_type(), "format": "FORMAT_NONE", "dims": tensor.dims,
            "is_shape_tensor": false, "allow_ragged_batch": false, "optional": tensor.optional,
        })
    });
    let output = |tensor: &TensorConfig| {
        json!({
            "name": tensor.name, "data_type": tensor.data_type(), "dims": tensor.dims,
            "label_filename": tensor.label_file, "is_shape_tensor": false,
        })
    };
    let parameter = |(key, value): (&String, &String)| (key.clone(), json!({ "string_value": value }));
    let mut told = json!({
        "name": config.name,
        "platform": config.platform,
        "backend": config.backend,
        "version_policy": policy(&config.policy),
        "max_batch_size": config.max_batch_size,
        "input": inputs.collect::<Vec<_>>(),
        "output": config.outputs.iter().map(output).collect::<Vec<_>>(),
        "instance_group": [{ "name": config.name, "kind": "KIND_CPU", "count": config.lanes }],
        "default_model_filename": config.model_file,
        "parameters": config.parameters.iter().map(parameter).collect::<BTreeMap<_, _>>(),
        "model_transaction_policy": { "decoupled": false },
        "response_cache": { "enable": false },
    });
    // Clients read the mere presence of the key as "requests are put together".
    if let Some(batching) = &config.batching {
        let mut batches = json!({
            "preferred_batch_size": batching.preferred_sizes,
            "max_queue_delay_microseconds": batching.delay_us,
        });
        let priorities =
            [("priority_levels", batching.priority_levels), ("default_priority_level", batching.default_priority)];
        for (name, number) in priorities.into_iter().filter_map(|(name, number)| Some((name, number?))) {
            batches[name] = json!(number);
        }
        told["dynamic_batching"] = batches;
    }
    told
}

fn policy(policy: &VersionPolicy) -> Value {
    match policy {
        VersionPolicy::Latest(count) => json!({ "latest": { "num_versions": (*count).max(1) } }),
        VersionPolicy::All => json!({ "all": {} }),
        VersionPolicy::Specific(versions) => json!({ "specific": { "versions": versions } }),
    }
}

#[derive(Serialize)]
struct ModelStatistics<'a> {
    name: &'a str,
    version: String,
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: InferStatistics,
    /// Of models that give several responses; none here does.
    response_stats: BTreeMap<String, IgnoredNothing>,
    batch_stats: Vec<BatchStatistics>,
    /// Empty for a model that has nothing in memory of its own.
    memory_usage: Vec<MemoryUsage>,
}

#[derive(Serialize)]
struct MemoryUsage {
    r#type: &'static str,
    id: i64,
    byte_size: u64,
}

/// Has no values: the list that it is in stays empty.
#[derive(Serialize)]
enum IgnoredNothing {}

#[derive(Serialize)]
struct InferStatistics {
    success: Duration,
    fail: Duration,
    queue: Duration,
    compute_input: Duration,
    compute_infer: Duration,
    compute_output: Duration,
    cache_hit: Duration,
    cache_miss: Duration,
}

#[derive(Serialize)]
struct BatchStatistics {
    batch_size: u64,
    compute_input: Duration,
    compute_infer: Duration,
    compute_output: Duration,
}

#[derive(Serialize)]
struct Duration {
    count: u64,
    ns: u64,
}

impl From<Spent> for Duration {
    fn from(Spent { count, ns }: Spent) -> Self {
        Self { count, ns }
    }
}

impl From<&Statistics> for InferStatistics {
    fn from(statistics: &Statistics) -> Self {
        let none = Spent::default();
        Self {
            success: statistics.success.into(),
            fail: statistics.fail.into(),
            queue: statistics.queue.into(),
            compute_input: statistics.compute_input.into(),
            compute_infer: statistics.compute_infer.into(),
            compute_output: statistics.compute_output.into(),
            cache_hit: none.into(),
            cache_miss: none.into(),
        }
    }
}

/// `GET .../stats`; without a target of all models.
pub(super) fn statistics(scheduler: &Scheduler, target: Option<&Target>) -> Result<Response<Parts>> {
    let (name, version) = target.map_or((None, None), |target| (Some(target.name.as_str()), target.version));
    let models = triton::statistics(scheduler, name, version)?;
    let told: Vec<_> = models.iter().map(model_statistics).collect();
    Ok(body::json(StatusCode::OK, &BTreeMap::from([("model_stats", told)])))
}

fn model_statistics(model: &triton::ModelStatistics) -> ModelStatistics<'_> {
    let statistics = &model.statistics;
    let batch = |batch: &crate::BatchStatistics| BatchStatistics {
        batch_size: batch.batch_size,
        compute_input: batch.compute_input.into(),
        compute_infer: batch.compute_infer.into(),
        compute_output: batch.compute_output.into(),
    };
    ModelStatistics {
        name: &model.name,
        version: model.version.to_string(),
        last_inference: statistics.last_inference_ms,
        inference_count: statistics.inference_count,
        execution_count: statistics.execution_count,
        inference_stats: statistics.into(),
        response_stats: BTreeMap::new(),
        batch_stats: statistics.batches.iter().map(batch).collect(),
        memory_usage: (model.memory_bytes > 0)
            .then_some(MemoryUsage { r#type: "CPU", id: 0, byte_size: model.memory_bytes })
            .into_iter()
            .collect(),
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct IndexCall {
    ready: bool,
}

#[derive(Serialize)]
struct IndexLine {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    state: &'static str,
    reason: String,
}

/// `POST /v2/repository/index`
pub(super) fn index(scheduler: &Scheduler, body: &[u8]) -> Result<Response<Parts>> {
    let IndexCall { ready } = call(body)?;
    let line = |entry: crate::IndexEntry| IndexLine {
        state: triton::state_name(entry.state),
        name: entry.name,
        version: entry.version.map(|version| version.to_string()),
        reason: entry.reason,
    };
    let lines: Vec<_> = triton::index(scheduler, ready).into_iter().map(line).collect();
    Ok(body::json(StatusCode::OK, &lines))
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ChangeCall {
    parameters: Option<BTreeMap<String, Value>>,
}

/// `GET` and `POST /v2/logging`: every setting, after those in `body` were changed.
pub(super) fn log_settings(management: Option<&Management>, body: &[u8]) -> Result<Response<Parts>> {
    let log = Management::log(management)?;
    let changes: BTreeMap<String, Value> = call(body)?;
    let value = |(name, value): (String, Value)| match value {
        Value::Bool(on) => Ok((name, LogValue::Switch(on))),
        Value::String(text) => Ok((name, LogValue::Name(text))),
        other => match other.as_u64().and_then(|level| u32::try_from(level).ok()) {
            Some(level) => Ok((name, LogValue::Level(level))),
            None => Err(Error::invalid(format!("{name} is {other}, which no setting of the log can be"))),
        },
    };
    let changes = changes.into_iter().map(value).collect::<Result<Vec<_>>>()?;
    let told = triton::log_settings(log, changes)?.map(|(name, value)| {
        let value = match value {
            LogValue::Switch(on) => Value::from(on),
            LogValue::Level(level) => Value::from(level),
            LogValue::Name(text) => Value::from(text),
        };
        (name, value)
    });
    Ok(body::json(StatusCode::OK, &BTreeMap::from(told)))
}

/// Which way a model goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Load,
    Unload,
}

/// `POST /v2/repository/models/{model}/load` and `.../unload`; answered when it is done.
pub(super) async fn change(
    scheduler: &Arc<Scheduler>,
    name: String,
    change: Change,
    body: &[u8],
) -> Result<Response<Parts>> {
    let ChangeCall { parameters } = call(body)?;
    let parameters = parameters.unwrap_or_default();
    let given = |value| match value {
        &Value::Bool(truth) => Parameter::Truth(truth),
        Value::String(text) => Parameter::Text(text),
        _ => Parameter::Other,
    };
    let options = match change {
        Change::Load => triton::load_options(parameters.iter().map(|(name, value)| (name.as_str(), given(value))))?,
        Change::Unload => LoadOptions::default(),
    };
    let change = move |residency: &Residency| match change {
        Change::Load => residency.load_named(&name, &options),
        Change::Unload => residency.unload_named(&name),
    };
    scheduler.change(change).await?;
    Ok(empty())
}

#[derive(Deserialize)]
struct RegisterCall {
    key: String,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

#[derive(Serialize)]
struct RegionLine {
    name: String,
    key: String,
    offset: u64,
    byte_size: u64,
}

/// `GET /v2/systemsharedmemory[/region/{region}]/status`
pub(super) fn memory_status(memory: Option<&SharedMemory>, name: Option<&str>) -> Result<Response<Parts>> {
    let line = |region: Region| RegionLine {
        name: region.name,
        key: region.key,
        offset: region.offset,
        byte_size: region.bytes,
    };
    let lines: Vec<_> = SharedMemory::of(memory)?.status(name)?.into_iter().map(line).collect();
    Ok(body::json(StatusCode::OK, &lines))
}

/// `POST /v2/systemsharedmemory/region/{region}/register`
pub(super) fn memory_register(memory: Option<&SharedMemory>, name: String, body: &[u8]) -> Result<Response<Parts>> {
    let memory = SharedMemory::of(memory)?;
    let RegisterCall { key, offset, byte_size } = parse(body)?;
    memory.register(Region { name, key, offset, bytes: byte_size })?;
    Ok(empty())
}

/// `POST /v2/systemsharedmemory[/region/{region}]/unregister`
pub(super) fn memory_unregister(memory: Option<&SharedMemory>, name: Option<&str>) -> Result<Response<Parts>> {
    SharedMemory::of(memory)?.unregister(name);
    Ok(empty())
}

/// The call in `body`, where nothing stands for an empty one.
fn call<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T> {
    if body.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { parse(body) }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    let wrong = |why: &dyn Display| Error::invalid(format!("the request's JSON is not what it must be: {why}"));
    // A list would be read as the fields in their order.
    if body.trim_ascii_start().first().is_some_and(|&first| first != b'{') {
        return Err(wrong(&"it is no object"));
    }
    serde_json::from_slice(body).map_err(|error| wrong(&error))
}

/// Done, and nothing to say about it.
fn empty() -> Response<Parts> {
    body::response(StatusCode::OK, "application/json", Bytes::new())
}

#[cfg(test)]
mod tests {
    use engine::DataType;

    use super::*;
    use crate::BatchStatistics;

    #[test]
    fn a_configuration_as_clients_read_it() {
        let tensor = |name: &str, dtype, dims: &[i64]| TensorConfig {
            name: name.to_owned(),
            dtype,
            dims: dims.into(),
            label_file: String::new(),
            optional: false,
        };
        let mut config = ModelConfig {
            name: "m".to_owned(),
            platform: "onnxruntime_onnx",
            backend: "onnxruntime",
            max_batch_size: 8,
            batching: Some(triton::Batching {
                preferred_sizes: vec![2, 8],
                delay_us: 700,
                priority_levels: Some(3),
                default_priority: None,
            }),
            inputs: vec![tensor("x", DataType::F32, &[3, -1])],
            outputs: vec![tensor("y", DataType::Bytes, &[])],
            policy: VersionPolicy::Specific(vec![1, 12]),
            lanes: 2,
            model_file: String::new(),
            parameters: [("k".to_owned(), "v".to_owned())].into(),
        };
        let told = config_json(&config);
        for (pointer, want) in [
            ("/version_policy/specific/versions", json!([1, 12])),
            ("/max_batch_size", json!(8)),
            ("/input/0/data_type", json!("TYPE_FP32")),
            ("/input/0/dims", json!([3, -1])),
            ("/output/0/data_type", json!("TYPE_STRING")),
            ("/output/0/dims", json!([])),
            ("/instance_group/0/kind", json!("KIND_CPU")),
            ("/instance_group/0/count", json!(2)),
            ("/dynamic_batching/preferred_batch_size", json!([2, 8])),
            ("/dynamic_batching/max_queue_delay_microseconds", json!(700)),
            ("/dynamic_batching/priority_levels", json!(3)),
            ("/parameters/k/string_value", json!("v")),
            ("/model_transaction_policy/decoupled", json!(false)),
        ] {
            assert_eq!(told.pointer(pointer), Some(&want), "{pointer}");
        }
        assert_eq!(told.pointer("/dynamic_batching/default_priority_level"), None);
        config.batching = None;
        assert_eq!(config_json(&config).get("dynamic_batching"), None);
    }

    #[test]
    fn statistics_hold_every_field_that_clients_want() {
        let spent = |count, ns| Spent { count, ns };
        let statistics = Statistics {
            last_inference_ms: 5,
            inference_count: 6,
            execution_count: 2,
            success: spent(3, 30),
            batches: vec![BatchStatistics { batch_size: 3, compute_infer: spent(2, 20), ..BatchStatistics::default() }],
            ..Statistics::default()
        };
        let mut model = triton::ModelStatistics { name: "m".to_owned(), version: 7, statistics, memory_bytes: 0 };
        let told = serde_json::to_value(model_statistics(&model)).unwrap();
        assert_eq!(
            (&told["version"], &told["last_inference"], &told["inference_count"]),
            (&json!("7"), &json!(5), &json!(6))
        );
        assert_eq!((&told["response_stats"], &told["memory_usage"]), (&json!({}), &json!([])));
        model.memory_bytes = 5;
        let memory = serde_json::to_value(model_statistics(&model)).unwrap()["memory_usage"].take();
        assert_eq!(memory, json!([{ "type": "CPU", "id": 0, "byte_size": 5 }]));
        for part in
            ["success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss"]
        {
            let want = if part == "success" { json!({ "count": 3, "ns": 30 }) } else { json!({ "count": 0, "ns": 0 }) };
            assert_eq!(told["inference_stats"][part], want, "{part}");
        }
        let batch = &told["batch_stats"][0];
        assert_eq!((&batch["batch_size"], &batch["compute_infer"]["ns"]), (&json!(3), &json!(20)));
        assert_eq!(batch["compute_output"], json!({ "count": 0, "ns": 0 }));
    }

    #[test]
    fn calls_may_be_empty_but_not_wrong() {
        for (body, ready) in [
            ("", Some(false)),
            (" \n", Some(false)),
            ("{}", Some(false)),
            (r#"{"ready":true}"#, Some(true)),
            ("[]", None),
            ("{", None),
            (r#"{"ready":1}"#, None),
        ] {
            assert_eq!(call::<IndexCall>(body.as_bytes()).ok().map(|call| call.ready), ready, "{body}");
        }
        assert!(parse::<RegisterCall>(b"").is_err());
        assert!(parse::<RegisterCall>(br#"{"key":"k","byte_size":-1}"#).is_err());
        assert_eq!(parse::<RegisterCall>(br#"{"key":"k","byte_size":1}"#).unwrap().offset, 0);
    }
}
