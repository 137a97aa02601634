//! Loads against servers that are a few lines each.

use std::io::{Read, Write};
use std::net::TcpListener;

use proto::inference::ModelInferRequest;

use super::*;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    runtime().unwrap().block_on(future)
}

#[test]
fn answers_are_read_to_their_end_however_they_arrive() {
    for (what, reply, want) in [
        ("whole", &[&b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"[..]][..], Some((200, false))),
        (
            "in pieces",
            &[b"HTTP/1.1 503 Not", b" now\r\ncontent-length:", b" 3\r\n\r", b"\nno", b"!"],
            Some((503, false)),
        ),
        ("refused", &[b"HTTP/1.1 429 No\r\nretry-After: 1\r\nContent-Length: 0\r\n\r\n"], Some((429, true))),
        ("cut off", &[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"], None),
        ("no length", &[b"HTTP/1.1 200 OK\r\n\r\n"], None),
        ("no answer", &[b"SSH-2.0-OpenSSH\r\n\r\n"], None),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let pieces: Vec<Vec<u8>> = reply.iter().map(|piece| piece.to_vec()).collect();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_nodelay(true).unwrap();
            for piece in pieces {
                stream.write_all(&piece).unwrap();
                std::thread::yield_now();
            }
        });
        let head = block_on(async {
            let mut stream = tokio::net::TcpStream::connect(server).await.unwrap();
            http::answer(&mut stream, &mut Vec::new()).await
        });
        assert_eq!(head.ok().map(|head| (head.status, head.retry_after)), want, "{what}");
    }
}

/// Answers requests of four bytes on every connection with what `answer` says to each, from 0; `None` hangs up.
fn serve(answer: impl Fn(usize) -> Option<&'static str> + Send + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let (mut stream, mut request) = (stream.unwrap(), [0; 4]);
                for index in 0.. {
                    let read = stream.read_exact(&mut request);
                    let Some(head) = read.ok().and_then(|()| answer(index)) else { break };
                    let _ = write!(stream, "HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n");
                }
            });
        }
    });
    server
}

fn question() -> Question {
    Question::Http("GET\n".into())
}

#[test]
fn every_request_is_counted_as_what_became_of_it() {
    let server = serve(|index| match index % 4 {
        0 => Some("200 ok"),
        1 => Some("429 no\r\nRetry-After: 1"),
        2 => Some("500 broken"),
        _ => None,
    });
    let closed = Pace::Closed { callers: 3 };
    let open = Pace::Open { per_second: 400.0, connections: 3 };
    for (pace, in_all) in [(closed, None), (open, Some(200))] {
        let load = load(server, &question(), pace, Duration::from_millis(500)).unwrap();
        assert!(load.answered > 0 && load.refused > 0, "{load:?}");
        assert_eq!(load.refused, load.refused_with_time);
        let kinds: Vec<_> = load.failed.keys().map(String::as_str).collect();
        assert!(kinds.contains(&"HTTP 500") && kinds.iter().any(|kind| kind.starts_with("connection")), "{kinds:?}");
        assert_eq!(load.latencies_us.len(), load.answered);
        if let Some(in_all) = in_all {
            assert_eq!(load.answered + load.refused + load.failures() + load.unsent, in_all, "{load:?}");
        }
    }
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = load(nobody, &question(), Pace::Closed { callers: 1 }, Duration::from_millis(1)).unwrap_err();
    assert_eq!(error.kind, engine::ErrorKind::Unavailable);
    for per_second in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let pace = Pace::Open { per_second, connections: 1 };
        let error = load(serve(|_| None), &question(), pace, Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind, engine::ErrorKind::InvalidInput, "{per_second}");
    }
}

#[test]
fn what_a_stall_kept_from_being_sent_is_in_the_latencies() {
    // One connection, a request due every 50 ms, and the first answer takes 400 ms: those due at 50, 100, 150 and 200 ms
    // were answered when the stall was over at the earliest, 200 ms or more after they were due.
    let server = serve(|index| {
        if index == 0 {
            std::thread::sleep(Duration::from_millis(400));
        }
        Some("200 ok")
    });
    let pace = Pace::Open { per_second: 20.0, connections: 1 };
    let load = load(server, &question(), pace, Duration::from_secs(1)).unwrap();
    let late = load.latencies_us.count_between(199_000, u64::MAX);
    assert!(late + load.unsent >= 5, "{late} of {load:?}");
}

#[test]
fn a_question_holds_the_inputs_in_each_form() {
    use engine::{DataType, TensorSpec};
    let spec = |name: &str, dtype, shape: &[i64]| TensorSpec {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        any_rank: false,
    };
    for (spec, shape, want) in [
        (spec("f", DataType::F32, &[-1, 3]), None, Some((vec![1, 3], 12))),
        (spec("f", DataType::F32, &[-1, 3]), Some(&[4, 3][..]), Some((vec![4, 3], 48))),
        (spec("f", DataType::F32, &[-1, 3]), Some(&[4, 2]), None),
        (spec("i", DataType::I64, &[-1, -1]), Some(&[1, 8]), Some((vec![1, 8], 64))),
        (spec("h", DataType::F16, &[2]), None, Some((vec![2], 4))),
        (spec("b", DataType::Bool, &[5]), None, Some((vec![5], 5))),
        (spec("s", DataType::Bytes, &[1]), None, None),
        (spec("f", DataType::F32, &[-1]), Some(&[usize::MAX]), None),
    ] {
        let made = input(&spec, shape);
        let got = made.as_ref().ok().map(|tensor| (tensor.shape().to_vec(), tensor.data().len()));
        assert_eq!(got, want, "{} {shape:?}", spec.name);
    }
    let inputs = [("x".to_owned(), input(&spec("x", DataType::I32, &[1, 2]), None).unwrap())];
    let text = |api| match Question::infer(api, "m", &inputs).unwrap() {
        Question::Http(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Question::Grpc(message) => {
            format!("{:?}", <ModelInferRequest as prost::Message>::decode(&message[5..]).unwrap())
        }
    };
    for (api, says) in [
        (Api::Rest, [r#""binary_data_size":8"#, "Inference-Header-Content-Length: "]),
        (Api::RestJson, [r#""shape":[1, 2],"datatype":"INT32","data":["#, "POST /v2/models/m/infer HTTP/1.1\r\n"]),
        (Api::Grpc, ["model_name: \"m\"", "raw_input_contents: [b"]),
    ] {
        let text = text(api);
        assert!(says.iter().all(|part| text.contains(part)), "{api:?}: {text}");
    }
}
