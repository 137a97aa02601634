//! The calls, over messages that are framed and limited as on a connection, in front of a model that gives back what
//! it got.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use engine::Tensor;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use proto::inference::model_metadata_response::TensorMetadata;
use proto::inference::*;
use serde_json::json;
use tokio::sync::oneshot;
use tokio_stream::StreamExt as _;
use tonic::{Code, Request};

use super::unserved::NameUnserved;
use super::*;
use crate::{Control, Metrics, QueueLimits, Residency, fixture};

/// Versions 2 and 10 of model `echo`: `x` FP32 of any length to `y`, the same.
fn scheduler() -> Arc<Scheduler> {
    let (_folder, store) = fixture::store();
    let tensor = |name| json!([{"name": name, "datatype": "FP32", "shape": [-1]}]);
    for version in [2, 10] {
        fixture::add(&store, "echo", version, tensor("x"), tensor("y"));
    }
    let residency = Residency::open(store, Arc::new(fixture::Echo::new()), 1, Control::None).unwrap();
    let scheduler =
        Scheduler::start(Arc::new(residency), &[0], QueueLimits::default(), Arc::new(Metrics::default())).unwrap();
    // The program is mapped by the loader, so one request goes through before the folder goes away.
    let request = crate::InferRequest {
        model: "echo".to_owned(),
        version: None,
        inputs: vec![("x".to_owned(), Tensor::from_f32(vec![0], vec![]).unwrap())],
        outputs: Vec::new(),
        priority: 0,
        deadline: None,
        origin: Origin::default(),
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
    let tensor = |name: &str| TensorMetadata { name: name.to_owned(), datatype: "FP32".to_owned(), shape: vec![-1] };
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
    // What was wrong before it reached a queue is counted all the same.
    let metrics = scheduler.metrics().text();
    assert!(metrics.contains(r#"reason="invalid_input""#), "{metrics}");
    assert!(scheduler.drain(Duration::from_secs(10)));
}

#[tokio::test]
async fn a_served_port_is_free_again_after_shutdown() {
    let scheduler = scheduler();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let served =
        tokio::spawn(serve(listener, Arc::clone(&scheduler), GrpcLimits::default(), Connections::here(), async {
            let _ = stopped.await;
        }));
    drop(tokio::net::TcpStream::connect(address).await.unwrap());
    stop.send(()).unwrap();
    served.await.unwrap().unwrap();
    drop(TcpListener::bind(address).await.unwrap());
    assert!(scheduler.drain(Duration::from_secs(10)));
}

fn parameter(name: &str, choice: ParameterChoice) -> HashMap<String, InferParameter> {
    HashMap::from([(name.to_owned(), InferParameter { parameter_choice: Some(choice) })])
}

#[tokio::test]
async fn triton_s_extensions_answer() {
    let scheduler = scheduler();
    let mut client = client(&scheduler, GrpcLimits::default());
    let (name, version) = (|| "echo".to_owned(), String::new);

    let config = client.model_config(ModelConfigRequest { name: name(), version: version() }).await.unwrap();
    let config = config.into_inner().config.unwrap();
    assert_eq!((config.name.as_str(), config.backend.as_str(), config.max_batch_size), ("echo", "onnxruntime", 0));
    assert_eq!((&config.input[0].dims[..], config.instance_group[0].count), (&[-1][..], 1));

    // One request went through before.
    let statistics = client.model_statistics(ModelStatisticsRequest { name: name(), version: "10".to_owned() });
    let statistics = statistics.await.unwrap().into_inner().model_stats;
    let inference = statistics[0].inference_stats.unwrap();
    assert_eq!((statistics[0].execution_count, inference.success.unwrap().count), (1, 1));
    let both = client.model_statistics(ModelStatisticsRequest { name: name(), version: version() }).await.unwrap();
    let all = client.model_statistics(ModelStatisticsRequest::default()).await.unwrap();
    assert_eq!((both.into_inner().model_stats.len(), all.into_inner().model_stats.len()), (2, 2));

    let index = client.repository_index(RepositoryIndexRequest::default()).await.unwrap().into_inner().models;
    let lines: Vec<_> =
        index.iter().map(|line| (line.name.as_str(), line.version.as_str(), line.state.as_str())).collect();
    assert_eq!(lines, [("echo", "2", "READY"), ("echo", "10", "READY")]);

    let classes = ModelInferRequest {
        outputs: vec![InferRequestedOutputTensor {
            name: "y".to_owned(),
            parameters: parameter("classification", ParameterChoice::Int64Param(2)),
        }],
        ..echo(&[3], &[0, 0, 0, 0x40, 0, 0, 0x80, 0x3f, 0, 0, 0, 0])
    };
    let answer = client.model_infer(classes).await.unwrap().into_inner();
    assert_eq!((answer.outputs[0].datatype.as_str(), &answer.outputs[0].shape[..]), ("BYTES", &[2][..]));
    assert_eq!(answer.raw_output_contents, [&b"\x03\0\0\x002:0\x07\0\0\x001:1:cat"[..]]);
    assert!(scheduler.drain(Duration::from_secs(10)));
}

#[tokio::test]
async fn what_is_off_or_unknown_is_refused() {
    let scheduler = scheduler();
    let mut client = client(&scheduler, GrpcLimits::default());
    let file = ModelRepositoryParameter::default();
    let load = RepositoryModelLoadRequest {
        model_name: "echo".to_owned(),
        parameters: HashMap::from([("file:1/m".to_owned(), file)]),
        ..RepositoryModelLoadRequest::default()
    };
    let nobody = ModelConfigRequest { name: "nobody".to_owned(), version: String::new() };
    for (outcome, code, says) in [
        (client.model_config(nobody).await.map(|_| ()), Code::NotFound, "'nobody'"),
        (client.repository_model_load(load).await.map(|_| ()), Code::Unimplemented, "'file:1/m'"),
        (
            client.repository_model_load(RepositoryModelLoadRequest::default()).await.map(|_| ()),
            Code::InvalidArgument,
            "model_name",
        ),
        (
            client.repository_model_unload(RepositoryModelUnloadRequest::default()).await.map(|_| ()),
            Code::InvalidArgument,
            "model_name",
        ),
        (
            client.system_shared_memory_status(SystemSharedMemoryStatusRequest::default()).await.map(|_| ()),
            Code::Unimplemented,
            "--shared-memory",
        ),
        (
            client.system_shared_memory_register(SystemSharedMemoryRegisterRequest::default()).await.map(|_| ()),
            Code::Unimplemented,
            "--shared-memory",
        ),
        (
            client.system_shared_memory_unregister(SystemSharedMemoryUnregisterRequest::default()).await.map(|_| ()),
            Code::Unimplemented,
            "--shared-memory",
        ),
    ] {
        let status = outcome.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(says), "'{status}' does not say '{says}'");
    }
    assert!(scheduler.drain(Duration::from_secs(10)));
}

#[tokio::test]
async fn a_stream_answers_in_order_and_outlives_a_bad_request() {
    let scheduler = scheduler();
    // One place, so that every request waits for the one before it.
    let limits = GrpcLimits { stream_requests_max: 1, ..GrpcLimits::default() };
    let mut client = client(&scheduler, limits);
    let mut requests: Vec<_> =
        (0..20).map(|id| ModelInferRequest { id: id.to_string(), ..echo(&[1], &[1, 2, 3, 4]) }).collect();
    requests[3].model_name = "nobody".to_owned();
    let answers = client.model_stream_infer(tokio_stream::iter(requests.clone())).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(|answer| answer.unwrap()).collect().await;
    assert_eq!(answers.len(), requests.len());
    for (index, answer) in answers.iter().enumerate() {
        let response = answer.infer_response.as_ref().unwrap();
        assert_eq!(response.id, index.to_string());
        assert_eq!(answer.error_message.contains("'nobody'"), index == 3, "{}", answer.error_message);
        let last = response.parameters["triton_final_response"].parameter_choice.clone();
        assert_eq!(last, Some(ParameterChoice::BoolParam(true)));
    }

    // Asked for, a failure is the stream's own.
    let mut asked = Request::new(tokio_stream::iter(requests));
    asked.metadata_mut().insert("triton_grpc_error", "true".parse().unwrap());
    let mut answers = client.model_stream_infer(asked).await.unwrap().into_inner();
    for _ in 0..3 {
        answers.message().await.unwrap().unwrap();
    }
    assert_eq!(answers.message().await.unwrap_err().code(), Code::NotFound);
    assert!(scheduler.drain(Duration::from_secs(10)));
}

#[tokio::test]
async fn an_open_stream_ends_when_the_server_drains() {
    let scheduler = scheduler();
    let mut client = client(&scheduler, GrpcLimits::default());
    let (sender, requests) = tokio::sync::mpsc::channel(1);
    sender.send(echo(&[0], &[])).await.unwrap();
    let requests = tokio_stream::wrappers::ReceiverStream::new(requests);
    let mut answers = client.model_stream_infer(requests).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    scheduler.leave();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::Unavailable);
    assert!(scheduler.drain(Duration::from_secs(10)));
}

#[tokio::test]
async fn a_call_that_is_not_served_is_named() {
    use tonic::codegen::Service;

    let scheduler = scheduler();
    let mut server = NameUnserved(service(Arc::clone(&scheduler), GrpcLimits::default()));
    let path = "/inference.GRPCInferenceService/CudaSharedMemoryStatus";
    let request = http::Request::post(path).body(tonic::body::Body::empty()).unwrap();
    let response = server.call(request).await.unwrap();
    let header = |name: &str| response.headers()[name].to_str().unwrap();
    assert_eq!((header("grpc-status"), header("grpc-message")), ("12", "call 'CudaSharedMemoryStatus' is not served"));
    assert!(scheduler.drain(Duration::from_secs(10)));
}
