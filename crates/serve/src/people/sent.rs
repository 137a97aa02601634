//! Pictures in the forms that clients send them in.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use engine::{DataType, Error, Result, Tensor};
use pipeline::{Input, Options};
use serde_json::{Map, Value};

use super::{Told, options};
use crate::{Ask, InferRequest, InferResponse, Model, Scheduler, Timing};

/// What the picture of a request is called, beside options.
const NAMES: [&str; 5] = ["image", "image_bytes", "b64", "data", "body"];
/// The output that answers go out by, where an API has tensors alone: a JSON text for each picture.
const ANSWERS: &str = "answers";

/// Whether pictures go into `model`, and `bytes` of JSON hold one in base64.
pub(crate) fn holds_picture(model: &Model, bytes: &[u8]) -> bool {
    let takes = model.manifest().task.as_ref().is_some_and(|task| task.takes_pictures());
    takes && bytes.windows(5).any(|key| key == b"\"b64\"")
}

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

/// Answers `request`: of pictures in a BYTES tensor, put where a model that takes pictures has another input, as people are
/// answered, in one output of JSON texts; all else as tensors.
///
/// # Errors
/// Those of [`Scheduler::infer`] and [`Scheduler::answer`].
pub(crate) async fn infer(scheduler: &Scheduler, model: &Model, request: InferRequest) -> Result<InferResponse> {
    let Some(files) = pictures(model, &request)? else { return scheduler.infer(request).await };
    let InferRequest { model, version, outputs, priority, deadline, origin, .. } = request;
    if let Some(other) = outputs.iter().find(|name| *name != ANSWERS) {
        return Err(Error::invalid(format!("of pictures there is one output, '{ANSWERS}', and not '{other}'")));
    }
    let inputs = files.into_iter().map(Input::Picture).collect();
    let ask = Ask { model, version, inputs, options: Options::default(), priority, deadline, origin };
    let answers = scheduler.answer(ask).await?;
    let told = answers.answers.iter().map(|answer| serde_json::to_vec(&Told(answer)));
    let told: Vec<Vec<u8>> =
        told.collect::<std::result::Result<_, _>>().map_err(|error| Error::internal(error.to_string()))?;
    let wire = engine::strings_to_wire(told.iter().map(Vec::as_slice));
    let tensor = Tensor::new(DataType::Bytes, vec![told.len()], wire.into())?;
    let outputs = vec![(ANSWERS.to_owned(), tensor)];
    Ok(InferResponse { model: answers.model, version: answers.version, outputs, timing: Timing::default() })
}

/// The pictures of `request`; `None` when it is of tensors.
fn pictures(model: &Model, request: &InferRequest) -> Result<Option<Vec<Bytes>>> {
    let takes = model.manifest().task.as_ref().is_some_and(|task| task.takes_pictures());
    let [(_, tensor)] = &request.inputs[..] else { return Ok(None) };
    if !takes || tensor.dtype() != DataType::Bytes {
        return Ok(None);
    }
    let data = tensor.data();
    let files = engine::strings_from_wire(data)?.map(|file| data.slice_ref(file)).collect();
    Ok(Some(files))
}

#[cfg(test)]
mod tests {
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
