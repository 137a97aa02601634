//! Whole requests through scheduler and lane: what runs together answers as what runs alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Condvar, Mutex};

use engine::onnx::Onnx;
use engine::{DataType, Engine, ErrorKind, Load, Runtimes, Session, Signature, Weights};
use serde_json::json;
use store::pack::{Request, pack};
use store::{Serving, Store};

use super::*;
use crate::fixture::{self, Unused};
use crate::{InferRequest, Metrics, Origin, QueueLimits, Residency, ResidencyOptions};

/// Shut until it is opened, and then open for ever.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }

    fn pass(&self) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |open| !*open).unwrap());
    }
}

/// A runtime that builds sessions only when its gate is open, so that whatever was asked for before waits together.
struct Gated<E>(E, Arc<Gate>);

impl<E: Engine> Engine for Gated<E> {
    fn description(&self) -> String {
        self.0.description()
    }

    fn session(&self, program: &[u8], weights: usize, load: Load) -> Result<Box<dyn Session>> {
        self.1.pass();
        self.0.session(program, weights, load)
    }

    fn bind(&self, weights: Vec<Tensor>) -> Result<Arc<dyn Weights>> {
        self.0.bind(weights)
    }
}

/// A scheduler with one lane over `store`, where each of `requests` is submitted before the first of them can run; their
/// answers, and the runs by their number of items.
fn answers(
    store: Store,
    engine: impl Engine + 'static,
    serving: Serving,
    requests: Vec<Vec<(String, Tensor)>>,
) -> (Vec<Result<InferResponse>>, BTreeMap<u64, u64>) {
    let gate = Arc::new(Gate::default());
    let engine = Arc::new(Gated(engine, Arc::clone(&gate)));
    let overrides = BTreeMap::from([("m".to_owned(), serving)]);
    let options = ResidencyOptions { overrides, ..ResidencyOptions::default() };
    let residency = Residency::open_with(store, engine, 1, options).unwrap();
    let limits = QueueLimits::default();
    let scheduler = Scheduler::start(Arc::new(residency), &[0], limits, Arc::new(Metrics::default())).unwrap();
    let submit = |inputs| -> Receiver<Result<InferResponse>> {
        let (sender, receiver) = sync_channel(1);
        let model = "m".to_owned();
        let request = InferRequest {
            model,
            version: None,
            inputs,
            outputs: Vec::new(),
            priority: 0,
            deadline: None,
            origin: Origin::default(),
        };
        scheduler.submit(request, Box::new(sender)).unwrap();
        receiver
    };
    let receivers: Vec<_> = requests.into_iter().map(submit).collect();
    gate.open();
    let answers = receivers.into_iter().map(|receiver| receiver.recv().unwrap()).collect();
    let batches = scheduler.residency().model("m", None).unwrap().statistics().batches;
    assert!(scheduler.drain(Duration::from_secs(60)));
    (answers, batches.into_iter().map(|batch| (batch.batch_size, batch.compute_infer.count)).collect())
}

fn alone() -> Serving {
    Serving { max_batch_size: Some(0), ..Serving::default() }
}

/// Doubles every number, and fails on a batch that has a negative one.
struct Doubling(Signature);

impl Engine for Doubling {
    fn description(&self) -> String {
        "doubling".to_owned()
    }

    fn session(&self, _: &[u8], _: usize, _: Load) -> Result<Box<dyn Session>> {
        Ok(Box::new(Doubling(Signature::default())))
    }

    fn bind(&self, _: Vec<Tensor>) -> Result<Arc<dyn Weights>> {
        Ok(Arc::new(Unused))
    }
}

impl Session for Doubling {
    fn signature(&self) -> &Signature {
        &self.0
    }

    fn run(&self, _: &dyn Weights, inputs: &[Tensor], _: &[usize]) -> Result<Vec<Tensor>> {
        let values = floats(&inputs[0]);
        if values.iter().any(|value| *value < 0.0) {
            return Err(Error::invalid("a number is negative"));
        }
        Ok(vec![Tensor::from_f32(inputs[0].shape().to_vec(), values.iter().map(|value| 2.0 * value).collect())?])
    }
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.dtype(), DataType::F32);
    let (numbers, rest) = tensor.data().as_chunks::<4>();
    assert!(rest.is_empty());
    numbers.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()
}

/// A store with the model `m`, `x` FP32 `[n, 3]` to `y` likewise, that takes up to 8 items.
fn doubling() -> (tempfile::TempDir, Store) {
    let (folder, store) = fixture::store();
    let io = |name: &str| json!([{"name": name, "datatype": "FP32", "shape": [-1, 3]}]);
    fixture::add(&store, "m", 1, io("x"), io("y"));
    let path = store.root().join("models/m/1.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest["max_batch_size"] = json!(8);
    std::fs::write(&path, manifest.to_string()).unwrap();
    (folder, store)
}

#[test]
fn a_request_that_fails_in_a_batch_fails_alone() {
    for (what, serving, batched) in [("together", Serving::default(), true), ("one by one", alone(), false)] {
        let (_folder, store) = doubling();
        let value = |index: usize| if index % 7 == 3 { -1.0 } else { index as f32 };
        let items = |index: usize| 1 + index % 2;
        let tensor =
            |index: usize| Tensor::from_f32(vec![items(index), 3], vec![value(index); 3 * items(index)]).unwrap();
        let requests = (0..40).map(|index| vec![("x".to_owned(), tensor(index))]).collect();
        let (answers, batches) = answers(store, Doubling(Signature::default()), serving, requests);
        for (index, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(answer) => {
                    assert!(value(index) >= 0.0, "{what}: {index}");
                    assert_eq!(answer.outputs[0].1.shape(), [items(index), 3], "{what}: {index}");
                    assert_eq!(
                        floats(&answer.outputs[0].1),
                        vec![2.0 * value(index); 3 * items(index)],
                        "{what}: {index}"
                    );
                }
                Err(error) => {
                    assert_eq!((value(index), error.kind), (-1.0, ErrorKind::InvalidInput), "{what}: {index}");
                }
            }
        }
        assert_eq!(batches.keys().any(|&size| size > 2), batched, "{what}: {batches:?}");
    }
}

/// The runtime that the set-up fetched.
fn onnx() -> Onnx {
    let library = std::env::var_os(engine::onnx::LIBRARY_VARIABLE)
        .map_or_else(|| workspace().join(".cache/onnxruntime/1.31.1/libonnxruntime.so"), PathBuf::from);
    Onnx::load(Some(&library)).expect("'make setup' fetches the runtime")
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The model in `file` as `m`, in a store in a folder that goes with the first.
fn packed(file: &str) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().to_str().unwrap()).unwrap();
    let request = Request { path: workspace().join(file), name: Some("m".to_owned()), ..Request::default() };
    pack(&store, &Runtimes::new(onnx().into(), engine::Libraries::default()), &request).unwrap();
    (folder, store)
}

/// A text of made-up words, as many as `length`.
fn text(inputs: &[store::manifest::Io], seed: usize, length: usize) -> Vec<(String, Tensor)> {
    let of = |input: &store::manifest::Io| {
        let value = |at: usize| match &input.name[..] {
            "attention_mask" => 1,
            "token_type_ids" => 0,
            _ => (seed * 37 + at * 11) % 500 + 5,
        };
        let bytes: Vec<u8> = (0..length).flat_map(|at| (value(at) as u64).to_le_bytes()).collect();
        (input.name.clone(), Tensor::new(DataType::I64, vec![1, length], bytes.into()).unwrap())
    };
    inputs.iter().map(of).collect()
}

/// Rows of a larger matrix may be summed in another order, so answers agree to a millionth of the largest number in them,
/// and not to the bit.
fn assert_same(together: &[Result<InferResponse>], apart: &[Result<InferResponse>]) {
    for (index, (together, apart)) in together.iter().zip(apart).enumerate() {
        let (together, apart) = (together.as_ref().unwrap(), apart.as_ref().unwrap());
        for ((name, one), (_, other)) in together.outputs.iter().zip(&apart.outputs) {
            assert_eq!(one.shape(), other.shape(), "{index} {name}");
            let (one, other) = (floats(one), floats(other));
            let largest = other.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            let apart = one.iter().zip(&other).map(|(one, other)| (one - other).abs()).fold(0.0, f32::max);
            assert!(apart <= largest * 1e-6, "{index} {name}: {apart} of {largest}");
        }
    }
}

#[test]
fn a_real_model_answers_together_as_alone() {
    let (folder, store) = packed("assets/bert_tiny_qa.onnx");
    let inputs = store.manifest("m", 1).unwrap().inputs;
    let run = |serving| {
        let store = Store::open(folder.path().to_str().unwrap()).unwrap();
        answers(store, onnx(), serving, (0..24).map(|seed| text(&inputs, seed, 12)).collect())
    };
    let (together, batches) = run(Serving { preferred_batch_sizes: vec![8], ..Serving::default() });
    assert_eq!(batches, BTreeMap::from([(8, 3)]), "batches of eight");
    let (apart, batches) = run(alone());
    assert_eq!(batches, BTreeMap::from([(1, 24)]));
    assert_same(&together, &apart);
}

/// Every head of the families that are packed from folders: the first two texts that run go together, since nothing is
/// known of what they cost, and no two are of one length.
#[test]
fn texts_of_different_lengths_answer_together_as_alone() {
    for (model, cut) in [
        ("bert-qa", &[true, true][..]),
        ("bert-sequence", &[false]),
        ("bert-token", &[true]),
        ("bert-mlm", &[true]),
        ("roberta-qa", &[true, true]),
        ("roberta-token", &[true]),
        ("xlm-qa", &[true, true]),
    ] {
        let (folder, store) = packed(&format!("crates/pipeline/tests/fixtures/text/models/{model}"));
        let manifest = store.manifest("m", 1).unwrap();
        assert_eq!(manifest.padding.expect(model).cut, cut, "{model}");
        let run = |serving| {
            let store = Store::open(folder.path().to_str().unwrap()).unwrap();
            let texts = (0..24).map(|seed| text(&manifest.inputs, seed, 5 + seed * 3));
            answers(store, onnx(), serving, texts.collect())
        };
        let (together, batches) = run(Serving::default());
        assert!(batches.keys().any(|&size| size > 1), "{model}: {batches:?}");
        let (apart, _) = run(alone());
        assert_same(&together, &apart);
    }
}
