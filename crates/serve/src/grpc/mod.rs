//! The Open Inference Protocol over gRPC, with the standard health and reflection services beside it.
//!
//! Nothing is decided here: a call is converted, handed to the scheduler, and its answer converted back.

mod contents;
mod convert;
mod status;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::{Error, Result};
use proto::inference::grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer};
use proto::inference::model_metadata_response::TensorMetadata;
use proto::inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ModelMetadataResponse, ModelReadyRequest,
    ModelReadyResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest, ServerMetadataResponse,
    ServerReadyRequest, ServerReadyResponse,
};
use store::manifest::Io;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::Scheduler;
use status::status;

/// The service's full name, by which health is asked for.
const SERVICE: &str = <GrpcInferenceServiceServer<Inference> as NamedService>::NAME;

/// How stale the health service's answer may be.
const HEALTH_INTERVAL: Duration = Duration::from_millis(250);

/// A peer that is silent for this long is asked whether it lives, so that a vanished one frees what it holds.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(60);

/// Out of file descriptors or memory: time for connections to close before the next is accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What one peer may ask for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcLimits {
    /// The largest request message, in bytes; a larger one is refused before it is read.
    pub message_bytes_max: usize,
    /// Calls in flight on one connection; more wait at the client.
    pub streams_max: u32,
}

impl Default for GrpcLimits {
    /// 64 MiB, which is twenty 720p pictures of bytes or five of floats, and 256 calls.
    fn default() -> Self {
        Self { message_bytes_max: 64 << 20, streams_max: 256 }
    }
}

/// Serves gRPC on `listener` until `shutdown` is ready, then finishes the calls in flight and returns.
///
/// A client that keeps a stream open can hold the return back: the caller puts its own limit on the drain.
///
/// # Errors
/// [`Internal`](engine::ErrorKind::Internal) when the server cannot be built or its loop fails.
pub async fn serve(
    listener: TcpListener,
    scheduler: Arc<Scheduler>,
    limits: GrpcLimits,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let (reporter, health) = tonic_health::server::health_reporter();
    let stopping = report_health(reporter, Arc::clone(&scheduler), shutdown);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let broken = |error| Error::internal(format!("gRPC reflection: {error}"));
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).then(pause_after_failure);
    Server::builder()
        .max_concurrent_streams(limits.streams_max)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .add_service(service(scheduler, limits))
        .add_service(health)
        .add_service(reflection().build_v1().map_err(broken)?)
        .add_service(reflection().build_v1alpha().map_err(broken)?)
        .serve_with_incoming_shutdown(incoming, stopping)
        .await
        .map_err(|error| Error::internal(format!("the gRPC server failed: {error}")))
}

fn service(scheduler: Arc<Scheduler>, limits: GrpcLimits) -> GrpcInferenceServiceServer<Inference> {
    // An answer's memory is spent by the time its size is known, so only requests are limited.
    GrpcInferenceServiceServer::new(Inference { scheduler })
        .max_decoding_message_size(limits.message_bytes_max)
        .max_encoding_message_size(usize::MAX)
}

/// Without the pause, an accept that keeps failing would take a whole core.
async fn pause_after_failure<T>(accepted: std::io::Result<T>) -> std::io::Result<T> {
    if let Err(error) = &accepted {
        tracing::warn!(%error, "cannot accept a gRPC connection");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
    accepted
}

/// Keeps the health service in step with the scheduler until `shutdown`, then ends it: a watcher sees "not serving"
/// and the end of its stream, which would otherwise outlive the server.
async fn report_health(mut reporter: HealthReporter, scheduler: Arc<Scheduler>, shutdown: impl Future<Output = ()>) {
    let mut shutdown = pin!(shutdown);
    let mut reported = None;
    loop {
        let ready = scheduler.is_ready();
        // A watcher is told of changes, not of the time.
        if reported.replace(ready) != Some(ready) {
            set_health(&reporter, ready).await;
        }
        tokio::select! {
            () = &mut shutdown => break,
            () = tokio::time::sleep(HEALTH_INTERVAL) => {}
        }
    }
    set_health(&reporter, false).await;
    for name in ["", SERVICE] {
        reporter.clear_service_status(name).await;
    }
}

async fn set_health(reporter: &HealthReporter, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in ["", SERVICE] {
        reporter.set_service_status(name, status).await;
    }
}

/// What a call gives back.
type Answer<T> = std::result::Result<Response<T>, Status>;

/// The protocol's calls on the scheduler.
struct Inference {
    scheduler: Arc<Scheduler>,
}

impl Inference {
    async fn infer(&self, request: Request<ModelInferRequest>) -> Result<ModelInferResponse> {
        let now = Instant::now();
        let deadline = deadline(request.metadata(), now)?;
        let (request, reply) = convert::decode(request.into_inner(), now, deadline)?;
        convert::encode(reply, self.scheduler.infer(request).await?)
    }

    fn metadata(&self, request: ModelMetadataRequest) -> Result<ModelMetadataResponse> {
        let residency = self.scheduler.residency();
        let model = residency.model(&request.name, convert::version(&request.version)?)?;
        let manifest = model.manifest();
        let tensors = |tensors: &[Io]| tensors.iter().map(tensor_metadata).collect();
        Ok(ModelMetadataResponse {
            versions: residency.versions(&request.name).iter().map(u64::to_string).collect(),
            platform: model.platform().to_owned(),
            inputs: tensors(&manifest.inputs),
            outputs: tensors(&manifest.outputs),
            name: request.name,
        })
    }
}

fn tensor_metadata(io: &Io) -> TensorMetadata {
    TensorMetadata { name: io.name.clone(), datatype: io.datatype.clone(), shape: io.shape.clone() }
}

/// When the call's own `grpc-timeout` runs out. The transport ends the call then; the scheduler must know it before,
/// so that nothing is computed for nobody.
fn deadline(metadata: &MetadataMap, now: Instant) -> Result<Option<Instant>> {
    let Some(header) = metadata.get("grpc-timeout") else {
        return Ok(None);
    };
    let header = header.to_str().map_err(|_| Error::invalid("grpc-timeout is not text"))?;
    Ok(now.checked_add(convert::grpc_timeout(header)?))
}

#[tonic::async_trait]
impl GrpcInferenceService for Inference {
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
        Ok(Response::new(ModelReadyResponse { ready: self.scheduler.residency().is_ready(&name, version) }))
    }

    async fn server_metadata(&self, _: Request<ServerMetadataRequest>) -> Answer<ServerMetadataResponse> {
        Ok(Response::new(ServerMetadataResponse {
            name: "packhorse".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            extensions: Vec::new(),
        }))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> Answer<ModelMetadataResponse> {
        self.metadata(request.into_inner()).map(Response::new).map_err(status)
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Answer<ModelInferResponse> {
        self.infer(request).await.map(Response::new).map_err(status)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use engine::{Engine, Load, Session, Signature, Tensor, Weights};
    use proto::inference::ModelInferRequest;
    use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
    use proto::inference::model_infer_request::InferInputTensor;
    use store::Store;
    use tokio::sync::oneshot;
    use tonic::Code;

    use super::*;
    use crate::{Metrics, QueueLimits, Residency};

    /// A runtime whose models give back their first input.
    struct Echo(Signature);

    impl Engine for Echo {
        fn description(&self) -> String {
            "echo".to_owned()
        }

        fn session(&self, _: &[u8], _: usize, _: Load) -> Result<Box<dyn Session>> {
            Ok(Box::new(Echo(Signature::default())))
        }

        fn bind(&self, _: Vec<Tensor>) -> Result<Arc<dyn Weights>> {
            Ok(Arc::new(Unused))
        }
    }

    impl Session for Echo {
        fn signature(&self) -> &Signature {
            &self.0
        }

        fn run(&mut self, _: &dyn Weights, inputs: &[Tensor], outputs: &[usize]) -> Result<Vec<Tensor>> {
            Ok(outputs.iter().map(|_| inputs[0].clone()).collect())
        }
    }

    struct Unused;

    impl Weights for Unused {
        fn mapped_bytes(&self) -> u64 {
            0
        }
    }

    /// Versions 2 and 10 of model `echo`: `x` FP32 of any length to `y`, the same.
    fn scheduler() -> Arc<Scheduler> {
        // The store checks a program by the hash of its target, a zero byte and its content.
        const HASH: &str = "a0e326fdb14b5d21e4051581cf155f53937d86798e03c7e1d21d6fc4d9504049";
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path().to_str().unwrap()).unwrap();
        std::fs::write(folder.path().join(format!("programs/{HASH}.onnx")), "echo").unwrap();
        std::fs::create_dir(folder.path().join("models/echo")).unwrap();
        for version in [2, 10] {
            let tensor = |name| format!(r#"[{{"name": "{name}", "datatype": "FP32", "shape": [-1]}}]"#);
            let (inputs, outputs) = (tensor("x"), tensor("y"));
            let manifest = format!(
                r#"{{"format": 1, "name": "echo", "version": {version},
                     "source": {{"format": "onnx", "hash": "", "bytes": 4}},
                     "program": {{"hash": "{HASH}", "kind": "lifted", "target": "portable"}},
                     "inputs": {inputs}, "outputs": {outputs}}}"#
            );
            std::fs::write(folder.path().join(format!("models/echo/{version}.json")), manifest).unwrap();
        }
        let residency = Residency::open(store, Arc::new(Echo(Signature::default())), 1).unwrap();
        let scheduler =
            Scheduler::start(Arc::new(residency), &[0], QueueLimits::default(), Arc::new(Metrics::default())).unwrap();
        // The program is mapped by the loader, so one request goes through before the folder goes away.
        let request = crate::InferRequest {
            model: "echo".to_owned(),
            version: None,
            inputs: vec![("x".to_owned(), Tensor::from_f32(vec![0], vec![]).unwrap())],
            outputs: Vec::new(),
            deadline: None,
        };
        let (reply, answer) = std::sync::mpsc::sync_channel(1);
        scheduler.submit(request, Box::new(reply)).unwrap();
        answer.recv().unwrap().unwrap();
        scheduler
    }

    /// A client wired to the service itself: messages are framed and limited as on a connection.
    fn client(
        scheduler: &Arc<Scheduler>,
        limits: GrpcLimits,
    ) -> GrpcInferenceServiceClient<GrpcInferenceServiceServer<Inference>> {
        GrpcInferenceServiceClient::new(service(Arc::clone(scheduler), limits))
    }

    fn echo(shape: &[i64], data: &'static [u8]) -> ModelInferRequest {
        ModelInferRequest {
            model_name: "echo".to_owned(),
            id: "1".to_owned(),
            inputs: vec![InferInputTensor {
                name: "x".to_owned(),
                datatype: "FP32".to_owned(),
                shape: shape.to_vec(),
                ..InferInputTensor::default()
            }],
            raw_input_contents: vec![Bytes::from_static(data)],
            ..ModelInferRequest::default()
        }
    }

    #[tokio::test]
    async fn the_calls_answer() {
        let scheduler = scheduler();
        let mut client = client(&scheduler, GrpcLimits::default());
        assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
        assert!(client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
        assert_eq!(client.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner().name, "packhorse");

        let request = ModelMetadataRequest { name: "echo".to_owned(), version: String::new() };
        let metadata = client.model_metadata(request).await.unwrap().into_inner();
        assert_eq!((metadata.name.as_str(), &metadata.versions[..]), ("echo", &["2".to_owned(), "10".to_owned()][..]));
        let tensor =
            |name: &str| TensorMetadata { name: name.to_owned(), datatype: "FP32".to_owned(), shape: vec![-1] };
        assert_eq!((metadata.inputs, metadata.outputs), (vec![tensor("x")], vec![tensor("y")]));

        let answer = client.model_infer(echo(&[2], &[1, 2, 3, 4, 5, 6, 7, 8])).await.unwrap().into_inner();
        assert_eq!((answer.id.as_str(), answer.model_version.as_str()), ("1", "10"));
        assert_eq!((answer.outputs[0].name.as_str(), &answer.outputs[0].shape[..]), ("y", &[2][..]));
        assert_eq!(answer.raw_output_contents, [&[1, 2, 3, 4, 5, 6, 7, 8][..]]);

        assert!(scheduler.drain(Duration::from_secs(10)));
        assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
        assert_eq!(client.model_infer(echo(&[0], &[])).await.unwrap_err().code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn a_model_that_is_not_there_is_not_ready() {
        let scheduler = scheduler();
        let mut client = client(&scheduler, GrpcLimits::default());
        for (name, version, want) in [
            ("echo", "", Ok(true)),
            ("echo", "2", Ok(true)),
            ("echo", "3", Ok(false)),
            ("other", "", Ok(false)),
            ("echo", "two", Err(Code::InvalidArgument)),
        ] {
            let request = ModelReadyRequest { name: name.to_owned(), version: version.to_owned() };
            let ready = client.model_ready(request).await;
            let seen = ready.map(|ready| ready.into_inner().ready).map_err(|status| status.code());
            assert_eq!(seen, want, "{name} {version}");
        }
        assert!(scheduler.drain(Duration::from_secs(10)));
    }

    #[tokio::test]
    async fn refusals_carry_their_code() {
        let scheduler = scheduler();
        let limits = GrpcLimits { message_bytes_max: 100, ..GrpcLimits::default() };
        let mut client = client(&scheduler, limits);
        let timed = |timeout: &'static str| {
            let mut request = Request::new(echo(&[0], &[]));
            request.metadata_mut().insert("grpc-timeout", timeout.parse().unwrap());
            request
        };
        let named = |name: &str| ModelInferRequest { model_name: name.to_owned(), ..echo(&[0], &[]) };
        for (request, code, says) in [
            (Request::new(named("other")), Code::NotFound, "'other'"),
            (Request::new(echo(&[2], &[0; 4])), Code::InvalidArgument, "input 'x'"),
            (Request::new(echo(&[25], &[0; 100])), Code::OutOfRange, "100 bytes"),
            (timed("1n"), Code::DeadlineExceeded, "deadline"),
            (timed("soon"), Code::InvalidArgument, "grpc-timeout 'soon'"),
        ] {
            let status = client.model_infer(request).await.unwrap_err();
            assert_eq!(status.code(), code, "{status}");
            assert!(status.message().contains(says), "'{status}' does not say '{says}'");
        }
        assert!(scheduler.drain(Duration::from_secs(10)));
    }

    #[tokio::test]
    async fn a_served_port_is_free_again_after_shutdown() {
        let scheduler = scheduler();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(serve(listener, Arc::clone(&scheduler), GrpcLimits::default(), async {
            let _ = stopped.await;
        }));
        drop(tokio::net::TcpStream::connect(address).await.unwrap());
        stop.send(()).unwrap();
        served.await.unwrap().unwrap();
        drop(TcpListener::bind(address).await.unwrap());
        assert!(scheduler.drain(Duration::from_secs(10)));
    }
}
