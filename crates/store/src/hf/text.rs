//! What a folder says of how its texts become inputs: lengths, the padding, the token that stands for a hole.

use std::path::Path;

use engine::{Error, Result};
use serde_json::Value;

use super::config::{Config, Family, Head};
use super::json::{self, Object};
use crate::task::{self, Embedding, FillMask, QuestionAnswering, Task, TextClassification, TokenClassification};

/// What the tokenizer's library says of it.
pub(super) const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Where older folders name their special tokens.
pub(super) const SPECIAL_TOKENS: &str = "special_tokens_map.json";
/// What sentence-transformers does before the tokenizer.
const SENTENCE_CONFIG: &str = "sentence_bert_config.json";

/// Where sentence-transformers keeps what it puts before texts.
pub(super) const PROMPTS: &str = "config_sentence_transformers.json";
/// How it pools.
const POOLING: &str = "1_Pooling/config.json";

/// What sentence-transformers puts before each text when nobody says which of its prompts to put there.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a prompt that is not there, and
/// [`Unsupported`](engine::ErrorKind::Unsupported) where its tokens are not pooled.
pub(super) fn prompt(folder: &Path) -> Result<Option<String>> {
    let value = optional(folder, PROMPTS)?.unwrap_or_default();
    let Some(name) = value.get("default_prompt_name").and_then(Value::as_str) else { return Ok(None) };
    let prompt = value.get("prompts").and_then(|prompts| prompts.get(name)).and_then(Value::as_str);
    let prompt = prompt.ok_or_else(|| {
        Error::invalid(format!("{PROMPTS}: 'default_prompt_name' is '{name}', and 'prompts' has no text of that name"))
    })?;
    let pooling = optional(folder, POOLING)?.unwrap_or_default();
    match (prompt.is_empty(), pooling.get("include_prompt").and_then(Value::as_bool)) {
        (true, _) => Ok(None),
        (false, Some(false)) => Err(Error::unsupported(format!(
            "{POOLING}: 'include_prompt' is false, and vectors are pooled from the tokens of the prompt '{name}' as well; \
             set 'default_prompt_name' in {PROMPTS} to null and give texts without it"
        ))),
        (false, _) => Ok(Some(prompt.to_owned())),
    }
}

/// What the tensors of `config` mean to a person; `None` for plain vectors.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the file and the field.
pub(super) fn task(folder: &Path, config: &Config) -> Result<Option<Task>> {
    let logits = || "logits".to_owned();
    Ok(Some(match config.head {
        Head::Base | Head::Discriminator => return Ok(None),
        Head::QuestionAnswering => Task::QuestionAnswering(QuestionAnswering {
            text: text(folder, config)?,
            start: "start_logits".to_owned(),
            end: "end_logits".to_owned(),
        }),
        Head::SequenceClassification => Task::TextClassification(TextClassification {
            text: text(folder, config)?,
            scores: logits(),
            problem: config.problem,
        }),
        Head::TokenClassification => {
            Task::TokenClassification(TokenClassification { text: text(folder, config)?, scores: logits() })
        }
        Head::MaskedLm => Task::FillMask(FillMask {
            text: text(folder, config)?,
            scores: logits(),
            mask_token: mask_token(folder, config.family)?,
        }),
        Head::Sentence(_) => Task::SentenceEmbedding(Embedding {
            text: task::Text { prompt: prompt(folder)?, ..text(folder, config)? },
            vectors: "sentence_embedding".to_owned(),
            // The program does both.
            pooling: None,
            normalise: false,
            shortens: config.shortens,
        }),
    }))
}

fn text(folder: &Path, config: &Config) -> Result<task::Text> {
    let said = lengths(folder)?.into_iter().flatten();
    let tokens_max = said.chain([positions(config)]).min().unwrap_or_default();
    if tokens_max < TOKENS_MIN {
        return Err(Error::invalid(format!("rows of {tokens_max} tokens have no room for a text")));
    }
    Ok(task::Text {
        ids: "input_ids".to_owned(),
        mask: Some("attention_mask".to_owned()),
        types: config.family.takes_token_types().then(|| "token_type_ids".to_owned()),
        tokens_max,
        pad: config.pad,
        lowercase: lowercase(folder)?,
        prompt: None,
    })
}

/// Whether a text is put in lower case before the tokenizer sees it.
pub(super) fn lowercase(folder: &Path) -> Result<bool> {
    let sentence = optional(folder, SENTENCE_CONFIG)?;
    let sentence = sentence.as_ref().map(|value| of(value, SENTENCE_CONFIG)).transpose()?;
    sentence.map_or(Ok(false), |sentence| sentence.flag("do_lower_case"))
}

/// A row has a beginning, an end and something in between.
const TOKENS_MIN: usize = 3;

/// How many tokens have a position of their own.
fn positions(config: &Config) -> usize {
    match config.family {
        Family::Bert | Family::DistilBert | Family::Electra => config.positions,
        // These count from the one after the padding's.
        Family::Roberta | Family::Mpnet => {
            config.positions.saturating_sub(usize::try_from(config.pad).unwrap_or(usize::MAX).saturating_add(1))
        }
    }
}

/// The most tokens of a row, as the tokenizer's library and sentence-transformers say it.
pub(super) fn lengths(folder: &Path) -> Result<[Option<usize>; 2]> {
    Ok([length(folder, TOKENIZER_CONFIG, "model_max_length")?, length(folder, SENTENCE_CONFIG, "max_seq_length")?])
}

/// A length that a file may declare; libraries write a huge number where they mean none.
fn length(folder: &Path, file: &str, field: &str) -> Result<Option<usize>> {
    let value = optional(folder, file)?;
    let value = value.as_ref().and_then(|value| value.get(field)).filter(|value| !value.is_null());
    let Some(value) = value else { return Ok(None) };
    match (value.as_u64(), value.as_f64()) {
        (Some(length), _) if length > 0 => Ok(usize::try_from(length).ok()),
        (None, Some(length)) if length >= 1.0 => Ok(None),
        _ => Err(Error::invalid(format!("{file}: '{field}' is {value}, which is no length"))),
    }
}

/// The token that stands for a hole.
fn mask_token(folder: &Path, family: Family) -> Result<String> {
    // What the families' own tokenizers have when nobody says otherwise.
    let usual = match family {
        Family::Bert | Family::DistilBert | Family::Electra => "[MASK]",
        Family::Roberta | Family::Mpnet => "<mask>",
    };
    Ok(token(folder, "mask_token")?.unwrap_or_else(|| usual.to_owned()))
}

/// The special token of that name: text, or an object that holds it.
pub(super) fn token(folder: &Path, name: &str) -> Result<Option<String>> {
    for file in [TOKENIZER_CONFIG, SPECIAL_TOKENS] {
        let value = optional(folder, file)?;
        let token = value.as_ref().and_then(|value| value.get(name));
        let token = token.and_then(|token| token.as_str().or_else(|| token.get("content")?.as_str()));
        if let Some(token) = token.filter(|token| !token.is_empty()) {
            return Ok(Some(token.to_owned()));
        }
    }
    Ok(None)
}

pub(super) fn optional(folder: &Path, file: &str) -> Result<Option<Value>> {
    let path = folder.join(file);
    if path.is_file() { json::read(&path).map(Some) } else { Ok(None) }
}

fn of<'a>(value: &'a Value, file: &str) -> Result<Object<'a>> {
    Object::of(value).map_err(|error| error.context(file))
}
