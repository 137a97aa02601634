//! What a request may wish of an output besides its values: a ranking, and a place in shared memory.

use engine::{Error, Result, Tensor};

use super::classification::classify;
use super::shared_memory::{SharedMemory, Span};
use crate::{InferResponse, Model};

/// What is wished of one output.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Answer with this many classes instead of values; 0 is none.
    pub(crate) classes: usize,
    /// Put the bytes here instead of into the answer.
    pub(crate) span: Option<Span>,
}

impl Wish {
    /// A wish for `classes` and a place in `memory`.
    ///
    /// # Errors
    /// For a place that is not there: nothing should be computed for it.
    pub(crate) fn new(classes: u64, span: Option<Span>, memory: Option<&SharedMemory>) -> Result<Self> {
        if let Some(span) = &span {
            SharedMemory::of(memory)?.check(span)?;
        }
        Ok(Self { classes: usize::try_from(classes).unwrap_or(usize::MAX), span })
    }
}

/// One output of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Given {
    pub(crate) name: String,
    pub(crate) tensor: Tensor,
    /// Where its bytes are, if not in the answer; `bytes` is then what the tensor takes and no more.
    pub(crate) span: Option<Span>,
}

/// An answer with every wish fulfilled.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) model: String,
    pub(crate) version: u64,
    /// In the order they were asked for.
    pub(crate) outputs: Vec<Given>,
}

impl Given {
    /// The output as the model gave it.
    #[cfg(test)]
    pub(crate) fn plain((name, tensor): (String, Tensor)) -> Self {
        Self { name, tensor, span: None }
    }
}

/// Does to the outputs of `model` what `wishes`, one for each or none at all, say.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the output, when it has no classes, or does not fit its
/// place; [`NotFound`](engine::ErrorKind::NotFound) for a place that is not there.
pub(crate) fn give(
    response: InferResponse,
    wishes: &[Wish],
    model: &Model,
    memory: Option<&SharedMemory>,
) -> Result<Answer> {
    let batched = model.max_batch_size() > 0;
    let one = |(index, (name, tensor)): (usize, (String, Tensor))| {
        let of = |error: Error| error.context(format_args!("output '{name}'"));
        let wish = wishes.get(index);
        let tensor = match wish.map_or(0, |wish| wish.classes) {
            0 => tensor,
            classes => classify(&tensor, classes, batched, &model.manifest().labels).map_err(of)?,
        };
        let span = wish
            .and_then(|wish| wish.span.as_ref())
            .map(|span| SharedMemory::of(memory)?.write(span, tensor.data()))
            .transpose()
            .map_err(of)?;
        Ok(Given { name, tensor, span })
    };
    let outputs = response.outputs.into_iter().enumerate().map(one).collect::<Result<_>>()?;
    Ok(Answer { model: response.model, version: response.version, outputs })
}
