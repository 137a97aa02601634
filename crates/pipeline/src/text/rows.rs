//! Rows of a model that takes token ids.

use std::sync::Arc;

use bytes::Bytes;
use engine::{DataType, Error, Result, Signature, Tensor};
use store::Manifest;
use store::task::Text;
use tokenizers::Encoding;

use crate::tokens::{Tokenizer, part};

/// What an input of the model takes.
#[derive(Clone, Copy)]
enum Role {
    Ids,
    Mask,
    Types,
}

/// A model's inputs, and its tokenizer.
pub(crate) struct Rows {
    pub(crate) tokenizer: Arc<Tokenizer>,
    /// In signature order.
    inputs: Vec<(Role, DataType)>,
    /// The most tokens of a row.
    pub(crate) tokens_max: usize,
    /// The length of every row, where the graph takes no other.
    pub(crate) fixed: Option<usize>,
    pad: i64,
    lowercase: bool,
    prompt: Option<String>,
}

impl Rows {
    /// The inputs of the model that `manifest` describes, by what its task says of them.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the input that does not fit the task.
    pub(super) fn new(manifest: &Manifest, text: &Text, tokenizer: Arc<Tokenizer>) -> Result<Self> {
        Self::of_signature(&manifest.signature()?, text, tokenizer)
    }

    /// The same of a model of `signature`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn of_signature(signature: &Signature, text: &Text, tokenizer: Arc<Tokenizer>) -> Result<Self> {
        let mut fixed = None;
        let mut inputs = Vec::with_capacity(signature.inputs.len());
        for spec in &signature.inputs {
            let (name, dtype) = (spec.name.as_str(), spec.dtype);
            let role = match name {
                _ if name == text.ids => Role::Ids,
                _ if Some(name) == text.mask.as_deref() => Role::Mask,
                _ if Some(name) == text.types.as_deref() => Role::Types,
                _ => {
                    return Err(Error::invalid(format!(
                        "its task does not say what input '{name}' takes; pack it again"
                    )));
                }
            };
            if !matches!(dtype, DataType::I64 | DataType::I32) || spec.shape.len() != 2 {
                let shape = &spec.shape;
                return Err(Error::invalid(format!("input '{name}' is {dtype} {shape:?}, which takes no token ids")));
            }
            fixed = usize::try_from(spec.shape[1]).ok().or(fixed);
            inputs.push((role, dtype));
        }
        let tokens_max = fixed.map_or(text.tokens_max, |fixed| fixed.min(text.tokens_max));
        Ok(Self {
            tokenizer,
            inputs,
            tokens_max,
            fixed,
            pad: text.pad,
            lowercase: text.lowercase,
            prompt: text.prompt.clone(),
        })
    }

    /// The tokens of `text`.
    pub(super) fn encode(&self, text: &str) -> Result<Encoding> {
        let prompted = self.prompt.as_ref().map(|prompt| format!("{prompt}{text}"));
        let text = prompted.as_deref().unwrap_or(text);
        if self.lowercase { self.tokenizer.encode(&text.to_lowercase()) } else { self.tokenizer.encode(text) }
    }

    /// One text, or two, as a single row. The longer of two loses its end first.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is too long and must not be cut.
    pub(super) fn one(&self, first: &str, second: Option<&str>, cut: bool) -> Result<Encoding> {
        let (first, second) = (self.encode(first)?, second.map(|second| self.encode(second)).transpose()?);
        let marks = self.tokenizer.marks(second.is_some());
        let room = self.tokens_max.saturating_sub(marks);
        let lengths = (first.len(), second.as_ref().map_or(0, Encoding::len));
        if lengths.0 + lengths.1 <= room {
            return self.tokenizer.row(first, second);
        }
        if !cut {
            let (tokens, most) = (lengths.0 + lengths.1 + marks, self.tokens_max);
            return Err(Error::invalid(format!(
                "the text has {tokens} tokens, and the model takes {most}; shorten it, or ask with truncate = true"
            )));
        }
        let keep = match second {
            None => (room, 0),
            Some(_) => longest_first(lengths, room),
        };
        self.tokenizer.row(part(&first, 0..keep.0), second.map(|second| part(&second, 0..keep.1)))
    }

    /// The model's inputs for a row of `ids` whose tokens are of `types`.
    pub(crate) fn tensors(&self, ids: &[u32], types: &[u32]) -> Result<Vec<Tensor>> {
        let length = self.fixed.unwrap_or(ids.len());
        let fill = length.saturating_sub(ids.len());
        let tensor = |&(role, dtype): &(Role, DataType)| {
            let (values, pad): (&mut dyn Iterator<Item = i64>, i64) = match role {
                Role::Ids => (&mut ids.iter().map(|&id| i64::from(id)), self.pad),
                Role::Mask => (&mut ids.iter().map(|_| 1), 0),
                Role::Types => (&mut types.iter().map(|&kind| i64::from(kind)), 0),
            };
            let values = values.chain(std::iter::repeat_n(pad, fill));
            let data: Vec<u8> = match dtype {
                DataType::I32 => values.flat_map(|value| (value as i32).to_le_bytes()).collect(),
                _ => values.flat_map(i64::to_le_bytes).collect(),
            };
            Tensor::new(dtype, vec![1, length], Bytes::from(data))
        };
        self.inputs.iter().map(tensor).collect()
    }

    /// The model's inputs for `row`.
    pub(super) fn of(&self, row: &Encoding) -> Result<Vec<Tensor>> {
        self.tensors(row.get_ids(), row.get_type_ids())
    }
}

/// How much of two texts is kept in `room` tokens: the longer one is cut to the shorter one's length, and then both.
fn longest_first((first, second): (usize, usize), room: usize) -> (usize, usize) {
    let short = first.min(second);
    let long = if short > room { short } else { short.max(room - short) };
    let (short, long) = if short + long > room { (room / 2, room / 2 + room % 2) } else { (short, long) };
    if first > second { (long, short) } else { (short, long) }
}

#[cfg(test)]
mod tests {
    use super::longest_first;

    #[test]
    fn the_longer_text_loses_its_end_first() {
        for (lengths, room, want) in [
            ((3, 10), 9, (3, 6)),
            ((10, 3), 9, (6, 3)),
            ((10, 10), 9, (4, 5)),
            ((10, 12), 8, (4, 4)),
            ((1, 100), 50, (1, 49)),
            ((100, 100), 3, (1, 2)),
            ((0, 9), 5, (0, 5)),
        ] {
            assert_eq!(longest_first(lengths, room), want, "{lengths:?} in {room}");
        }
    }
}
