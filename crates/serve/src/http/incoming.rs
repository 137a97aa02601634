//! A request's body: whole, inflated, and within its limits.

use bytes::{Buf, Bytes};
use engine::Error;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body;

use super::HttpLimits;
use super::compress::{self, inflate};
use super::error::Refusal;

/// Inflating less than this takes no longer than handing it to another thread.
const INFLATE_HERE_BYTES_MAX: usize = 4096;

/// The whole of `body`, which came with `headers`, as it was before it was compressed.
///
/// # Errors
/// 413 when it is too large, compressed or not, 415 for a coding that is not served, 408 for one that pauses, 400 for
/// one that breaks off.
pub(super) async fn read(
    headers: &HeaderMap,
    body: impl Body<Error: std::fmt::Display>,
    limits: &HttpLimits,
) -> Result<Bytes, Refusal> {
    let coding = compress::of_content(headers)?;
    let body = as_sent(body, limits).await?;
    let limit = limits.body_bytes;
    match coding {
        None => Ok(body),
        Some(coding) if body.len() <= INFLATE_HERE_BYTES_MAX => inflate(coding, &body, limit),
        Some(coding) => {
            let inflated = tokio::task::spawn_blocking(move || inflate(coding, &body, limit));
            inflated.await.unwrap_or_else(|_| Err(Error::internal("the body's inflation did not end").into()))
        }
    }
}

/// The whole of `body`, within its limits. It grows with what arrives and never by what is announced.
async fn as_sent(body: impl Body<Error: std::fmt::Display>, limits: &HttpLimits) -> Result<Bytes, Refusal> {
    const FIRST_BYTES_MAX: u64 = 1 << 20;
    let limit = limits.body_bytes;
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(Refusal::too_large(limit));
    }
    let mut whole = Vec::new();
    let mut body = std::pin::pin!(body);
    loop {
        let held = whole.len();
        let pause = tokio::time::timeout(limits.body_pause, body.frame()).await;
        let Some(frame) = pause.map_err(|_| {
            let pause_s = limits.body_pause.as_secs_f64();
            let message = format!("nothing of the body came for {pause_s} s; {held} bytes had come");
            Refusal::new(StatusCode::REQUEST_TIMEOUT, message)
        })?
        else {
            return Ok(Bytes::from(whole));
        };
        let frame = frame.map_err(|error| {
            Refusal::from(Error::invalid(format!("the body broke off after {held} bytes: {error}")))
        })?;
        // What is not data is trailers, and the protocol has none.
        let Ok(mut data) = frame.into_data() else { continue };
        if data.remaining() > limit - held {
            return Err(Refusal::too_large(limit));
        }
        if held == 0 {
            if body.is_end_stream() {
                // A small body comes in one piece, which is then used where it is.
                return Ok(data.copy_to_bytes(data.remaining()));
            }
            whole.reserve(usize::try_from(announced.min(FIRST_BYTES_MAX)).unwrap_or_default());
        }
        while data.has_remaining() {
            let chunk = data.chunk();
            whole.extend_from_slice(chunk);
            let length = chunk.len();
            data.advance(length);
        }
    }
}
