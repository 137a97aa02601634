//! A model's second name, by which clients of tensors see what people see.
//!
//! By its own name a model is the tensors that it was packed with: clients count them, and give up on types that they do
//! not know. By its second name it takes its task's texts or pictures, and gives answers.

use std::sync::Arc;

use engine::{DataType, Error, Result, Signature, TensorSpec};

use super::words::{Column, columns};
use crate::{Model, Residency};

/// What follows a model's name where its answers are meant and not its tensors. A model that is called so itself goes first.
const SUFFIX: &str = ":answers";
/// The output that answers go out by: a JSON text for each item.
pub(super) const ANSWERS: &str = "answers";

/// A model as it is seen by the name that it was asked for.
#[derive(Clone)]
pub(crate) struct Face {
    model: Arc<Model>,
    /// What its task takes and gives; `None` by its own name.
    people: Option<Arc<People>>,
}

/// What a task takes and gives, as tensors.
struct People {
    signature: Signature,
    columns: Vec<Column>,
}

impl Face {
    /// `version`, or the newest, of the model that goes by `name`.
    ///
    /// # Errors
    /// As [`Residency::model`], and [`NotFound`](engine::ErrorKind::NotFound) for the answers of a model without a task.
    pub(crate) fn of(residency: &Residency, name: &str, version: Option<u64>) -> Result<Self> {
        let unknown = match residency.model(name, version) {
            Ok(model) => return Ok(Self { model, people: None }),
            Err(error) => error,
        };
        // What is wrong with a model is told of that name that somebody gave it.
        let Some(own) = name.strip_suffix(SUFFIX).filter(|_| !residency.knows(name)) else { return Err(unknown) };
        let model = residency.model(own, version)?;
        let Some(task) = &model.manifest().task else {
            return Err(Error::not_found(format!(
                "model '{own}' declares no task, so there is no '{name}'; pack it with --task"
            )));
        };
        let tensor = |name: &str| {
            let (name, dtype) = (name.to_owned(), DataType::Bytes);
            TensorSpec { name, dtype, shape: vec![-1], any_rank: true }
        };
        let columns = columns(task);
        let inputs = columns.iter().map(|column| tensor(column.name)).collect();
        let people = People { signature: Signature { inputs, outputs: vec![tensor(ANSWERS)] }, columns };
        Ok(Self { model, people: Some(Arc::new(people)) })
    }

    /// Whether a request for what goes by `name` would be taken, as [`Residency::is_ready`].
    pub(crate) fn is_ready(residency: &Residency, name: &str, version: Option<u64>) -> bool {
        Self::of(residency, name, version).is_ok_and(|face| !face.model.failed())
    }

    pub(crate) fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The name that it is seen by.
    pub(crate) fn name(&self) -> String {
        let suffix = if self.is_for_people() { SUFFIX } else { "" };
        format!("{}{suffix}", self.model.manifest().name)
    }

    /// What it takes and gives by this name.
    pub(crate) fn signature(&self) -> &Signature {
        self.people.as_ref().map_or(self.model.signature(), |people| &people.signature)
    }

    /// Whether it takes what people give, and that alone.
    pub(crate) fn is_for_people(&self) -> bool {
        self.people.is_some()
    }

    /// Whether a request may come without the input called `name`.
    pub(crate) fn may_lack(&self, name: &str) -> bool {
        let columns = self.people.iter().flat_map(|people| &people.columns);
        columns.filter(|column| column.name == name).any(|column| column.may_be_missing)
    }

    /// The name that its answers go by, where this is not that name.
    pub(crate) fn second_name(&self, residency: &Residency) -> Option<String> {
        let manifest = self.model.manifest();
        let name = format!("{}{SUFFIX}", manifest.name);
        (manifest.task.is_some() && !self.is_for_people() && !residency.knows(&name)).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use engine::ErrorKind;
    use serde_json::{Value, json};

    use super::*;
    use crate::Control;
    use crate::fixture::{Echo, add, store};

    fn names(specs: &[TensorSpec]) -> Vec<&str> {
        specs.iter().map(|spec| &*spec.name).collect()
    }

    #[test]
    fn a_model_for_a_task_has_a_second_name_and_a_model_that_is_called_so_keeps_its_own() {
        let (_folder, store) = store();
        let io = |name: &str| json!([{"name": name, "datatype": "INT64", "shape": [-1]}]);
        let text = json!({"ids": "x", "tokens_max": 8, "pad": 0});
        let task = |name: &str, outputs: &[&str]| {
            let mut task = json!({"task": name, "text": text});
            outputs.iter().for_each(|output| task[*output] = json!("y"));
            task
        };
        let mut sorted = task("text-classification", &["scores"]);
        sorted["problem"] = json!("single-label");
        for (name, task) in [
            ("plain", Value::Null),
            ("asked", task("question-answering", &["start", "end"])),
            ("sorted", sorted),
            ("taken", task("question-answering", &["start", "end"])),
            ("taken:answers", Value::Null),
        ] {
            add(&store, name, 1, io("x"), io("y"));
            let path = store.root().join(format!("models/{name}/1.json"));
            let mut manifest: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            manifest["task"] = task;
            std::fs::write(path, manifest.to_string()).unwrap();
        }
        let residency = Residency::open(store, Arc::new(Echo::new()), 1, Control::None).unwrap();
        for (name, inputs, second) in [
            ("plain", &["x"][..], None),
            ("asked", &["x"], Some("asked:answers")),
            ("asked:answers", &["question", "context"], None),
            ("sorted:answers", &["text", "text_pair"], None),
            ("taken", &["x"], None),
            ("taken:answers", &["x"], None),
        ] {
            let face = Face::of(&residency, name, None).unwrap();
            assert_eq!((face.name(), names(&face.signature().inputs)), (name.to_owned(), inputs.to_vec()));
            assert_eq!(face.second_name(&residency).as_deref(), second, "{name}");
            assert_eq!(face.may_lack("text_pair"), name == "sorted:answers");
            assert!(Face::is_ready(&residency, name, Some(1)) && !Face::is_ready(&residency, name, Some(2)), "{name}");
        }
        for (name, says) in [
            ("plain:answers", "'plain' declares no task"),
            ("nobody:answers", "'nobody' is not in the store"),
            ("asked:answer", "'asked:answer' is not in the store"),
            ("asked:answers:answers", "'asked:answers' is not in the store"),
        ] {
            let error = Face::of(&residency, name, None).err().unwrap();
            assert!(error.kind == ErrorKind::NotFound && error.message.contains(says), "{error}");
        }
    }
}
