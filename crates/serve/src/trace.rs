//! Where a request stands in a distributed trace, in the form of W3C's Trace Context
//! (<https://www.w3.org/TR/trace-context/>). A request that says nothing of a trace costs one look for the header.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// The answer's name for the same (<https://w3c.github.io/trace-context/#traceresponse-header>): `traceparent` itself
/// is for requests only.
pub(crate) const RESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// The longest `tracestate` that is passed on, in bytes: what everyone has to pass on, and no more.
const STATE_BYTES_MAX: usize = 512;

/// The most entries of a `tracestate`.
const STATE_ENTRIES_MAX: usize = 32;

/// Of the flags those that are defined: sampled, and that the trace's id is random.
const FLAGS: u8 = 0b11;

/// A trace, and this server's own step in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    /// This server's own, made for this request.
    span_id: u64,
    flags: u8,
    /// What other systems have to say about the trace; passed on as it came.
    state: Option<String>,
}

impl TraceContext {
    /// The trace that a request with `headers` is part of; `None` when it is of none, or says so in a way that the
    /// specification wants ignored.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Arc<Self>> {
        let mut parents = headers.get_all(PARENT).iter();
        let parent = parents.next()?;
        // Two parents are none.
        if parents.next().is_some() {
            return None;
        }
        let (trace_id, flags) = parse(parent.to_str().ok()?)?;
        Some(Arc::new(Self { trace_id, span_id: new_span_id(), flags, state: state(headers) }))
    }

    /// The header `traceparent` for whatever this request is passed on to: 55 characters.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }

    /// The header `tracestate` for the same.
    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The value of the answer's header [`RESPONSE`].
    pub(crate) fn response(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(self.traceparent()).ok()
    }

    /// Puts the trace, and the request's own id when that is [told](tell_request_id), on every line of the log that is
    /// written within.
    pub(crate) fn span(&self) -> tracing::Span {
        let (trace_id, span_id) = (format!("{:032x}", self.trace_id), format!("{:016x}", self.span_id));
        tracing::error_span!("request", trace_id, span_id, request_id = tracing::field::Empty)
    }
}

/// Names the request that the current [span](TraceContext::span) is of.
pub(crate) fn tell_request_id(id: &str) {
    tracing::Span::current().record("request_id", id);
}

/// The trace's id and flags in a `traceparent`.
fn parse(text: &str) -> Option<(u128, u8)> {
    // Ids are lower-case; the parser of numbers would take more.
    let hexadecimal = |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let (known, rest) = text.split_at_checked(55)?;
    let mut fields = known.split('-');
    let [version, trace, span, flags] = [fields.next()?, fields.next()?, fields.next()?, fields.next()?];
    if fields.next().is_some() || [version.len(), trace.len(), span.len(), flags.len()] != [2, 32, 16, 2] {
        return None;
    }
    // A later version may have more fields, and the first ones stay what they are.
    let versioned = match version {
        "ff" => false,
        "00" => rest.is_empty(),
        _ => rest.is_empty() || rest.starts_with('-'),
    };
    if !versioned || ![version, trace, span, flags].into_iter().all(hexadecimal) {
        return None;
    }
    let trace_id = u128::from_str_radix(trace, 16).ok().filter(|&id| id != 0)?;
    u64::from_str_radix(span, 16).ok().filter(|&id| id != 0)?;
    Some((trace_id, u8::from_str_radix(flags, 16).ok()? & FLAGS))
}

/// All `tracestate` headers as one; `None` when there is none, or one that is not worth passing on.
fn state(headers: &HeaderMap) -> Option<String> {
    let mut all = String::new();
    for value in headers.get_all(STATE) {
        let separator = if all.is_empty() { "" } else { "," };
        write!(all, "{separator}{}", value.to_str().ok()?).ok()?;
    }
    let entry = |entry: &str| entry.trim().is_empty() || entry.split_once('=').is_some_and(|(key, _)| !key.is_empty());
    let fits = !all.is_empty() && all.len() <= STATE_BYTES_MAX && all.split(',').count() <= STATE_ENTRIES_MAX;
    (fits && all.split(',').all(entry)).then_some(all)
}

fn new_span_id() -> u64 {
    // Keyed from the system's randomness, another key each time; ids have to differ, not to be secret.
    RandomState::new().build_hasher().finish().max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter().map(|&(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_is_a_parent() {
        let id = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
        for (text, want) in [
            (GOOD, Some((id, 1))),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-fe", Some((id, 2))),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", Some((id, 0))),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes", Some((id, 1))),
            ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what-comes", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", None),
            ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("00-00000000000000000000000000000000-b7ad6b7169203331-01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", None),
            ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", None),
            ("00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1", None),
            ("00-0af7651916cd43dd8448eb211c80319cb-7ad6b7169203331-01", None),
            ("0-00af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None),
            ("", None),
        ] {
            assert_eq!(parse(text), want, "{text}");
        }
    }

    #[test]
    fn the_trace_stays_and_the_span_is_new() {
        let of = |list: &[(&'static str, &str)]| TraceContext::of(&headers(list));
        let (one, other) = (of(&[(PARENT, GOOD)]).unwrap(), of(&[(PARENT, GOOD)]).unwrap());
        assert_ne!(one.span_id, other.span_id);
        for context in [one, other] {
            let passed_on = context.traceparent();
            assert_eq!((&passed_on[..36], &passed_on[52..]), (&GOOD[..36], &GOOD[52..]));
            assert_ne!(passed_on, GOOD);
            assert!(parse(&passed_on).is_some(), "{passed_on}");
        }
        assert_eq!(of(&[(STATE, "a=1")]), None);
        assert_eq!(of(&[(PARENT, GOOD), (PARENT, GOOD)]), None);
        let long = format!("a={}", "b".repeat(STATE_BYTES_MAX));
        let many = ["a=1"; STATE_ENTRIES_MAX + 1].join(",");
        for (values, want) in [
            (&["rojo=1,congo=t61"][..], Some("rojo=1,congo=t61")),
            (&["rojo=1", "congo=t61"], Some("rojo=1,congo=t61")),
            (&["rojo=1,, congo=2"], Some("rojo=1,, congo=2")),
            (&["rojo"], None),
            (&["=1"], None),
            (&[&long], None),
            (&[&many], None),
            (&[], None),
        ] {
            let mut list = vec![(PARENT, GOOD)];
            list.extend(values.iter().map(|&value| (STATE, value)));
            assert_eq!(of(&list).unwrap().tracestate(), want, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn noise_is_ignored(text in "[0-9a-f-]{50,60}|\\PC{0,60}") {
            if let Some((id, _)) = parse(&text) {
                prop_assert_eq!(&text[3..35], format!("{:032x}", id));
            }
        }
    }
}
