//! A server of the Open Inference Protocol that does as a test says: one input, one output, which is the input's sum.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use proto::inference::model_infer_response::InferOutputTensor;
use proto::inference::model_metadata_response::TensorMetadata;
use proto::inference::{ModelInferRequest, ModelInferResponse, ModelMetadataResponse};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tonic::Code;

/// How many values a question has.
pub(crate) const VALUES: usize = 4;
/// As a shape of the metadata.
pub(crate) const SHAPE: i64 = 4;

/// What becomes of calls.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mood {
    /// Each is answered.
    Well,
    /// None is, for as long as this lasts.
    Silent,
    /// Each is refused.
    Refusing(Code),
    /// So many are refused as busy, then it is well.
    Failing(u64),
    /// Each is answered with so many values in place of one.
    Odd(usize),
    /// Each is answered by another version.
    Renewed,
    /// Each sum is off by this.
    Off(f32),
}

struct State {
    mood: watch::Sender<Mood>,
    calls: AtomicU64,
    metadata: Mutex<ModelMetadataResponse>,
    /// What a call has to show, if anything.
    entry: Mutex<Option<String>>,
    /// The names that connections with TLS asked for.
    names: Mutex<Vec<Option<String>>>,
}

/// The server, for as long as its runtime is there.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

fn tensor(name: &str, shape: &[i64]) -> TensorMetadata {
    TensorMetadata { name: name.to_owned(), datatype: "FP32".to_owned(), shape: shape.to_vec() }
}

/// What the server says of its model.
pub(crate) fn metadata() -> ModelMetadataResponse {
    ModelMetadataResponse {
        name: "sum".to_owned(),
        versions: vec!["1".to_owned()],
        platform: "test".to_owned(),
        inputs: vec![tensor("x", &[SHAPE])],
        outputs: vec![tensor("y", &[1])],
    }
}

impl Server {
    /// Starts it on the runtime that the caller is in.
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// As [`start`](Self::start), behind TLS if that is given.
    pub(crate) async fn start_with(tls: Option<Arc<ServerConfig>>) -> Self {
        let state = State {
            mood: watch::channel(Mood::Well).0,
            calls: AtomicU64::new(0),
            metadata: metadata().into(),
            entry: Mutex::default(),
            names: Mutex::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self { address: listener.local_addr().unwrap(), state: Arc::new(state) };
        let of_listener = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = of_listener.clone();
                match tls.clone().map(TlsAcceptor::from) {
                    None => drop(tokio::spawn(server.connection(stream))),
                    Some(tls) => drop(tokio::spawn(async move {
                        // Who does not like what is shown leaves.
                        let Ok(stream) = tls.accept(stream).await else { return };
                        let name = stream.get_ref().1.server_name().map(str::to_owned);
                        server.state.names.lock().unwrap().push(name);
                        server.connection(stream).await;
                    })),
                }
            }
        });
        server
    }

    async fn connection(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let answer = move |request| {
            let server = self.clone();
            async move { Ok::<_, Infallible>(server.serve(request).await) }
        };
        // A client that leaves in the middle of things is no matter.
        let _ =
            http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service_fn(answer)).await;
    }

    /// From now on calls have to show this as their authorization.
    pub(crate) fn let_in(&self, entry: &str) {
        *self.state.entry.lock().unwrap() = Some(entry.to_owned());
    }

    /// The names that connections with TLS asked for.
    pub(crate) fn names(&self) -> Vec<Option<String>> {
        self.state.names.lock().unwrap().clone()
    }

    pub(crate) fn set(&self, mood: Mood) {
        self.state.mood.send_replace(mood);
    }

    pub(crate) fn say(&self, metadata: ModelMetadataResponse) {
        *self.state.metadata.lock().unwrap() = metadata;
    }

    /// Calls that came so far.
    pub(crate) fn calls(&self) -> u64 {
        self.state.calls.load(Ordering::SeqCst)
    }

    async fn serve(
        &self,
        request: Request<Incoming>,
    ) -> Response<impl hyper::body::Body<Data = Bytes, Error = Infallible> + use<>> {
        let (head, body) = request.into_parts();
        // Behind the five bytes that frame it.
        let message = body.collect().await.unwrap().to_bytes().slice(5..);
        let shown = head.headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
        let entry = self.state.entry.lock().unwrap().clone();
        let answer = match head.uri.path() {
            _ if entry.is_some() && entry != shown => Err(Code::Unauthenticated),
            "/inference.GRPCInferenceService/ModelMetadata" => Ok(self.state.metadata.lock().unwrap().encode_to_vec()),
            "/inference.GRPCInferenceService/ModelInfer" => {
                let request = ModelInferRequest::decode(message).unwrap();
                self.answer(request).await.map(|answer| answer.encode_to_vec())
            }
            _ => Err(Code::Unimplemented),
        };
        let code = answer.as_ref().err().map_or(0, |code| *code as i32);
        let trailers = HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from(code))]);
        let data = answer.ok().map(|message| {
            let mut framed = BytesMut::new();
            framed.put_u8(0);
            framed.put_u32(u32::try_from(message.len()).unwrap());
            framed.put_slice(&message);
            Frame::data(framed.freeze())
        });
        let frames = data.into_iter().chain([Frame::trailers(trailers)]).map(Ok);
        let body = StreamBody::new(futures_util::stream::iter(frames));
        Response::builder().header("content-type", "application/grpc").body(body).unwrap()
    }

    async fn answer(&self, request: ModelInferRequest) -> Result<ModelInferResponse, Code> {
        self.state.calls.fetch_add(1, Ordering::SeqCst);
        let mut mood = self.state.mood.subscribe();
        // It is there for as long as the server is.
        let mood = mood.wait_for(|mood| *mood != Mood::Silent).await.unwrap().clone();
        let (version, count, off) = match mood {
            Mood::Refusing(code) => return Err(code),
            Mood::Failing(left) => {
                self.set(if left > 1 { Mood::Failing(left - 1) } else { Mood::Well });
                return Err(Code::Unavailable);
            }
            Mood::Odd(count) => ("1", count, 0.0),
            Mood::Renewed => ("2", 1, 0.0),
            Mood::Off(off) => ("1", 1, off),
            Mood::Well | Mood::Silent => ("1", 1, 0.0),
        };
        let bytes = request.raw_input_contents[0].as_chunks().0;
        let sum = bytes.iter().map(|bytes| f32::from_le_bytes(*bytes)).sum::<f32>() + off;
        Ok(ModelInferResponse {
            model_name: request.model_name,
            model_version: version.to_owned(),
            outputs: vec![InferOutputTensor {
                name: "y".to_owned(),
                datatype: "FP32".to_owned(),
                shape: vec![i64::try_from(count).unwrap()],
                ..InferOutputTensor::default()
            }],
            raw_output_contents: vec![vec![sum; count].iter().flat_map(|value| value.to_le_bytes()).collect()],
            ..ModelInferResponse::default()
        })
    }
}
