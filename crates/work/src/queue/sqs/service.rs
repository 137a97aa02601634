//! The service's calls, each within a limit of time.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::http::HttpResponse;
use aws_sdk_sqs::config::retry::RetryConfig;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{Message, MessageAttributeValue, MessageSystemAttributeName, QueueAttributeName};
use engine::{Error, Result};
use objects::Network;

use super::address::{Address, Queue};
use super::fault::explain;

/// One try of a request; a service that is well answers within a few hundredths of a second.
const TRY: Duration = Duration::from_secs(5);
/// All tries of a request.
const CALL: Duration = Duration::from_secs(30);
const TRIES: u32 = 6;

pub(super) type Attributes = HashMap<String, MessageAttributeValue>;

/// A message as it was received.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) id: String,
    pub(super) handle: String,
    pub(super) body: String,
    /// How often it was received, this time included.
    pub(super) receives: u32,
    /// The tenant, where somebody named one.
    pub(super) group: Option<String>,
    pub(super) attributes: Attributes,
}

/// A message to be sent.
#[derive(Clone, Debug, Default)]
pub(super) struct Outgoing {
    pub(super) body: String,
    pub(super) delay_s: i32,
    pub(super) group: Option<String>,
    pub(super) attributes: Attributes,
}

/// The service, and whose credentials it is asked with.
pub(super) struct Service {
    network: Arc<Network>,
    client: Client,
}

impl Service {
    pub(super) fn new(network: &Arc<Network>, address: &Address) -> Result<Self> {
        let account = network.aws()?;
        // A queue's own address may be one that only others reach, such as a container's: what was set comes first.
        let endpoint = network.aws_endpoint("SQS")?.or_else(|| address.endpoint.clone());
        let region = address.region.as_deref().or(account.region()).unwrap_or("us-east-1");
        let mut config = aws_sdk_sqs::config::Builder::from(&account.sdk(Some(region)))
            .retry_config(RetryConfig::standard().with_max_attempts(TRIES).with_max_backoff(Duration::from_secs(2)))
            .timeout_config(TimeoutConfig::builder().operation_attempt_timeout(TRY).operation_timeout(CALL).build());
        config.set_endpoint_url(endpoint);
        Ok(Self { network: Arc::clone(network), client: Client::from_conf(config.build()) })
    }

    /// The queue's URL.
    pub(super) fn url(&self, queue: &Queue, account: Option<&str>) -> Result<String> {
        let name = match queue {
            Queue::Url(url) => return Ok(url.clone()),
            Queue::Name(name) => name,
        };
        let request = self.client.get_queue_url().queue_name(name);
        let request = request.set_queue_owner_aws_account_id(account.map(str::to_owned));
        let found = self.call(CALL, request.send()).map_err(|error| error.context(format!("queue {name}")))?;
        found.queue_url.ok_or_else(|| Error::unavailable(format!("queue {name}: the service tells no address of it")))
    }

    /// Everything that the service tells of the queue.
    pub(super) fn facts(&self, url: &str) -> Result<HashMap<QueueAttributeName, String>> {
        let request = self.client.get_queue_attributes().queue_url(url).attribute_names(QueueAttributeName::All);
        Ok(self.call(CALL, request.send())?.attributes.unwrap_or_default())
    }

    /// At most `count_max` messages, hidden for `visibility_s`; waits for the first one for `wait_s`, as long as `wanted`.
    pub(super) fn receive(
        &self,
        url: &str,
        (count_max, visibility_s, wait_s): (i32, i32, i32),
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<Letter>> {
        let wait = Duration::from_secs(u64::try_from(wait_s).unwrap_or_default());
        let patient = TimeoutConfig::builder().operation_attempt_timeout(wait + TRY).operation_timeout(wait + CALL);
        let request = self.client.receive_message().queue_url(url);
        let request = request.max_number_of_messages(count_max).visibility_timeout(visibility_s);
        let request = request.wait_time_seconds(wait_s).message_attribute_names("All");
        let request = request
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::MessageGroupId);
        let request =
            request.customize().config_override(aws_sdk_sqs::config::Config::builder().timeout_config(patient.build()));
        let asked = self.network.run_while(wait + CALL, wanted, async { self.told(request.send().await) })?;
        Ok(asked.and_then(|answer| answer.messages).unwrap_or_default().into_iter().map(letter).collect())
    }

    /// Sends a message; `limit` bounds all tries.
    pub(super) fn send(&self, url: &str, message: Outgoing, limit: Duration) -> Result<()> {
        let Outgoing { body, delay_s, group, attributes } = message;
        let request = self.client.send_message().queue_url(url).message_body(body);
        let request = request.set_message_group_id(group).set_message_attributes(Some(attributes));
        let request = request.set_delay_seconds((delay_s > 0).then_some(delay_s));
        self.call(limit, request.send()).map(drop)
    }

    pub(super) fn delete(&self, url: &str, handle: &str, limit: Duration) -> Result<()> {
        let request = self.client.delete_message().queue_url(url).receipt_handle(handle);
        self.call(limit, request.send()).map(drop)
    }

    /// Hides the message for `visibility_s` from now on.
    pub(super) fn hide(&self, url: &str, handle: &str, visibility_s: i32, limit: Duration) -> Result<()> {
        let request = self.client.change_message_visibility().queue_url(url).receipt_handle(handle);
        self.call(limit, request.visibility_timeout(visibility_s).send()).map(drop)
    }

    fn call<T, E>(
        &self,
        limit: Duration,
        request: impl Future<Output = std::result::Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let done = self.network.run_while(limit, &|| true, async { self.told(request.await) })?;
        done.ok_or_else(|| Error::internal("a request that is wanted was given up"))
    }

    fn told<T, E>(&self, answer: std::result::Result<T, SdkError<E, HttpResponse>>) -> Result<T>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        answer.map_err(|error| {
            let asker = self.network.aws_asker();
            explain(&error, &asker)
        })
    }
}

fn letter(message: Message) -> Letter {
    let system = message.attributes.unwrap_or_default();
    let receives = system.get(&MessageSystemAttributeName::ApproximateReceiveCount).and_then(|text| text.parse().ok());
    Letter {
        id: message.message_id.unwrap_or_default(),
        handle: message.receipt_handle.unwrap_or_default(),
        body: message.body.unwrap_or_default(),
        receives: receives.unwrap_or(1),
        group: system.get(&MessageSystemAttributeName::MessageGroupId).cloned(),
        attributes: message.message_attributes.unwrap_or_default(),
    }
}
