//! The way of one ask: prepared piece by piece, run row by row, finished item by item.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use engine::{Error, ErrorKind, Result, Tensor};
use pipeline::{Answer, Finish, Input, Pipeline, Prepared};
use tokio::sync::oneshot;

use super::{Answers, Ask, Pending, Stage};
use crate::bodies::Held;
use crate::residency::AtHand;
use crate::trace::TraceContext;
use crate::{InferRequest, InferResponse, Model, Origin, Scheduler};

/// Texts of this size together are prepared in one go, in bytes: long enough that the way to the desk costs little, short
/// enough that others have their turn soon and the lanes have work meanwhile.
const PIECE_BYTES: usize = 16 << 10;
/// Items of one ask; more are refused.
pub(crate) const ITEMS_MAX: usize = 4096;
/// The fewest rows of one ask that may wait for a lane at once.
const ROWS_MIN: usize = 32;
/// Rows of one ask for each lane that may wait at once.
const ROWS_PER_LANE: usize = 8;

/// What is kept of a row's place in its text, in bytes a token, for the memory that requests may take together.
const TOKEN_BYTES: usize = 96;

impl Scheduler {
    /// Answers `ask`. Dropping the future drops what of it still waits.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) for the model, [`InvalidInput`](ErrorKind::InvalidInput) for an input or an
    /// option, naming it, [`Exhausted`](ErrorKind::Exhausted) when too many wait,
    /// [`DeadlineExceeded`](ErrorKind::DeadlineExceeded), and those of [`infer`](Self::infer).
    pub async fn answer(&self, ask: Ask) -> Result<Answers> {
        let answered = match ask.deadline {
            None => self.flow(ask).await,
            Some(deadline) => tokio::time::timeout_at(deadline.into(), self.flow(ask)).await.unwrap_or_else(|_| {
                Err(Stop::here(Error::new(ErrorKind::DeadlineExceeded, "the request's deadline passed")))
            }),
        };
        answered.map_err(|stop| {
            if !stop.counted {
                self.metrics().refused(stop.why.kind);
            }
            stop.why
        })
    }

    async fn flow(&self, ask: Ask) -> std::result::Result<Answers, Stop> {
        let items = ask.inputs.len();
        if items == 0 || items > ITEMS_MAX {
            return Err(Error::invalid(format!("{items} inputs are not between 1 and {ITEMS_MAX}")).into());
        }
        let model = self.residency().model(&ask.model, ask.version)?;
        let (pipeline, _files) = self.opened(&model).await?;
        let manifest = Arc::clone(model.manifest());
        let Origin { trace, mut held } = ask.origin;
        let given_bytes: usize = ask.inputs.iter().map(bytes).sum();
        held.resize(given_bytes)?;
        let mut flow = Flow {
            scheduler: self,
            model,
            pipeline,
            priority: ask.priority,
            deadline: ask.deadline,
            trace,
            held,
            rows_max: (self.lanes() * ROWS_PER_LANE).max(ROWS_MIN),
            running: VecDeque::new(),
            items: VecDeque::new(),
            answers: Vec::with_capacity(items),
        };
        let options = Arc::new(ask.options);
        let (mut tokens, mut begun) = (0, 0);
        for piece in pieces(ask.inputs) {
            let prepared = flow.prepared(begun, items, piece, Arc::clone(&options)).await?;
            begun += prepared.len();
            tokens += prepared.iter().map(|item| item.tokens).sum::<usize>();
            flow.held.resize(given_bytes.saturating_add(tokens.saturating_mul(TOKEN_BYTES)))?;
            for item in prepared {
                flow.run(item).await?;
            }
            flow.finish(false).await?;
        }
        flow.finish(true).await?;
        Ok(Answers { model: manifest.name.clone(), version: manifest.version, answers: flow.answers, tokens })
    }
}

impl Scheduler {
    /// The two ends of the task of `model`, made at the desk unless they are there. What they are made of is fetched first,
    /// and waited for elsewhere than at the desk, where it would hold up others; it stays while the second part lives.
    async fn opened(&self, model: &Arc<Model>) -> Result<(Arc<dyn Pipeline>, AtHand)> {
        if let Some(made) = model.pipeline() {
            return Ok((Arc::clone(made), AtHand::default()));
        }
        let make = || {
            let (desk, residency) = (Arc::clone(self.desk()), Arc::clone(self.shared_residency()));
            let model = Arc::clone(model);
            move || residency.pipeline(&model, &desk.tokenizers)
        };
        if let Some(made) = self.hand_in(model, Stage::Prepare, make())?.done().await? {
            return Ok((made, AtHand::default()));
        }
        let files = self.files(model).await?;
        let made = self.hand_in(model, Stage::Prepare, make())?.done().await?;
        made.map(|made| (made, files)).ok_or_else(|| Error::internal("files that were fetched are not there"))
    }

    fn hand_in<T: Send + 'static>(
        &self,
        model: &Model,
        stage: Stage,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<Pending<T>> {
        let metrics = Arc::clone(self.metrics());
        self.desk().hand_in((model, self.limits().of(model)), stage, metrics, job)
    }
}

/// Why an ask ends early.
struct Stop {
    why: Error,
    /// Whether the metrics know of it already.
    counted: bool,
}

impl Stop {
    fn here(why: Error) -> Self {
        Self { why, counted: false }
    }
}

impl From<Error> for Stop {
    fn from(why: Error) -> Self {
        Self::here(why)
    }
}

/// An ask that is being answered.
struct Flow<'a> {
    scheduler: &'a Scheduler,
    /// The version that was the newest when the ask came: all rows are for this one.
    model: Arc<Model>,
    pipeline: Arc<dyn Pipeline>,
    priority: u32,
    deadline: Option<Instant>,
    trace: Option<Arc<TraceContext>>,
    /// What it takes itself; each row that waits or runs has a share of its own.
    held: Held,
    /// Rows that may wait for a lane at once.
    rows_max: usize,
    /// Rows that wait or run, oldest first.
    running: VecDeque<oneshot::Receiver<Result<InferResponse>>>,
    /// Items that are not finished, oldest first: the rows in `running` are theirs in this order.
    items: VecDeque<Item>,
    answers: Vec<Answer>,
}

/// An item whose rows are run.
struct Item {
    /// How many rows it has.
    rows: usize,
    /// Of the rows that came back.
    outputs: Vec<Vec<Tensor>>,
    finish: Finish,
}

impl Flow<'_> {
    /// The items in `piece`, of which `begun` of all `items` come before.
    async fn prepared(
        &mut self,
        begun: usize,
        items: usize,
        piece: Vec<Input>,
        options: Arc<pipeline::Options>,
    ) -> Result<Vec<Prepared>> {
        let pipeline = Arc::clone(&self.pipeline);
        let job = move || {
            let prepare = |(index, input)| {
                let prepared = Pipeline::prepare(Arc::clone(&pipeline), input, &options);
                prepared.map_err(|error| {
                    if items == 1 { error } else { error.context(format_args!("input {}", begun + index)) }
                })
            };
            piece.into_iter().enumerate().map(prepare).collect()
        };
        let pending = self.hand_in(Stage::Prepare, job)?;
        pending.done().await
    }

    /// Has the rows of `item` run, as many at once as may be.
    async fn run(&mut self, item: Prepared) -> std::result::Result<(), Stop> {
        let Prepared { rows, outputs, finish, .. } = item;
        self.items.push_back(Item { rows: rows.len(), outputs: Vec::with_capacity(rows.len()), finish });
        for row in rows {
            while self.running.len() >= self.rows_max {
                self.next_back().await?;
            }
            // A full queue, and full memory, refuse only who has nothing in it: the others wait for what they have.
            loop {
                match self.submit(row.clone(), outputs.clone()) {
                    Ok(receiver) => break self.running.push_back(receiver),
                    Err(error) if error.kind == ErrorKind::Exhausted && !self.running.is_empty() => {
                        self.next_back().await?;
                    }
                    Err(why) => return Err(why.into()),
                }
            }
        }
        Ok(())
    }

    fn submit(&self, row: Vec<Tensor>, outputs: Vec<String>) -> Result<oneshot::Receiver<Result<InferResponse>>> {
        let manifest = self.model.manifest();
        let names = manifest.inputs.iter().map(|input| input.name.clone());
        let (sender, receiver) = oneshot::channel();
        let held = self.held.another(row.iter().map(|tensor| tensor.data().len()).sum())?;
        let request = InferRequest {
            model: manifest.name.clone(),
            version: Some(manifest.version),
            inputs: names.zip(row).collect(),
            outputs,
            priority: self.priority,
            deadline: self.deadline,
            origin: Origin { trace: self.trace.clone(), held },
        };
        self.scheduler.try_submit(request, Box::new(sender))?;
        Ok(receiver)
    }

    /// Waits for the oldest row.
    async fn next_back(&mut self) -> std::result::Result<(), Stop> {
        let Some(receiver) = self.running.pop_front() else { return Ok(()) };
        let answer = receiver.await.unwrap_or_else(|_| Err(Error::internal("the lane gave no answer")));
        let response = answer.map_err(|why| Stop { why, counted: true })?;
        let outputs = response.outputs.into_iter().map(|(_, tensor)| tensor).collect();
        let item = self.items.iter_mut().find(|item| item.outputs.len() < item.rows);
        item.ok_or_else(|| Error::internal("a row came back that nobody had sent"))?.outputs.push(outputs);
        Ok(())
    }

    /// Makes answers of the items whose rows are back; of `all` items when they are waited for.
    async fn finish(&mut self, all: bool) -> std::result::Result<(), Stop> {
        while all && !self.running.is_empty() {
            self.next_back().await?;
        }
        let whole = self.items.iter().take_while(|item| item.outputs.len() == item.rows).count();
        if whole == 0 {
            return Ok(());
        }
        let items: Vec<Item> = self.items.drain(..whole).collect();
        let job = move || items.into_iter().map(|item| (item.finish)(item.outputs)).collect::<Result<Vec<_>>>();
        let pending = self.hand_in(Stage::Finish, job)?;
        self.answers.extend(pending.done().await?);
        Ok(())
    }

    fn hand_in<T: Send + 'static>(
        &self,
        stage: Stage,
        job: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<Pending<T>> {
        self.scheduler.hand_in(&self.model, stage, job)
    }
}

/// `inputs` in pieces of about [`PIECE_BYTES`].
fn pieces(inputs: Vec<Input>) -> Vec<Vec<Input>> {
    let mut pieces = vec![Vec::new()];
    let mut size = 0;
    for input in inputs {
        if size >= PIECE_BYTES {
            pieces.push(Vec::new());
            size = 0;
        }
        size += bytes(&input).max(1);
        if let Some(piece) = pieces.last_mut() {
            piece.push(input);
        }
    }
    pieces
}

/// What `input` takes, in bytes.
fn bytes(input: &Input) -> usize {
    match input {
        Input::Text(text) => text.len(),
        Input::Pair(first, second) => first.len() + second.len(),
        Input::Tokens(tokens) => size_of_val(&tokens[..]),
        Input::Picture(file) => file.len(),
    }
}
