//! `ModelStreamInfer`: many requests on one call, answered in their order. A failed request is an answer like any
//! other; the stream stays open.

use std::future::Future;
use std::pin::Pin;

use engine::{Error, Result};
use proto::inference::infer_parameter::ParameterChoice;
use proto::inference::{InferParameter, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Status, Streaming};

use super::status::status;

/// What a client reads.
pub(super) type Answers = Pin<Box<dyn Stream<Item = std::result::Result<ModelStreamInferResponse, Status>> + Send>>;

/// How a stream behaves.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// Requests read and not yet answered; at the limit the client's connection fills up.
    pub(super) in_flight_max: usize,
    /// A failed request ends the stream with its status instead of being told in a message.
    pub(super) fails_whole: bool,
}

/// A request on its way.
enum Pending {
    Running {
        id: String,
        model: String,
        run: Run,
    },
    /// Nothing more is read, for this reason.
    End(Status),
}

/// A running request, which stops when nobody waits for it any more.
struct Run(JoinHandle<Result<ModelInferResponse>>);

impl Drop for Run {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The answers to `requests`, each made by `infer`; reading ends when `draining` is ready, and then the stream after
/// the last answer.
pub(super) fn answers<F, A>(
    requests: Streaming<ModelInferRequest>,
    manner: Manner,
    infer: F,
    draining: impl Future<Output = ()> + Send + 'static,
) -> Answers
where
    F: Fn(ModelInferRequest) -> A + Send + 'static,
    A: Future<Output = Result<ModelInferResponse>> + Send + 'static,
{
    let (sender, pending) = mpsc::channel(manner.in_flight_max.max(1));
    // Ends with the stream: when the client has gone, either side of it is closed.
    tokio::spawn(read(requests, sender, infer, draining));
    Box::pin(ReceiverStream::new(pending).then(move |pending| answer(pending, manner.fails_whole)))
}

async fn read<F, A>(
    mut requests: Streaming<ModelInferRequest>,
    pending: mpsc::Sender<Pending>,
    infer: F,
    draining: impl Future<Output = ()>,
) where
    F: Fn(ModelInferRequest) -> A,
    A: Future<Output = Result<ModelInferResponse>> + Send + 'static,
{
    let mut draining = std::pin::pin!(draining);
    // The place comes first: what has none is not read, and waits at the client.
    while let Ok(place) = pending.reserve().await {
        let message = tokio::select! {
            message = requests.message() => message,
            () = pending.closed() => return,
            () = &mut draining => Err(Status::unavailable("the server is draining; open a stream to another one")),
        };
        match message {
            Ok(Some(request)) => {
                let (id, model) = (request.id.clone(), request.model_name.clone());
                place.send(Pending::Running { id, model, run: Run(tokio::spawn(infer(request))) });
            }
            Ok(None) => return,
            Err(status) => return place.send(Pending::End(status)),
        }
    }
}

async fn answer(pending: Pending, fails_whole: bool) -> std::result::Result<ModelStreamInferResponse, Status> {
    let (id, model_name, mut run) = match pending {
        Pending::Running { id, model, run } => (id, model, run),
        Pending::End(status) => return Err(status),
    };
    let outcome = (&mut run.0).await.unwrap_or_else(|_| Err(Error::internal("the request did not end")));
    let (mut response, error_message) = match outcome {
        Ok(response) => (response, String::new()),
        Err(error) => {
            let status = status(error);
            if fails_whole {
                return Err(status);
            }
            let response = ModelInferResponse { id, model_name, ..ModelInferResponse::default() };
            (response, status.message().to_owned())
        }
    };
    // Every request has one answer, which is its last.
    let last = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
    response.parameters.insert("triton_final_response".to_owned(), last);
    Ok(ModelStreamInferResponse { error_message, infer_response: Some(response) })
}
