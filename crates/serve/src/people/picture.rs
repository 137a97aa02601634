//! Pictures in the forms that clients send them in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use engine::{Error, Result};
use pipeline::{Input, Options};
use serde_json::{Map, Value};

use super::options;

/// What the picture of a request is called, beside options.
const NAMES: [&str; 5] = ["image", "image_bytes", "b64", "data", "body"];

/// The picture that is `value`: base64, or an object that holds it by one of the names that servers have for it.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), saying what is wrong.
pub(crate) fn picture(value: Value) -> Result<Input> {
    match value {
        Value::String(text) => decoded(&text).map(|bytes| Input::Picture(bytes.into())),
        Value::Object(fields) => {
            let mut fields = fields.into_iter();
            match (fields.next(), fields.next()) {
                (Some((_, inner @ (Value::String(_) | Value::Object(_)))), None) => picture(inner),
                _ => Err(Error::invalid("a picture is {\"b64\": \"...\"}, alone or under one name")),
            }
        }
        _ => Err(Error::invalid("a picture is base64 as text, or {\"b64\": \"...\"}")),
    }
}

/// The picture in `fields`, by name, and the options beside it; `None` when no name is a picture's.
///
/// # Errors
/// As [`picture`], and those of options.
pub(crate) fn picture_beside(mut fields: Map<String, Value>) -> Result<Option<(Input, Options)>> {
    let Some(name) = NAMES.into_iter().find(|name| fields.contains_key(*name)) else { return Ok(None) };
    let value = fields.remove(name).unwrap_or_default();
    let input = picture(value).map_err(|error| error.context(format_args!("'{name}'")))?;
    Ok(Some((input, options(fields)?)))
}

/// What base64 stands for, after the head of a `data:` address if there is one.
fn decoded(text: &str) -> Result<Vec<u8>> {
    let text = text.strip_prefix("data:").and_then(|text| text.split_once(',')).map_or(text, |(_, body)| body);
    STANDARD.decode(text.trim()).map_err(|error| Error::invalid(format!("this is no base64: {error}")))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    #[test]
    fn pictures_come_under_many_names() {
        let want = Input::Picture(Bytes::from_static(b"abc"));
        for value in [
            json!("YWJj"),
            json!("data:image/png;base64,YWJj"),
            json!({"b64": "YWJj"}),
            json!({"image_bytes": {"b64": "YWJj"}}),
            json!({"image": {"b64": "YWJj"}}),
            json!({"data": "YWJj"}),
        ] {
            assert_eq!(picture(value.clone()).as_ref(), Ok(&want), "{value}");
        }
        for value in [json!(3), json!([1]), json!({"b64": 3}), json!({"b64": "YWJj", "x": 1}), json!({}), json!("!")] {
            assert!(picture(value.clone()).is_err(), "{value}");
        }
        let fields = |value: Value| value.as_object().cloned().unwrap();
        let beside = picture_beside(fields(json!({"image": "YWJj", "threshold": 0.5}))).unwrap().unwrap();
        assert_eq!(beside.0, want);
        assert_eq!(picture_beside(fields(json!({"text": "YWJj"}))), Ok(None));
    }
}
