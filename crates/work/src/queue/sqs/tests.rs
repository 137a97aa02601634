//! SQS by two servers that others wrote: the suite of every queue, and what only this one has to do.

use std::sync::atomic::{AtomicU32, Ordering};

use objects::{Limits, Variables};

use super::*;
use crate::queue::conformance::{self, Bench, RECEIVES_MAX};
use crate::servers::{self, KEY, SECRET, Server};

const VISIBILITY: Duration = Duration::from_secs(6);

fn network(endpoint: &str) -> Arc<Network> {
    let variables = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_REGION", "us-east-1")];
    let [key, secret, region] = variables;
    let variables = Variables::from([key, secret, region, ("AWS_ENDPOINT_URL", endpoint)]);
    Network::start(Limits::default(), variables).unwrap()
}

/// A queue that nobody else has, and its queue of dead letters.
struct Pair {
    network: Arc<Network>,
    url: String,
    dead_url: String,
}

impl Pair {
    fn new(server: &Server) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dead_url = server.make_queue(&format!("dead-{number}"), None);
        let url = server.make_queue(&format!("videos-{number}"), Some((&format!("dead-{number}"), RECEIVES_MAX + 1)));
        Self { network: network(&server.url()), url, dead_url }
    }

    fn open(&self, options: SqsOptions) -> SqsQueue {
        SqsQueue::open(&self.network, &self.url, options).unwrap()
    }

    /// Puts a message that anybody may have written into the queue.
    fn write(&self, body: &str) {
        self.service().send(&self.url, Outgoing { body: body.to_owned(), ..Outgoing::default() }, LEISURE).unwrap();
    }

    fn service(&self) -> Service {
        Service::new(&self.network, &Address::parse(&self.url).unwrap()).unwrap()
    }
}

fn hasty() -> SqsOptions {
    SqsOptions { wait: Duration::ZERO, ..SqsOptions::default() }
}

fn receive(queue: &SqsQueue) -> Lease {
    match queue.receive(VISIBILITY).unwrap() {
        Received::Task(lease) => *lease,
        other => panic!("{other:?}"),
    }
}

fn task(id: &str) -> Task {
    Task { id: id.to_owned(), ..Task::new(std::path::Path::new("/videos/a.mp4"), "detector").unwrap() }
}

fn conforms(server: &'static Server) {
    conformance::check(&|| {
        let pair = Pair::new(server);
        let queue = pair.open(hasty());
        Bench {
            queue: Box::new(queue),
            advance: Box::new(|time| std::thread::sleep(time + Duration::from_millis(200))),
            visibility: VISIBILITY,
            _folder: Box::new(pair),
        }
    });
}

#[test]
fn ministack_conforms() {
    conforms(servers::ministack());
}

#[test]
fn moto_conforms() {
    conforms(servers::moto());
}

#[test]
fn a_queue_without_dead_letters_is_refused_with_the_fix() {
    let server = servers::ministack();
    let url = server.make_queue("bare", None);
    let network = network(&server.url());
    let queue = SqsQueue::open(&network, &url, hasty()).unwrap();
    let error = queue.check().unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition);
    assert!(error.message.contains("--dead-letters") && error.message.contains(&url), "{error}");
    // Whoever only sends is not asked for them.
    queue.send(&task("a")).unwrap();
    server.make_queue("elsewhere", None);
    let options = SqsOptions { dead_letters: Some("sqs://elsewhere".to_owned()), ..hasty() };
    let queue = SqsQueue::open(&network, "sqs://bare", options).unwrap();
    queue.dead_letter(&receive(&queue), "why").unwrap();
    assert_eq!(queue.dead_letters(5).unwrap()[0].id, "a");
    let missing = SqsQueue::open(&network, "sqs://nowhere", hasty()).map(drop).unwrap_err();
    assert!(missing.kind == ErrorKind::NotFound && missing.message.contains("nowhere"), "{missing}");
}

#[test]
fn bodies_of_others_are_tasks_and_what_is_none_is_a_dead_letter() {
    let pair = Pair::new(servers::ministack());
    let template = Template { model: Some("detector".to_owned()), ..Template::default() };
    let queue = pair.open(SqsOptions { template, ..hasty() });
    let check = |body: &str, want: &str| {
        pair.write(body);
        let lease = receive(&queue);
        assert_eq!(lease.task.input, want);
        // Given back, it is the same task, though the message is another.
        queue.release(&lease, Duration::ZERO, "again", false).unwrap();
        let again = receive(&queue);
        assert_eq!(again.task, lease.task);
        queue.complete(&again).unwrap();
    };
    check(r#"{"bucket": "in", "object": "a b.mp4"}"#, "s3://in/a b.mp4");
    let record = |key: &str| {
        serde_json::json!({"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
            "s3": {"bucket": {"name": "in"}, "object": {"key": key, "eTag": "e", "sequencer": "1"}}})
    };
    check(&serde_json::json!({"Records": [record("a+b%2B.mp4")]}).to_string(), "s3://in/a b+.mp4");
    // What asks for nothing is gone, and what asks for several things is several.
    pair.write(r#"{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "in"}"#);
    assert_eq!(queue.receive(VISIBILITY).unwrap(), Received::Nothing);
    assert_eq!(queue.depth().unwrap(), Depth::default());
    let records = ["a", "b", "c"].map(record);
    pair.write(&serde_json::json!({"Records": records}).to_string());
    let mut inputs = [(); 3].map(|()| receive(&queue).task.input);
    inputs.sort_unstable();
    assert_eq!(inputs, ["s3://in/a", "s3://in/b", "s3://in/c"]);
    assert_eq!(queue.depth().unwrap(), Depth { in_flight: 3, ..Depth::default() });
    let wrong = r#"{"format": 1, "id": "a", "input": "https://me@host/v.mp4?signature", "model": 7}"#;
    for (body, says, input) in [
        ("work on a.mp4", "not JSON", None),
        (r#"{"bucket": "in"}"#, "'object'", None),
        (wrong, "field 'model'", Some("https://host/v.mp4")),
    ] {
        pair.write(body);
        let Received::DeadLetter { id, reason, .. } = queue.receive(VISIBILITY).unwrap() else { panic!("{body}") };
        assert!(reason.contains(says), "{reason}");
        let dead = queue.dead_letters(10).unwrap();
        assert!(dead.iter().any(|dead| dead.reason == reason && dead.input.as_deref() == input), "{id}: {dead:?}");
    }
}

#[test]
fn a_long_body_is_read_where_it_is_kept() {
    let server = servers::ministack();
    server.make_bucket("long-bodies");
    let pair = Pair::new(server);
    let queue = pair.open(hasty());
    let place = pair.network.place("s3://long-bodies").unwrap();
    let body = task("long").to_json().unwrap();
    place.put("k/1", body.into_bytes().into(), &objects::When::Always).unwrap();
    let pointer = |key: &str| {
        format!(
            r#"["software.amazon.payloadoffloading.PayloadS3Pointer", {{"s3BucketName": "long-bodies", "s3Key": "{key}"}}]"#
        )
    };
    pair.write(&pointer("k/1"));
    let lease = receive(&queue);
    assert_eq!(lease.task, task("long"));
    queue.complete(&lease).unwrap();
    pair.write(&pointer("k/2"));
    assert!(
        matches!(queue.receive(VISIBILITY).unwrap(), Received::DeadLetter { reason, .. } if reason.contains("k/2"))
    );
}

#[test]
fn what_is_held_too_long_goes_on_in_a_message_of_its_own() {
    let pair = Pair::new(servers::ministack());
    let queue = pair.open(SqsOptions { held_max: Duration::ZERO, ..hasty() });
    queue.send(&task("long")).unwrap();
    let first = receive(&queue);
    assert_eq!(queue.extend(&first, VISIBILITY).unwrap_err().kind, ErrorKind::Cancelled);
    assert_eq!(queue.depth().unwrap(), Depth { visible: 1, ..Depth::default() });
    let second = receive(&queue);
    assert_eq!((second.task, second.receive_count, second.failures), (first.task, 1, 0));
}

#[test]
fn a_wait_comes_to_its_end_when_the_worker_is_stopped_and_takes_nothing_along() {
    let pair = Pair::new(servers::moto());
    let options = SqsOptions::default();
    let (stop, queue) = (options.stop.clone(), pair.open(options));
    queue.check().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| queue.receive(VISIBILITY));
        stop.request();
        if let Received::Task(lease) = waiting.join().unwrap().unwrap() {
            panic!("{lease:?}");
        }
    });
    // Nobody waits any more, at the service neither.
    queue.send(&task("late")).unwrap();
    assert_eq!(queue.depth().unwrap(), Depth { visible: 1, ..Depth::default() });
    assert_eq!(queue.receive(VISIBILITY).unwrap(), Received::Nothing, "it was stopped");
}

#[test]
fn faults_on_the_way_lose_nothing() {
    let upstream = servers::ministack();
    let pair = Pair::new(upstream);
    let faults = Server::faults(&upstream.url());
    let through = Pair { network: network(&faults.url()), url: pair.url.clone(), dead_url: pair.dead_url.clone() };
    let queue = through.open(hasty());
    queue.check().unwrap();
    // One request of three: none is refused as often as it is tried.
    faults.rules(
        r#"[{"service": "sqs", "sequence": {"fail": 1, "pass": 2}, "error": {"code": "InternalError", "status": 500}}]"#,
    );
    let sent: Vec<String> = (0..12).map(|number| format!("t{number:02}")).collect();
    for id in &sent {
        queue.send(&task(id)).unwrap();
    }
    let mut ended = std::collections::BTreeSet::new();
    while let Received::Task(lease) = queue.receive(Duration::from_secs(600)).unwrap() {
        queue.extend(&lease, Duration::from_secs(600)).unwrap();
        queue.complete(&lease).unwrap();
        ended.insert(lease.task.id);
    }
    assert!(ended.into_iter().eq(sent), "a task was lost");
    assert!(faults.fired().contains("InternalError"), "{}", faults.fired());
    faults.rules("[]");
    assert_eq!(pair.open(hasty()).depth().unwrap(), Depth::default());
}
