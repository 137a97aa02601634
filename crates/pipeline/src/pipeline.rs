//! [`Pipeline`]: the two ends of a task.

use std::sync::Arc;

use engine::{Error, Result, Tensor};
use store::task::Task;
use store::{Manifest, Store};

use crate::sight::Sight;
use crate::text::{Classification, Embedding, FillMask, QuestionAnswering, TokenClassification};
use crate::tokens::Tokenizers;
use crate::{Answer, Input, Options};

/// The two ends of a task: what people give becomes rows of tensors, and what the model makes of these an answer.
/// Shared by every thread that prepares; both ends take time, and none is for a thread that must not wait.
pub trait Pipeline: Send + Sync {
    /// The rows for `input`.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming what is wrong with the input or the option.
    fn prepare(self: Arc<Self>, input: Input, options: &Options) -> Result<Prepared>;
}

/// An item as the model takes it.
pub struct Prepared {
    /// Each a request of its own: the inputs in signature order, of one item each. There is at least one.
    pub rows: Vec<Vec<Tensor>>,
    /// The outputs that [`finish`](Self::finish) wants, by name and in this order.
    pub outputs: Vec<String>,
    /// Tokens in all rows.
    pub tokens: usize,
    /// What becomes of the outputs.
    pub finish: Finish,
}

/// What makes an answer of each row's outputs, in the order of the rows.
///
/// Fails with [`Internal`](engine::ErrorKind::Internal) when an output is not of the shape or type that the task promises.
pub type Finish = Box<dyn FnOnce(Vec<Vec<Tensor>>) -> Result<Answer> + Send>;

/// The pipeline of the model that `manifest` describes. Reads its tokenizer unless `tokenizers` has it already.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the model was packed without a task or without what the task
/// needs, [`Corrupt`](engine::ErrorKind::Corrupt) when a file of it is damaged.
pub fn open(store: &Store, manifest: &Manifest, tokenizers: &Tokenizers) -> Result<Arc<dyn Pipeline>> {
    let name = &manifest.name;
    let of = |error: Error| error.context(format_args!("model '{name}'"));
    let task = manifest.task.as_ref().ok_or_else(|| {
        Error::invalid(format!("model '{name}' declares no task, so it takes tensors only; pack it with --task"))
    })?;
    let tokenizer = || tokenizers.of(store, manifest).map_err(of);
    Ok(match task {
        Task::QuestionAnswering(task) => Arc::new(QuestionAnswering::new(manifest, task, tokenizer()?).map_err(of)?),
        Task::TextClassification(task) => Arc::new(Classification::new(manifest, task, tokenizer()?).map_err(of)?),
        Task::SentenceEmbedding(task) => Arc::new(Embedding::new(manifest, task, tokenizer()?).map_err(of)?),
        Task::ObjectDetection(_) | Task::ImageClassification(_) | Task::ImageEmbedding(_) => {
            Arc::new(Sight::of(manifest).map_err(of)?)
        }
        Task::TokenClassification(task) => {
            Arc::new(TokenClassification::new(manifest, task, tokenizer()?).map_err(of)?)
        }
        Task::FillMask(task) => Arc::new(FillMask::new(manifest, task, tokenizer()?).map_err(of)?),
        Task::TextSimilarity(task) => Arc::new(Embedding::similarity(manifest, task, tokenizer()?).map_err(of)?),
    })
}
