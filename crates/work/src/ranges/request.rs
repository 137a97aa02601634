//! What a decoder asks for, in as much of HTTP/1.1 as it takes to answer one that only reads.

use std::ops::Range;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// The first byte that is wanted, and the first that is not, where it says so.
    start: u64,
    end: Option<u64>,
    is_partial: bool,
    /// Whether another may follow on the same connection.
    pub(super) stays: bool,
}

impl Request {
    /// The request whose head is `head`; `None` for anything that is not a request to read.
    pub(super) fn parse(head: &str) -> Option<Self> {
        let mut lines = head.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, version) = (first.next()?, first.nth(1)?);
        if method != "GET" || version != "HTTP/1.1" {
            return None;
        }
        let mut request = Self { start: 0, end: None, is_partial: false, stays: true };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("range") {
                let (start, last) = value.strip_prefix("bytes=")?.split_once('-')?;
                request.start = start.parse().ok()?;
                request.end = if last.is_empty() { None } else { Some(last.parse::<u64>().ok()?.checked_add(1)?) };
                request.is_partial = true;
            }
            if name.eq_ignore_ascii_case("connection") {
                request.stays = !value.eq_ignore_ascii_case("close");
            }
        }
        Some(request)
    }

    /// The head of the answer about something of so many `bytes`, and which of them follow.
    pub(super) fn answer(&self, bytes: u64) -> (String, Range<u64>) {
        let (start, end) = (self.start, self.end.map_or(bytes, |end| end.min(bytes)));
        if start >= end && self.is_partial {
            let head =
                format!("HTTP/1.1 416 No Such Range\r\nContent-Range: bytes */{bytes}\r\nContent-Length: 0\r\n\r\n");
            return (head, 0..0);
        }
        let (status, of) = match self.is_partial {
            true => ("206 Partial Content", format!("Content-Range: bytes {start}-{}/{bytes}\r\n", end - 1)),
            false => ("200 OK", String::new()),
        };
        let length = end - start;
        (format!("HTTP/1.1 {status}\r\nAccept-Ranges: bytes\r\n{of}Content-Length: {length}\r\n\r\n"), start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_what_is_told() {
        let table = [
            ("GET /v HTTP/1.1\r\nHost: a", Some(("200 OK", 0..100, true))),
            ("GET /v HTTP/1.1\r\nRange: bytes=0-", Some(("206 ", 0..100, true))),
            ("GET /v HTTP/1.1\r\nrange:bytes=10-19\r\nConnection: close", Some(("206 ", 10..20, false))),
            ("GET /v HTTP/1.1\r\nRange: bytes=99-900", Some(("206 ", 99..100, true))),
            ("GET /v HTTP/1.1\r\nRange: bytes=100-", Some(("416 ", 0..0, true))),
            ("GET /v HTTP/1.1\r\nRange: bytes=20-10", Some(("416 ", 0..0, true))),
            ("GET /v HTTP/1.1\r\nRange: bytes=-5", None),
            ("GET /v HTTP/1.1\r\nRange: bytes=0-18446744073709551615", None),
            ("GET /v HTTP/1.0", None),
            ("POST /v HTTP/1.1", None),
            ("", None),
        ];
        for (head, want) in table {
            let got = Request::parse(head).map(|request| (request.answer(100), request.stays));
            match (got, want) {
                (Some(((head, span), stays)), Some((says, want, want_stays))) => {
                    assert!(head.contains(says) && (span, stays) == (want, want_stays), "{head}");
                }
                (None, None) => {}
                (got, want) => panic!("{head}: {got:?}, not {want:?}"),
            }
        }
    }
}
