//! What arrives in a queue, whoever sent it: tasks of ours, the older worker's, events of buckets, and the envelopes that
//! services put around them. Only reads text; knows no queue.

mod event;
mod wrapped;

use engine::{Error, Result};
use serde_json::{Map, Value};

use crate::Task;
use crate::task::Template;

/// The longest body that is looked at. Queues take at most a mebibyte; a pointer may lead to more.
pub const BODY_BYTES_MAX: usize = 4 << 20;

/// Envelopes within envelopes: a notification of a topic that carries an event is two.
const DEPTH_MAX: usize = 3;

/// What a body turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Things to do; several where a service tells of several objects at once.
    Tasks(Vec<Task>),
    /// Nothing to do: what it is.
    Nothing(String),
    /// The body is kept in a bucket, because it was too long for the queue.
    Elsewhere {
        /// The bucket.
        bucket: String,
        /// The object in it.
        key: String,
    },
}

/// Reads `body`, which the queue calls `message`: tasks without an id of their own get one that is made of it, so that
/// the same message is the same task whenever it arrives. What a body does not say is taken from `template`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) or [`Unsupported`](engine::ErrorKind::Unsupported), with what is
/// wrong with it.
pub fn read(body: &str, message: &str, template: &Template) -> Result<Content> {
    read_within(body, message, template, DEPTH_MAX)
}

fn read_within(body: &str, message: &str, template: &Template, depth: usize) -> Result<Content> {
    if body.len() > BODY_BYTES_MAX {
        return Err(Error::invalid(format!("the body has {} bytes, more than {BODY_BYTES_MAX}", body.len())));
    }
    if depth == 0 {
        return Err(Error::invalid("the body is an envelope within an envelope without an end"));
    }
    let value: Value = serde_json::from_str(body)
        .map_err(|e| Error::invalid(format!("the body is not JSON ({e}): {}", shown(body))))?;
    match &value {
        Value::Array(_) => wrapped::pointer(&value),
        Value::Object(fields) if fields.contains_key("format") => Ok(Content::Tasks(vec![Task::from_json(body)?])),
        Value::Object(fields) => match () {
            () if fields.contains_key("Records") => event::records(fields, template),
            () if fields.contains_key("detail-type") => event::event_bridge(fields, template),
            () if fields.contains_key("Event") => event::test(fields),
            () if fields.contains_key("Type") => wrapped::notification(fields, message, template, depth),
            () if fields.contains_key("bucket") => named(fields, message, template),
            () => Err(unknown(body)),
        },
        _ => Err(unknown(body)),
    }
}

/// The older worker's body, `{"bucket", "object"}`. Each message is a task of its own, since sending an object again is
/// asking for it again.
fn named(fields: &Map<String, Value>, message: &str, template: &Template) -> Result<Content> {
    let (bucket, key) = (text(fields, "bucket")?, text(fields, "object")?);
    let task = template.task(&derived_id(key, &["message", message]), &url(bucket, key)?)?;
    Ok(Content::Tasks(vec![task]))
}

fn unknown(body: &str) -> Error {
    Error::invalid(format!(
        "the body is none that is known (a task, an object's event, or {{\"bucket\", \"object\"}}): {}",
        shown(body)
    ))
}

/// The beginning of `body`, for people.
fn shown(body: &str) -> String {
    let start: String = body.chars().take(120).collect();
    format!("{start:?}")
}

/// The field called `name`, which has to be a text that is not empty.
fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a str> {
    let text = fields.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    text.ok_or_else(|| Error::invalid(format!("field '{name}': is not a text, or empty")))
}

/// The object of S3 called `key` in `bucket`, as an input.
fn url(bucket: &str, key: &str) -> Result<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if bucket.is_empty() || !bucket.chars().all(plain) {
        return Err(Error::invalid(format!("'{bucket}' is no name of a bucket")));
    }
    Ok(format!("s3://{bucket}/{key}"))
}

/// An id for the object called `key` that is told apart by `parts`: its name, for people, and a hash.
fn derived_id(key: &str, parts: &[&str]) -> String {
    const NAME_CHARS_MAX: usize = 64;
    let name = key.rsplit('/').next().unwrap_or_default();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '_' };
    let name: String = name.trim_start_matches('.').chars().take(NAME_CHARS_MAX).map(plain).collect();
    let text = serde_json::json!([key, parts]).to_string();
    let hash = blake3::hash(text.as_bytes()).to_hex();
    if name.is_empty() { hash[..32].to_owned() } else { format!("{name}-{}", &hash[..32]) }
}

#[cfg(test)]
mod tests;
