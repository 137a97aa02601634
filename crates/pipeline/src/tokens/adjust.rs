//! What stands beside `tokenizer.json` and changes it: the library that wrote both lets `tokenizer_config.json` win.

use std::collections::BTreeMap;

use engine::{Error, Result};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// What `tokenizer_config.json` says otherwise. Whatever else is in that file differs from one fine-tune to the next and
/// means nothing here, so that models with one vocabulary share one tokenizer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub(super) struct Adjustments {
    do_lower_case: Option<bool>,
    /// `null` is a value of its own: accents go with capitals then.
    #[serde(deserialize_with = "said")]
    strip_accents: Option<Option<bool>>,
    tokenize_chinese_chars: Option<bool>,
    add_prefix_space: Option<bool>,
    trim_offsets: Option<bool>,
    unk_token: Option<Token>,
    clean_up_tokenization_spaces: Option<bool>,
}

/// A token, as the libraries of several years write it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Object { content: String },
}

/// A field that is there, whatever it says.
fn said<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<Option<bool>>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

impl Adjustments {
    /// Those in `config`, the text of a `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the file.
    pub(super) fn of(config: &[u8]) -> Result<Self> {
        serde_json::from_slice(config)
            .map_err(|error| Error::invalid(format!("tokenizer_config.json cannot be read: {error}")))
    }

    /// The token that stands for what the vocabulary does not have.
    pub(super) fn unknown_token(&self) -> Option<String> {
        self.unk_token.as_ref().map(|(Token::Text(token) | Token::Object { content: token })| token.clone())
    }

    /// Whether spaces before punctuation are taken out of decoded text; they are when nobody says otherwise.
    pub(super) fn tidies(&self) -> bool {
        self.clean_up_tokenization_spaces.unwrap_or(true)
    }

    /// The tokenizer in `json` with these, and without cutting and filling up, which are not its business here.
    pub(super) fn apply(&self, json: &[u8]) -> serde_json::Result<Vec<u8>> {
        // Only what changes is looked into; a vocabulary is long.
        let mut parts: BTreeMap<&str, &RawValue> = serde_json::from_slice(json)?;
        let (normalizer, splitter, marks) = (
            self.normalizer(parts.get("normalizer"))?,
            self.splitter(parts.get("pre_tokenizer"))?,
            self.marks(parts.get("post_processor"))?,
        );
        parts.extend(normalizer.as_deref().map(|value| ("normalizer", value)));
        parts.extend(splitter.as_deref().map(|value| ("pre_tokenizer", value)));
        parts.extend(marks.as_deref().map(|value| ("post_processor", value)));
        parts.extend([("truncation", RawValue::NULL), ("padding", RawValue::NULL)]);
        serde_json::to_vec(&parts)
    }

    fn normalizer(&self, raw: Option<&&RawValue>) -> serde_json::Result<Option<Box<RawValue>>> {
        changed(
            raw,
            "BertNormalizer",
            &[
                ("lowercase", self.do_lower_case.map(Value::from)),
                ("strip_accents", self.strip_accents.map(Value::from)),
                ("handle_chinese_chars", self.tokenize_chinese_chars.map(Value::from)),
            ],
        )
    }

    fn splitter(&self, raw: Option<&&RawValue>) -> serde_json::Result<Option<Box<RawValue>>> {
        changed(raw, "ByteLevel", &[("add_prefix_space", self.add_prefix_space.map(Value::from))])
    }

    fn marks(&self, raw: Option<&&RawValue>) -> serde_json::Result<Option<Box<RawValue>>> {
        changed(
            raw,
            "RobertaProcessing",
            &[
                ("add_prefix_space", self.add_prefix_space.map(Value::from)),
                ("trim_offsets", self.trim_offsets.map(Value::from)),
            ],
        )
    }
}

/// The part in `raw` with those of `fields` that are said, if it is of type `kind`.
fn changed(
    raw: Option<&&RawValue>,
    kind: &str,
    fields: &[(&str, Option<Value>)],
) -> serde_json::Result<Option<Box<RawValue>>> {
    let Some(raw) = raw else { return Ok(None) };
    let mut part: Value = serde_json::from_str(raw.get())?;
    if part.get("type").and_then(Value::as_str) != Some(kind) {
        return Ok(None);
    }
    for (name, value) in fields {
        if let Some(value) = value {
            part[*name] = value.clone();
        }
    }
    serde_json::value::to_raw_value(&part).map(Some)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_stands_beside_wins_and_the_rest_stays() {
        let bert =
            json!({"type": "BertNormalizer", "lowercase": true, "strip_accents": true, "handle_chinese_chars": true});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true});
        let marks = json!({"type": "RobertaProcessing", "add_prefix_space": false, "trim_offsets": true});
        for (config, part, before, after) in [
            ("{}", "normalizer", bert.clone(), bert.clone()),
            (
                r#"{"do_lower_case": false, "strip_accents": null, "name_or_path": "x"}"#,
                "normalizer",
                bert,
                json!({"type": "BertNormalizer", "lowercase": false, "strip_accents": null, "handle_chinese_chars": true}),
            ),
            (r#"{"do_lower_case": false}"#, "normalizer", json!({"type": "NFC"}), json!({"type": "NFC"})),
            (r#"{"do_lower_case": false}"#, "normalizer", json!(null), json!(null)),
            (
                r#"{"add_prefix_space": true}"#,
                "pre_tokenizer",
                bytes,
                json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true}),
            ),
            (
                r#"{"add_prefix_space": true, "trim_offsets": false}"#,
                "post_processor",
                marks,
                json!({"type": "RobertaProcessing", "add_prefix_space": true, "trim_offsets": false}),
            ),
        ] {
            let whole = json!({part: before, "model": {"vocab": {"a": 1}}, "truncation": {"max_length": 8}});
            let got = Adjustments::of(config.as_bytes()).unwrap().apply(whole.to_string().as_bytes()).unwrap();
            let want = json!({part: after, "model": {"vocab": {"a": 1}}, "truncation": null, "padding": null});
            assert_eq!(serde_json::from_slice::<Value>(&got).unwrap(), want, "{config}");
        }
    }
}
