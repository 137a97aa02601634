//! The desk: what people give becomes rows of tensors here, and what the model makes of these becomes an answer.
//!
//! Both take time, and no network thread and no lane has it: they are done on threads of the desk's own, as many as there
//! are lanes, with a low priority, so that a lane that has work goes first. Each row is a request to the scheduler like
//! any other.

mod flow;
mod line;
pub(crate) use flow::ITEMS_MAX;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use engine::{Error, ErrorKind, Result};
use pipeline::{Answer, Input, Options, Tokenizers};
use tokio::sync::oneshot;

use crate::{Metrics, Model, Origin, QueueLimits};
use line::Line;

/// What people ask of one model.
#[derive(Debug)]
pub struct Ask {
    /// The model's name.
    pub model: String,
    /// A version, or the newest.
    pub version: Option<u64>,
    /// At least one; each gets an answer of its own.
    pub inputs: Vec<Input>,
    /// How all of them are to be answered.
    pub options: Options,
    /// As [`InferRequest::priority`](crate::InferRequest::priority).
    pub priority: u32,
    /// After this the answers are worth nothing.
    pub deadline: Option<Instant>,
    /// What came with it besides its content.
    pub origin: Origin,
}

/// The answers to an [`Ask`].
#[derive(Debug)]
pub struct Answers {
    /// The model's name.
    pub model: String,
    /// The version that answered.
    pub version: u64,
    /// In the order of the inputs.
    pub answers: Vec<Answer>,
    /// Tokens that the model read.
    pub tokens: usize,
}

/// About how many bytes of JSON a number takes, and an item with a name, a score and where it lies.
const NUMBER_BYTES: usize = 12;
const ITEM_BYTES: usize = 128;

impl Answers {
    /// About how many bytes of JSON they take.
    pub(crate) fn json_bytes_estimate(&self) -> usize {
        let of = |answer: &Answer| match answer {
            Answer::Vector(vector) => vector.len() * NUMBER_BYTES,
            Answer::Passages(passages) => passages.len() * ITEM_BYTES,
            Answer::Classes(classes) => classes.len() * ITEM_BYTES,
            Answer::Entities(entities) => entities.len() * ITEM_BYTES,
            Answer::Objects(objects) => objects.len() * ITEM_BYTES,
            Answer::Fillings(holes) => holes.iter().map(Vec::len).sum::<usize>() * ITEM_BYTES,
            Answer::Passage(_) | Answer::Class(_) | Answer::Similarity(_) => ITEM_BYTES,
        };
        self.answers.iter().map(of).sum()
    }
}

/// Something to do, which tells whoever waits for it by itself.
type Job = Box<dyn FnOnce() + Send>;

/// Whether a job is new or was begun, which decides whether it can be refused.
#[derive(Clone, Copy)]
enum Stage {
    Prepare,
    Finish,
}

/// A job that was handed in.
struct Pending<T>(oneshot::Receiver<Result<T>>);

impl<T> Pending<T> {
    /// Waits until it is done.
    ///
    /// # Errors
    /// [`DeadlineExceeded`](ErrorKind::DeadlineExceeded) when it waited too long, [`Unavailable`](ErrorKind::Unavailable)
    /// when the server stops first, and the job's own.
    async fn done(self) -> Result<T> {
        self.0.await.unwrap_or_else(|_| Err(stopping()))
    }
}

/// The desk's queue and what its threads share.
#[derive(Default)]
pub(crate) struct Desk {
    line: Mutex<Line<Job>>,
    /// There is something to do, or the threads should leave.
    work: Condvar,
    stopped: AtomicBool,
    tokenizers: Tokenizers,
}

impl Desk {
    /// The life of one of its threads.
    pub(crate) fn run(&self) {
        engine::cpu::step_back();
        let mut line = self.lock();
        loop {
            if self.stopped.load(Ordering::Relaxed) {
                return;
            }
            match line.next() {
                Some(job) => {
                    drop(line);
                    job();
                    line = self.lock();
                }
                None => line = self.work.wait(line).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Sends the threads home. Whoever still waits is told that the server stops.
    pub(crate) fn stop(&self) {
        let mut line = self.lock();
        self.stopped.store(true, Ordering::Relaxed);
        line.clear();
        drop(line);
        self.work.notify_all();
    }

    /// Has `job` done for `model` on a thread of the desk. Dropping what comes back drops the job, if it still waits.
    ///
    /// # Errors
    /// [`Exhausted`](ErrorKind::Exhausted) when too many jobs of the model wait, [`Unavailable`](ErrorKind::Unavailable)
    /// when the server stops.
    fn hand_in<T: Send + 'static>(
        &self,
        (model, limits): (&Model, QueueLimits),
        stage: Stage,
        metrics: Arc<Metrics>,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<Pending<T>> {
        let (sender, receiver) = oneshot::channel();
        let asked = Instant::now();
        let waiting = metrics.desk_waiting.clone();
        let job: Job = Box::new(move || {
            metrics.desk_waiting.dec();
            let waited = asked.elapsed();
            metrics.desk_waited(waited);
            if sender.is_closed() {
                return;
            }
            let outcome = if waited > limits.time_limit {
                let limit_s = limits.time_limit.as_secs_f64();
                let late = format!("the request waited longer than {limit_s} s to be made into tensors");
                Err(Error::new(ErrorKind::DeadlineExceeded, late))
            } else {
                let begun = Instant::now();
                let outcome = catch_unwind(AssertUnwindSafe(job));
                match stage {
                    Stage::Prepare => metrics.desk_prepared(begun.elapsed()),
                    Stage::Finish => metrics.desk_finished(begun.elapsed()),
                }
                outcome.unwrap_or_else(|_| Err(Error::internal("the model's task panicked on this request")))
            };
            // Whoever asked may have gone in the meantime.
            let _ = sender.send(outcome);
        });
        self.push(model, limits, stage, job)?;
        waiting.inc();
        Ok(Pending(receiver))
    }

    fn push(&self, model: &Model, limits: QueueLimits, stage: Stage, job: Job) -> Result<()> {
        let mut line = self.lock();
        if self.stopped.load(Ordering::Relaxed) {
            return Err(stopping());
        }
        match stage {
            Stage::Finish => line.finish(job),
            Stage::Prepare => line.begin(model.id(), limits.capacity, job).map_err(|waiting| {
                let name = &model.manifest().name;
                let full =
                    format!("{waiting} requests for model '{name}' wait to be made into tensors; try again soon");
                Error::new(ErrorKind::Exhausted, full)
            })?,
        }
        drop(line);
        self.work.notify_one();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Line<Job>> {
        // Nothing that runs under the lock panics half-way, so a poisoned lock holds good state.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopping() -> Error {
    Error::unavailable("the server is stopping; ask another one")
}
