//! `Content-Encoding` of requests and `Accept-Encoding` of replies: gzip and deflate.

use std::io::{Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::body::Parts;
use super::error::Refusal;
use crate::Held;

/// A smaller reply gains nothing from being smaller still.
const WORTH_BYTES_MIN: usize = 1024;

/// How much is inflated before it is counted against the memory for bodies.
const STEP_BYTES: u64 = 1 << 20;

/// How a body is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// RFC 1952.
    Gzip,
    /// By its definition the zlib format of RFC 1950; some clients send bare RFC 1951, which is read as well.
    Deflate,
}

impl Coding {
    fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }
}

/// How the body that comes with `headers` is compressed; `None` for one that is as it is.
///
/// # Errors
/// 415 for a coding that is not read here, and for several at once.
pub(super) fn of_content(headers: &HeaderMap) -> Result<Option<Coding>, Refusal> {
    let mut found = None;
    for value in headers.get_all(CONTENT_ENCODING) {
        let text = value.to_str().unwrap_or("?");
        for name in text.split(',').map(str::trim).filter(|name| !name.eq_ignore_ascii_case("identity")) {
            let coding = Coding::from_name(name);
            if coding.is_none() || found.is_some() {
                return Err(Refusal::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    format!("Content-Encoding {text:?} is not served; use gzip or deflate, one of them, or neither"),
                ));
            }
            found = coding;
        }
    }
    Ok(found)
}

/// The coding that a client with `headers` likes best for a reply; `None` when it would rather have it as it is, or
/// says nothing. Of equals gzip is taken.
pub(super) fn accepted(headers: &HeaderMap) -> Option<Coding> {
    let (mut gzip, mut deflate, mut any, mut identity) = (None, None, None, None);
    for value in headers.get_all(ACCEPT_ENCODING) {
        for item in value.to_str().unwrap_or_default().split(',') {
            let (name, weight) = item.split_once(';').unwrap_or((item, ""));
            let weight = weight.trim().strip_prefix("q=").map_or(Some(1.0f32), |weight| weight.trim().parse().ok());
            // A weight that is none makes the item mean nothing.
            let Some(weight) = weight.filter(|weight| (0.0..=1.0).contains(weight)) else { continue };
            let name = name.trim();
            match Coding::from_name(name) {
                Some(Coding::Gzip) => gzip = Some(weight),
                Some(Coding::Deflate) => deflate = Some(weight),
                None if name == "*" => any = Some(weight),
                None if name.eq_ignore_ascii_case("identity") => identity = Some(weight),
                None => {}
            }
        }
    }
    let weight = |own: Option<f32>| own.or(any).unwrap_or(0.0);
    let (gzip, deflate) = (weight(gzip), weight(deflate));
    let (best, weight) = if gzip >= deflate { (Coding::Gzip, gzip) } else { (Coding::Deflate, deflate) };
    // Unless it is named, the reply as it is may always be sent, but is not preferred to what is asked for.
    (weight > 0.0 && weight >= identity.unwrap_or(0.0)).then_some(best)
}

/// What `body` holds, which may be at most `limit` bytes: it is inflated piece by piece, no further
/// than that and than `held` may grow.
///
/// # Errors
/// 413 past the limit, 400 for a body that is not what its header says, 429 when there is no memory for it.
pub(super) fn inflate(coding: Coding, body: &[u8], limit: usize, held: &mut Held) -> Result<Bytes, Refusal> {
    // The header of the zlib format: method 8, and a checksum over both bytes.
    let has_zlib_header = matches!(*body, [method, flags, ..]
        if method & 15 == 8 && u16::from_be_bytes([method, flags]).is_multiple_of(31));
    match coding {
        Coding::Gzip => whole(coding, MultiGzDecoder::new(body), limit, held),
        Coding::Deflate if has_zlib_header => whole(coding, ZlibDecoder::new(body), limit, held),
        Coding::Deflate => whole(coding, DeflateDecoder::new(body), limit, held),
    }
}

fn whole(coding: Coding, decoder: impl Read, limit: usize, held: &mut Held) -> Result<Bytes, Refusal> {
    let mut data = Vec::new();
    // One byte more tells a body that is too large from one that just fits.
    let mut decoder = decoder.take((limit as u64).saturating_add(1));
    loop {
        let before = data.len();
        let read = decoder.by_ref().take(STEP_BYTES).read_to_end(&mut data);
        if data.len() > limit {
            return Err(Refusal::too_large(limit));
        }
        held.grow(data.len() - before)?;
        read.map_err(|source| {
            let name = coding.name();
            let message = format!("the body is not what Content-Encoding {name} says: {source}");
            Refusal::new(StatusCode::BAD_REQUEST, message)
        })?;
        if data.len() == before {
            return Ok(Bytes::from(data));
        }
    }
}

/// `response` compressed as `coding` says, if that is worth it. Takes as long as compressing does: off the threads
/// that serve the network when there is much of it.
pub(super) async fn deflate(mut response: http::Response<Parts>, coding: Option<Coding>) -> http::Response<Parts> {
    let Some(coding) = coding.filter(|_| response.body().len() >= WORTH_BYTES_MIN) else { return response };
    let parts = std::mem::take(response.body_mut());
    let compressed = tokio::task::spawn_blocking({
        let parts = parts.clone();
        move || compressed(coding, &parts)
    });
    // Where compressing fails, the reply goes out as it is.
    match compressed.await {
        Ok(Ok(data)) => {
            *response.body_mut() = Parts::new([data]);
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        }
        Ok(Err(_)) | Err(_) => *response.body_mut() = parts,
    }
    response
}

fn compressed(coding: Coding, parts: &Parts) -> std::io::Result<Bytes> {
    // Tensors hardly shrink further at the higher levels, which take several times as long.
    let level = Compression::fast();
    match coding {
        Coding::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), level);
            parts.pieces().try_for_each(|piece| encoder.write_all(piece))?;
            encoder.finish().map(Bytes::from)
        }
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), level);
            parts.pieces().try_for_each(|piece| encoder.write_all(piece))?;
            encoder.finish().map(Bytes::from)
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::write::DeflateEncoder;
    use proptest::prelude::*;

    use super::*;

    fn headers(name: &http::header::HeaderName, values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), value.parse().unwrap())).collect()
    }

    /// Every form in which a client may send `data`, smallest first.
    fn forms(data: &[u8]) -> Vec<(Coding, Vec<u8>)> {
        let parts = Parts::new([Bytes::copy_from_slice(data)]);
        let mut bare = DeflateEncoder::new(Vec::new(), Compression::best());
        bare.write_all(data).unwrap();
        vec![
            (Coding::Gzip, compressed(Coding::Gzip, &parts).unwrap().to_vec()),
            (Coding::Deflate, compressed(Coding::Deflate, &parts).unwrap().to_vec()),
            (Coding::Deflate, bare.finish().unwrap()),
        ]
    }

    fn status(refusal: Refusal) -> u16 {
        refusal.into_response().status().as_u16()
    }

    #[test]
    fn what_a_request_may_say() {
        for (values, want) in [
            (&[][..], Ok(None)),
            (&["identity"], Ok(None)),
            (&["gzip"], Ok(Some(Coding::Gzip))),
            (&["X-GZip"], Ok(Some(Coding::Gzip))),
            (&["Deflate"], Ok(Some(Coding::Deflate))),
            (&["identity, gzip"], Ok(Some(Coding::Gzip))),
            (&["br"], Err(415)),
            (&["gzip, gzip"], Err(415)),
            (&["gzip", "deflate"], Err(415)),
            (&[""], Err(415)),
        ] {
            assert_eq!(of_content(&headers(&CONTENT_ENCODING, values)).map_err(status), want, "{values:?}");
        }
    }

    #[test]
    fn what_a_client_likes_best() {
        for (values, want) in [
            (&[][..], None),
            (&[""], None),
            (&["br"], None),
            (&["identity"], None),
            (&["gzip"], Some(Coding::Gzip)),
            (&["deflate"], Some(Coding::Deflate)),
            (&["gzip, deflate, br"], Some(Coding::Gzip)),
            (&["deflate;q=0.9, gzip;q=0.5"], Some(Coding::Deflate)),
            (&["gzip;q=0.5", "deflate; q=0.9"], Some(Coding::Deflate)),
            (&["gzip;q=0"], None),
            (&["gzip;q=0, *;q=0.1"], Some(Coding::Deflate)),
            (&["*"], Some(Coding::Gzip)),
            (&["identity;q=1, gzip;q=0.5"], None),
            (&["identity, gzip"], Some(Coding::Gzip)),
            (&["gzip;q=two"], None),
            (&["gzip;q=2"], None),
        ] {
            assert_eq!(accepted(&headers(&ACCEPT_ENCODING, values)), want, "{values:?}");
        }
    }

    #[test]
    fn a_body_that_is_not_what_its_header_says() {
        for (coding, mut body) in forms(b"a body of some length, a body of some length") {
            body.truncate(body.len() - 1);
            assert_eq!(
                status(inflate(coding, &body, 1000, &mut Held::default()).unwrap_err()),
                400,
                "{coding:?} cut short"
            );
        }
        assert_eq!(status(inflate(Coding::Gzip, b"{\"inputs\":[]}", 1000, &mut Held::default()).unwrap_err()), 400);
        assert_eq!(status(inflate(Coding::Deflate, b"{\"inputs\":[]}", 1000, &mut Held::default()).unwrap_err()), 400);
    }

    #[test]
    fn a_bomb_goes_off_at_the_limit() {
        let zeros = vec![0; 8 << 20];
        for (coding, body) in forms(&zeros) {
            assert!(body.len() < zeros.len() / 100);
            assert_eq!(status(inflate(coding, &body, 1 << 20, &mut Held::default()).unwrap_err()), 413, "{coding:?}");
            assert_eq!(inflate(coding, &body, zeros.len(), &mut Held::default()).unwrap(), zeros, "{coding:?}");
        }
        // Members one after the other count as one body.
        let (coding, one) = forms(&zeros[..1000]).swap_remove(0);
        assert_eq!(status(inflate(coding, &one.repeat(3), 2999, &mut Held::default()).unwrap_err()), 413);
        assert_eq!(inflate(coding, &one.repeat(3), 3000, &mut Held::default()).unwrap().len(), 3000);
    }

    proptest! {
        #[test]
        fn what_fits_comes_back_and_what_does_not_is_refused(
            data in prop::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..4000),
            limit in 0usize..4000,
        ) {
            for (coding, body) in forms(&data) {
                match inflate(coding, &body, limit, &mut Held::default()) {
                    Ok(got) => {
                        prop_assert!(data.len() <= limit);
                        prop_assert_eq!(&got[..], &data[..]);
                    }
                    Err(refusal) => {
                        prop_assert!(data.len() > limit);
                        prop_assert_eq!(status(refusal), 413);
                    }
                }
            }
        }

        #[test]
        fn noise_is_refused_or_stays_within_the_limit(body: Vec<u8>, limit in 0usize..1000) {
            for coding in [Coding::Gzip, Coding::Deflate] {
                if let Ok(data) = inflate(coding, &body, limit, &mut Held::default()) {
                    prop_assert!(data.len() <= limit);
                }
            }
        }
    }
}
