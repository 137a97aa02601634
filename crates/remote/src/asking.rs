//! One question from its beginning to its end: what the policy decides, done.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::Tensor;
use futures_util::future::{Either, select};

use crate::attachment::{Answered, Attachment, Unanswered, chance};
use crate::failure::{Failure, FailureKind};
use crate::fit;
use crate::policy::{Ended, Question, Step, Why};
use crate::used::Used;
use crate::wire::Asked;

/// What one call brought.
type Called = Result<(Vec<Tensor>, Bytes), Failure>;

/// Of the message that was sent, and of its answer.
struct Bytes {
    sent: u64,
    received: u64,
}

impl Attachment {
    /// Asks; returns at once, and `then` is told what came of it. It runs on the thread that all calls share, and must be
    /// brief.
    pub fn ask(
        self: &Arc<Self>,
        inputs: Vec<Tensor>,
        then: impl FnOnce(Result<Answered, Unanswered>) + Send + 'static,
    ) {
        let me = Arc::clone(self);
        self.runtime.spawn(async move {
            let asked = me.answer(inputs).await;
            drop(me);
            then(asked);
        });
    }

    async fn answer(&self, inputs: Vec<Tensor>) -> Result<Answered, Unanswered> {
        let begun = Instant::now();
        // It is never closed.
        let place = self.shared.places.acquire().await;
        let mut used = Used::default();
        let asked = self.pursue(&inputs, &mut used).await;
        drop(place);
        used.wait = begun.elapsed();
        match asked {
            Ok(outputs) => Ok(Answered { outputs, used }),
            Err((why, failure)) => Err(Unanswered { inputs, why, failure, used }),
        }
    }

    async fn pursue(&self, inputs: &[Tensor], used: &mut Used) -> Result<Vec<Tensor>, (Why, Option<Failure>)> {
        let mut question = self.policy().begin(self.now());
        let mut last = None;
        loop {
            let step = self.policy().next(&mut question, self.now());
            let failure = match step {
                Step::GiveUp(why) => return Err((why, last)),
                Step::Pause(pause) => {
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Step::Send { endpoint, within, hedge_after } => {
                    used.retries += u64::from(last.is_some());
                    match self.send(&question, inputs, (endpoint, within, hedge_after), used).await {
                        Ok(outputs) => return Ok(outputs),
                        Err(failure) => failure,
                    }
                }
            };
            let kind = (failure.kind, failure.retry_after);
            let step = self.policy().after(&question, kind, self.now(), chance());
            last = Some(failure);
            match step {
                Step::Pause(pause) => tokio::time::sleep(pause).await,
                Step::GiveUp(why) => return Err((why, last)),
                // Nothing is sent before the pause is over.
                Step::Send { .. } => {}
            }
        }
    }

    /// One call, and a second one beside it where the first takes long. Whoever answers first is heard, the other is
    /// dropped, which cancels it.
    async fn send(
        &self,
        question: &Question,
        inputs: &[Tensor],
        (endpoint, within, hedge_after): (usize, Duration, Option<Duration>),
        used: &mut Used,
    ) -> Result<Vec<Tensor>, Failure> {
        let begun = Instant::now();
        used.calls += 1;
        let mut first = pin!(self.call(endpoint, inputs, within));
        let early = match hedge_after {
            None => Some(first.as_mut().await),
            Some(after) => match select(first.as_mut(), pin!(tokio::time::sleep(after))).await {
                Either::Left((called, _)) => Some(called),
                Either::Right(_) => None,
            },
        };
        if let Some(called) = early {
            return heard(called, used);
        }
        let hedge = self.policy().hedge(question);
        let Some(other) = hedge else { return heard(first.await, used) };
        used.calls += 1;
        used.hedges += 1;
        let second = pin!(self.call(other, inputs, within.saturating_sub(begun.elapsed())));
        match select(first, second).await {
            Either::Left((Ok(called), _)) | Either::Right((Ok(called), _)) => heard(Ok(called), used),
            // One failed: what the other says counts.
            Either::Left((Err(_), second)) => heard(second.await, used),
            Either::Right((Err(_), first)) => heard(first.await, used),
        }
    }

    async fn call(&self, endpoint: usize, inputs: &[Tensor], within: Duration) -> Called {
        let flight = Flight { attachment: self, endpoint, begun: Instant::now(), is_under_way: true };
        let gone = || Failure::new(FailureKind::Lost, "the endpoint has just gone out");
        let admitted = self.admitted(endpoint).ok_or_else(gone)?;
        let (_, peer) = self.shared.endpoints.get(endpoint).ok_or_else(gone)?;
        let (signature, names) = (&self.model.signature, &admitted.names);
        let called = peer.infer(Asked { target: &admitted.target, signature, names, inputs, within });
        let slow = || Failure::new(FailureKind::Slow, format!("no answer within {} s", within.as_secs_f64()));
        let reply = tokio::time::timeout(within, called).await.unwrap_or_else(|_| Err(slow()));
        // The endpoint and the library watch the same clock, and say it in words of their own.
        let reply = reply.map_err(|failure| if failure.kind == FailureKind::Slow { slow() } else { failure });
        let checked = reply.and_then(|reply| {
            if reply.version != admitted.version {
                let (now, looked_at) = (reply.version, &admitted.version);
                return Err(Failure::wrong(format!("version '{now}' answered, and '{looked_at}' was looked at")));
            }
            let bytes = Bytes { sent: reply.sent_bytes, received: reply.received_bytes };
            Ok((fit::outputs(signature, names, reply.outputs)?, bytes))
        });
        flight.end(&checked);
        checked
    }
}

fn heard(called: Called, used: &mut Used) -> Result<Vec<Tensor>, Failure> {
    let (outputs, bytes) = called?;
    used.sent_bytes += bytes.sent;
    used.received_bytes += bytes.received;
    Ok(outputs)
}

/// A call under way. Dropped, it counts as one that nobody waits for any more.
struct Flight<'a> {
    attachment: &'a Attachment,
    endpoint: usize,
    begun: Instant,
    is_under_way: bool,
}

impl Flight<'_> {
    fn end(mut self, called: &Called) {
        self.is_under_way = false;
        match called {
            Ok(_) => self.attachment.ended(self.endpoint, Ended::Answered(self.begun.elapsed()), &""),
            Err(failure) => self.attachment.ended(self.endpoint, Ended::Failed(failure.kind), failure),
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        if self.is_under_way {
            self.attachment.ended(self.endpoint, Ended::Dropped, &"");
        }
    }
}
