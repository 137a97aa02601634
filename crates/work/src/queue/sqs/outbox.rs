//! A queue into which nothing goes but what is told of tasks that have ended.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName};
use engine::{Error, ErrorKind, Result};
use objects::Network;

use super::MESSAGE_BYTES_MAX;
use super::address::Address;
use super::history::xml_character;
use super::service::{Attributes, Outgoing, Service};
use crate::reply::{MESSAGE_BYTES_MIN, Outbox, Reply};

/// All tries to send one; a worker that is stopped waits for it.
const SEND: Duration = Duration::from_secs(10);
/// What the attributes take at most of a message.
const ATTRIBUTES_BYTES_MAX: usize = 512;

/// An [`Outbox`] in SQS.
pub struct SqsOutbox {
    service: Service,
    url: String,
    message_bytes_max: usize,
}

impl SqsOutbox {
    /// The queue at `address`, as [`SqsQueue::open`](super::SqsQueue::open) has it. Whoever may send into it but not look at it
    /// sends what every queue takes.
    ///
    /// # Errors
    /// As there, and [`FailedPrecondition`](ErrorKind::FailedPrecondition) for a queue that takes only little.
    pub fn open(network: &Arc<Network>, address: &str) -> Result<Self> {
        let parsed = Address::parse(address)?;
        let service = Service::new(network, &parsed)?;
        let url = service.url(&parsed.queue, None)?;
        let message_bytes_max = match service.facts(&url) {
            Ok(facts) => {
                let told = facts.get(&QueueAttributeName::MaximumMessageSize).and_then(|text| text.parse().ok());
                told.unwrap_or(MESSAGE_BYTES_MAX)
            }
            Err(error) if error.kind == ErrorKind::Forbidden => MESSAGE_BYTES_MAX,
            Err(error) => return Err(error.context(format!("queue {url}"))),
        };
        if message_bytes_max < MESSAGE_BYTES_MIN + ATTRIBUTES_BYTES_MAX {
            let least = MESSAGE_BYTES_MIN + ATTRIBUTES_BYTES_MAX;
            let why =
                format!("queue {url}: it takes messages of {message_bytes_max} bytes; let it take {least} at least");
            return Err(Error::new(ErrorKind::FailedPrecondition, why));
        }
        Ok(Self { service, url, message_bytes_max })
    }
}

impl Outbox for SqsOutbox {
    fn body_bytes_max(&self) -> usize {
        self.message_bytes_max - ATTRIBUTES_BYTES_MAX
    }

    fn send(&self, reply: &Reply) -> Result<()> {
        let status = if reply.done { "done" } else { "failed" };
        let left_out = reply.frames_left_out.to_string();
        let mut all = vec![("packhorse.task", "String", &*reply.task), ("packhorse.status", "String", status)];
        if reply.frames_left_out > 0 {
            all.push(("packhorse.frames-left-out", "Number", &left_out));
        }
        let mut attributes = Attributes::new();
        for (name, kind, text) in all {
            let value = MessageAttributeValue::builder().data_type(kind).string_value(text).build();
            let value = value.map_err(|error| Error::internal(format!("attribute {name}: {error}")))?;
            attributes.insert(name.to_owned(), value);
        }
        // The two characters that this replaces in JSON and text take as many bytes as what stands for them.
        let body = reply.body.chars().map(xml_character).collect();
        let message = Outgoing { body, attributes, ..Outgoing::default() };
        self.service.send(&self.url, message, SEND).map_err(|error| error.context(format!("queue {}", self.url)))
    }
}
