//! `ModelInfer` as it is on the wire: one framed message each way and a status after it. It is the call that clients
//! make all day, so it takes the short way from a connection's stream to the scheduler; every other call goes through
//! the generated services.

use std::fmt::Display;
use std::pin::pin;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use engine::{Error, ErrorKind};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Body;
use prost::Message;
use proto::inference::ModelInferRequest;
use tonic::Status;

use super::received::{Arrival, Received};
use super::reply::Reply;
use super::service::Inference;
use super::status::status;
use crate::aside::aside;
use crate::deadline;

/// The path of the call.
const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";

/// A message is mostly raw contents, which are used where they are; so much faster than text is it read.
const RAW_FASTER: usize = 16;

/// In front of each message: a byte that says whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Whether `request` is a `ModelInfer` whose message is sent as it is.
pub(super) fn claims<B>(request: &Request<B>) -> bool {
    let encoding = request.headers().get("grpc-encoding");
    request.uri().path() == PATH
        && request.method() == Method::POST
        && encoding.is_none_or(|encoding| encoding == "identity")
}

/// The answer to `request`, which [`claims`] was true of; its body may pause for as long as `pause`.
pub(super) async fn answer<B>(
    inference: &Inference,
    request: Request<B>,
    arrival: Arrival,
    pause: Duration,
) -> Response<Reply>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
{
    match answered(inference, request, arrival, pause).await {
        Ok(message) => {
            let mut response = Response::new(Reply::Message(message));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            response
        }
        // All of it is in the head then.
        Err(status) => status.into_http::<tonic::body::Body>().map(|_| Reply::Over),
    }
}

async fn answered<B>(
    inference: &Inference,
    request: Request<B>,
    arrival: Arrival,
    pause: Duration,
) -> Result<Bytes, Status>
where
    B: Body<Data = Bytes, Error: Display> + Unpin,
{
    let now = Instant::now();
    let deadline = deadline::of_headers(request.headers(), now).map_err(status)?;
    let body = Received::new(request.into_body(), arrival.clone(), pause, false);
    let begins = |name: &str, version: &str| inference.expect(name, version);
    let message = message(body, inference.message_bytes_max(), begins);
    let message = match deadline {
        None => message.await?,
        Some(deadline) => tokio::time::timeout_at(deadline.into(), message).await.map_err(|_| {
            let late = "the call's deadline passed before its message was whole";
            status(Error::new(ErrorKind::DeadlineExceeded, late))
        })??,
    };
    let message = aside(message.len() / RAW_FASTER, || ModelInferRequest::decode(message)).await.map_err(status)?;
    let message = message.map_err(|error| Status::internal(error.to_string()))?;
    framed(&inference.infer(message, arrival.origin(), now, deadline).await.map_err(status)?)
}

/// The one message in `body`. Memory grows with what arrives and never by what is announced. Where it comes in several
/// pieces, `begins` is told of which model and version it is as soon as that is there.
async fn message(
    body: impl Body<Data = Bytes, Error = Status>,
    bytes_max: usize,
    begins: impl Fn(&str, &str),
) -> Result<Bytes, Status> {
    const FIRST_BYTES_MAX: usize = 1 << 20;
    let mut body = pin!(body);
    let mut has_begun = false;
    // Most requests come in one piece, which is then used where it is.
    let mut first = Bytes::new();
    let mut whole = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        // What is not data is trailers, and clients send none.
        let Ok(data) = frame.into_data() else { continue };
        let gathered = if first.is_empty() && whole.is_empty() {
            first = data;
            &first[..]
        } else {
            if whole.is_empty() {
                whole.reserve(length(&first, bytes_max)?.unwrap_or_default().min(FIRST_BYTES_MAX) + PREFIX_BYTES);
                whole.extend_from_slice(&std::mem::take(&mut first));
            }
            whole.extend_from_slice(&data);
            &whole[..]
        };
        let Some(length) = length(gathered, bytes_max)? else { continue };
        let arrived = &gathered[PREFIX_BYTES..];
        if arrived.len() > length {
            return Err(Status::internal("more follows the request's one message"));
        }
        if !has_begun
            && arrived.len() < length
            && let Some((name, version)) = named(arrived)
        {
            has_begun = true;
            begins(name, version);
        }
    }
    let mut message = if whole.is_empty() { first } else { Bytes::from(whole) };
    if message.is_empty() {
        return Err(Status::internal("the request has no message"));
    }
    if length(&message, bytes_max)?.is_none_or(|length| message.len() - PREFIX_BYTES < length) {
        return Err(Status::internal(format!("the request's message ends after {} bytes", message.len())));
    }
    message.advance(PREFIX_BYTES);
    Ok(message)
}

/// The model and the version that a message says which begins with `message`, where they come first, as whoever writes
/// fields by their numbers has them; both are there as soon as anything of the next field is.
fn named(message: &[u8]) -> Option<(&str, &str)> {
    const MODEL_NAME: u8 = 1 << 3 | 2;
    const MODEL_VERSION: u8 = 2 << 3 | 2;
    let mut rest = message;
    let (name, version) = (text(MODEL_NAME, &mut rest)?, text(MODEL_VERSION, &mut rest)?);
    (!name.is_empty() && !rest.is_empty()).then_some((name, version))
}

/// The text of the field `key` that `from` begins with, taken off it; empty when that begins with another.
fn text<'a>(key: u8, from: &mut &'a [u8]) -> Option<&'a str> {
    if *from.first()? != key {
        return Some("");
    }
    from.advance(1);
    let length = usize::try_from(prost::encoding::decode_varint(from).ok()?).ok()?;
    let (text, rest) = from.split_at_checked(length)?;
    *from = rest;
    std::str::from_utf8(text).ok()
}

/// The length of the message that `gathered` begins with, when so much of it is there that this can be told.
fn length(gathered: &[u8], bytes_max: usize) -> Result<Option<usize>, Status> {
    let Some(&[flag, a, b, c, d]) = gathered.first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
    if flag != 0 {
        return Err(Status::internal(format!("the message's compression flag is {flag}, without a grpc-encoding")));
    }
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > bytes_max {
        return Err(Status::out_of_range(format!(
            "the message has {length} bytes, and {bytes_max} bytes are the most that is taken"
        )));
    }
    Ok(Some(length))
}

/// `message` as it is sent.
fn framed(message: &impl Message) -> Result<Bytes, Status> {
    let bytes = message.encoded_len();
    let length = u32::try_from(bytes)
        .map_err(|_| Status::resource_exhausted(format!("the answer has {bytes} bytes, and a message takes 4 GiB")))?;
    let mut framed = Vec::with_capacity(PREFIX_BYTES + bytes);
    framed.put_u8(0);
    framed.put_u32(length);
    message.encode_raw(&mut framed);
    Ok(Bytes::from(framed))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use hyper::body::Frame;
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;
    use crate::Control;
    use crate::grpc::GrpcLimits;

    /// A body that arrives in these pieces.
    struct Pieces(VecDeque<Bytes>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
        }
    }

    /// What is read of `body`, which arrives in pieces of `piece_bytes`, by who takes at most 100 bytes.
    fn read(body: &[u8], piece_bytes: usize) -> Result<Bytes, Status> {
        read_and_tell(body, piece_bytes).0
    }

    /// The same, and what was told before it was whole.
    fn read_and_tell(body: &[u8], piece_bytes: usize) -> (Result<Bytes, Status>, Vec<(String, String)>) {
        let pieces = Pieces(body.chunks(piece_bytes).map(Bytes::copy_from_slice).collect());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let told = std::cell::RefCell::new(Vec::new());
        let begins = |name: &str, version: &str| told.borrow_mut().push((name.to_owned(), version.to_owned()));
        let read = runtime.block_on(message(pieces, 100, begins));
        (read, told.into_inner())
    }

    #[test]
    fn a_model_is_made_ready_while_the_rest_of_a_request_is_on_its_way() {
        let served = crate::fixture::served(Control::default());
        let model = served.scheduler.residency().model("two", None).unwrap();
        let inference = Inference::new(Arc::clone(&served.scheduler), GrpcLimits::default());
        let request = ModelInferRequest {
            model_name: "two".to_owned(),
            raw_input_contents: vec![Bytes::from(vec![0; 1000])],
            ..ModelInferRequest::default()
        };
        let sent = framed(&request).unwrap();
        let (first, rest) = (sent.slice(..100), sent.slice(100..));
        let until_ready = {
            let (model, deadline) = (Arc::clone(&model), Instant::now() + Duration::from_secs(30));
            move || model.is_bound() || Instant::now() > deadline
        };
        assert!(!model.is_bound());
        let body = Held { pieces: Pieces([first, rest].into()), until: Box::new(until_ready) };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let begins = |name: &str, version: &str| inference.expect(name, version);
        runtime.block_on(message(body, 1 << 20, begins)).unwrap();
        assert!(model.is_bound());
    }

    /// A body whose second piece comes as soon as `until` holds.
    struct Held {
        pieces: Pieces,
        until: Box<dyn Fn() -> bool + Send>,
    }

    impl Body for Held {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            if self.pieces.0.len() == 1 && !(self.until)() {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            Pin::new(&mut self.pieces).poll_frame(context)
        }
    }

    #[test]
    fn a_message_however_it_arrives() {
        let of = |length: u8, rest: &[u8]| [&[0, 0, 0, 0, length], rest].concat();
        for (what, body, want) in [
            ("a message", of(3, b"abc"), Ok(&b"abc"[..])),
            ("an empty one", of(0, b""), Ok(b"")),
            ("nothing", vec![], Err((Code::Internal, "no message"))),
            ("half a prefix", vec![0, 0], Err((Code::Internal, "ends after 2 bytes"))),
            ("cut short", of(3, b"ab"), Err((Code::Internal, "ends after 7 bytes"))),
            ("more than one", of(1, b"abc"), Err((Code::Internal, "more follows"))),
            ("too large", of(101, b""), Err((Code::OutOfRange, "101 bytes"))),
            ("compressed after all", vec![1, 0, 0, 0, 0], Err((Code::Internal, "compression flag is 1"))),
            (
                "endless, it says",
                [&[0, 255, 255, 255, 255], &b"abc"[..]].concat(),
                Err((Code::OutOfRange, "4294967295")),
            ),
        ] {
            for piece_bytes in [1, 2, 5, 6, 100] {
                match (read(&body, piece_bytes), want) {
                    (Ok(got), Ok(want)) => assert_eq!(got, want, "{what} in pieces of {piece_bytes}"),
                    (Err(got), Err((code, says))) => {
                        assert_eq!(got.code(), code, "{what} in pieces of {piece_bytes}");
                        assert!(got.message().contains(says), "'{}' does not say '{says}'", got.message());
                    }
                    (got, want) => panic!("{what} in pieces of {piece_bytes}: {got:?}, not {want:?}"),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_framed_is_read_again(id in ".{0,60}", piece_bytes in 1usize..80) {
            let request = ModelInferRequest { id, ..ModelInferRequest::default() };
            prop_assume!(request.encoded_len() <= 100);
            let got = read(&framed(&request).unwrap(), piece_bytes).unwrap();
            prop_assert_eq!(ModelInferRequest::decode(got).unwrap(), request);
        }

        #[test]
        fn who_is_asked_for_is_known_as_soon_as_it_is_there_and_never_mistaken(
            model_name in ".{1,20}",
            model_version in "[0-9]{0,3}",
            id in ".{1,9}",
            piece_bytes in 1usize..120,
        ) {
            let want = (model_name.clone(), model_version.clone());
            let request = ModelInferRequest { model_name, model_version, id, ..ModelInferRequest::default() };
            prop_assume!(request.encoded_len() <= 100);
            let message = request.encode_to_vec();
            for end in 0..=message.len() {
                let named = named(&message[..end]).map(|(name, version)| (name.to_owned(), version.to_owned()));
                prop_assert!(named.is_none_or(|named| named == want), "{end}");
            }
            prop_assert!(named(&message).is_some());
            let (read, told) = read_and_tell(&framed(&request).unwrap(), piece_bytes);
            prop_assert!(read.is_ok() && told.len() <= 1 && told.iter().all(|told| *told == want), "{told:?}");
            prop_assert!(piece_bytes > 1 || told.len() == 1, "byte by byte it is known before the end");
        }

        #[test]
        fn no_body_is_too_strange(body: Vec<u8>, piece_bytes in 1usize..80) {
            let _ = read(&body, piece_bytes).map(ModelInferRequest::decode);
            let _ = named(&body);
        }
    }
}
