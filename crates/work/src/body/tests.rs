//! Bodies as services and people write them, and what becomes of each.

use engine::ErrorKind;
use proptest::prelude::*;

use super::*;

fn template() -> Template {
    Template { model: Some("detector".to_owned()), threshold: 0.25, ..Template::default() }
}

fn tasks(body: &str) -> Vec<Task> {
    match read(body, "m-1", &template()) {
        Ok(Content::Tasks(tasks)) => tasks,
        other => panic!("{body}: {other:?}"),
    }
}

/// An event as the service itself writes it, with `record` in place of what differs.
fn event(records: &[Value]) -> String {
    serde_json::json!({ "Records": records }).to_string()
}

fn record(name: &str, key: &str, etag: &str, sequencer: &str) -> Value {
    serde_json::json!({
        "eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-west-1", "eventTime": "2026-01-31T12:00:00.000Z",
        "eventName": name, "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
        "requestParameters": {"sourceIPAddress": "127.0.0.1"},
        "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8"},
        "s3": {"s3SchemaVersion": "1.0", "configurationId": "videos",
            "bucket": {"name": "in", "ownerIdentity": {"principalId": "A3NL1KOZZKExample"}, "arn": "arn:aws:s3:::in"},
            "object": {"key": key, "size": 1024, "eTag": etag, "sequencer": sequencer}}
    })
}

const CREATED: &str = "ObjectCreated:Put";

#[test]
fn what_a_body_does_not_say_the_template_says() {
    let template = Template {
        sampling: crate::Sampling::Every(3),
        track: true,
        outputs: vec![crate::Form::Coco],
        damage_tolerance: 0.5,
        ..template()
    };
    let event = event(&[record(CREATED, "a.mp4", "0a", "01")]);
    for body in [r#"{"bucket": "in", "object": "a.mp4"}"#, &event] {
        let Ok(Content::Tasks(tasks)) = read(body, "m-1", &template) else { panic!("{body}") };
        let [task] = &tasks[..] else { panic!("{tasks:?}") };
        assert_eq!((task.sampling, task.track, task.threshold), (template.sampling, true, 0.25), "{body}");
        assert_eq!((&task.outputs, task.damage_tolerance), (&template.outputs, 0.5), "{body}");
    }
    // What is a task says all of it.
    let whole = Task::new("/v/a.mp4".as_ref(), "other").unwrap();
    assert_eq!(read(&whole.to_json().unwrap(), "m-1", &template).unwrap(), Content::Tasks(vec![whole]));
}

#[test]
fn the_older_body_is_a_task_of_its_message() {
    let body = r#"{"bucket": "in", "object": "a/b c.mp4"}"#;
    let [task] = &tasks(body)[..] else { panic!("not one") };
    assert_eq!((&*task.input, &*task.model, task.threshold), ("s3://in/a/b c.mp4", "detector", 0.25));
    assert!(task.id.starts_with("b_c.mp4-"), "{}", task.id);
    assert_eq!(tasks(body)[0].id, task.id, "a redelivery is another task");
    let Ok(Content::Tasks(again)) = read(body, "m-2", &template()) else { panic!("not a task") };
    assert_ne!(again[0].id, task.id, "what was sent again is not done again");
}

#[test]
fn a_task_of_ours_is_what_it_says() {
    let body = r#"{"format":1,"id":"a","input":"s3://in/a.mp4","model":"m"}"#;
    let [task] = &tasks(body)[..] else { panic!("not one") };
    assert_eq!((&*task.id, &*task.model), ("a", "m"));
}

#[test]
fn events_are_tasks_of_the_content_that_was_put() {
    let body = event(&[record(CREATED, "a+b/c%2Bd%C3%A9.mp4", "e1", "0A")]);
    let [task] = &tasks(&body)[..] else { panic!("not one") };
    assert_eq!((&*task.input, task.input_etag.as_deref()), ("s3://in/a b/c+dé.mp4", Some("e1")));
    let Ok(Content::Tasks(again)) = read(&body, "m-2", &template()) else { panic!("not a task") };
    assert_eq!(&again[0], task, "an event that arrives in two messages is two tasks");
    assert_ne!(tasks(&event(&[record(CREATED, "a+b/c%2Bd%C3%A9.mp4", "e2", "0B")]))[0].id, task.id);
    // In whatever envelope.
    let notification =
        serde_json::json!({"Type": "Notification", "MessageId": "x", "TopicArn": "arn", "Message": body});
    assert_eq!(&tasks(&notification.to_string())[0], task);
    let mut minio = record("s3:ObjectCreated:Put", "a+b/c%2Bd%C3%A9.mp4", "e1", "0A");
    minio["eventSource"] = "minio:s3".into();
    minio["eventVersion"] = "2.0".into();
    let minio = serde_json::json!({"EventName": "s3:ObjectCreated:Put", "Key": "in/a b/c+d", "Records": [minio]});
    assert_eq!(&tasks(&minio.to_string())[0], task);
    let bridge = serde_json::json!({
        "version": "0", "id": "x", "detail-type": "Object Created", "source": "aws.s3", "account": "1", "region": "eu-west-1",
        "detail": {"version": "0", "bucket": {"name": "in"}, "reason": "PutObject",
            "object": {"key": "a b/c+dé.mp4", "size": 5, "etag": "e1", "sequencer": "0A"}}
    });
    assert_eq!(&tasks(&bridge.to_string())[0], task);
}

#[test]
fn of_one_object_the_last_put_counts() {
    let puts = |order: &[(&str, &str)]| {
        let records: Vec<_> = order.iter().map(|(etag, sequencer)| record(CREATED, "k", etag, sequencer)).collect();
        tasks(&event(&records)).into_iter().map(|task| task.input_etag.unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(puts(&[("old", "0055AED6"), ("new", "0055AED7")]), ["new"]);
    assert_eq!(puts(&[("new", "0055AED7"), ("old", "0055AED6")]), ["new"]);
    assert_eq!(puts(&[("new", "1055AED6"), ("old", "055AED6FF"), ("older", "05")]), ["new"]);
    let two = event(&[
        record(CREATED, "a", "1", "1"),
        record("ObjectRemoved:Delete", "b", "", ""),
        record(CREATED, "c", "1", "1"),
    ]);
    assert_eq!(tasks(&two).len(), 2);
}

#[test]
fn what_asks_for_nothing_is_nothing() {
    for body in [
        r#"{"Service":"Amazon S3","Event":"s3:TestEvent","Time":"2026-01-31T12:00:00.000Z","Bucket":"in","RequestId":"x","HostId":"y"}"#,
        r#"{"Records":[]}"#,
        &event(&[record("ObjectRemoved:Delete", "k", "", "")]),
        r#"{"source":"aws.s3","detail-type":"Object Deleted","detail":{}}"#,
    ] {
        assert!(matches!(read(body, "m", &template()), Ok(Content::Nothing(_))), "{body}");
    }
}

#[test]
fn long_bodies_are_elsewhere() {
    for class in ["software.amazon.payloadoffloading.PayloadS3Pointer", "com.amazon.sqs.javamessaging.MessageS3Pointer"]
    {
        let body = format!(r#"["{class}", {{"s3BucketName": "long", "s3Key": "k/1"}}]"#);
        let want = Content::Elsewhere { bucket: "long".to_owned(), key: "k/1".to_owned() };
        assert_eq!(read(&body, "m", &template()), Ok(want));
    }
}

#[test]
fn what_is_not_known_is_refused_with_the_reason() {
    let mut wrong_version = record(CREATED, "k", "e", "1");
    wrong_version["eventVersion"] = "3.0".into();
    let mut wrong_source = record(CREATED, "k", "e", "1");
    wrong_source["eventSource"] = "aws:ses".into();
    let nested = (0..5).fold(r#"{"bucket":"b","object":"o"}"#.to_owned(), |inside, _| {
        serde_json::json!({"Type": "Notification", "Message": inside}).to_string()
    });
    for (body, says) in [
        ("", "not JSON"),
        ("work on a.mp4", "not JSON"),
        ("7", "none that is known"),
        (r#"{"job": 1}"#, "none that is known"),
        (r#"["a", {}]"#, "none that is known"),
        (r#"{"bucket": "b"}"#, "'object'"),
        (r#"{"bucket": "b/../c", "object": "o"}"#, "no name of a bucket"),
        (r#"{"bucket": "b", "object": "o/"}"#, "names no object"),
        (r#"{"format": 9}"#, "format 9"),
        (r#"{"Records": {}}"#, "'Records'"),
        (&event(&[wrong_version]), "eventVersion"),
        (&event(&[wrong_source]), "eventSource"),
        (&event(&[record(CREATED, "%ff", "e", "1")]), "'key'"),
        (r#"{"Event": "other"}"#, "'Event'"),
        (r#"{"Type": "SubscriptionConfirmation", "SubscribeURL": "https://x"}"#, "SubscribeURL"),
        (&nested, "without an end"),
    ] {
        let error = read(body, "m", &template()).unwrap_err();
        assert!(error.message.contains(says), "{body}: '{error}' does not say '{says}'");
    }
    let error = read(r#"{"bucket": "b", "object": "o"}"#, "m", &Template::default()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::FailedPrecondition);
    assert!(error.message.contains("--model"), "{error}");
}

proptest! {
    #[test]
    fn no_body_panics_and_every_task_is_sound(key in ".{1,30}", bucket in "[a-z]{1,5}|.{0,5}", text in ".{0,40}") {
        let _ = read(&text, "m", &template());
        let body = serde_json::json!({"bucket": bucket, "object": key}).to_string();
        if let Ok(Content::Tasks(tasks)) = read(&body, &text, &template()) {
            prop_assert_eq!(Task::from_json(&tasks[0].to_json().unwrap()).unwrap(), tasks[0].clone());
        }
        let encoded = percent_encoding::utf8_percent_encode(&key, percent_encoding::NON_ALPHANUMERIC).to_string();
        if let Ok(Content::Tasks(tasks)) = read(&event(&[record(CREATED, &encoded, "e", "1")]), "m", &template()) {
            prop_assert!(tasks[0].input.ends_with(&key), "{} {}", tasks[0].input, key);
        }
    }
}
