//! Buckets of real S3 servers: the suite of every place, wrong and missing credentials, and faults on the way.

use std::sync::Arc;
use std::time::Duration;

use engine::ErrorKind;
use objects::{Limits, Network, Place, Variables, When, conformance};

use crate::servers::{self, KEY, SECRET, Server};

fn network(server: &Server, secret: &str) -> Arc<Network> {
    let url = server.url();
    let variables = Variables::from([
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", secret),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ENDPOINT_URL_S3", &url),
    ]);
    Network::start(Limits::default(), variables).unwrap()
}

fn place(server: &Server, url: &str) -> Place {
    network(server, SECRET).place(url).unwrap()
}

#[test]
fn seaweedfs_does_what_every_place_does() {
    let server = servers::weed();
    conformance::all(&place(server, "s3://conformance/some where"));
}

#[test]
fn ministack_does_what_every_place_does() {
    let server = servers::ministack();
    server.make_bucket("conformance");
    conformance::all(&place(server, "s3://conformance/some/where"));
}

#[test]
fn a_wrong_secret_is_said_with_whose_it_is() {
    let place = network(servers::weed(), "wrong").place("s3://conformance/x").unwrap();
    let error = place.head("k").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Forbidden, "{error}");
    for says in ["s3://conformance/x/k", "the environment (AWS_ACCESS_KEY_ID)", KEY] {
        assert!(error.message.contains(says), "{error}");
    }
    assert!(!error.message.contains("wrong"), "{error}");
}

/// A place behind a proxy that does what `rules` say; its bucket is the upstream's.
fn faulty(bucket: &str) -> (Server, Place, Place) {
    let upstream = servers::ministack();
    upstream.make_bucket(bucket);
    let faults = Server::faults(&upstream.url());
    let url = format!("s3://{bucket}");
    let (through, straight) = (place(&faults, &url), place(upstream, &url));
    (faults, through, straight)
}

#[test]
fn what_is_cut_is_read_on_and_nothing_is_short_or_mixed() {
    const LEN: u64 = 6 << 20;
    let (faults, through, straight) = faulty("cut");
    let want = conformance::bytes(5, usize::try_from(LEN).unwrap());
    straight.put("object", want.clone(), &When::Always).unwrap();
    // The proxy says no size to HEAD.
    let object = straight.head("object").unwrap();
    let read = |place: &Place| {
        let mut got = vec![0; usize::try_from(LEN).unwrap()];
        let ranges = (0..6).map(|part| part << 20..(part + 1) << 20).collect();
        let fetched = place.fetch(&object, ranges, 3, &mut |offset, bytes| {
            let start = usize::try_from(offset).unwrap();
            got[start..start + bytes.len()].copy_from_slice(&bytes);
            Ok(())
        });
        (fetched, got)
    };
    for (what, rule) in [
        (
            "cut in the middle",
            r#"{"service": "s3", "operation": "GetObject", "times": 5, "response": {"abort_frac": 0.3}}"#,
        ),
        (
            "a body that is short",
            r#"{"service": "s3", "operation": "GetObject", "times": 4, "response": {"truncate_frac": 0.5}}"#,
        ),
        (
            "throttled",
            r#"{"service": "s3", "operation": "GetObject", "times": 4, "error": {"code": "SlowDown", "status": 503}}"#,
        ),
        (
            "failing",
            r#"{"service": "s3", "operation": "GetObject", "times": 4, "error": {"code": "InternalError", "status": 500}}"#,
        ),
        ("reset", r#"{"service": "s3", "operation": "GetObject", "times": 4, "reset": true}"#),
        ("slow", r#"{"service": "s3", "operation": "GetObject", "times": 2, "latency": 1500}"#),
    ] {
        faults.rules(&format!("[{rule}]"));
        let (fetched, got) = read(&through);
        assert_eq!(fetched, Ok(()), "{what}");
        assert!(got == want, "{what}");
        assert!(faults.fired().contains("GetObject"), "{what}: {}", faults.fired());
    }
}

#[test]
fn what_fails_for_good_is_said_in_time() {
    let (faults, _, straight) = faulty("fails");
    straight.put("object", conformance::bytes(1, 1000), &When::Always).unwrap();
    let limits = Limits {
        retry: Duration::from_millis(400),
        silence: Duration::from_secs(1),
        total: Duration::from_secs(4),
        ..Limits::default()
    };
    let url = faults.url();
    let network = Network::start(
        limits,
        Variables::from([("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_ENDPOINT_URL", &url)]),
    )
    .unwrap();
    let place = network.place("s3://fails").unwrap();
    for (rule, kind, says) in [
        (r#""error": {"code": "SlowDown", "status": 503}"#, ErrorKind::Exhausted, "SlowDown"),
        (r#""error": {"code": "InternalError", "status": 500}"#, ErrorKind::Unavailable, "InternalError"),
        (r#""error": {"code": "AccessDenied", "status": 403}"#, ErrorKind::Forbidden, "the environment"),
        (r#""error": {"code": "ExpiredToken", "status": 400}"#, ErrorKind::Forbidden, "new credentials"),
        (r#""error": {"code": "NoSuchBucket", "status": 404}"#, ErrorKind::NotFound, "no such bucket"),
        (r#""reset": true"#, ErrorKind::Unavailable, "s3://fails/object"),
        (r#""latency": 3000"#, ErrorKind::Unavailable, "in time"),
    ] {
        faults.rules(&format!(r#"[{{"service": "s3", "operation": "GetObject", {rule}}}]"#));
        let error = place.get("object", 1000).unwrap_err();
        assert_eq!(error.kind, kind, "{rule}: {error}");
        assert!(error.message.contains(says), "{rule}: {error}");
    }
    network.stop();
    let error = place.get("object", 1000).unwrap_err();
    assert!(error.kind == ErrorKind::Unavailable && error.message.contains("stopped"), "{error}");
}

#[test]
fn an_upload_survives_what_passes_and_is_not_there_twice() {
    let (faults, through, straight) = faulty("uploads");
    for (megabytes, rule) in [
        // The proxy takes a part for an object.
        (17, r#""operation": "PutObject", "times": 2, "error": {"code": "SlowDown", "status": 503}"#),
        (17, r#""operation": "PutObject", "times": 1, "request": {"cut_upload": {"after_frac": 0.5}}"#),
        (17, r#""times": 3, "error": {"code": "InternalError", "status": 500}"#),
        (17, r#""sequence": {"fail": 1, "pass": 2}, "error": {"code": "SlowDown", "status": 503}"#),
        (1, r#""operation": "PutObject", "times": 2, "error": {"code": "SlowDown", "status": 503}"#),
    ] {
        faults.rules(&format!(r#"[{{"service": "s3", {rule}}}]"#));
        let (want, before) = (conformance::bytes(3, megabytes << 20), faults.fired().len());
        let mut upload = through.upload("object", None).unwrap();
        upload.append(&want).unwrap();
        upload.finish(&When::Always).unwrap();
        assert!(straight.get("object", 20 << 20).unwrap().1 == want, "{rule}");
        assert!(faults.fired().len() > before, "{rule}: nothing happened");
    }
}

/// Any other place: `PACKHORSE_TEST_PLACE=az://CONTAINER/PREFIX cargo test -p objects -- --ignored a_place_of_your_own`,
/// with the variables that lead there.
#[test]
#[ignore = "give an empty place as PACKHORSE_TEST_PLACE"]
fn a_place_of_your_own() {
    let url = std::env::var("PACKHORSE_TEST_PLACE").expect("PACKHORSE_TEST_PLACE");
    let network = Network::start(Limits::default(), Variables::of_process()).unwrap();
    conformance::all(&network.place(&url).unwrap());
}
