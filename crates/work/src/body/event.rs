//! What buckets tell when an object was put there: S3's own events, MinIO's, and S3's by way of EventBridge.

use engine::{Error, Result};
use serde_json::{Map, Value};

use super::{Content, derived_id, text, url};
use crate::task::Template;

/// An object that was put somewhere.
struct Told<'a> {
    bucket: &'a str,
    key: String,
    /// Which content it has, without quotes.
    etag: Option<&'a str>,
    version: Option<&'a str>,
    /// Puts of one key compare by this: see [`sequence`].
    sequencer: Option<&'a str>,
}

/// An event as S3 and MinIO send it. It may tell of several objects, and several times of one.
pub(super) fn records(fields: &Map<String, Value>, template: &Template) -> Result<Content> {
    let records = fields.get("Records").and_then(Value::as_array);
    let records = records.ok_or_else(|| Error::invalid("field 'Records': is not a list"))?;
    let mut told: Vec<Told<'_>> = Vec::new();
    for (index, record) in records.iter().enumerate() {
        let put = record_of(record).map_err(|error| error.context(format!("record {index} of the event")))?;
        let Some(put) = put else { continue };
        match told.iter_mut().find(|other| other.bucket == put.bucket && other.key == put.key) {
            // Of one object only what was put last is there.
            Some(other) if sequence(other.sequencer) <= sequence(put.sequencer) => *other = put,
            Some(_) => {}
            None => told.push(put),
        }
    }
    if told.is_empty() {
        return Ok(Content::Nothing("an event that tells of no new object".to_owned()));
    }
    told.iter().map(|put| put.task(template)).collect::<Result<_>>().map(Content::Tasks)
}

fn record_of(record: &Value) -> Result<Option<Told<'_>>> {
    let record = record.as_object().ok_or_else(|| Error::invalid("it is not an object"))?;
    let source = text(record, "eventSource")?;
    if !matches!(source, "aws:s3" | "minio:s3") {
        return Err(Error::unsupported(format!("field 'eventSource': '{source}' is not a bucket's")));
    }
    let version = text(record, "eventVersion")?;
    if version.split('.').next() != Some("2") {
        return Err(Error::unsupported(format!("field 'eventVersion': {version} is not known, 2.x is")));
    }
    // MinIO says the name with its prefix, S3 without.
    let name = text(record, "eventName")?;
    if !name.trim_start_matches("s3:").starts_with("ObjectCreated:") {
        return Ok(None);
    }
    let s3 = record.get("s3").and_then(Value::as_object).ok_or_else(|| missing("s3"))?;
    let bucket = s3.get("bucket").and_then(Value::as_object).ok_or_else(|| missing("s3.bucket"))?;
    let object = s3.get("object").and_then(Value::as_object).ok_or_else(|| missing("s3.object"))?;
    Ok(Some(Told {
        bucket: text(bucket, "name")?,
        key: form_decoded(text(object, "key")?)?,
        etag: object.get("eTag").and_then(Value::as_str),
        version: object.get("versionId").and_then(Value::as_str),
        sequencer: object.get("sequencer").and_then(Value::as_str),
    }))
}

/// An event as S3 sends it through EventBridge, in which keys are as they are.
pub(super) fn event_bridge(fields: &Map<String, Value>, template: &Template) -> Result<Content> {
    let (source, kind) = (text(fields, "source")?, text(fields, "detail-type")?);
    if source != "aws.s3" {
        return Err(Error::unsupported(format!("field 'source': '{source}' is not a bucket's")));
    }
    if kind != "Object Created" {
        return Ok(Content::Nothing(format!("an event that tells of no new object but '{kind}'")));
    }
    let detail = fields.get("detail").and_then(Value::as_object).ok_or_else(|| missing("detail"))?;
    let bucket = detail.get("bucket").and_then(Value::as_object).ok_or_else(|| missing("detail.bucket"))?;
    let object = detail.get("object").and_then(Value::as_object).ok_or_else(|| missing("detail.object"))?;
    let told = Told {
        bucket: text(bucket, "name")?,
        key: text(object, "key")?.to_owned(),
        etag: object.get("etag").and_then(Value::as_str),
        version: object.get("version-id").and_then(Value::as_str),
        sequencer: object.get("sequencer").and_then(Value::as_str),
    };
    Ok(Content::Tasks(vec![told.task(template)?]))
}

/// What S3 sends once, when a queue is told to it.
pub(super) fn test(fields: &Map<String, Value>) -> Result<Content> {
    match text(fields, "Event")? {
        "s3:TestEvent" => Ok(Content::Nothing("the test event of a bucket".to_owned())),
        other => Err(Error::unsupported(format!("field 'Event': '{other}' is not known"))),
    }
}

fn missing(name: &str) -> Error {
    Error::invalid(format!("field '{name}': is missing, or not an object"))
}

impl Told<'_> {
    /// Its task. Events arrive more than once, so the id is of the content that was put, not of the message.
    fn task(&self, template: &Template) -> Result<crate::Task> {
        let content = [self.version, self.etag, self.sequencer].map(Option::unwrap_or_default);
        let id = derived_id(&self.key, &["event", self.bucket, content[0], content[1], content[2]]);
        let mut task = template.task(&id, &url(self.bucket, &self.key)?)?;
        task.input_etag = self.etag.map(str::to_owned);
        task.check()?;
        Ok(task)
    }
}

/// How puts of one key compare: sequencers of any length, the shorter one filled up with zeros at its right, as text.
fn sequence(sequencer: Option<&str>) -> &str {
    sequencer.unwrap_or_default().trim_end_matches('0')
}

/// A key as events carry it: encoded like a form.
fn form_decoded(text: &str) -> Result<String> {
    let spaced = text.replace('+', " ");
    let decoded = percent_encoding::percent_decode_str(&spaced).decode_utf8();
    decoded.map(Into::into).map_err(|_| Error::invalid(format!("field 'key': '{text}' is not encoded UTF-8")))
}
