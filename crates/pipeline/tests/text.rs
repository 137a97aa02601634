//! Text tasks: each fixture is answered as the reference library's pipeline did (scripts/make_text_fixtures.py), whatever the
//! script, the tokenizer and the number of windows.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::onnx::Onnx;
use engine::{Engine, Load, Runtimes, Session, Weights};
use pipeline::{Answer, Class, Entity, Filling, Input, Options, Passage, Pipeline, Setting, Tokenizers};
use serde_json::{Value, json};
use store::Store;
use store::pack::{Request, pack};

/// Scores are of one precision and summed in another order.
const TOLERANCE: f64 = 2e-4;

fn workspace() -> PathBuf {
    std::path::absolute(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text").join(name)
}

fn cases(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(fixture(name)).unwrap()).unwrap()
}

/// Models that are packed as they are asked for.
struct Place {
    folder: tempfile::TempDir,
    store: Store,
    runtimes: Runtimes,
    tokenizers: Tokenizers,
    models: HashMap<String, Ready>,
}

/// A model and its two ends.
struct Ready {
    pipeline: Arc<dyn Pipeline>,
    session: Box<dyn Session>,
    weights: Arc<dyn Weights>,
    outputs: Vec<String>,
}

impl Place {
    fn new() -> Self {
        let named = std::env::var_os(engine::onnx::LIBRARY_VARIABLE).map(PathBuf::from);
        let library = named.unwrap_or_else(|| workspace().join(".cache/onnxruntime/1.31.1/libonnxruntime.so"));
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path().join("store").to_str().unwrap()).unwrap();
        let runtimes = Runtimes::new(Onnx::load(Some(&library)).unwrap().into(), engine::Libraries::default());
        Self { folder, store, runtimes, tokenizers: Tokenizers::default(), models: HashMap::new() }
    }

    /// The folder of the fixture `name` as its users have it: a model and the tokenizer of its family.
    fn checkpoint(&self, name: &str) -> PathBuf {
        let tokenizer = match name.split('-').next() {
            Some("bert") => "wordpiece",
            Some("roberta") => "bytes",
            _ => "unigram",
        };
        let folder = self.folder.path().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        for from in [fixture("models").join(name), fixture("tokenizers").join(tokenizer)] {
            for entry in std::fs::read_dir(from).unwrap() {
                let path = entry.unwrap().path();
                std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
            }
        }
        folder
    }

    /// The real model with a prompt that is put before every text.
    fn prompted(&self) -> PathBuf {
        let (from, to) = (workspace().join(".cache/all-minilm-l6-v2"), self.folder.path().join("minilm-prompted"));
        std::fs::create_dir_all(to.join("1_Pooling")).unwrap();
        let kept = ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer.json", "model.safetensors"];
        for name in kept.into_iter().chain(["tokenizer_config.json", "sentence_bert_config.json"]) {
            std::fs::copy(from.join(name), to.join(name)).unwrap();
        }
        let prompts = json!({"prompts": {"query": "query: ", "none": ""}, "default_prompt_name": "query"});
        std::fs::write(to.join("config_sentence_transformers.json"), prompts.to_string()).unwrap();
        to
    }

    fn ready(&mut self, name: &str) -> &mut Ready {
        if !self.models.contains_key(name) {
            let path = match name {
                "minilm" => workspace().join(".cache/all-minilm-l6-v2"),
                "minilm-prompted" => self.prompted(),
                name => self.checkpoint(name),
            };
            assert!(path.join("tokenizer.json").is_file(), "{}: 'scripts/setup.sh test' fetches it", path.display());
            let request = Request { path, name: Some(name.to_owned()), ..Request::default() };
            let manifest = pack(&self.store, &self.runtimes, &request).unwrap().manifest;
            let pipeline = pipeline::open(&self.store, &manifest, &self.tokenizers).unwrap();
            let program = self.store.program(&manifest.program).unwrap();
            let session = self.runtimes.session(&program, manifest.weights.len(), Load::AsIs).unwrap();
            let weights = self.runtimes.bind(self.store.weights(&manifest).unwrap()).unwrap();
            let outputs = manifest.outputs.iter().map(|output| output.name.clone()).collect();
            self.models.insert(name.to_owned(), Ready { pipeline, session, weights, outputs });
        }
        self.models.get_mut(name).unwrap()
    }

    /// What the model called `name` answers, and over how many rows.
    fn ask(&mut self, name: &str, input: Input, options: &Options) -> engine::Result<(Answer, usize)> {
        let ready = self.ready(name);
        let prepared = Arc::clone(&ready.pipeline).prepare(input, options)?;
        let place = |wanted: &String| ready.outputs.iter().position(|output| output == wanted).unwrap();
        let wanted: Vec<usize> = prepared.outputs.iter().map(place).collect();
        let count = prepared.rows.len();
        let mut outputs = Vec::new();
        for row in &prepared.rows {
            outputs.push(ready.session.run(ready.weights.as_ref(), row, &wanted)?);
        }
        Ok(((prepared.finish)(outputs)?, count))
    }
}

fn options(case: &Value) -> Options {
    let setting = |value: &Value| match value {
        Value::Bool(flag) => Setting::Flag(*flag),
        Value::Number(number) => Setting::Number(number.as_f64().unwrap()),
        Value::String(text) => Setting::Text(text.clone()),
        Value::Array(texts) => Setting::Texts(texts.iter().map(|text| text.as_str().unwrap().to_owned()).collect()),
        other => panic!("{other}"),
    };
    case["options"].as_object().unwrap().iter().map(|(name, value)| (name.clone(), setting(value))).collect()
}

/// An answer in the words of the reference.
fn told(answer: &Answer) -> Value {
    let passage = |passage: &Passage| json!({"score": passage.score, "start": passage.start, "end": passage.end, "answer": passage.text});
    let class = |class: &Class| json!({"label": class.label, "score": class.score});
    let entity = |entity: &Entity| {
        let name = if entity.index.is_some() { "entity" } else { "entity_group" };
        let mut told = json!({"score": entity.score, "word": entity.word, "start": entity.start, "end": entity.end});
        told[name] = json!(entity.label);
        if let Some(index) = entity.index {
            told["index"] = json!(index);
        }
        told
    };
    let filling = |filling: &Filling| json!({"score": filling.score, "token": filling.token, "token_str": filling.word, "sequence": filling.text});
    match answer {
        Answer::Passage(one) => passage(one),
        Answer::Passages(all) => all.iter().map(passage).collect(),
        Answer::Class(one) => class(one),
        Answer::Classes(all) => all.iter().map(class).collect(),
        Answer::Entities(all) => all.iter().map(entity).collect(),
        Answer::Fillings(holes) => match &holes[..] {
            [only] => only.iter().map(filling).collect(),
            holes => holes.iter().map(|hole| hole.iter().map(filling).collect::<Value>()).collect(),
        },
        Answer::Vector(vector) => json!(vector),
        Answer::Similarity(score) => json!(score),
        Answer::Objects(_) => panic!("no text has objects"),
    }
}

/// Whether both say the same, numbers with a fraction within the tolerance.
fn same(got: &Value, want: &Value) -> bool {
    match (got, want) {
        (Value::Array(got), Value::Array(want)) => {
            got.len() == want.len() && got.iter().zip(want).all(|(got, want)| same(got, want))
        }
        (Value::Object(got), Value::Object(want)) => {
            got.len() == want.len() && want.iter().all(|(name, want)| got.get(name).is_some_and(|got| same(got, want)))
        }
        (Value::Number(got), Value::Number(want)) if want.is_f64() => {
            let (got, want) = (got.as_f64().unwrap(), want.as_f64().unwrap());
            (got - want).abs() <= TOLERANCE * want.abs().max(0.01)
        }
        (got, want) => got == want,
    }
}

/// Asks each of `cases` and compares; returns how many rows each took.
#[track_caller]
fn check(file: &str, fewest: usize) -> Vec<usize> {
    let (mut place, cases) = (Place::new(), cases(file));
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= fewest, "{} cases", cases.len());
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut wrong = Vec::new();
    let mut rows = Vec::new();
    for case in cases {
        let second = text(&case["context"]).or_else(|| text(&case["text_pair"]));
        let first = text(&case["question"]).or_else(|| text(&case["text"])).unwrap();
        let input = second.map_or_else(|| Input::Text(first.clone()), |second| Input::Pair(first.clone(), second));
        let (answer, count) = place.ask(case["model"].as_str().unwrap(), input, &options(case)).unwrap();
        let (got, want) = (told(&answer), &case["answer"]);
        // The reference tells a list of one as its only member.
        let want_list = if got.is_array() && want.is_object() { &json!([want]) } else { want };
        if !same(&got, want_list) {
            wrong.push(format!("{case}\n  got {got}"));
        }
        rows.push(count);
    }
    let shown: Vec<&str> = wrong.iter().take(5).map(String::as_str).collect();
    assert!(wrong.is_empty(), "{} of {} are wrong:\n{}", wrong.len(), cases.len(), shown.join("\n"));
    rows
}

#[test]
fn questions_are_answered_as_the_reference_does() {
    let rows = check("question_answering.json", 200);
    assert!(rows.iter().filter(|&&rows| rows > 1).count() >= 40, "several windows: {rows:?}");
}

#[test]
fn texts_are_classified_as_the_reference_does() {
    check("text_classification.json", 100);
}

#[test]
fn every_label_is_told_where_their_number_is_said_to_be_nothing() {
    let mut place = Place::new();
    let mut ask = |setting| {
        let options = [("top_k".to_owned(), setting)].into_iter().collect();
        place.ask("bert-many", Input::Text("The pass is open.".to_owned()), &options).unwrap().0
    };
    let all = ask(Setting::Nothing);
    assert!(matches!(&all, Answer::Classes(classes) if classes.len() == 3), "{all:?}");
    assert_eq!(all, ask(Setting::Number(3.0)));
}

#[test]
fn tokens_are_classified_as_the_reference_does() {
    check("token_classification.json", 100);
}

#[test]
fn holes_are_filled_as_the_reference_does() {
    check("fill_mask.json", 70);
}

#[test]
fn a_default_prompt_is_put_before_every_text() {
    let mut place = Place::new();
    let mut ask =
        |name: &str, text: &str| place.ask(name, Input::Text(text.to_owned()), &Options::default()).unwrap().0;
    assert_eq!(ask("minilm-prompted", "open passes"), ask("minilm", "query: open passes"));
    assert_ne!(ask("minilm-prompted", "open passes"), ask("minilm", "open passes"));
}

#[test]
fn texts_are_embedded_and_compared_as_the_reference_does() {
    let (mut place, cases) = (Place::new(), cases("embedding.json"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for case in cases["vectors"].as_array().unwrap() {
        let (answer, _) = place.ask("minilm", Input::Text(text(&case["text"])), &Options::default()).unwrap();
        let Answer::Vector(vector) = answer else { panic!("{answer:?}") };
        let want: Vec<f64> = case["vector"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
        assert_eq!(vector.len(), want.len());
        let off = vector.iter().zip(&want).map(|(got, want)| (f64::from(*got) - want).abs()).fold(0.0, f64::max);
        assert!(off < 1e-5, "{}: off by {off}", case["text"]);
    }
    for case in cases["pairs"].as_array().unwrap() {
        let pair = Input::Pair(text(&case["text"]), text(&case["text_pair"]));
        let (answer, rows) = place.ask("minilm", pair, &Options::default()).unwrap();
        let Answer::Similarity(score) = answer else { panic!("{answer:?}") };
        assert!(rows == 2 && (f64::from(score) - case["score"].as_f64().unwrap()).abs() < 1e-5, "{case}: {score}");
    }
}
