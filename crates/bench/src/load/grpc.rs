//! One caller over gRPC, written for a load: a request is made before and sent in one piece, as the C++ and Python clients
//! send it, and what comes back is read no further than to its status.

use std::net::SocketAddr;

use bytes::Bytes;
use engine::{Error, Result};
use h2::RecvStream;
use h2::client::{Connection, SendRequest};
use http::{HeaderMap, Request};
use tokio::net::TcpStream;

use super::tally::Answer;

/// The call.
const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";
/// Room for answers, in bytes: of one stream, and of the connection.
const WINDOW_BYTES: u32 = 64 << 20;
/// gRPC's number for `RESOURCE_EXHAUSTED`.
const EXHAUSTED: &[u8] = b"8";

/// A connection of its own, made again when it was lost.
pub(super) struct GrpcCaller {
    server: SocketAddr,
    message: Bytes,
    transport: Option<Transport>,
}

/// Why a connection is of no use any more.
type Lost = Box<dyn std::error::Error + Send + Sync>;

struct Transport {
    requests: SendRequest<Bytes>,
    connection: Connection<TcpStream, Bytes>,
}

impl GrpcCaller {
    pub(super) async fn connect(server: SocketAddr, message: Bytes) -> Result<Self> {
        let transport = Transport::open(server)
            .await
            .map_err(|source| Error::unavailable(format!("{server}: the connection failed: {source}")))?;
        Ok(Self { server, message, transport: Some(transport) })
    }

    pub(super) async fn ask(&mut self) -> Answer {
        match self.exchange().await {
            Ok(answer) => answer,
            Err(error) => {
                self.hang_up();
                Answer::Failed(format!("connection: {error}"))
            }
        }
    }

    /// Gives up the connection, and whatever is still on its way on it.
    pub(super) fn hang_up(&mut self) {
        self.transport = None;
    }

    async fn exchange(&mut self) -> std::result::Result<Answer, Lost> {
        let transport = match self.transport.take() {
            Some(transport) => self.transport.insert(transport),
            None => self.transport.insert(Transport::open(self.server).await?),
        };
        let Transport { requests, connection } = transport;
        let asking = ask(requests, self.server, &self.message);
        tokio::select! {
            biased;
            answer = asking => answer,
            // The connection only moves when it is asked to; it ends when it is broken, or when the server ends it.
            ended = connection => match ended {
                Err(error) => Err(error.into()),
                Ok(()) => Err("closed by the server".into()),
            },
        }
    }
}

impl Transport {
    async fn open(server: SocketAddr) -> std::result::Result<Self, Lost> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .enable_push(false)
            .handshake(stream)
            .await?;
        Ok(Self { requests, connection })
    }
}

async fn ask(
    requests: &mut SendRequest<Bytes>,
    server: SocketAddr,
    message: &Bytes,
) -> std::result::Result<Answer, Lost> {
    std::future::poll_fn(|context| requests.poll_ready(context)).await?;
    let request = Request::post(format!("http://{server}{PATH}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("user-agent", "packhorse-bench")
        .body(())?;
    let (response, mut body) = requests.send_request(request, false)?;
    body.send_data(message.clone(), true)?;
    let (head, mut body) = response.await?.into_parts();
    // A call that fails at once has its status in the head, and no body.
    if head.headers.contains_key("grpc-status") {
        return Ok(answer(&head.headers));
    }
    read(&mut body).await?;
    let trailers = body.trailers().await?;
    Ok(answer(&trailers.unwrap_or_default()))
}

async fn read(body: &mut RecvStream) -> std::result::Result<(), Lost> {
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data?.len())?;
    }
    Ok(())
}

fn answer(headers: &HeaderMap) -> Answer {
    match headers.get("grpc-status").map(http::HeaderValue::as_bytes) {
        Some(b"0") => Answer::Answered,
        Some(EXHAUSTED) => Answer::Refused { retry_after: headers.contains_key("retry-after") },
        Some(other) => Answer::Failed(format!("gRPC {}", String::from_utf8_lossy(other))),
        None => Answer::Failed("no status".to_owned()),
    }
}
