//! The protocol's calls on the scheduler: each converts, hands over, and converts back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Result, TensorSpec};
use proto::inference::grpc_inference_service_server::GrpcInferenceService;
use proto::inference::model_metadata_response::TensorMetadata;
use proto::inference::{
    LogSettingsRequest, LogSettingsResponse, ModelConfigRequest, ModelConfigResponse, ModelInferRequest,
    ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse,
    ModelStatisticsRequest, ModelStatisticsResponse, RepositoryIndexRequest, RepositoryIndexResponse,
    RepositoryModelLoadRequest, RepositoryModelLoadResponse, RepositoryModelUnloadRequest,
    RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse, SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryRegisterResponse, SystemSharedMemoryStatusRequest, SystemSharedMemoryStatusResponse,
    SystemSharedMemoryUnregisterRequest, SystemSharedMemoryUnregisterResponse,
};
use tonic::{Request, Response, Streaming};
use tracing::Instrument as _;

use super::received::Arrival;
use super::status::status;
use super::stream::{self, Answers, Manner};
use super::{Answer, GrpcLimits, convert, deadline, extensions, logging, origin};
use crate::aside::aside;
use crate::people::{self, Face};
use crate::triton::{self, ModelConfig, Region, SharedMemory, give};
use crate::{Management, Origin, Residency, Scheduler, trace};

/// How soon an open stream notices that the server drains.
const DRAIN_INTERVAL: Duration = Duration::from_millis(100);

/// Asks that a failed request ends its stream with its status.
const FAIL_WHOLE_HEADER: &str = "triton_grpc_error";

/// The protocol's calls on the scheduler.
#[derive(Clone)]
pub(super) struct Inference {
    scheduler: Arc<Scheduler>,
    limits: GrpcLimits,
}

impl Inference {
    pub(super) fn new(scheduler: Arc<Scheduler>, limits: GrpcLimits) -> Self {
        Self { scheduler, limits }
    }

    /// Answers `message`, which came at `now` with `origin`; `deadline` is the call's own.
    pub(super) async fn infer(
        &self,
        message: ModelInferRequest,
        origin: Origin,
        now: Instant,
        deadline: Option<Instant>,
    ) -> Result<ModelInferResponse> {
        let residency = self.scheduler.residency();
        if origin.trace.is_some() {
            trace::tell_request_id(&message.id);
        }
        let bytes = convert::typed_bytes(&message);
        let (memory, memory_bytes) = (self.limits.shared_memory.clone(), self.limits.message_bytes_max);
        let decode = move || {
            let call = convert::Call { memory: memory.as_deref(), memory_bytes, now, deadline };
            let (mut request, reply) = convert::decode(message, call)?;
            request.origin = origin.with_inputs(&request.inputs)?;
            Ok((request, reply))
        };
        let decoded = aside(bytes, decode).await.flatten();
        let decoded = decoded.and_then(|(request, reply)| {
            let face = Face::of(residency, &request.model, request.version)?;
            Ok((face, request, reply))
        });
        let (face, request, mut reply) = decoded.inspect_err(|error| self.scheduler.metrics().refused(error.kind))?;
        let response = people::infer(&self.scheduler, &face, request, std::mem::take(&mut reply.options)).await?;
        let answer = give(response, &reply.wishes, face.model(), self.memory())?;
        convert::encode(reply, answer)
    }

    /// A message for this version of this model has begun to arrive: has the model made ready, if that is of use, while the
    /// rest is on its way.
    pub(super) fn expect(&self, name: &str, version: &str) {
        // What is wrong with either is told when the message is whole.
        let face = convert::version(version).and_then(|version| Face::of(self.scheduler.residency(), name, version));
        if let Ok(face) = face {
            self.scheduler.expect(face.model());
        }
    }

    /// The largest request message, in bytes.
    pub(super) fn message_bytes_max(&self) -> usize {
        self.limits.message_bytes_max
    }

    fn metadata(&self, request: ModelMetadataRequest) -> Result<ModelMetadataResponse> {
        let residency = self.scheduler.residency();
        let face = Face::of(residency, &request.name, convert::version(&request.version)?)?;
        let (model, signature) = (face.model(), face.signature());
        let tensors = |specs: &[TensorSpec]| specs.iter().map(tensor_metadata).collect();
        Ok(ModelMetadataResponse {
            versions: residency.versions(&model.manifest().name).iter().map(u64::to_string).collect(),
            platform: model.platform().to_owned(),
            inputs: tensors(&signature.inputs),
            outputs: tensors(&signature.outputs),
            name: request.name,
        })
    }

    fn config(&self, request: &ModelConfigRequest) -> Result<ModelConfigResponse> {
        let face = Face::of(self.scheduler.residency(), &request.name, convert::version(&request.version)?)?;
        let config = extensions::model_config(ModelConfig::of(&self.scheduler, &face))?;
        Ok(ModelConfigResponse { config: Some(config) })
    }

    fn statistics(&self, request: &ModelStatisticsRequest) -> Result<ModelStatisticsResponse> {
        let name = Some(request.name.as_str()).filter(|name| !name.is_empty());
        let models = triton::statistics(&self.scheduler, name, convert::version(&request.version)?)?;
        Ok(ModelStatisticsResponse { model_stats: models.into_iter().map(extensions::model_statistics).collect() })
    }

    /// Carries out `change` of the repository on the thread that does so, and waits for it.
    async fn change(
        &self,
        name: &str,
        change: impl FnOnce(&Residency, &str) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let name = name.to_owned();
        self.scheduler.change(move |residency| change(residency, &name)).await
    }

    async fn load(&self, request: RepositoryModelLoadRequest) -> Result<RepositoryModelLoadResponse> {
        self.may_change_models()?;
        let parameters = request.parameters.iter();
        let options = triton::load_options(parameters.map(|(name, value)| (name.as_str(), extensions::given(value))))?;
        let name = extensions::repository_model(request.repository_name, request.model_name)?;
        self.change(&name, move |residency, name| residency.load_named(name, &options)).await?;
        Ok(RepositoryModelLoadResponse { model_name: name, is_loaded: true })
    }

    async fn unload(&self, request: RepositoryModelUnloadRequest) -> Result<RepositoryModelUnloadResponse> {
        self.may_change_models()?;
        let name = extensions::repository_model(request.repository_name, request.model_name)?;
        self.change(&name, Residency::unload_named).await?;
        Ok(RepositoryModelUnloadResponse { model_name: name, is_unloaded: true })
    }

    fn may_change_models(&self) -> Result<()> {
        Management::may_change_models(self.limits.management.as_ref(), &self.scheduler)
    }

    fn memory(&self) -> Option<&SharedMemory> {
        self.limits.shared_memory.as_deref()
    }

    fn memory_status(&self, name: &str) -> Result<SystemSharedMemoryStatusResponse> {
        let regions = SharedMemory::of(self.memory())?.status(Some(name).filter(|name| !name.is_empty()))?;
        let regions = regions.into_iter().map(|region| (region.name.clone(), extensions::region(region)));
        Ok(SystemSharedMemoryStatusResponse { regions: regions.collect() })
    }

    fn memory_register(&self, request: SystemSharedMemoryRegisterRequest) -> Result<()> {
        let SystemSharedMemoryRegisterRequest { name, key, offset, byte_size } = request;
        SharedMemory::of(self.memory())?.register(Region { name, key, offset, bytes: byte_size })
    }

    fn memory_unregister(&self, name: &str) -> Result<()> {
        SharedMemory::of(self.memory())?.unregister(Some(name).filter(|name| !name.is_empty()));
        Ok(())
    }

    fn stream(&self, request: Request<Streaming<ModelInferRequest>>) -> Result<Answers> {
        let deadline = deadline(request.metadata(), Instant::now())?;
        let fails_whole = request.metadata().get(FAIL_WHOLE_HEADER).is_some_and(|value| value == "true");
        let manner = Manner { in_flight_max: self.limits.stream_requests_max, fails_whole };
        let inference = self.clone();
        let arrival = request.extensions().get::<Arrival>().cloned();
        let span = tracing::Span::current();
        let infer = move |message| {
            let (inference, now) = (inference.clone(), Instant::now());
            // Taken at once: from here on the next message arrives.
            let origin = arrival.as_ref().map_or_else(Origin::default, Arrival::origin);
            async move { inference.infer(message, origin, now, deadline).await }.instrument(span.clone())
        };
        let scheduler = Arc::clone(&self.scheduler);
        let draining = async move {
            while !scheduler.is_leaving() {
                tokio::time::sleep(DRAIN_INTERVAL).await;
            }
        };
        Ok(stream::answers(request.into_inner(), manner, infer, draining))
    }
}

fn tensor_metadata(spec: &TensorSpec) -> TensorMetadata {
    TensorMetadata { name: spec.name.clone(), datatype: spec.dtype.name().to_owned(), shape: spec.shape.clone() }
}

/// The form in which the transport takes an outcome.
fn answer<T>(outcome: Result<T>) -> Answer<T> {
    outcome.map(Response::new).map_err(status)
}

#[tonic::async_trait]
impl GrpcInferenceService for Inference {
    type ModelStreamInferStream = Answers;

    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Answer<ServerLiveResponse> {
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Answer<ServerReadyResponse> {
        Ok(Response::new(ServerReadyResponse { ready: self.scheduler.is_ready() }))
    }

    /// A model that is not there is not ready, as public clients expect; only a malformed version is an error.
    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Answer<ModelReadyResponse> {
        let ModelReadyRequest { name, version } = request.into_inner();
        let version = convert::version(&version).map_err(status)?;
        Ok(Response::new(ModelReadyResponse { ready: Face::is_ready(self.scheduler.residency(), &name, version) }))
    }

    async fn server_metadata(&self, _: Request<ServerMetadataRequest>) -> Answer<ServerMetadataResponse> {
        let extensions = triton::extensions(&self.scheduler, self.memory().is_some(), self.limits.management.as_ref());
        Ok(Response::new(ServerMetadataResponse {
            name: "packhorse".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: extensions.into_iter().map(str::to_owned).collect(),
        }))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> Answer<ModelMetadataResponse> {
        answer(self.metadata(request.into_inner()))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Answer<ModelInferResponse> {
        let now = Instant::now();
        let deadline = deadline(request.metadata(), now).map_err(status)?;
        let origin = origin(&request);
        answer(self.infer(request.into_inner(), origin, now, deadline).await)
    }

    async fn model_stream_infer(&self, request: Request<Streaming<ModelInferRequest>>) -> Answer<Answers> {
        answer(self.stream(request))
    }

    async fn model_config(&self, request: Request<ModelConfigRequest>) -> Answer<ModelConfigResponse> {
        answer(self.config(request.get_ref()))
    }

    async fn model_statistics(&self, request: Request<ModelStatisticsRequest>) -> Answer<ModelStatisticsResponse> {
        answer(self.statistics(request.get_ref()))
    }

    async fn repository_index(&self, request: Request<RepositoryIndexRequest>) -> Answer<RepositoryIndexResponse> {
        let entries = triton::index(&self.scheduler, request.get_ref().ready);
        let models = entries.into_iter().map(extensions::index_entry).collect();
        Ok(Response::new(RepositoryIndexResponse { models }))
    }

    async fn repository_model_load(
        &self,
        request: Request<RepositoryModelLoadRequest>,
    ) -> Answer<RepositoryModelLoadResponse> {
        answer(self.load(request.into_inner()).await)
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Answer<RepositoryModelUnloadResponse> {
        answer(self.unload(request.into_inner()).await)
    }

    async fn log_settings(&self, request: Request<LogSettingsRequest>) -> Answer<LogSettingsResponse> {
        answer(logging::log_settings(self.limits.management.as_ref(), request.into_inner()))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<SystemSharedMemoryStatusRequest>,
    ) -> Answer<SystemSharedMemoryStatusResponse> {
        answer(self.memory_status(&request.get_ref().name))
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Answer<SystemSharedMemoryRegisterResponse> {
        answer(self.memory_register(request.into_inner()).map(|()| SystemSharedMemoryRegisterResponse {}))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Answer<SystemSharedMemoryUnregisterResponse> {
        let done = self.memory_unregister(&request.get_ref().name);
        answer(done.map(|()| SystemSharedMemoryUnregisterResponse {}))
    }
}
