//! Amazon SQS, and whatever speaks its protocol, as a queue of tasks.
//!
//! The service keeps messages, hands each to somebody for a while, and counts how often. Everything else is made of that:
//! a task that is given back is sent again with its history and its old message deleted, in this order, so that whoever
//! dies in between leaves two deliveries of one task, which do no harm, and never none. Dead letters are sent, with the
//! reason, to the queue that the redrive policy names. A message may be held for twelve hours in all; a longer task goes
//! on in a message of its own, behind the parts that are durable.
//!
//! Messages are received one by one, so none waits hidden behind another and there is nothing more to keep alive.

mod address;
mod dead;
mod fault;
mod held;
mod history;
mod outbox;
mod service;

#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use aws_sdk_sqs::types::QueueAttributeName;
use engine::{Error, ErrorKind, Result};
use objects::Network;

use self::address::Address;
use self::held::{Held, Leases};
use self::history::History;
pub use self::outbox::SqsOutbox;
use self::service::{Letter, Outgoing, Service};
use super::{DeadLetter, Depth, Lease, Received, TaskQueue, TaskState, lease_lost};
use crate::body::{self, BODY_BYTES_MAX, Content};
use crate::task::Template;
use crate::{Stop, Task};

/// All tries of a request that somebody waits for who is being stopped.
const HASTE: Duration = Duration::from_secs(3);
/// How late the answer to a look may be that is over.
const ANSWER: Duration = Duration::from_secs(1);
/// All tries of any other.
const LEISURE: Duration = Duration::from_secs(30);
/// The longest delay that a message may be sent with.
const DELAY_MAX: Duration = Duration::from_secs(900);
/// What every queue takes, unless it says otherwise.
const MESSAGE_BYTES_MAX: usize = 256 << 10;

/// How a queue behaves.
#[derive(Clone)]
pub struct SqsOptions {
    /// No more looks for messages; what is held can still be ended and given back.
    pub stop: Stop,
    /// How long one look waits for a message, at most 20 seconds, and so how long a worker takes to stop that waits for one.
    pub wait: Duration,
    /// A task received this often without an end is given up; fewer when the queue's own policy takes it away before.
    pub receives_max: u32,
    /// How long a message may be held in all.
    pub held_max: Duration,
    /// Where dead letters go, if not where the queue's redrive policy says.
    pub dead_letters: Option<String>,
    /// What bodies that are only events do not say.
    pub template: Template,
}

impl Default for SqsOptions {
    fn default() -> Self {
        Self {
            stop: Stop::new(),
            wait: Duration::from_secs(5),
            receives_max: 10,
            // The service's twelve hours, and time to hand over.
            held_max: Duration::from_secs(12 * 3600 - 120),
            dead_letters: None,
            template: Template::default(),
        }
    }
}

/// A [`TaskQueue`] in SQS.
pub struct SqsQueue {
    network: Arc<Network>,
    service: Service,
    url: String,
    options: SqsOptions,
    /// Looked up at the first need: whoever only sends need not be allowed to look.
    policy: OnceLock<Policy>,
    leases: Leases,
}

/// What the queue's settings say.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Policy {
    dead_url: String,
    receives_max: u32,
    message_bytes_max: usize,
}

impl SqsQueue {
    /// The queue at `address`: `https://sqs.REGION.amazonaws.com/ACCOUNT/NAME`, the like of another server, or `sqs://NAME`.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for an address that is none, [`NotFound`](ErrorKind::NotFound) for a name
    /// that no queue has, [`Forbidden`](ErrorKind::Forbidden) without credentials.
    pub fn open(network: &Arc<Network>, address: &str, options: SqsOptions) -> Result<Self> {
        let parsed = Address::parse(address)?;
        let service = Service::new(network, &parsed)?;
        let url = service.url(&parsed.queue, None)?;
        let (policy, leases) = (OnceLock::new(), Leases::default());
        Ok(Self { network: Arc::clone(network), service, url, options, policy, leases })
    }

    /// That the queue is there, and has somewhere for dead letters to go: without, a video that cannot be worked would be
    /// tried for days and then be gone without a word.
    ///
    /// # Errors
    /// [`FailedPrecondition`](ErrorKind::FailedPrecondition) with what to set, or about the queue itself.
    pub fn check(&self) -> Result<()> {
        self.policy().map(drop)
    }

    fn policy(&self) -> Result<&Policy> {
        if let Some(policy) = self.policy.get() {
            return Ok(policy);
        }
        let facts = self.service.facts(&self.url).map_err(|error| self.of(error))?;
        let redrive = facts.get(&QueueAttributeName::RedrivePolicy);
        let redrive = redrive.and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok()).unwrap_or_default();
        let dead_url =
            match (&self.options.dead_letters, redrive.get("deadLetterTargetArn").and_then(|arn| arn.as_str())) {
                (Some(address), _) => self.service.url(&Address::parse(address)?.queue, None)?,
                (None, Some(arn)) => {
                    let of_arn = address::of_arn(arn);
                    let (name, account) =
                        of_arn.ok_or_else(|| Error::invalid(format!("{arn} is no queue of dead letters")))?;
                    self.service.url(&address::Queue::Name(name.to_owned()), Some(account))?
                }
                (None, None) => {
                    let fix =
                        "give it a redrive policy with maxReceiveCount 10 or more, or name a queue with --dead-letters";
                    return Err(self.of(Error::new(
                        ErrorKind::FailedPrecondition,
                        format!("it has nowhere for dead letters to go; {fix}"),
                    )));
                }
            };
        // A number or a text, by who set it.
        let count = redrive.get("maxReceiveCount").map(|count| count.to_string().trim_matches('"').parse());
        // One less than the service's own, since what it takes away is gone without a reason.
        let theirs = count.and_then(|count: std::result::Result<u32, _>| count.ok());
        let receives_max =
            theirs.map_or(u32::MAX, |count| count.saturating_sub(1)).min(self.options.receives_max).max(1);
        let told = facts.get(&QueueAttributeName::MaximumMessageSize).and_then(|text| text.parse().ok());
        let message_bytes_max = told.unwrap_or(MESSAGE_BYTES_MAX);
        Ok(self.policy.get_or_init(|| Policy { dead_url, receives_max, message_bytes_max }))
    }

    fn of(&self, error: Error) -> Error {
        error.context(format!("queue {}", self.url))
    }

    /// Makes of a message what it asks for; `None` when that is nothing, or several messages by now.
    fn take(&self, letter: Letter, visibility: Duration) -> Result<Option<Received>> {
        let history = History::of(&letter);
        let receives = history.receives.saturating_add(letter.receives);
        let mut tasks = match self.content(&letter) {
            Ok(Content::Tasks(tasks)) => tasks,
            Ok(Content::Nothing(what)) => {
                tracing::info!(message = %letter.id, what, "nothing to do");
                self.service.delete(&self.url, &letter.handle, LEISURE)?;
                return Ok(None);
            }
            Ok(Content::Elsewhere { .. }) => {
                let error = Error::invalid("the body is a pointer to a pointer");
                return self.refuse(&letter, error).map(Some);
            }
            // The body may be there in a while; the message comes back by itself.
            Err(error)
                if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Exhausted | ErrorKind::Forbidden) =>
            {
                return Err(error);
            }
            Err(error) => return self.refuse(&letter, error).map(Some),
        };
        let task = match tasks.len() {
            1 => tasks.remove(0),
            _ => return self.split(&letter, &tasks).map(|()| None),
        };
        let policy = self.policy()?;
        if receives > policy.receives_max {
            let reason = format!(
                "received {} times without an end: it may be what stops its workers; look at their logs",
                receives - 1
            );
            self.give_up(&letter, task.to_json()?, &reason)?;
            return Ok(Some(Received::DeadLetter { id: task.id.clone(), task: Some(Box::new(task)), reason }));
        }
        let failures = history.failures;
        let receipt = self.leases.add(Held::new(letter, history, visibility));
        Ok(Some(Received::Task(Box::new(Lease { task, receipt, receive_count: receives, failures }))))
    }

    fn content(&self, letter: &Letter) -> Result<Content> {
        let content = body::read(&letter.body, &letter.id, &self.options.template)?;
        let Content::Elsewhere { bucket, key } = content else { return Ok(content) };
        let (place, key) = self.network.object(&format!("s3://{bucket}/{key}"))?;
        let (_, bytes) = place.get(&key, BODY_BYTES_MAX as u64)?;
        let text =
            std::str::from_utf8(&bytes).map_err(|_| Error::invalid(format!("{} is not UTF-8", place.url(&key))))?;
        body::read(text, &letter.id, &self.options.template)
    }

    /// Gives every task of a message a message of its own. Their ids are of what they are, so that who dies in between
    /// leaves some of them twice.
    fn split(&self, letter: &Letter, tasks: &[Task]) -> Result<()> {
        for task in tasks {
            let (group, attributes) = (letter.group.clone(), history::unmarked(&letter.attributes));
            let message = Outgoing { body: task.to_json()?, delay_s: 0, group, attributes };
            self.service.send(&self.url, message, LEISURE)?;
        }
        self.service.delete(&self.url, &letter.handle, LEISURE)
    }

    fn refuse(&self, letter: &Letter, error: Error) -> Result<Received> {
        let reason = error.message;
        self.give_up(letter, letter.body.clone(), &reason)?;
        Ok(Received::DeadLetter { id: letter.id.clone(), task: None, reason })
    }

    /// Sends the task to the dead letters, then deletes its message.
    fn give_up(&self, letter: &Letter, body: String, reason: &str) -> Result<()> {
        let policy = self.policy()?;
        let mut attributes = history::given_up(&letter.attributes, reason)?;
        if body.len() + history::bytes(&attributes) > policy.message_bytes_max {
            tracing::warn!(message = %letter.id, %reason, "no room for the reason in the dead letter");
            attributes.clear();
        }
        let message = Outgoing { body, delay_s: 0, group: letter.group.clone(), attributes };
        self.service.send(&policy.dead_url, message, LEISURE)?;
        // Whoever has the message by now finds the same end for it.
        match self.service.delete(&self.url, &letter.handle, LEISURE) {
            Err(error) if error.kind != ErrorKind::Cancelled => Err(error),
            _ => Ok(()),
        }
    }

    /// Sends the task again with `history`, then deletes the message that it came in.
    fn send_again(&self, lease: &Lease, held: &Held, history: &History, delay: Duration) -> Result<()> {
        let attributes = history.attributes(&held.letter.attributes)?;
        let (body, delay_s) = (lease.task.to_json()?, seconds(delay.min(DELAY_MAX)));
        let message = Outgoing { body, delay_s, group: held.letter.group.clone(), attributes };
        self.service.send(&self.url, message, HASTE)?;
        if let Err(error) = self.service.delete(&self.url, &held.letter.handle, HASTE) {
            tracing::warn!(task = %lease.task.id, %error, "a message that was sent again is still there");
        }
        Ok(())
    }

    fn held(&self, lease: &Lease) -> Result<Held> {
        self.leases.get(&lease.receipt).ok_or_else(|| lease_lost(&lease.task.id))
    }

    /// What a call with a receipt came to; a lease that is lost is forgotten.
    fn settle(&self, lease: &Lease, called: Result<()>) -> Result<()> {
        match called {
            Err(error) if error.kind == ErrorKind::Cancelled => {
                self.leases.remove(&lease.receipt);
                Err(lease_lost(&lease.task.id))
            }
            called => called.map_err(|error| self.of(error)),
        }
    }
}

impl TaskQueue for SqsQueue {
    fn send(&self, task: &Task) -> Result<()> {
        let message = Outgoing { body: task.to_json()?, ..Outgoing::default() };
        self.service.send(&self.url, message, LEISURE).map_err(|error| self.of(error))
    }

    fn receive(&self, visibility: Duration) -> Result<Received> {
        // Known before anything is received that may have to go there.
        self.policy()?;
        loop {
            if self.options.stop.requested() {
                return Ok(Received::Nothing);
            }
            // A look that is given up goes on at the service, which hides what it finds. So it is let come to its end, and
            // what comes is given back; only a service that does not answer is left.
            let asked = Instant::now();
            let wanted = || !self.options.stop.requested() || asked.elapsed() < self.options.wait + ANSWER;
            let ask = (1, seconds(visibility), seconds(self.options.wait));
            let letters = self.service.receive(&self.url, ask, &wanted).map_err(|error| self.of(error))?;
            let Some(letter) = letters.into_iter().next() else { return Ok(Received::Nothing) };
            if let Some(received) = self.take(letter, visibility).map_err(|error| self.of(error))? {
                return Ok(received);
            }
        }
    }

    fn extend(&self, lease: &Lease, visibility: Duration) -> Result<()> {
        let held = self.held(lease)?;
        let asked = Instant::now();
        if held.received.elapsed() + visibility > self.options.held_max {
            let history = History { receives: lease.receive_count.saturating_sub(1), ..held.history.clone() };
            self.send_again(lease, &held, &history, Duration::ZERO).map_err(|error| self.of(error))?;
            tracing::info!(task = %lease.task.id, "held for as long as the service lets anybody; goes on in another message");
            self.leases.remove(&lease.receipt);
            return Err(lease_lost(&lease.task.id));
        }
        self.settle(lease, self.service.hide(&self.url, &held.letter.handle, seconds(visibility), LEISURE))?;
        self.leases.extend(&lease.receipt, asked + visibility);
        Ok(())
    }

    fn complete(&self, lease: &Lease) -> Result<()> {
        let held = self.held(lease)?;
        self.settle(lease, self.service.delete(&self.url, &held.letter.handle, LEISURE))?;
        self.leases.remove(&lease.receipt);
        Ok(())
    }

    fn release(&self, lease: &Lease, delay: Duration, reason: &str, count_failure: bool) -> Result<()> {
        let held = self.held(lease)?;
        let history = History {
            failures: lease.failures.saturating_add(u32::from(count_failure)),
            receives: lease.receive_count.saturating_sub(u32::from(!count_failure)),
            reason: Some(history::sendable(reason)),
        };
        let again = self.send_again(lease, &held, &history, delay);
        let given_back = again.or_else(|error| {
            // It comes back the service's own way, a receive older and without its history.
            tracing::warn!(task = %lease.task.id, %error, "given back as it is");
            self.service.hide(&self.url, &held.letter.handle, seconds(delay), HASTE)
        });
        self.settle(lease, given_back)?;
        self.leases.remove(&lease.receipt);
        Ok(())
    }

    fn dead_letter(&self, lease: &Lease, reason: &str) -> Result<()> {
        let held = self.held(lease)?;
        self.settle(lease, self.give_up(&held.letter, lease.task.to_json()?, reason))?;
        self.leases.remove(&lease.receipt);
        Ok(())
    }

    fn depth(&self) -> Result<Depth> {
        use QueueAttributeName as Of;
        let policy = self.policy()?;
        let facts = self.service.facts(&self.url).map_err(|error| self.of(error))?;
        let dead = self.service.facts(&policy.dead_url).map_err(|error| error.context(&policy.dead_url))?;
        let count = |name: Of| facts.get(&name).and_then(|text| text.parse().ok()).unwrap_or_default();
        let of_dead = |name: Of| dead.get(&name).and_then(|text| text.parse::<u64>().ok()).unwrap_or_default();
        Ok(Depth {
            visible: count(Of::ApproximateNumberOfMessages),
            delayed: count(Of::ApproximateNumberOfMessagesDelayed),
            in_flight: count(Of::ApproximateNumberOfMessagesNotVisible),
            // One that somebody looks at is there as well.
            dead: of_dead(Of::ApproximateNumberOfMessages) + of_dead(Of::ApproximateNumberOfMessagesNotVisible),
            done: 0,
            oldest_age: None,
        })
    }

    fn keeps_tasks(&self) -> bool {
        false
    }

    fn state(&self, _: &str) -> Result<TaskState> {
        Err(self.of(Error::unsupported("it keeps messages and cannot tell where a task is; look where its results go")))
    }

    fn dead_letters(&self, count_max: usize) -> Result<Vec<DeadLetter>> {
        self.list_dead(count_max).map_err(|error| self.of(error))
    }

    fn redrive(&self, wanted: &dyn Fn(&str) -> bool) -> Result<u64> {
        self.redrive_dead(wanted).map_err(|error| self.of(error))
    }
}

/// `time` in whole seconds, as the service counts, and never more than it takes.
fn seconds(time: Duration) -> i32 {
    const VISIBILITY_MAX_S: u64 = 43_200;
    let whole = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    i32::try_from(whole.min(VISIBILITY_MAX_S)).unwrap_or(i32::MAX)
}
