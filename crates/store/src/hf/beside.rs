//! What is said of texts by files that lie elsewhere than the model: a tokenizer for an ONNX file, a SavedModel or a
//! TorchScript module, and beside it, where it came as a folder, what the reference library writes there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::{Error, Result};
use serde_json::{Map, Value};

use super::config::{named_labels, problem_type};
use super::import::{KEPT_FILES, kept_files};
use super::json::Object;
use super::sentence;
use super::text::{self, TOKENIZER_CONFIG};
use crate::task::{Pooling, Problem};

/// Families whose positions begin behind the padding's token, so that they have fewer than their tables have rows.
const BEHIND_PAD: [&str; 5] = ["roberta", "xlm-roberta", "camembert", "mpnet", "longformer"];

/// A tokenizer, and the files beside it.
#[derive(Debug)]
pub struct Beside {
    files: Vec<(String, Bytes)>,
    folder: Option<PathBuf>,
    /// `config.json`; nothing where there is none.
    config: Value,
}

impl Beside {
    /// What `path` is or holds: a `tokenizer.json` by whatever name, which then speaks for itself, or a folder with one.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound) when there is none, with the way to make one,
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a configuration that is none.
    pub fn read(path: &Path) -> Result<Self> {
        let nothing = || Value::Object(Map::new());
        if !path.is_dir() {
            let files = vec![(KEPT_FILES[0].to_owned(), engine::map::map_file(path)?)];
            return Ok(Self { files, folder: None, config: nothing() });
        }
        let files = kept_files(path)?;
        if !files.iter().any(|(name, _)| name == KEPT_FILES[0]) {
            let shown = path.display();
            return Err(Error::not_found(format!(
                "{shown}: there is no tokenizer.json in it; write one with 'python -c \"from transformers import \
                 AutoTokenizer as T; T.from_pretrained(\\\"{shown}\\\").save_pretrained(\\\"{shown}\\\")\"'"
            )));
        }
        let config = text::optional(path, "config.json")?.filter(Value::is_object).unwrap_or_else(nothing);
        Ok(Self { files, folder: Some(path.to_owned()), config })
    }

    /// What is kept with the model: name and bytes. `tokenizer.json` is the first.
    pub fn files(&self) -> &[(String, Bytes)] {
        &self.files
    }

    /// The most tokens of a row.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the file and the field, as all that follow.
    pub fn tokens_max(&self) -> Result<Option<usize>> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let config = Object::of(&self.config)?;
        let rows = config.get("max_position_embeddings").map(|_| config.size("max_position_embeddings")).transpose()?;
        let behind = config.text("model_type")?.is_some_and(|family| BEHIND_PAD.contains(&family));
        let taken = if behind { usize::try_from(config.index_or("pad_token_id", 1)?).unwrap_or(0) + 1 } else { 0 };
        let lengths = text::lengths(folder)?.into_iter().flatten();
        Ok(lengths.chain(rows.map(|rows| rows.saturating_sub(taken))).min())
    }

    /// The token id that rows are filled up with, or else the token.
    ///
    /// # Errors
    /// As [`tokens_max`](Self::tokens_max).
    pub fn pad(&self) -> Result<(Option<i64>, Option<String>)> {
        let config = Object::of(&self.config)?;
        let id = config.get("pad_token_id").map(|_| config.index_or("pad_token_id", 0)).transpose()?;
        Ok((id, self.token("pad_token")?))
    }

    /// The token that stands for a hole.
    ///
    /// # Errors
    /// As [`tokens_max`](Self::tokens_max).
    pub fn mask_token(&self) -> Result<Option<String>> {
        self.token("mask_token")
    }

    fn token(&self, name: &str) -> Result<Option<String>> {
        self.folder.as_deref().map_or(Ok(None), |folder| text::token(folder, name))
    }

    /// Whether a text is put in lower case before the tokenizer sees it.
    ///
    /// # Errors
    /// As [`tokens_max`](Self::tokens_max).
    pub fn lowercase(&self) -> Result<bool> {
        self.folder.as_deref().map_or(Ok(false), text::lowercase)
    }

    /// Class id to name.
    ///
    /// # Errors
    /// As [`tokens_max`](Self::tokens_max).
    pub fn labels(&self) -> Result<BTreeMap<u32, String>> {
        named_labels(&Object::of(&self.config)?).map(Option::unwrap_or_default)
    }

    /// What the scores of a text's classes mean.
    ///
    /// # Errors
    /// As [`tokens_max`](Self::tokens_max).
    pub fn problem(&self) -> Result<Option<Problem>> {
        problem_type(&Object::of(&self.config)?)
    }

    /// How the tokens' vectors become one, and whether that is scaled to length one.
    ///
    /// # Errors
    /// As [`tokens_max`](Self::tokens_max), and [`Unsupported`](engine::ErrorKind::Unsupported) for other modules than these.
    pub fn pooling(&self) -> Result<Option<(Pooling, bool)>> {
        let sentence = self.folder.as_deref().map_or(Ok(None), sentence::read)?;
        let pooling = |pooling| match pooling {
            sentence::Pooling::First => Pooling::First,
            sentence::Pooling::Mean => Pooling::Mean,
            sentence::Pooling::Max => Pooling::Max,
        };
        Ok(sentence.map(|sentence| (pooling(sentence.pooling), sentence.normalise)))
    }

    /// Whether the first components of a vector are a good vector too.
    ///
    /// # Errors
    /// As [`tokens_max`](Self::tokens_max).
    pub fn shortens(&self) -> Result<bool> {
        let config = Object::of(&self.config)?;
        Ok(config.flag("is_matryoshka")? || config.get("matryoshka_dimensions").is_some())
    }

    /// What stands beside the tokenizer and changes it.
    pub fn tokenizer_config(&self) -> Option<&Bytes> {
        self.files.iter().find(|(name, _)| name == TOKENIZER_CONFIG).map(|(_, bytes)| bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_beside_a_tokenizer_is_read_and_nothing_of_it_is_needed() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = place.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        let missing = Beside::read(place.path()).unwrap_err();
        assert!(missing.message.contains("AutoTokenizer"), "{missing}");
        let file = write("tokenizer.json", "{}");
        for alone in [Beside::read(&file).unwrap(), Beside::read(place.path()).unwrap()] {
            assert_eq!(alone.files().len(), 1);
            assert_eq!((alone.tokens_max().unwrap(), alone.pad().unwrap()), (None, (None, None)));
            assert_eq!((alone.labels().unwrap().len(), alone.problem().unwrap()), (0, None));
            assert_eq!((alone.pooling().unwrap(), alone.lowercase().unwrap()), (None, false));
        }
        let config = r#"{"model_type": "camembert", "max_position_embeddings": 514, "pad_token_id": 1,
            "id2label": {"0": "bad", "1": "good"}, "problem_type": "multi_label_classification", "is_matryoshka": true}"#;
        write("config.json", config);
        let huge = r#"{"model_max_length": 1000000000000000019884624838656, "mask_token": {"content": "<mask>"}}"#;
        write("tokenizer_config.json", huge);
        let modules = r#"[{"type": "m.Transformer", "path": ""}, {"type": "m.Pooling", "path": "1_Pooling"},
            {"type": "m.Normalize", "path": "2_Normalize"}]"#;
        write("modules.json", modules);
        write("1_Pooling/config.json", r#"{"pooling_mode_max_tokens": true}"#);
        let beside = Beside::read(place.path()).unwrap();
        assert_eq!((beside.tokens_max().unwrap(), beside.pad().unwrap()), (Some(512), (Some(1), None)));
        assert_eq!(beside.mask_token().unwrap().as_deref(), Some("<mask>"));
        assert_eq!((beside.labels().unwrap().len(), beside.problem().unwrap()), (2, Some(Problem::MultiLabel)));
        assert_eq!((beside.pooling().unwrap(), beside.shortens().unwrap()), (Some((Pooling::Max, true)), true));
        write("sentence_bert_config.json", r#"{"max_seq_length": 64, "do_lower_case": true}"#);
        let beside = Beside::read(place.path()).unwrap();
        assert_eq!((beside.tokens_max().unwrap(), beside.lowercase().unwrap()), (Some(64), true));
        assert_eq!((beside.files().len(), beside.tokenizer_config().is_some()), (3, true));
    }
}
