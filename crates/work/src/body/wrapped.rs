//! Bodies within something else: a topic's notification, and a pointer to a bucket.

use engine::{Error, Result};
use serde_json::{Map, Value};

use super::{Content, read_within, text, unknown};
use crate::task::Template;

/// What the clients for long messages write in place of the body: `["CLASS", {"s3BucketName", "s3Key"}]`.
pub(super) fn pointer(value: &Value) -> Result<Content> {
    const CLASSES: [&str; 2] =
        ["software.amazon.payloadoffloading.PayloadS3Pointer", "com.amazon.sqs.javamessaging.MessageS3Pointer"];
    match value.as_array().map(Vec::as_slice) {
        Some([Value::String(class), Value::Object(fields)]) if CLASSES.contains(&class.as_str()) => {
            let (bucket, key) = (text(fields, "s3BucketName")?, text(fields, "s3Key")?);
            Ok(Content::Elsewhere { bucket: bucket.to_owned(), key: key.to_owned() })
        }
        _ => Err(unknown(&value.to_string())),
    }
}

/// What a topic puts around a message, unless it is told to deliver it raw.
pub(super) fn notification(
    fields: &Map<String, Value>,
    message: &str,
    template: &Template,
    depth: usize,
) -> Result<Content> {
    match text(fields, "Type")? {
        "Notification" => read_within(text(fields, "Message")?, message, template, depth - 1),
        "SubscriptionConfirmation" => Err(Error::invalid(
            "a topic asks whether this queue wants its messages: confirm it once, by opening the body's SubscribeURL",
        )),
        other => Err(Error::unsupported(format!("field 'Type': '{other}' is not known"))),
    }
}
