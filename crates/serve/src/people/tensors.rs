//! What people give and are told as BYTES tensors, in an API that knows tensors alone.

use engine::{DataType, Error, Result, Tensor};
use pipeline::{Input, Options};
use store::task::Task;

use super::face::ANSWERS;
use super::words::first_name;
use super::{Face, Told, given, takes_words};
use crate::aside::aside;
use crate::infer::names_of;
use crate::{Answers, Ask, InferRequest, InferResponse, Scheduler, Timing};

/// Answers `request`: BYTES tensors to a model by its second name, or to one for a task whose own inputs are others, hold
/// texts or pictures, an item an element, and are answered as people are, in one output of JSON texts; all else as tensors.
/// `options` are those that came with it; by its own name a model passes over them, as over all that the protocol does not know.
///
/// # Errors
/// Those of [`Scheduler::infer`] and [`Scheduler::answer`].
pub(crate) async fn infer(
    scheduler: &Scheduler,
    face: &Face,
    request: InferRequest,
    options: Options,
) -> Result<InferResponse> {
    let inputs = inputs(face, &request).inspect_err(|error| scheduler.metrics().refused(error.kind))?;
    let Some(inputs) = inputs else { return scheduler.infer(request).await };
    let InferRequest { model: asked, version, priority, deadline, origin, .. } = request;
    let model = face.model().manifest().name.clone();
    let options = if face.is_for_people() { options } else { Options::default() };
    let ask = Ask { model, version, inputs, options, priority, deadline, origin };
    let answers = scheduler.answer(ask).await?;
    let (version, estimate) = (answers.version, answers.json_bytes_estimate());
    let tensor = aside(estimate, move || told(&answers)).await.flatten()?;
    let outputs = vec![(ANSWERS.to_owned(), tensor)];
    // By the name that it was asked for: clients know no other.
    Ok(InferResponse { model: asked, version, outputs, timing: Timing::default() })
}

/// Each answer as its JSON text.
fn told(answers: &Answers) -> Result<Tensor> {
    let told = answers.answers.iter().map(|answer| serde_json::to_vec(&Told(answer)));
    let told: Vec<Vec<u8>> =
        told.collect::<std::result::Result<_, _>>().map_err(|error| Error::internal(error.to_string()))?;
    let wire = engine::strings_to_wire(told.iter().map(Vec::as_slice));
    Tensor::new(DataType::Bytes, vec![told.len()], wire.into())
}

/// What people give in `request`; `None` when it is of tensors.
fn inputs(face: &Face, request: &InferRequest) -> Result<Option<Vec<Input>>> {
    let Some(task) = task(face, request)? else { return Ok(None) };
    let inputs = match (&request.inputs[..], task.takes_pictures()) {
        ([(_, files)], true) => {
            let data = files.data();
            engine::strings_from_wire(data)?.map(|file| Input::Picture(data.slice_ref(file))).collect()
        }
        (_, true) => {
            let task = task.name();
            return Err(Error::invalid(format!(
                "{task} takes one tensor of pictures, and {} came",
                request.inputs.len()
            )));
        }
        (columns, false) => texts(task, columns)?,
    };
    match request.outputs.iter().find(|name| *name != ANSWERS) {
        None => Ok(Some(inputs)),
        Some(other) => {
            let other: String = other.chars().take(40).collect();
            Err(Error::invalid(format!("of texts and pictures there is one output, '{ANSWERS}', and not '{other}'")))
        }
    }
}

/// The task that `request` is for; `None` when it is of tensors.
fn task<'a>(face: &'a Face, request: &InferRequest) -> Result<Option<&'a Task>> {
    let model = face.model();
    let other = request.inputs.iter().find(|(_, tensor)| tensor.dtype() != DataType::Bytes);
    if !face.is_for_people() {
        return Ok(takes_words(model).filter(|_| other.is_none() && !request.inputs.is_empty()));
    }
    let own = &model.manifest().name;
    let wanted = || names_of(&face.signature().inputs);
    match other {
        Some((name, tensor)) => {
            let (name, dtype): (String, _) = (name.chars().take(40).collect(), tensor.dtype());
            let wanted = wanted();
            Err(Error::invalid(format!(
                "'{name}' is {dtype}; by this name the model takes {wanted}, and tensors as '{own}'"
            )))
        }
        None if request.inputs.is_empty() => {
            Err(Error::invalid(format!("there is no input; the model takes {}", wanted())))
        }
        None => Ok(model.manifest().task.as_ref()),
    }
}

/// The items of which each of `columns` has a text; a column that is alone may have any name.
fn texts(task: &Task, columns: &[(String, Tensor)]) -> Result<Vec<Input>> {
    let mut read = Vec::with_capacity(columns.len());
    for (name, tensor) in columns {
        let name = if columns.len() == 1 { first_name(task) } else { name };
        let text = |(element, bytes)| match str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => {
                let byte = error.valid_up_to();
                Err(Error::invalid(format!("input '{name}': element {element} is no UTF-8 text (at byte {byte})")))
            }
        };
        let texts = engine::strings_from_wire(tensor.data())?.enumerate().map(text).collect::<Result<Vec<_>>>()?;
        read.push((name, texts));
    }
    let count = read.first().map_or(0, |(_, texts)| texts.len());
    if let Some((name, texts)) = read.iter().find(|(_, texts)| texts.len() != count) {
        let (first, other) = (read[0].0, texts.len());
        return Err(Error::invalid(format!(
            "'{first}' holds {count} texts and '{name}' {other}; each needs its other"
        )));
    }
    let item = |index: usize| {
        let pairs = read.iter_mut().map(|(name, texts)| ((*name).to_owned(), std::mem::take(&mut texts[index])));
        let (input, rest) = given(task, pairs, |_, text| Ok(text))?;
        match rest.first() {
            None => Ok(input),
            Some((name, _)) => Err(Error::invalid(format!(
                "'{}' is no input of {}",
                name.chars().take(40).collect::<String>(),
                task.name()
            ))),
        }
    };
    (0..count).map(item).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn column(name: &str, texts: &[&[u8]]) -> (String, Tensor) {
        let wire = engine::strings_to_wire(texts.iter().copied());
        (name.to_owned(), Tensor::new(DataType::Bytes, vec![texts.len()], wire.into()).unwrap())
    }

    #[test]
    fn texts_come_in_columns() {
        let text = json!({"ids": "input_ids", "tokens_max": 8, "pad": 0});
        let task = json!({"task": "question-answering", "text": text, "start": "s", "end": "e"});
        let task: Task = serde_json::from_value(task).unwrap();
        let pair = |first: &str, second: &str| Input::Pair(first.to_owned(), second.to_owned());
        let questions = column("question", &[b"who", b"why"]);
        for (columns, want) in [
            (vec![questions.clone(), column("context", &[b"a", b"b"])], Ok(vec![pair("who", "a"), pair("why", "b")])),
            (vec![column("anything", &[b"who"])], Ok(vec![Input::Text("who".to_owned())])),
            (vec![questions.clone(), column("context", &[b"a"])], Err("'question' holds 2 texts and 'context' 1")),
            (
                vec![questions.clone(), column("colour", &[b"a", b"b"])],
                Err("'colour' is no input of question-answering"),
            ),
            (vec![questions.clone(), questions], Err("'question' is given twice")),
            (vec![column("question", &[b"ok", b"n\xff"])], Err("element 1 is no UTF-8 text (at byte 1)")),
        ] {
            match (texts(&task, &columns), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want),
                (Err(error), Err(says)) => assert!(error.message.contains(says), "{error}"),
                (got, want) => panic!("{got:?} is not {want:?}"),
            }
        }
    }
}
