//! Requests that began as good ones: each is changed at random, and is answered or refused for what it is. Nothing
//! panics, nothing is the server's fault, and what a request declares takes no memory.

use bytes::Bytes;
use http_body_util::Full;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::Control;
use crate::fixture::served;

/// What the answers to all are held against: whoever takes memory for a number in a request passes this.
const BODIES_BYTES: usize = 64 << 10;

/// Path, how much of the body is JSON where that is said, and the body.
const GOOD: [(&str, Option<usize>, &str); 9] = [
    (
        "/v2/models/two/infer",
        None,
        r#"{"id":"1","parameters":{"priority":1,"timeout":60000000},"inputs":[{"name":"a","datatype":"FP32","shape":[2,2],
        "data":[[1,2.5],[-3e2,4]]},{"name":"b","datatype":"FP32","shape":[2],"data":[0,1]}],"outputs":[{"name":"value"}]}"#,
    ),
    (
        "/v2/models/words/infer",
        None,
        r#"{"inputs":[{"name":"word","datatype":"BYTES","shape":[2],"data":["a\u00e9\ud83d\ude00","\n"]}]}"#,
    ),
    (
        "/v2/models/pixels/infer",
        Some(109),
        r#"{"inputs":[{"name":"x:0","datatype":"UINT8","shape":[2,2],"parameters":{"binary_data_size":4}}],"id":"b"}    abcd"#,
    ),
    ("/v2/models/pixels/versions/2/infer", Some(0), "abcdefgh"),
    ("/v1/models/two:predict", None, r#"{"instances":[{"a":[1,NaN],"b":3},{"a":[0.5,-Infinity],"b":4}]}"#),
    ("/v1/models/pixels:predict", None, r#"{"signature_name":"serving_default","inputs":{"x":[[1,2],[3,4]]}}"#),
    ("/v1/models/words:predict", None, r#"{"instances":[{"b64":"aGk="},"text"]}"#),
    ("/v1/models/two:classify", None, r#"{"context":{"b":1.5},"examples":[{"a":[0.1,0.9]},{"a":[1,0],"b":2}]}"#),
    ("/v1/models/two:regress", None, r#"{"examples":[{"a":[0.1,0.9],"b":[2]}]}"#),
];

/// What is put into a request.
const PIECES: [&str; 24] = [
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "\"",
    "\\",
    "\\ud800",
    "null",
    "true",
    "NaN",
    "1e999",
    "-1e-999",
    "-0",
    "0.1e+1",
    "9223372036854775807",
    "18446744073709551616",
    "4611686018427387904",
    "340282366920938463463374607431768211456",
    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
    "{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":",
    "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]",
    "\u{0}",
];

/// One change of a body.
#[derive(Clone, Debug)]
enum Change {
    Set(Index, u8),
    Insert(Index, usize),
    Remove(Index, u8),
    Repeat(Index, u8),
    Cut(Index),
    /// A run of digits, wherever the next one is, becomes a piece.
    Number(Index, usize),
}

impl Change {
    fn apply(&self, body: &mut Vec<u8>) {
        let at = |index: &Index| index.index(body.len() + 1);
        let end = |from: usize, length: u8| (from + usize::from(length)).min(body.len());
        match self {
            Self::Set(index, byte) => {
                let at = at(index);
                if let Some(place) = body.get_mut(at) {
                    *place = *byte;
                }
            }
            Self::Insert(index, piece) => {
                let at = at(index);
                body.splice(at..at, PIECES[*piece].bytes());
            }
            Self::Remove(index, length) => {
                let range = at(index)..end(at(index), *length);
                body.drain(range);
            }
            Self::Repeat(index, length) => {
                let range = at(index)..end(at(index), *length);
                let piece = body[range.clone()].to_vec();
                body.splice(range.start..range.start, piece);
            }
            Self::Cut(index) => {
                let at = at(index);
                body.truncate(at);
            }
            Self::Number(index, piece) => {
                let from = at(index);
                let Some(start) = body[from..].iter().position(u8::is_ascii_digit).map(|start| from + start) else {
                    return;
                };
                let digits = body[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                body.splice(start..start + digits, PIECES[*piece].bytes());
            }
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let piece = 0..PIECES.len();
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(index, byte)| Change::Set(index, byte)),
        (any::<Index>(), piece.clone()).prop_map(|(index, piece)| Change::Insert(index, piece)),
        (any::<Index>(), 1u8..40).prop_map(|(index, length)| Change::Remove(index, length)),
        (any::<Index>(), 1u8..40).prop_map(|(index, length)| Change::Repeat(index, length)),
        any::<Index>().prop_map(Change::Cut),
        (any::<Index>(), piece).prop_map(|(index, piece)| Change::Number(index, piece)),
    ]
}

/// The status and the body of the answer to `body`, sent to `path`.
async fn exchange(
    scheduler: &Arc<Scheduler>,
    limits: &Arc<HttpLimits>,
    path: &str,
    json_bytes: Option<usize>,
    body: Vec<u8>,
) -> (u16, Vec<u8>) {
    let mut request = Request::post(path);
    if let Some(json_bytes) = json_bytes {
        request = request.header(JSON_BYTES_HEADER, json_bytes);
    }
    let response = answer(scheduler, limits, request.body(Full::new(Bytes::from(body))).unwrap()).await;
    (response.status().as_u16(), response.into_body().concat())
}

fn limits() -> Arc<HttpLimits> {
    Arc::new(HttpLimits { bodies: Bodies::new(BODIES_BYTES), ..HttpLimits::default() })
}

#[tokio::test]
async fn the_good_ones_are_good() {
    let (served, limits) = (served(Control::None), limits());
    for (path, json_bytes, body) in GOOD {
        let (status, said) = exchange(&served.scheduler, &limits, path, json_bytes, body.into()).await;
        assert_eq!(status, 200, "{path}: {}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn a_changed_request_is_answered_or_refused() {
    let (served, limits) = (served(Control::None), limits());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cases = (0..GOOD.len(), prop::collection::vec(change(), 1..5), -2isize..3);
    proptest!(ProptestConfig::with_cases(4000), |((which, changes, shift) in cases)| {
        let (path, json_bytes, body) = GOOD[which];
        let mut body = body.as_bytes().to_vec();
        changes.iter().for_each(|change| change.apply(&mut body));
        let json_bytes = json_bytes.map(|bytes| bytes.saturating_add_signed(shift));
        let (status, said) = runtime.block_on(exchange(&served.scheduler, &limits, path, json_bytes, body));
        prop_assert!(matches!(status, 200 | 400 | 404 | 429 | 501 | 504), "{status}: {}", String::from_utf8_lossy(&said));
        if status != 200 {
            let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
            prop_assert!(said["error"].as_str().is_some_and(|message| !message.is_empty()));
        }
        prop_assert_eq!(limits.bodies.held_bytes(), 0);
    });
}

/// A shape is a claim: of sizes that nothing could hold, none is taken at its word.
#[tokio::test]
async fn a_declared_size_takes_no_memory() {
    let (served, limits) = (served(Control::None), limits());
    for size in ["1099511627776", "4611686018427387904", "9223372036854775807"] {
        for rest in [r#""data":[]"#, r#""data":[1]"#, r#""parameters":{"binary_data_size":SIZE}"#] {
            for shape in ["[SIZE,1]", "[1,SIZE]", "[SIZE,SIZE]", "[SIZE,0]"] {
                let body = format!(r#"{{"inputs":[{{"name":"x:0","datatype":"UINT8","shape":{shape},{rest}}}]}}"#);
                let body = body.replace("SIZE", size);
                let said =
                    exchange(&served.scheduler, &limits, "/v2/models/pixels/infer", None, body.clone().into()).await;
                // No elements are what a shape with a zero in it wants.
                let empty = shape.ends_with(",0]") && rest.contains("[]");
                assert!(said.0 == 400 || (empty && said.0 == 200), "{} {body}", said.0);
            }
        }
    }
}
