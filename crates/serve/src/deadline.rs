//! Until when an answer is worth anything, from what the head of a call says, over REST as over gRPC.

use std::time::{Duration, Instant};

use engine::{Error, Result};
use http::HeaderMap;

/// The time that the client gives the call: gRPC's own header, which gateways between REST and gRPC take over REST too.
pub(crate) const TIMEOUT_HEADER: &str = "grpc-timeout";
/// The time in milliseconds after which Envoy gives up on the call; it says so by itself. 0 is no limit.
pub(crate) const ENVOY_HEADER: &str = "x-envoy-expected-rq-timeout-ms";

/// When the answer to a REST call that came at `now` is worth nothing any more: the earliest moment that its `headers`
/// name, if any.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a header that cannot be read.
pub(crate) fn of_headers(headers: &HeaderMap, now: Instant) -> Result<Option<Instant>> {
    let mut earliest = None;
    for value in headers.get_all(TIMEOUT_HEADER) {
        let text = value.to_str().map_err(|_| Error::invalid("grpc-timeout is not text"))?;
        earliest = earlier(earliest, now.checked_add(grpc_timeout(text)?));
    }
    for value in headers.get_all(ENVOY_HEADER) {
        let milliseconds: Option<u64> = value.to_str().ok().and_then(|text| text.parse().ok());
        let milliseconds = milliseconds.ok_or_else(|| {
            Error::invalid(format!("{ENVOY_HEADER} is {value:?}, which is not a number of milliseconds"))
        })?;
        if milliseconds > 0 {
            earliest = earlier(earliest, now.checked_add(Duration::from_millis(milliseconds)));
        }
    }
    Ok(earliest)
}

/// The earlier of two moments that may be none.
pub(crate) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}

/// The time a `grpc-timeout` header gives a call: one to eight digits and a unit, by the gRPC specification.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for any other form.
pub(crate) fn grpc_timeout(header: &str) -> Result<Duration> {
    let malformed =
        || Error::invalid(format!("grpc-timeout '{header}' is not 1 to 8 digits and one of H, M, S, m, u, n"));
    let (digits, unit) = header.split_at_checked(header.len().saturating_sub(1)).ok_or_else(malformed)?;
    let well_formed = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u32 = digits.parse().ok().filter(|_| well_formed).ok_or_else(malformed)?;
    let unit = match unit {
        "H" => Duration::from_secs(3600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return Err(malformed()),
    };
    Ok(unit.saturating_mul(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts() {
        for (header, want) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("250m", Some(Duration::from_millis(250))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("100000000n", None),
            ("", None),
            ("S", None),
            ("1", None),
            ("1x", None),
            ("+1S", None),
            ("1\u{b5}", None),
        ] {
            assert_eq!(grpc_timeout(header).ok(), want, "'{header}'");
        }
    }

    #[test]
    fn the_earliest_header_holds() {
        let now = Instant::now();
        for (headers, want_ms) in [
            (&[][..], Some(None)),
            (&[("grpc-timeout", "250m")], Some(Some(250))),
            (&[("Grpc-Timeout", "1S"), ("X-Envoy-Expected-Rq-Timeout-Ms", "300")], Some(Some(300))),
            (&[("grpc-timeout", "1S"), ("x-envoy-expected-rq-timeout-ms", "3000")], Some(Some(1000))),
            (&[("grpc-timeout", "1S"), ("grpc-timeout", "2m")], Some(Some(2))),
            (&[("x-envoy-expected-rq-timeout-ms", "0")], Some(None)),
            (&[("grpc-timeout", "0m")], Some(Some(0))),
            (&[("grpc-timeout", "soon")], None),
            (&[("x-envoy-expected-rq-timeout-ms", "1.5")], None),
            (&[("x-envoy-expected-rq-timeout-ms", "18446744073709551616")], None),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
            }
            let got = of_headers(&map, now).ok().map(|at| at.map(|at| (at - now).as_millis()));
            assert_eq!(got, want_ms, "{headers:?}");
        }
    }
}
