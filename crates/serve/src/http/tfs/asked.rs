//! A predict request's body that holds what people give, and not tensors.

use engine::{Error, Result};
use pipeline::{Input, Options};
use serde_json::{Map, Value};

use super::predict::one_of;
use crate::tfs::check_signature;
use crate::{Model, people};

/// What people ask in a predict request.
pub(super) struct Asked {
    pub(super) inputs: Vec<Input>,
    pub(super) options: Options,
    /// What the answers are called.
    pub(super) key: &'static str,
}

/// What people ask of `model` in `body`: texts, or pictures in base64, in `instances`, a list, or in `inputs`, a list, one,
/// or lists by name; options are in `parameters`. `None` when it holds tensors, or nothing that can be read.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the place and the reason.
pub(super) fn asked(model: &Model, body: &[u8]) -> Result<Option<Asked>> {
    let Some(task) = people::takes_words(model).filter(|_| may_hold_words(body)) else { return Ok(None) };
    let Ok(mut fields) = serde_json::from_slice::<Map<String, Value>>(body) else { return Ok(None) };
    let (key, value) = match (fields.remove("instances"), fields.remove("inputs")) {
        (Some(rows), None) => ("predictions", rows),
        (None, Some(columns)) => ("outputs", columns),
        _ => return Err(one_of()),
    };
    let rows = rows(value)?;
    if !rows.first().is_some_and(holds_words) {
        return Ok(None);
    }
    if let Some(Value::String(name)) = fields.remove("signature_name") {
        check_signature(&name)?;
    }
    let options = match fields.remove("parameters") {
        Some(Value::Object(parameters)) => people::options(parameters)?,
        None | Some(Value::Null) => Options::default(),
        Some(_) => return Err(Error::invalid("'parameters' must be an object of options")),
    };
    let input = |(row, value)| people::input(task, value).map_err(|error| error.context(format_args!("row {row}")));
    let inputs = rows.into_iter().enumerate().map(input).collect::<Result<_>>()?;
    Ok(Some(Asked { inputs, options, key }))
}

/// Whether a text may be a value somewhere in this JSON: a quotation mark follows a bracket or a colon. Numbers are looked
/// through at the speed of memory, and then read once, as tensors.
fn may_hold_words(json: &[u8]) -> bool {
    let mut last = 0;
    json.iter().any(|&byte| {
        let begins = byte == b'"' && matches!(last, b'[' | b':');
        if !byte.is_ascii_whitespace() {
            last = byte;
        }
        begins
    })
}

/// Whether `row` is a text or an object that holds one.
fn holds_words(row: &Value) -> bool {
    match row {
        Value::String(_) => true,
        Value::Object(fields) => fields.values().any(holds_words),
        _ => false,
    }
}

/// The rows of `value`: those of a list, of an object of lists by name, or itself.
fn rows(value: Value) -> Result<Vec<Value>> {
    match value {
        Value::Array(rows) => Ok(rows),
        Value::Object(columns) if !columns.is_empty() && columns.values().all(Value::is_array) => {
            let mut rows: Vec<Map<String, Value>> = Vec::new();
            for (name, column) in columns {
                let Value::Array(values) = column else { continue };
                if rows.is_empty() {
                    rows = vec![Map::new(); values.len()];
                }
                if rows.len() != values.len() {
                    let (rows, given) = (rows.len(), values.len());
                    return Err(Error::invalid(format!("the lists of 'inputs' have {rows} and {given} values")));
                }
                for (row, value) in rows.iter_mut().zip(values) {
                    row.insert(name.clone(), value);
                }
            }
            Ok(rows.into_iter().map(Value::Object).collect())
        }
        one => Ok(vec![one]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn words_are_told_from_tensors() {
        for (json, want) in [
            (r#"{"instances": ["a"]}"#, true),
            (r#"{"instances" : [ {"text": "a"}]}"#, true),
            (r#"{"inputs":"a"}"#, true),
            (r#"{"instances": [[1, 2], [3, 4]]}"#, false),
            (r#"{"instances": [{"input_ids": [1], "attention_mask": [1]}]}"#, false),
            (r#"{"inputs": {"input_ids": [[1]], "attention_mask": [[1]]}}"#, false),
            ("", false),
        ] {
            assert_eq!(may_hold_words(json.as_bytes()), want, "{json}");
        }
        for (row, want) in [
            (json!("a"), true),
            (json!({"question": "a", "context": "b"}), true),
            (json!({"image": {"b64": "a"}}), true),
            (json!({"input_ids": [1]}), false),
            (json!([1]), false),
        ] {
            assert_eq!(holds_words(&row), want, "{row}");
        }
    }

    #[test]
    fn rows_come_one_by_one_or_in_columns() {
        for (value, want) in [
            (json!(["a", "b"]), Some(vec![json!("a"), json!("b")])),
            (json!("a"), Some(vec![json!("a")])),
            (json!({"text": "a"}), Some(vec![json!({"text": "a"})])),
            (json!({"text": ["a", "b"]}), Some(vec![json!({"text": "a"}), json!({"text": "b"})])),
            (
                json!({"question": ["a", "b"], "context": ["c", "d"]}),
                Some(vec![json!({"question": "a", "context": "c"}), json!({"question": "b", "context": "d"})]),
            ),
            (json!({"question": ["a", "b"], "context": ["c"]}), None),
        ] {
            assert_eq!(rows(value.clone()).ok(), want, "{value}");
        }
    }
}
