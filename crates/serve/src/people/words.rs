//! What people call what they give: the names of texts, by task, and options as JSON.

use engine::{DataType, Error, Result};
use pipeline::{Input, Options, Setting};
use serde_json::{Map, Value};
use store::task::Task;

use crate::Model;

/// What the texts of a task are called: the first, and the second where it takes two.
fn names(task: &Task) -> (&'static str, Option<&'static str>) {
    match task {
        Task::QuestionAnswering(_) => ("question", Some("context")),
        Task::TextClassification(_) | Task::TextSimilarity(_) | Task::SentenceEmbedding(_) => {
            ("text", Some("text_pair"))
        }
        Task::TokenClassification(_) | Task::FillMask(_) => ("text", None),
        Task::ObjectDetection(_) | Task::ImageClassification(_) | Task::ImageEmbedding(_) => ("image", None),
    }
}

/// One input of a task, where inputs are told apart by name.
pub(super) struct Column {
    pub(super) name: &'static str,
    /// Whether the task does without it.
    pub(super) may_be_missing: bool,
}

/// The inputs of `task`. A second text that makes something else of the answer is not among them: two texts are no vector.
pub(super) fn columns(task: &Task) -> Vec<Column> {
    let (first, second) = names(task);
    let second = second.filter(|_| !matches!(task, Task::SentenceEmbedding(_)));
    let may_be_missing = matches!(task, Task::TextClassification(_));
    let second = second.map(|name| Column { name, may_be_missing });
    std::iter::once(Column { name: first, may_be_missing: false }).chain(second).collect()
}

/// The task of `model`, when what goes into it can be told from tensors: it has no input of strings itself.
pub(crate) fn takes_words(model: &Model) -> Option<&Task> {
    let own = model.signature().inputs.iter().any(|spec| spec.dtype == DataType::Bytes);
    model.manifest().task.as_ref().filter(|_| !own)
}

/// What the first text of `task` is called.
pub(super) fn first_name(task: &Task) -> &'static str {
    names(task).0
}

/// Which text of `task` goes by `name`; the packing system counts them.
fn place(task: &Task, name: &str) -> Option<usize> {
    let (first, second) = names(task);
    match name {
        "seq_0" => Some(0),
        "seq_1" => Some(1),
        _ if name == first => Some(0),
        _ if Some(name) == second => Some(1),
        _ => None,
    }
}

/// The input whose texts are `pairs` of a name and a text. What goes by no such name is given back.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the text that is missing or there twice.
pub(crate) fn given<T>(
    task: &Task,
    pairs: impl IntoIterator<Item = (String, T)>,
    text: impl Fn(&str, T) -> Result<String>,
) -> Result<(Input, Vec<(String, T)>)> {
    let mut texts = [None, None];
    let mut rest = Vec::new();
    for (name, value) in pairs {
        let Some(place) = place(task, &name) else {
            rest.push((name, value));
            continue;
        };
        if texts[place].replace(text(&name, value)?).is_some() {
            return Err(Error::invalid(format!("'{name}' is given twice")));
        }
    }
    let input = match texts {
        [Some(first), None] => Input::Text(first),
        [Some(first), Some(second)] => Input::Pair(first, second),
        [None, _] => {
            let (first, second) = names(task);
            let second = second.map(|second| format!(" (and '{second}')")).unwrap_or_default();
            return Err(Error::invalid(format!("'{first}'{second} is missing; {} wants it", task.name())));
        }
    };
    Ok((input, rest))
}

/// The input that is `value`: a picture, or a text, an object of texts by name, or a list of token ids.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming what is wrong.
pub(crate) fn input(task: &Task, value: Value) -> Result<Input> {
    if task.takes_pictures() {
        return super::picture(value);
    }
    match value {
        Value::String(text) => Ok(Input::Text(text)),
        Value::Object(fields) if fields.len() == 1 && fields.contains_key("b64") => {
            Err(Error::invalid(format!("{} takes text, and this is a picture or other bytes in base64", task.name())))
        }
        Value::Object(fields) => {
            let text = |name: &str, value| match value {
                Value::String(text) => Ok(text),
                other => Err(Error::invalid(format!("'{name}' is {}, and must be a text", kind(&other)))),
            };
            let (input, rest) = given(task, fields, text)?;
            match rest.first() {
                None => Ok(input),
                Some((name, _)) => Err(Error::invalid(format!("'{}' is no input of {}", brief(name), task.name()))),
            }
        }
        Value::Array(ids) if !ids.is_empty() => {
            let id = |id: &Value| id.as_u64().and_then(|id| u32::try_from(id).ok());
            let ids: Option<Vec<u32>> = ids.iter().map(id).collect();
            ids.map(Input::Tokens).ok_or_else(|| Error::invalid("a list that is an input holds token ids alone"))
        }
        other => Err(Error::invalid(format!("an input is {}, and must be a text or an object of texts", kind(&other)))),
    }
}

/// The options in `fields`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the option whose value is none.
pub(crate) fn options(fields: Map<String, Value>) -> Result<Options> {
    fields.into_iter().map(|(name, value)| option(name, value)).collect()
}

/// The option called `name`.
///
/// # Errors
/// As [`options`].
pub(crate) fn option(name: String, value: Value) -> Result<(String, Setting)> {
    let setting = match value {
        Value::Bool(flag) => Some(Setting::Flag(flag)),
        Value::Number(number) => number.as_f64().map(Setting::Number),
        Value::String(text) => Some(Setting::Text(text)),
        Value::Array(values) => {
            let text = |value| if let Value::String(text) = value { Some(text) } else { None };
            values.into_iter().map(text).collect::<Option<_>>().map(Setting::Texts)
        }
        Value::Null => Some(Setting::Nothing),
        Value::Object(_) => None,
    };
    match setting {
        Some(setting) => Ok((name, setting)),
        None => {
            let name = brief(&name);
            Err(Error::invalid(format!("option '{name}' must be a number, a text, true or false, or a list of texts")))
        }
    }
}

/// What `value` is, for a person.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The beginning of a name that a client chose.
fn brief(name: &str) -> &str {
    &name[..name.floor_char_boundary(40)]
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use store::task::{QuestionAnswering, Text, TokenClassification};

    use super::*;

    fn text() -> Text {
        Text { ids: "ids".to_owned(), mask: None, types: None, tokens_max: 8, pad: 0, lowercase: false, prompt: None }
    }

    fn qa() -> Task {
        Task::QuestionAnswering(QuestionAnswering { text: text(), start: String::new(), end: String::new() })
    }

    fn tokens() -> Task {
        Task::TokenClassification(TokenClassification { text: text(), scores: String::new() })
    }

    #[test]
    fn inputs_go_by_the_names_of_their_task() {
        let pair = Input::Pair("q".to_owned(), "c".to_owned());
        let one = Input::Text("t".to_owned());
        for (task, value, want) in [
            (qa(), json!({"question": "q", "context": "c"}), Ok(pair.clone())),
            (qa(), json!({"seq_1": "c", "seq_0": "q"}), Ok(pair)),
            (tokens(), json!("t"), Ok(one.clone())),
            (tokens(), json!({"text": "t"}), Ok(one)),
            (tokens(), json!([1, 2]), Ok(Input::Tokens(vec![1, 2]))),
            (qa(), json!({"context": "c"}), Err("'question' (and 'context') is missing")),
            (qa(), json!({"question": "q", "seq_0": "q"}), Err("is given twice")),
            (qa(), json!({"question": 3, "context": "c"}), Err("'question' is a number")),
            (
                qa(),
                json!({"question": "q", "context": "c", "more": 1}),
                Err("'more' is no input of question-answering"),
            ),
            (tokens(), json!([1, -2]), Err("token ids alone")),
            (tokens(), json!([]), Err("an input is a list")),
            (tokens(), json!(null), Err("an input is null")),
        ] {
            let got = input(&task, value.clone()).map_err(|error| error.message);
            match (got, want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{value}"),
                (Err(got), Err(want)) => assert!(got.contains(want), "{value}: '{got}' does not say '{want}'"),
                (got, want) => panic!("{value}: {got:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn options_are_plain_values() {
        let of = |value: Value| value.as_object().cloned().map(options).unwrap();
        let want = [
            ("a", Setting::Number(1.0)),
            ("b", Setting::Flag(true)),
            ("c", Setting::Texts(vec!["x".to_owned()])),
            ("d", Setting::Nothing),
        ];
        let want: Options = want.into_iter().map(|(name, setting)| (name.to_owned(), setting)).collect();
        assert_eq!(of(json!({"a": 1, "b": true, "c": ["x"], "d": null})).unwrap(), want);
        for value in [json!({"a": {}}), json!({"a": [1]})] {
            assert!(of(value).unwrap_err().message.contains("option 'a'"));
        }
    }
}
