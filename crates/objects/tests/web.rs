//! Web servers as places: ranges, signed URLs, redirects, and servers that do as they like.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::ErrorKind;
use objects::{Limits, Network, Variables, When, conformance};

const LEN: usize = 300_000;

/// Status, head and body.
pub(crate) type Answer = (u16, String, Vec<u8>);

/// What a request asked for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    method: String,
    path: String,
    /// In lower case.
    pub(crate) head: String,
}

impl Asked {
    fn range(&self) -> Option<(usize, usize)> {
        let range = self.head.split_once("range: bytes=")?.1.split_once("\r\n")?.0;
        let (start, end) = range.split_once('-')?;
        Some((start.parse().ok()?, end.parse::<usize>().ok()? + 1))
    }
}

/// A web server on a free port that answers as `answer` says: status, head and body. It ends with the test's process.
pub(crate) fn serve(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> (SocketAddr, Arc<Mutex<Vec<Asked>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, seen, answer) = (listener.local_addr().unwrap(), Arc::default(), Arc::new(answer));
    let noted: Arc<Mutex<Vec<Asked>>> = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (answer, noted) = (Arc::clone(&answer), Arc::clone(&noted));
            std::thread::spawn(move || connection(&stream, &*answer, &noted));
        }
    });
    (address, seen)
}

fn connection(stream: &TcpStream, answer: &dyn Fn(&Asked) -> Answer, noted: &Mutex<Vec<Asked>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if line == "\r\n" {
                break;
            }
            lines.push(line);
        }
        let mut first = lines[0].split(' ');
        let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
        let asked = Asked { method, path, head: lines[1..].concat().to_lowercase() };
        noted.lock().unwrap().push(asked.clone());
        let (status, head, body) = answer(&asked);
        let length =
            if head.contains("content-length") { String::new() } else { format!("content-length: {}\r\n", body.len()) };
        write!(&mut &*stream, "HTTP/1.1 {status} X\r\n{head}{length}\r\n").ok()?;
        if asked.method != "HEAD" {
            (&*stream).write_all(&body).ok()?;
        }
    }
}

fn network() -> Arc<Network> {
    let limits = Limits { retry: Duration::from_millis(500), total: Duration::from_secs(20), ..Limits::default() };
    Network::start(limits, Variables::default()).unwrap()
}

/// A server that knows ranges, with `pin` in every head.
fn ranged(asked: &Asked, pin: &str) -> Answer {
    let whole = conformance::bytes(1, LEN);
    match asked.range() {
        Some((start, end)) => {
            let range = format!("{pin}content-range: bytes {start}-{}/{LEN}\r\n", end - 1);
            (206, range, whole[start..end].to_vec())
        }
        None => (200, pin.to_owned(), whole.to_vec()),
    }
}

#[test]
fn a_web_server_is_read_in_ranges_that_are_pinned() {
    for (pin, condition) in [
        ("etag: \"1\"\r\n", "if-match: \"1\""),
        ("last-modified: Tue, 01 Jan 2030 00:00:00 GMT\r\n", "if-unmodified-since: tue, 01 jan 2030 00:00:00 gmt"),
        ("etag: W/\"1\"\r\nlast-modified: Tue, 01 Jan 2030 00:00:00 GMT\r\n", "if-unmodified-since"),
    ] {
        let (address, seen) = serve(move |asked| ranged(asked, pin));
        let (place, key) = network().object(&format!("http://{address}/a/b c.mp4?X-Signature=a/b")).unwrap();
        assert_eq!(place.url(&key), format!("http://{address}/a/b c.mp4"), "a signature is told");
        let object = place.head(&key).unwrap();
        assert_eq!(object.bytes, LEN as u64);
        let want = conformance::bytes(1, LEN);
        assert_eq!(place.read(&object, 1000..200_000).unwrap(), want[1000..200_000]);
        assert_eq!(place.read(&object, 0..LEN as u64).unwrap(), want);
        assert_eq!(place.get(&key, LEN as u64).unwrap().1, want);
        assert_eq!(place.get(&key, 10).unwrap_err().kind, ErrorKind::InvalidInput);
        let seen = seen.lock().unwrap();
        assert!(seen.iter().all(|asked| asked.path == "/a/b%20c.mp4?X-Signature=a/b"), "{seen:?}");
        let pinned = seen.iter().filter(|asked| asked.head.contains("range:"));
        assert!(
            pinned.clone().count() > 0 && pinned.into_iter().all(|asked| asked.head.contains(condition)),
            "{seen:?}"
        );
    }
}

#[test]
fn a_url_that_is_signed_for_reading_is_read() {
    let (address, _) = serve(|asked| match &*asked.method {
        "HEAD" => (403, String::new(), Vec::new()),
        _ => ranged(asked, "etag: \"1\"\r\n"),
    });
    let (place, key) = network().object(&format!("http://{address}/v.mp4?sig=1")).unwrap();
    let object = place.head(&key).unwrap();
    assert_eq!(
        (object.bytes, place.read(&object, 5..9).unwrap()),
        (LEN as u64, conformance::bytes(1, LEN).slice(5..9))
    );
}

#[test]
fn servers_that_do_as_they_like_are_refused() {
    let url = |address: SocketAddr| format!("http://{address}/v.mp4");
    // No ranges.
    let (address, _) = serve(|_| (200, "etag: \"1\"\r\n".to_owned(), conformance::bytes(1, LEN).to_vec()));
    let (place, key) = network().object(&url(address)).unwrap();
    let object = place.head(&key).unwrap();
    assert_eq!(place.read(&object, 5..9).unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(place.read(&object, 0..LEN as u64).unwrap(), conformance::bytes(1, LEN));
    // Nothing to pin to.
    let (address, _) = serve(|asked| ranged(asked, ""));
    let (place, key) = network().object(&url(address)).unwrap();
    let error = place.read(&place.head(&key).unwrap(), 5..9).unwrap_err();
    assert!(error.kind == ErrorKind::Unsupported && error.message.contains("ETag"), "{error}");
    // Another content, whatever was asked for.
    let (address, _) = serve(|asked| {
        let etag = if asked.method == "HEAD" { "etag: \"1\"\r\n" } else { "etag: \"2\"\r\n" };
        ranged(asked, etag)
    });
    let (place, key) = network().object(&url(address)).unwrap();
    assert_eq!(place.read(&place.head(&key).unwrap(), 5..9).unwrap_err().kind, ErrorKind::FailedPrecondition);
    // Another range.
    let (address, _) = serve(|asked| {
        let (status, head, body) = ranged(asked, "etag: \"1\"\r\n");
        (status, head.replace("bytes 5-", "bytes 6-"), body)
    });
    let (place, key) = network().object(&url(address)).unwrap();
    assert_eq!(place.read(&place.head(&key).unwrap(), 5..9).unwrap_err().kind, ErrorKind::Corrupt);
    // In circles.
    let (address, _) = serve(|_| (302, "location: /again\r\n".to_owned(), Vec::new()));
    let (place, key) = network().object(&url(address)).unwrap();
    assert!(place.head(&key).is_err());
    // Not there, and not now.
    for (status, kind) in [
        (404, ErrorKind::NotFound),
        (403, ErrorKind::Forbidden),
        (503, ErrorKind::Unavailable),
        (429, ErrorKind::Exhausted),
    ] {
        let (address, _) = serve(move |_| (status, String::new(), Vec::new()));
        let (place, key) = network().object(&url(address)).unwrap();
        let error = place.head(&key).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    }
    // Nobody.
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (place, key) = network().object(&url(nobody)).unwrap();
    let error = place.head(&key).unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && error.message.contains("cannot be reached"), "{error}");
}

#[test]
fn a_web_server_is_not_written_to() {
    let place = network().place("http://127.0.0.1:1/a").unwrap();
    for error in [
        place.put("k", b"x"[..].into(), &When::Always).unwrap_err(),
        place.delete("k").unwrap_err(),
        place.upload("k", None).map(drop).unwrap_err(),
        place.list("").next().unwrap().unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
    }
}
