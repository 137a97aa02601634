//! Closed-loop load over gRPC, with the client that the protocol's messages were generated with.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use engine::{Error, Result, Tensor};
use hdrhistogram::Histogram;
use proto::inference::ModelInferRequest;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use proto::inference::model_infer_request::InferInputTensor;
use tonic::transport::Endpoint;

use crate::load::{Load, histogram};

/// Asks `model` about `input`, named `name`, over and over from `callers` connections for `time`.
///
/// # Errors
/// [`Unavailable`](engine::ErrorKind::Unavailable) when the server cannot be reached.
pub fn grpc_load(
    server: SocketAddr,
    model: &str,
    (name, input): (&str, &Tensor),
    callers: usize,
    time: Duration,
) -> Result<Load> {
    let request = ModelInferRequest {
        model_name: model.to_owned(),
        inputs: vec![InferInputTensor {
            name: name.to_owned(),
            datatype: input.dtype().name().to_owned(),
            shape: input.shape().iter().map(|&dim| i64::try_from(dim).unwrap_or(i64::MAX)).collect(),
            ..InferInputTensor::default()
        }],
        raw_input_contents: vec![input.data().clone()],
        ..ModelInferRequest::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Error::internal(format!("the network cannot be used: {source}")))?;
    let until = Instant::now() + time;
    let started = Instant::now();
    let parts = runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..callers {
            tasks.spawn(caller(server, request.clone(), until));
        }
        tasks.join_all().await.into_iter().collect::<Result<Vec<_>>>()
    })?;
    Load::merged(parts, started.elapsed())
}

async fn caller(server: SocketAddr, request: ModelInferRequest, until: Instant) -> Result<(Histogram<u64>, u64)> {
    let lost = |error: tonic::transport::Error| Error::unavailable(format!("{server}: the connection failed: {error}"));
    let endpoint = Endpoint::from_shared(format!("http://{server}")).map_err(lost)?.tcp_nodelay(true);
    let mut client = GrpcInferenceServiceClient::new(endpoint.connect().await.map_err(lost)?);
    let (mut latencies_us, mut refused) = (histogram()?, 0);
    while Instant::now() < until {
        let sent = Instant::now();
        if client.model_infer(request.clone()).await.is_ok() {
            latencies_us.saturating_record(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
        } else {
            refused += 1;
        }
    }
    Ok((latencies_us, refused))
}
