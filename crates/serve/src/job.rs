//! A request on its way to a lane.

use std::sync::Arc;
use std::time::Instant;

use engine::{Error, ErrorKind, Tensor};

use crate::QueueLimits;
use crate::bodies::Held;
use crate::model::Model;
use crate::reply::Reply;

/// A request on its way to a lane, checked and in signature order.
pub(crate) struct Job {
    pub(crate) model: Arc<Model>,
    pub(crate) inputs: Vec<Tensor>,
    /// Indices into the signature's outputs.
    pub(crate) outputs: Vec<usize>,
    /// Tokens of each of its items, where it may be filled up to run with longer ones.
    pub(crate) length: Option<usize>,
    /// As [`InferRequest::priority`](crate::InferRequest::priority).
    pub(crate) priority: u32,
    pub(crate) deadline: Option<Instant>,
    pub(crate) submitted: Instant,
    /// Tells it from all others, and grows; its queue's, which sets it.
    pub(crate) age: u64,
    /// Whether it waited for its model's weights to be read. No request does twice: where memory is that short, a run comes to
    /// what it needs.
    pub(crate) was_put_back: bool,
    pub(crate) reply: Box<dyn Reply>,
    /// Given back with the job.
    #[expect(dead_code, reason = "it does its work when it is dropped")]
    pub(crate) held: Held,
}

impl Job {
    /// Where its answer goes. What it holds is given back, so that it is free when the answer is read.
    pub(crate) fn into_reply(self) -> Box<dyn Reply> {
        self.reply
    }

    /// Items of the batch that this request brings: the first dimension of its inputs, where the model has batches.
    pub(crate) fn items(&self) -> usize {
        let first = self.inputs.first().and_then(|input| input.shape().first());
        if self.model.max_batch_size() > 0 { first.copied().unwrap_or(1) } else { 1 }
    }

    /// Whether `other` can run together with this one: all but the first dimension agree, and so do the outputs.
    pub(crate) fn fits(&self, other: &Job) -> bool {
        let batched = |job: &Job| {
            let first = job.inputs.first().and_then(|input| input.shape().first().copied());
            first.is_some_and(|items| items > 0 && job.inputs.iter().all(|input| input.shape().first() == Some(&items)))
        };
        let alike = |(a, b): (&Tensor, &Tensor)| a.shape()[1..] == b.shape()[1..];
        batched(self)
            && batched(other)
            && self.outputs == other.outputs
            && self.inputs.iter().zip(&other.inputs).all(alike)
    }

    /// Why it should not run any more at `now`, if so; `limits` are the server's.
    pub(crate) fn overdue(&self, limits: &QueueLimits, now: Instant) -> Option<Error> {
        if self.reply.gone() {
            return Some(Error::new(ErrorKind::Cancelled, "the client has gone"));
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return Some(Error::new(ErrorKind::DeadlineExceeded, "the request's deadline passed in the queue"));
        }
        let (limit, waited) = (limits.of(&self.model).time_limit, now.saturating_duration_since(self.submitted));
        if waited > limit {
            let limit_s = limit.as_secs_f64();
            let late = format!("the request waited longer than {limit_s} s for a lane");
            return Some(Error::new(ErrorKind::DeadlineExceeded, late));
        }
        self.hopeless(now)
    }

    /// Why it cannot be answered in time, if that is certain: no run of the model was ever so short as the time that is
    /// left, nor twice as long.
    pub(crate) fn hopeless(&self, now: Instant) -> Option<Error> {
        let left = self.deadline?.saturating_duration_since(now);
        let least = self.model.costs().curve().never_less()?;
        (left < least).then(|| {
            let (name, left_us, least_us) = (&self.model.manifest().name, left.as_micros(), 2 * least.as_micros());
            let late = format!(
                "the request's deadline is {left_us} us away, and no run of model '{name}' took less than {least_us} us; \
                 give it more time"
            );
            Error::new(ErrorKind::DeadlineExceeded, late)
        })
    }

    /// Where it stands in line: smaller numbers first, and equal ones by age.
    pub(crate) fn rank(&self) -> u32 {
        const MIDDLE: u32 = u32::MAX / 2;
        let serving = self.model.serving();
        match (self.priority, serving.priority_levels) {
            (_, Some(0)) => MIDDLE,
            (0, levels) => serving.default_priority.unwrap_or(levels.map_or(MIDDLE, |levels| levels.div_ceil(2))),
            (priority, Some(levels)) => priority.min(levels),
            (priority, None) => priority,
        }
    }
}
