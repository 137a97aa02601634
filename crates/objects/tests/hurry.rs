//! Whoever is about to leave waits for nobody, against servers that refuse for ever, are silent for ever, or stop half way.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use engine::{ErrorKind, Result};
use objects::{Limits, Network, Object, Place, Tag, Variables, When};

use crate::servers::{KEY, SECRET};
use crate::web::{Answer, Asked, serve};

/// Longer than any test may take.
const FOR_EVER: Duration = Duration::from_secs(3600);

fn network(address: SocketAddr, hurry: Duration) -> Arc<Network> {
    let limits = Limits { retry: FOR_EVER, total: FOR_EVER, silence: FOR_EVER, hurry, ..Limits::default() };
    let url = format!("http://{address}");
    let keys = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_REGION", "us-east-1")];
    let variables = Variables::from([keys[0], keys[1], keys[2], ("AWS_ENDPOINT_URL", &url)]);
    Network::start(limits, variables).unwrap()
}

fn object(bytes: u64) -> Object {
    let tag = Tag { etag: Some("\"one\"".to_owned()), version: None };
    Object { key: "a".to_owned(), bytes, tag, modified: None }
}

fn refusing(_: &Asked) -> Answer {
    (503, String::new(), Vec::new())
}

fn silent(_: &Asked) -> Answer {
    loop {
        std::thread::park();
    }
}

/// A byte of ten, and nothing more.
fn half_way(_: &Asked) -> Answer {
    (206, "content-length: 10\r\ncontent-range: bytes 0-9/20\r\netag: \"one\"\r\n".to_owned(), vec![1])
}

#[test]
fn what_waits_is_cut_short_and_what_comes_after_it_does_not_begin_to_wait() {
    let head = |place: &Place| place.head("a").map(drop);
    let read = |place: &Place| place.read(&object(20), 0..10).map(drop);
    let put = |place: &Place| place.put("a", vec![1].into(), &When::Absent).map(drop);
    let list = |place: &Place| place.list("a/").next().unwrap().map(drop);
    type Server = fn(&Asked) -> Answer;
    type Call<'a> = &'a (dyn Fn(&Place) -> Result<()> + Sync);
    let all: [(Server, bool, Call<'_>); 9] = [
        (refusing, false, &head),
        (silent, false, &head),
        (half_way, false, &read),
        (refusing, true, &head),
        (silent, true, &head),
        (silent, true, &put),
        (refusing, true, &list),
        (silent, true, &read),
        (half_way, true, &read),
    ];
    for (case, (answer, is_bucket, call)) in all.into_iter().enumerate() {
        let (address, asked) = serve(answer);
        let network = network(address, Duration::from_millis(50));
        let place = if is_bucket { "s3://bucket".to_owned() } else { format!("http://{address}/folder") };
        let place = network.place(&place).unwrap();
        let cut = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| call(&place).unwrap_err());
            while asked.lock().unwrap().is_empty() {
                std::thread::yield_now();
            }
            network.hurry();
            waiting.join().unwrap()
        });
        for error in [cut, call(&place).unwrap_err()] {
            assert!(error.kind == ErrorKind::Unavailable && error.message.contains("about to end"), "{case}: {error}");
        }
    }
}

#[test]
fn what_works_is_done_in_a_hurry_too() {
    let (address, _) = serve(|asked: &Asked| {
        let head = "content-range: bytes 0-9/20\r\netag: \"one\"\r\n".to_owned();
        if asked.head.contains("range: bytes") { (206, head, vec![7; 10]) } else { (200, head, vec![7; 20]) }
    });
    let network = network(address, FOR_EVER);
    network.hurry();
    let place = network.place(&format!("http://{address}/folder")).unwrap();
    assert_eq!(place.head("a").unwrap().bytes, 20);
    assert_eq!(place.read(&object(20), 0..10).unwrap(), [7; 10][..]);
}
