//! One caller over gRPC, with the client that the protocol's messages were generated with.

use std::net::SocketAddr;

use engine::{Error, Result};
use proto::inference::ModelInferRequest;
use proto::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::tally::Answer;

/// A connection of its own, which the client keeps up by itself.
pub(super) struct GrpcCaller {
    client: GrpcInferenceServiceClient<Channel>,
    request: ModelInferRequest,
}

impl GrpcCaller {
    pub(super) async fn connect(server: SocketAddr, request: ModelInferRequest) -> Result<Self> {
        let lost =
            |error: tonic::transport::Error| Error::unavailable(format!("{server}: the connection failed: {error}"));
        let endpoint = Endpoint::from_shared(format!("http://{server}")).map_err(lost)?.tcp_nodelay(true);
        let client = GrpcInferenceServiceClient::new(endpoint.connect().await.map_err(lost)?)
            .max_decoding_message_size(usize::MAX);
        Ok(Self { client, request })
    }

    pub(super) async fn ask(&mut self) -> Answer {
        match self.client.model_infer(self.request.clone()).await {
            Ok(_) => Answer::Answered,
            Err(status) if status.code() == Code::ResourceExhausted => {
                Answer::Refused { retry_after: status.metadata().contains_key("retry-after") }
            }
            Err(status) => Answer::Failed(format!("gRPC {:?}", status.code())),
        }
    }
}
