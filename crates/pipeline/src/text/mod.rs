//! Text tasks: a family a file, each with its two ends.

mod classification;
mod embedding;
mod fill_mask;
mod outputs;
mod question_answering;
mod rows;
mod token_classification;

pub(crate) use classification::Classification;
pub(crate) use embedding::Embedding;
pub(crate) use fill_mask::FillMask;
pub(crate) use question_answering::QuestionAnswering;
pub(crate) use rows::Rows;
pub(crate) use token_classification::TokenClassification;

use std::collections::BTreeMap;

use engine::{Error, Result};
use store::Manifest;

use crate::Input;

/// A model's classes by name.
struct Labels(BTreeMap<u32, String>);

impl Labels {
    fn of(manifest: &Manifest) -> Self {
        Self(manifest.labels.clone())
    }

    /// The name of class `id`, made up as the reference does when nobody gave it one.
    fn name(&self, id: usize) -> String {
        let named = u32::try_from(id).ok().and_then(|id| self.0.get(&id));
        named.cloned().unwrap_or_else(|| format!("LABEL_{id}"))
    }
}

/// The refusal of an input that `task` does not take.
fn wrong_input(task: &str, takes: &str, given: &Input) -> Error {
    Error::invalid(format!("{task} takes {takes}, and this is {}", given.kind()))
}

/// The longest text, in bytes. Tokens take a hundred times the room of their text, and more than this nobody reads.
const TEXT_BYTES_MAX: usize = 1 << 20;

/// Checks that `text` has something in it and is not too long; `what` is what it is called.
fn check(text: &str, what: &str) -> Result<()> {
    let bytes = text.len();
    if bytes > TEXT_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the {what} has {bytes} bytes, and {TEXT_BYTES_MAX} are the most; split it"
        )));
    }
    if text.trim().is_empty() { Err(Error::invalid(format!("the {what} is empty"))) } else { Ok(()) }
}
