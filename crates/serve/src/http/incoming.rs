//! A request's body: whole, inflated, and within its limits.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use engine::Error;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Body;

use super::HttpLimits;
use super::compress::{self, inflate};
use super::error::Refusal;
use crate::Held;

/// Inflating less than this takes no longer than handing it to another thread.
const INFLATE_HERE_BYTES_MAX: usize = 4096;

/// The whole of `body`, which came with `headers`, as it was before it was compressed.
///
/// # Errors
/// 413 when it is too large, compressed or not, 415 for a coding that is not served, 408 for one that pauses, 400 for
/// one that breaks off, 429 when other bodies take all the memory there is for them.
pub(super) async fn read(
    headers: &HeaderMap,
    body: impl Body<Error: std::fmt::Display>,
    limits: &HttpLimits,
) -> Result<(Bytes, Held), Refusal> {
    let coding = compress::of_content(headers)?;
    let (body, held) = as_sent(body, limits).await?;
    let Some(coding) = coding else { return Ok((body, held)) };
    let (limit, bodies) = (limits.body_bytes, Arc::clone(&limits.bodies));
    let length = body.len();
    let inflate = move || {
        let mut inflated = bodies.share();
        let whole = inflate(coding, &body, limit, &mut inflated)?;
        // What was compressed goes only now, and its share with it.
        drop((body, held));
        Ok((whole, inflated))
    };
    match length {
        0..=INFLATE_HERE_BYTES_MAX => inflate(),
        _ => {
            let inflated = tokio::task::spawn_blocking(inflate);
            inflated.await.unwrap_or_else(|_| Err(Error::internal("the body's inflation did not end").into()))
        }
    }
}

/// The whole of `body`, within its limits. It grows with what arrives and never by what is announced.
///
/// So does its share of the memory for bodies: a client that is slow to send holds what it has sent.
async fn as_sent(body: impl Body<Error: std::fmt::Display>, limits: &HttpLimits) -> Result<(Bytes, Held), Refusal> {
    const FIRST_BYTES_MAX: u64 = 1 << 20;
    let limit = limits.body_bytes;
    let announced = body.size_hint().lower();
    if announced > limit as u64 {
        return Err(Refusal::too_large(limit));
    }
    limits.bodies.admits(usize::try_from(announced).unwrap_or(usize::MAX))?;
    let mut held = limits.bodies.share();
    let mut whole = Vec::new();
    let mut body = std::pin::pin!(body);
    loop {
        let came = whole.len();
        let pause = tokio::time::timeout(limits.listen.body_pause, body.frame()).await;
        let Some(frame) = pause.map_err(|_| {
            let pause_s = limits.listen.body_pause.as_secs_f64();
            let message = format!("nothing of the body came for {pause_s} s; {came} bytes had come");
            Refusal::new(StatusCode::REQUEST_TIMEOUT, message)
        })?
        else {
            return Ok((Bytes::from(whole), held));
        };
        let frame = frame.map_err(|error| {
            Refusal::from(Error::invalid(format!("the body broke off after {came} bytes: {error}")))
        })?;
        // What is not data is trailers, and the protocol has none.
        let Ok(mut data) = frame.into_data() else { continue };
        if data.remaining() > limit - came {
            return Err(Refusal::too_large(limit));
        }
        held.grow(data.remaining())?;
        if came == 0 {
            if body.is_end_stream() {
                // A small body comes in one piece, which is then used where it is.
                return Ok((data.copy_to_bytes(data.remaining()), held));
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
