//! The readers of this protocol's requests, one by one; see [`crate::untrusted`].

use std::time::Instant;

use bytes::Bytes;
use engine::{DataType, Signature, TensorSpec};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::request::{self, Bounds, Call};
use super::{compress, multipart, router, tfs};
use crate::untrusted::Reader;
use crate::{Bodies, TraceContext, deadline};

pub(crate) const READERS: [(&str, Reader); 6] = [
    ("http-infer", infer),
    ("http-tfs", tensorflow),
    ("http-form", form),
    ("http-compressed", compressed),
    ("http-path", path),
    ("http-headers", headers),
];

/// Far above what a few bytes may make, and far below what could be missed.
const LIMIT_BYTES: usize = 1 << 20;

fn signature() -> Signature {
    let tensor = |name: &str, dtype, shape: &[i64]| TensorSpec {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        any_rank: false,
    };
    let inputs = vec![
        tensor("a", DataType::F32, &[-1, 2]),
        tensor("b", DataType::I64, &[-1]),
        tensor("words_bytes", DataType::Bytes, &[-1, -1]),
        tensor("half", DataType::F16, &[-1]),
    ];
    Signature { outputs: inputs.clone(), inputs }
}

/// JSON where the body begins like that; else the first two bytes say how much of the rest is JSON.
fn infer(bytes: &[u8]) {
    let (json_bytes, body) = match bytes {
        [b'{', ..] => (None, bytes),
        [low, high, rest @ ..] => (Some(usize::from(u16::from_le_bytes([*low, *high]))), rest),
        _ => return,
    };
    let mut signature = signature();
    // A body without JSON is for a model with one input.
    signature.inputs.truncate(if json_bytes == Some(0) { 1 } else { usize::MAX });
    let call = Call {
        model: "m".to_owned(),
        version: None,
        signature: &signature,
        has_options: true,
        body: Bytes::copy_from_slice(body),
        json_bytes,
        memory: None,
        now: Instant::now(),
    };
    let bounds = Bounds { depth: 16, tensors: 16, memory_bytes: 0 };
    let Ok((request, _)) = request::decode(call, bounds) else { return };
    let json = &body[..json_bytes.unwrap_or(body.len())];
    let has_words = ["NaN", "Infinity"].iter().any(|word| json.windows(word.len()).any(|at| at == word.as_bytes()));
    if !json.is_empty() && !has_words {
        let whole: Result<serde::de::IgnoredAny, _> = serde_json::from_slice(json);
        assert!(whole.is_ok(), "what is no JSON was taken for {request:?}");
    }
    for (name, tensor) in &request.inputs {
        assert!(tensor.data().len() <= LIMIT_BYTES.max(body.len() * 8), "'{name}' has more than was sent");
    }
}

fn tensorflow(bytes: &[u8]) {
    tfs::untrusted(&signature(), bytes);
}

fn form(bytes: &[u8]) {
    let _ = str::from_utf8(bytes).map(multipart::boundary);
    let _ = multipart::parts(&Bytes::copy_from_slice(bytes), "b");
}

/// The first byte says how.
fn compressed(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let coding = if kind % 2 == 0 { compress::Coding::Gzip } else { compress::Coding::Deflate };
    let bodies = Bodies::new(2 * LIMIT_BYTES);
    if let Ok(inflated) = compress::inflate(coding, body, LIMIT_BYTES, &mut bodies.share()) {
        assert!(inflated.len() <= LIMIT_BYTES);
    }
}

fn path(bytes: &[u8]) {
    let Ok(path) = str::from_utf8(bytes) else { return };
    for method in [Method::GET, Method::POST] {
        let _ = router::route(&method, path);
    }
    let _ = tfs::claims(path);
}

/// Everything that is read of a header, from one text.
fn headers(bytes: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
    let names = ["traceparent", "tracestate", deadline::TIMEOUT_HEADER, deadline::ENVOY_HEADER];
    let names = names.into_iter().map(HeaderName::from_static).chain([ACCEPT_ENCODING, CONTENT_ENCODING]);
    let headers: HeaderMap = names.map(|name| (name, value.clone())).collect();
    let _ = (deadline::of_headers(&headers, Instant::now()), TraceContext::of(&headers));
    let _ = (compress::accepted(&headers), compress::of_content(&headers).is_ok());
}
