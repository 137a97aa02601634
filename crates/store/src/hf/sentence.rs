//! What a sentence-transformers folder puts behind the encoder: `modules.json` and `1_Pooling/config.json`.

use std::path::{Component, Path};

use engine::{Error, Result};
use serde_json::Value;

use super::json::{self, Object};

/// How the tokens' vectors become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sentence {
    pub(super) pooling: Pooling,
    /// Whether the vector is scaled to length one.
    pub(super) normalise: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    /// The first token's.
    First,
    /// The mean over the tokens that the mask keeps.
    Mean,
    /// The largest of each component over the tokens that the mask keeps.
    Max,
}

/// The modules of `folder`; `None` when it has no `modules.json`.
///
/// # Errors
/// [`Unsupported`](engine::ErrorKind::Unsupported) for modules other than an encoder, one pooling and a normalisation.
pub(super) fn read(folder: &Path) -> Result<Option<Sentence>> {
    let path = folder.join("modules.json");
    if !path.exists() {
        return Ok(None);
    }
    modules(folder, &json::read(&path)?).map(Some).map_err(|error| error.context(path.display()))
}

fn modules(folder: &Path, value: &Value) -> Result<Sentence> {
    let list = value.as_array().ok_or_else(|| Error::invalid("it is no list of modules"))?;
    let mut kinds = Vec::with_capacity(list.len());
    for module in list {
        let module = Object::of(module)?;
        let kind = module.text("type")?.ok_or_else(|| Error::invalid("a module has no 'type'"))?;
        // The class alone: the package in front of it has moved between releases.
        kinds.push((kind.rsplit('.').next().unwrap_or(kind), module.text("path")?.unwrap_or("")));
    }
    let (pooling, normalise) = match kinds[..] {
        [("Transformer", ""), ("Pooling", pooling)] => (pooling, false),
        [("Transformer", ""), ("Pooling", pooling), ("Normalize", _)] => (pooling, true),
        _ => {
            let names: Vec<_> = kinds.iter().map(|(kind, _)| *kind).collect();
            return Err(Error::unsupported(format!(
                "its modules are {}; known are Transformer (in the folder itself), Pooling, and Normalize after them",
                names.join(", ")
            )));
        }
    };
    if !Path::new(pooling).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(Error::invalid(format!("the module's path '{pooling}' is outside the folder")));
    }
    let path = folder.join(pooling).join("config.json");
    let pooling = pooling_of(&json::read(&path)?).map_err(|error| error.context(path.display()))?;
    Ok(Sentence { pooling, normalise })
}

fn pooling_of(value: &Value) -> Result<Pooling> {
    const PREFIX: &str = "pooling_mode_";
    let fields = value.as_object().ok_or_else(|| Error::invalid("it is no JSON object"))?;
    let flags = fields.iter().filter(|(_, value)| value.as_bool() == Some(true));
    let mut modes: Vec<_> = flags.filter_map(|(name, _)| name.strip_prefix(PREFIX)).collect();
    // Said as one word as well, as whoever makes such a module says it.
    modes.extend(fields.get("pooling_mode").and_then(Value::as_str).filter(|_| modes.is_empty()));
    match modes[..] {
        ["cls_token" | "cls"] => Ok(Pooling::First),
        ["mean_tokens" | "mean"] => Ok(Pooling::Mean),
        ["max_tokens" | "max"] => Ok(Pooling::Max),
        [] => Err(Error::invalid(format!("no field '{PREFIX}...' is true"))),
        _ => Err(Error::unsupported(format!(
            "it pools by {}; known are cls_token, mean_tokens and max_tokens, one at a time",
            modes.join(" and ")
        ))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pooling_is_said_by_flags_or_by_a_word() {
        for (value, want) in [
            (json!({"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}), Ok(Pooling::First)),
            (json!({"pooling_mode_mean_tokens": true, "include_prompt": true}), Ok(Pooling::Mean)),
            (json!({"pooling_mode": "max", "embedding_dimension": 8}), Ok(Pooling::Max)),
            (json!({"pooling_mode": "mean", "pooling_mode_cls_token": true}), Ok(Pooling::First)),
            (json!({"pooling_mode": "lasttoken"}), Err("it pools by lasttoken")),
            (json!({"pooling_mode_max_tokens": true, "pooling_mode_mean_tokens": true}), Err("max_tokens and mean")),
            (json!({"pooling_mode_mean_tokens": false}), Err("no field")),
        ] {
            match (pooling_of(&value), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{value}"),
                (Err(error), Err(says)) => assert!(error.message.contains(says), "{value}: {error}"),
                (got, want) => panic!("{value}: got {got:?}, want {want:?}"),
            }
        }
    }
}
