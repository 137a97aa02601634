//! TensorFlow Serving's gRPC services on the scheduler.
//!
//! Nothing is decided here: a call is converted, handed to the scheduler, and its answer converted back.

mod examples;
mod reload;
mod spec;
pub(super) mod tensor;

use std::sync::Arc;
use std::time::Instant;

use engine::{Error, Result, Tensor};
use proto::tensorflow::serving::inference_result;
use proto::tensorflow::serving::model_service_server::{ModelService, ModelServiceServer};
use proto::tensorflow::serving::prediction_service_server::{PredictionService, PredictionServiceServer};
use proto::tensorflow::serving::{
    ClassificationRequest, ClassificationResponse, GetModelMetadataRequest, GetModelMetadataResponse,
    GetModelStatusRequest, GetModelStatusResponse, InferenceResult, InferenceTask, Input, MultiInferenceRequest,
    MultiInferenceResponse, PredictRequest, PredictResponse, RegressionRequest, RegressionResponse,
    ReloadConfigRequest, ReloadConfigResponse,
};
use tonic::codec::CompressionEncoding;
use tonic::{Request, Response, Status};

use super::GrpcLimits;
use super::status::status;
use crate::tfs::{Terms, alias, classify, regress, resolve, tensors};
use crate::{InferRequest, Management, Model, Scheduler};
use spec::Target;

/// TensorFlow Serving's names for what a task of several wants.
const CLASSIFY_METHOD: &str = "tensorflow/serving/classify";
const REGRESS_METHOD: &str = "tensorflow/serving/regress";

/// What a call gives back.
type Answer<T> = std::result::Result<Response<T>, Status>;

/// TensorFlow Serving's two services, for the same listener as the Open Inference Protocol's.
pub(crate) fn services(
    scheduler: Arc<Scheduler>,
    limits: &GrpcLimits,
) -> (PredictionServiceServer<Prediction>, ModelServiceServer<Models>) {
    let bytes_max = limits.message_bytes_max;
    let models = Models { scheduler: Arc::clone(&scheduler), management: limits.management.clone() };
    // An answer's memory is spent by the time its size is known, so only requests are limited.
    let prediction = PredictionServiceServer::new(Prediction { scheduler, bytes_max })
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Deflate)
        .max_decoding_message_size(bytes_max)
        .max_encoding_message_size(usize::MAX);
    (prediction, ModelServiceServer::new(models).max_decoding_message_size(bytes_max))
}

/// Inference.
pub(crate) struct Prediction {
    scheduler: Arc<Scheduler>,
    /// The largest tensor that a request may ask for, in bytes: a few bytes of a message can stand for many.
    bytes_max: usize,
}

/// What a model made of its inputs.
struct Outcome {
    model: Arc<Model>,
    /// By the model's own names, in the order they were asked for.
    outputs: Vec<(String, Tensor)>,
}

impl Outcome {
    fn spec(&self) -> proto::tensorflow::serving::ModelSpec {
        let manifest = self.model.manifest();
        spec::answered(manifest.name.clone(), manifest.version)
    }
}

/// Examples through a model.
struct Examined {
    outcome: Outcome,
    count: usize,
    /// By alias.
    outputs: Vec<(String, Tensor)>,
}

impl Examined {
    fn classes(&self) -> Result<proto::tensorflow::serving::ClassificationResult> {
        let labels = &self.outcome.model.manifest().labels;
        classify(&self.outputs, labels, self.count).map(examples::classes)
    }

    fn numbers(&self) -> Result<proto::tensorflow::serving::RegressionResult> {
        regress(&self.outputs, self.count).map(examples::numbers)
    }
}

impl Prediction {
    async fn predict(&self, request: PredictRequest, terms: Terms) -> Result<PredictResponse> {
        let PredictRequest { model_spec, inputs, output_filter } = request;
        let prepare = || {
            let target = spec::target(self.scheduler.residency(), model_spec)?;
            let model = self.scheduler.residency().model(&target.name, target.version)?;
            let signature = model.signature();
            let mut named = Vec::with_capacity(inputs.len());
            for (name, message) in inputs {
                let own = resolve(&signature.inputs, "input", &name)?.name.clone();
                let tensor = tensor::decode(message, self.bytes_max)
                    .map_err(|error| error.context(format_args!("input '{name}'")))?;
                named.push((own, tensor));
            }
            let own = |name: &String| resolve(&signature.outputs, "output", name).map(|spec| spec.name.clone());
            let wanted: Vec<String> = output_filter.iter().map(own).collect::<Result<_>>()?;
            let mut seen = std::collections::HashSet::new();
            if let Some(twice) = wanted.iter().find(|name| !seen.insert(*name)) {
                return Err(Error::invalid(format!("output_filter names '{twice}' twice")));
            }
            Ok((target, model, terms.with_inputs(&named)?, named, wanted))
        };
        let (target, model, terms, inputs, wanted) = self.counted(prepare())?;
        let outcome = self.infer(target, model, inputs, wanted, terms).await?;
        let specs = &outcome.model.signature().outputs;
        // An output goes by the name that it was asked for with.
        let named = outcome.outputs.iter().enumerate().map(|(index, (name, tensor))| {
            let name = output_filter.get(index).map_or_else(|| alias(specs, name), String::as_str);
            Ok((name.to_owned(), tensor::encode(tensor)?))
        });
        Ok(PredictResponse { outputs: named.collect::<Result<_>>()?, model_spec: Some(outcome.spec()) })
    }

    /// The model that `target` names on the examples of `input`.
    async fn examine(&self, target: Result<Target>, input: Option<Input>, terms: Terms) -> Result<Examined> {
        let prepare = || {
            let target = target?;
            let model = self.scheduler.residency().model(&target.name, target.version)?;
            let examples = examples::decode(input)?;
            let inputs = tensors(model.signature(), &examples)?;
            Ok((target, model, terms.with_inputs(&inputs)?, examples.len(), inputs))
        };
        let (target, model, terms, count, inputs) = self.counted(prepare())?;
        let outcome = self.infer(target, model, inputs, Vec::new(), terms).await?;
        let specs = &outcome.model.signature().outputs;
        let by_alias = |(name, tensor): &(String, Tensor)| (alias(specs, name).to_owned(), tensor.clone());
        let outputs = outcome.outputs.iter().map(by_alias).collect();
        Ok(Examined { outcome, count, outputs })
    }

    async fn infer(
        &self,
        target: Target,
        model: Arc<Model>,
        inputs: Vec<(String, Tensor)>,
        outputs: Vec<String>,
        terms: Terms,
    ) -> Result<Outcome> {
        let Target { name, version } = target;
        let Terms { deadline, origin } = terms;
        let request = InferRequest { model: name, version, inputs, outputs, priority: 0, deadline, origin };
        let answer = self.scheduler.infer(request).await?;
        Ok(Outcome { model, outputs: answer.outputs })
    }

    /// All tasks are of one model, which therefore runs once.
    async fn several(
        &self,
        tasks: Vec<InferenceTask>,
        input: Option<Input>,
        terms: Terms,
    ) -> Result<MultiInferenceResponse> {
        let methods: Vec<String> = tasks.iter().map(|task| task.method_name.clone()).collect();
        let mut targets = tasks.into_iter().map(|task| spec::target(self.scheduler.residency(), task.model_spec));
        let first = targets.next().unwrap_or_else(|| Err(Error::invalid("the request has no tasks")));
        let target = first.and_then(|first| {
            if targets.all(|other| other.as_ref() == Ok(&first)) {
                return Ok(first);
            }
            Err(Error::invalid("the tasks are not all of one model and version; send them one by one"))
        });
        let examined = self.examine(target, input, terms).await?;
        let results = methods.iter().map(|method| {
            let result = match method.as_str() {
                CLASSIFY_METHOD => inference_result::Result::ClassificationResult(examined.classes()?),
                REGRESS_METHOD => inference_result::Result::RegressionResult(examined.numbers()?),
                other => {
                    return Err(Error::unsupported(format!(
                        "method_name '{other}' is not served; use '{CLASSIFY_METHOD}' or '{REGRESS_METHOD}'"
                    )));
                }
            };
            Ok(InferenceResult { model_spec: Some(examined.outcome.spec()), result: Some(result) })
        });
        Ok(MultiInferenceResponse { results: results.collect::<Result<_>>()? })
    }

    /// A request that could not be read is a refusal like any other.
    fn counted<T>(&self, prepared: Result<T>) -> Result<T> {
        prepared.inspect_err(|error| self.scheduler.metrics().refused(error.kind))
    }
}

/// The message of `request` and its terms.
fn opened<T>(request: Request<T>) -> Result<(T, Terms)> {
    let deadline = super::deadline(request.metadata(), Instant::now())?;
    let origin = super::origin(&request);
    Ok((request.into_inner(), Terms { deadline, origin }))
}

#[tonic::async_trait]
impl PredictionService for Prediction {
    async fn classify(&self, request: Request<ClassificationRequest>) -> Answer<ClassificationResponse> {
        let (ClassificationRequest { model_spec, input }, terms) = opened(request).map_err(status)?;
        let examined =
            self.examine(spec::target(self.scheduler.residency(), model_spec), input, terms).await.map_err(status)?;
        let result = Some(examined.classes().map_err(status)?);
        Ok(Response::new(ClassificationResponse { model_spec: Some(examined.outcome.spec()), result }))
    }

    async fn regress(&self, request: Request<RegressionRequest>) -> Answer<RegressionResponse> {
        let (RegressionRequest { model_spec, input }, terms) = opened(request).map_err(status)?;
        let examined =
            self.examine(spec::target(self.scheduler.residency(), model_spec), input, terms).await.map_err(status)?;
        let result = Some(examined.numbers().map_err(status)?);
        Ok(Response::new(RegressionResponse { model_spec: Some(examined.outcome.spec()), result }))
    }

    async fn predict(&self, request: Request<PredictRequest>) -> Answer<PredictResponse> {
        let (request, terms) = opened(request).map_err(status)?;
        self.predict(request, terms).await.map(Response::new).map_err(status)
    }

    async fn multi_inference(&self, request: Request<MultiInferenceRequest>) -> Answer<MultiInferenceResponse> {
        let (MultiInferenceRequest { tasks, input }, terms) = opened(request).map_err(status)?;
        self.several(tasks, input, terms).await.map(Response::new).map_err(status)
    }

    async fn get_model_metadata(&self, request: Request<GetModelMetadataRequest>) -> Answer<GetModelMetadataResponse> {
        spec::metadata(&self.scheduler, request.into_inner()).map(Response::new).map_err(status)
    }
}

/// States of models and the list of them.
pub(crate) struct Models {
    scheduler: Arc<Scheduler>,
    /// As [`GrpcLimits::management`].
    management: Option<Management>,
}

#[tonic::async_trait]
impl ModelService for Models {
    async fn get_model_status(&self, request: Request<GetModelStatusRequest>) -> Answer<GetModelStatusResponse> {
        spec::status(&self.scheduler, request.into_inner()).map(Response::new).map_err(status)
    }

    async fn handle_reload_config_request(
        &self,
        request: Request<ReloadConfigRequest>,
    ) -> Answer<ReloadConfigResponse> {
        Management::may_change_models(self.management.as_ref(), &self.scheduler).map_err(status)?;
        let config = request.into_inner().config;
        let done = self.scheduler.change(move |residency| reload::reload(residency, config)).await;
        done.map(Response::new).map_err(status)
    }
}

#[cfg(test)]
mod tests;
