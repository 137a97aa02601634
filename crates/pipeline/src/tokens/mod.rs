//! Texts to token ids and back to the text: one [`Tokenizer`] a vocabulary, whoever shares it.

mod adjust;
mod shelf;

use std::ops::Range;

use engine::{Error, Result};
use store::Beside;
use tokenizers::{Decoder, Encoding, ModelWrapper, PostProcessor, PostProcessorWrapper};

use adjust::Adjustments;
pub use shelf::Tokenizers;

/// A tokenizer as `tokenizer.json` describes it. It never cuts and never fills up: both are decided row by row.
pub(crate) struct Tokenizer {
    /// Without the last step, which marks beginning and end; that comes after a text was cut.
    inner: tokenizers::Tokenizer,
    marks: Option<PostProcessorWrapper>,
    /// The token that stands for what the vocabulary does not have.
    pub(crate) unknown: Option<u32>,
    /// Whether tokens that go on with a word begin with a mark that says so.
    pub(crate) marks_continuation: bool,
    /// Whether spaces before punctuation and within contractions are taken out of decoded text.
    tidies: bool,
}

impl Tokenizer {
    /// The tokenizer in `beside`, as what lies there changes it.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is none that can be read.
    pub(crate) fn of(beside: &Beside) -> Result<Self> {
        let adjustments =
            beside.tokenizer_config().map(|config| Adjustments::of(config)).transpose()?.unwrap_or_default();
        let json = beside.files().first().ok_or_else(|| Error::internal("a tokenizer came without its file"))?;
        Self::new(&json.1, &adjustments)
    }

    /// The tokenizer in `json`, as `adjustments` change it.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is none that can be read.
    fn new(json: &[u8], adjustments: &Adjustments) -> Result<Self> {
        let refused = |why: &dyn std::fmt::Display| Error::invalid(format!("tokenizer.json cannot be read: {why}"));
        let adjusted = adjustments.apply(json).map_err(|error| refused(&error))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(adjusted).map_err(|error| refused(&error))?;
        let marks = inner.get_post_processor().cloned();
        inner.with_post_processor(None::<PostProcessorWrapper>);
        let unknown = adjustments.unknown_token().or_else(|| unknown_token(inner.get_model()));
        Ok(Self {
            unknown: unknown.and_then(|token| inner.token_to_id(&token)),
            marks_continuation: marks_continuation(inner.get_model()),
            tidies: adjustments.tidies(),
            inner,
            marks,
        })
    }

    /// How many tokens there are, those included that the vocabulary was given later.
    pub(crate) fn size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The largest id of a token.
    pub(crate) fn last(&self) -> u32 {
        self.inner.get_vocab(true).into_values().max().unwrap_or(0)
    }

    /// What marks the tokens of the second of two texts.
    pub(crate) fn second_type(&self) -> Result<u32> {
        let row = self.row(self.encode("a")?, Some(self.encode("a")?))?;
        Ok(row.get_type_ids().iter().copied().max().unwrap_or(0))
    }

    /// The tokens of `text` alone; offsets count its code points.
    pub(crate) fn encode(&self, text: &str) -> Result<Encoding> {
        let encoded = self.inner.encode_char_offsets(text, false);
        encoded.map_err(|error| Error::invalid(format!("the text cannot be made into tokens: {error}")))
    }

    /// How many tokens mark beginning and end of one text, or of a pair.
    pub(crate) fn marks(&self, pair: bool) -> usize {
        self.marks.as_ref().map_or(0, |marks| marks.added_tokens(pair))
    }

    /// `first`, or a pair, as a row: with beginning and end marked.
    pub(crate) fn row(&self, first: Encoding, second: Option<Encoding>) -> Result<Encoding> {
        let marked = match &self.marks {
            Some(marks) => marks.process(first, second, true),
            None => self.inner.post_process(first, second, true),
        };
        marked.map_err(|error| Error::internal(format!("the row's beginning and end cannot be marked: {error}")))
    }

    /// The id of `token`.
    pub(crate) fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The text that `tokens` are, one after the other.
    pub(crate) fn joined(&self, tokens: &[String]) -> String {
        match self.inner.get_decoder() {
            // What cannot be decoded is told as it is.
            Some(decoder) => decoder.decode(tokens.to_vec()).unwrap_or_else(|_| tokens.concat()),
            None => tokens.join(" "),
        }
    }

    /// The text that `ids` are, `without_marks` of beginning and end and the like.
    pub(crate) fn decode(&self, ids: &[u32], without_marks: bool) -> Result<String> {
        let text = self.inner.decode(ids, without_marks);
        let text = text.map_err(|error| Error::internal(format!("token ids cannot be made into text: {error}")))?;
        Ok(if self.tidies { tidied(&text) } else { text })
    }
}

/// What `model` calls what it does not have.
fn unknown_token(model: &ModelWrapper) -> Option<String> {
    match model {
        ModelWrapper::WordPiece(model) => Some(model.unk_token.clone()),
        ModelWrapper::WordLevel(model) => Some(model.unk_token.clone()),
        ModelWrapper::BPE(model) => model.unk_token.clone(),
        // It goes by number there; what stands beside the tokenizer names it.
        ModelWrapper::Unigram(_) => None,
    }
}

fn marks_continuation(model: &ModelWrapper) -> bool {
    match model {
        ModelWrapper::WordPiece(model) => !model.continuing_subword_prefix.is_empty(),
        ModelWrapper::BPE(model) => model.continuing_subword_prefix.as_ref().is_some_and(|prefix| !prefix.is_empty()),
        ModelWrapper::WordLevel(_) | ModelWrapper::Unigram(_) => false,
    }
}

/// `text` without the spaces that decoding leaves in English: the reference's own list, in its order.
fn tidied(text: &str) -> String {
    const SPACES: [(&str, &str); 10] = [
        (" .", "."),
        (" ?", "?"),
        (" !", "!"),
        (" ,", ","),
        (" ' ", "'"),
        (" n't", "n't"),
        (" 'm", "'m"),
        (" 's", "'s"),
        (" 've", "'ve"),
        (" 're", "'re"),
    ];
    SPACES.iter().fold(text.to_owned(), |text, (space, none)| text.replace(space, none))
}

/// The tokens of `encoding` in `range`, which must lie within.
pub(crate) fn part(encoding: &Encoding, range: Range<usize>) -> Encoding {
    Encoding::new(
        encoding.get_ids()[range.clone()].to_vec(),
        encoding.get_type_ids()[range.clone()].to_vec(),
        encoding.get_tokens()[range.clone()].to_vec(),
        encoding.get_word_ids()[range.clone()].to_vec(),
        encoding.get_offsets()[range.clone()].to_vec(),
        encoding.get_special_tokens_mask()[range.clone()].to_vec(),
        encoding.get_attention_mask()[range].to_vec(),
        Vec::new(),
        Default::default(),
    )
}

/// Windows of at most `size` tokens over `tokens`, each of which begins `size - overlap` after the one before; the last
/// ends with the text. There is at least one.
pub(crate) fn windows(tokens: usize, size: usize, overlap: usize) -> Vec<Range<usize>> {
    let step = size.saturating_sub(overlap).max(1);
    let mut windows = Vec::new();
    for start in (0..tokens.max(1)).step_by(step) {
        let end = (start + size).min(tokens);
        windows.push(start..end);
        if end == tokens {
            break;
        }
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::windows;

    #[test]
    fn windows_overlap_and_end_with_the_text() {
        for (tokens, size, overlap, want) in [
            (0, 4, 1, &[(0, 0)][..]),
            (3, 4, 1, &[(0, 3)]),
            (4, 4, 1, &[(0, 4)]),
            (5, 4, 1, &[(0, 4), (3, 5)]),
            (10, 4, 2, &[(0, 4), (2, 6), (4, 8), (6, 10)]),
            (7, 3, 0, &[(0, 3), (3, 6), (6, 7)]),
        ] {
            let got: Vec<_> = windows(tokens, size, overlap).iter().map(|range| (range.start, range.end)).collect();
            assert_eq!(got, want, "{tokens} tokens by {size} with {overlap}");
        }
    }
}
