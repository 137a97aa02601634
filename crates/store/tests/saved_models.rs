//! SavedModels: what comes out answers as TensorFlow's own Python did (scripts/make_saved_models.py), and what no artefact
//! may do is refused.
//!
//! The runtime is fetched for x86-64 alone, so the tests are there alone.

#![cfg(target_arch = "x86_64")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use engine::{DataType, Engine, ErrorKind, Runtimes, Tensor, strings_to_wire};
use serde::Deserialize;
use store::manifest::ProgramKind;
use store::pack::pack;
use store::{Manifest, Store};

use crate::{listing, onnx, place, request};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/saved_models").join(name)
}

/// A tensor in reference.json: numbers as the hexadecimal of their bytes, strings each in base64.
#[derive(Deserialize)]
struct Told {
    dtype: String,
    shape: Vec<usize>,
    content: serde_json::Value,
}

#[derive(Deserialize)]
struct Ask {
    inputs: BTreeMap<String, Told>,
    outputs: BTreeMap<String, Told>,
}

impl Told {
    fn tensor(&self) -> Tensor {
        let dtype = match self.dtype.as_str() {
            "string" => DataType::Bytes,
            "float16" => DataType::F16,
            "bfloat16" => DataType::Bf16,
            "float32" => DataType::F32,
            "float64" => DataType::F64,
            other => DataType::from_name(&other.to_uppercase()).unwrap(),
        };
        let data = match &self.content {
            serde_json::Value::String(hex) => {
                (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
            }
            strings => {
                let strings: Vec<String> = serde_json::from_value(strings.clone()).unwrap();
                let decode = |text: &String| base64::engine::general_purpose::STANDARD.decode(text).unwrap();
                let strings: Vec<Vec<u8>> = strings.iter().map(decode).collect();
                strings_to_wire(strings.iter().map(Vec::as_slice))
            }
        };
        Tensor::new(dtype, self.shape.clone(), data.into()).unwrap()
    }
}

fn run(runtimes: &Runtimes, store: &Store, manifest: &Manifest, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut sessions = store.with_saved_model(manifest, |model| runtimes.saved_model(model, 2)).unwrap();
    let none = runtimes.bind(store.weights(manifest).unwrap()).unwrap();
    let all: Vec<usize> = (0..manifest.outputs.len()).collect();
    let mut answers = sessions.iter_mut().map(|session| session.run(none.as_ref(), inputs, &all).unwrap());
    let (first, second) = (answers.next().unwrap(), answers.next().unwrap());
    assert_eq!(first, second, "two lanes answer differently");
    first
}

/// Answers of another CPU than that on which the reference was made are summed in another order.
#[track_caller]
fn same_numbers(got: &Tensor, want: &Tensor, what: &str) {
    let (Some(found), Some(wanted)) = (got.as_f32(), want.as_f32()) else {
        assert_eq!(got, want, "{what}");
        return;
    };
    assert_eq!(got.shape(), want.shape(), "{what}");
    let near = |(one, other): (&f32, &f32)| one == other || (one - other).abs() <= 1e-6 * other.abs().max(0.1);
    assert!(found.iter().zip(wanted).all(near), "{what}: {found:?} instead of {wanted:?}");
}

#[test]
fn a_saved_model_answers_as_tensorflow_does() {
    let (runtimes, place) = (onnx(), place());
    let text = std::fs::read_to_string(fixture("reference.json")).unwrap();
    let reference: BTreeMap<String, Vec<Ask>> = serde_json::from_str(&text).unwrap();
    for (name, batches, notes) in [("affine", 32, 1), ("words", 32, 0), ("types", 32, 0), ("mixing", 0, 0)] {
        let packed = pack(&place.store, &runtimes, &request(fixture(name), name)).unwrap();
        let manifest = &packed.manifest;
        assert_eq!(manifest.program.kind, ProgramKind::SavedModel, "{name}");
        assert_eq!((manifest.max_batch_size, packed.notes.len()), (batches, notes), "{name}: {:?}", packed.notes);
        for ask in &reference[name] {
            let inputs: Vec<_> = manifest.inputs.iter().map(|io| ask.inputs[&io.name].tensor()).collect();
            assert_eq!(inputs.len(), ask.inputs.len(), "{name}");
            for (io, got) in manifest.outputs.iter().zip(run(&runtimes, &place.store, manifest, &inputs)) {
                same_numbers(&got, &ask.outputs[&io.name].tensor(), &format!("{name}: {}", io.name));
            }
        }
        let before = listing(&place.store);
        assert!(!pack(&place.store, &runtimes, &request(fixture(name), name)).unwrap().changed, "{name}");
        assert_eq!(listing(&place.store), before, "packing {name} again wrote something");
    }
}

#[test]
fn what_is_no_model_or_reaches_outside_is_refused_with_the_reason() {
    let (runtimes, place) = (onnx(), place());
    let folder = tempfile::tempdir().unwrap();
    let graph = std::fs::read(fixture("affine").join("saved_model.pb")).unwrap();
    let with = |name: &str, graph: &[u8]| {
        let path = folder.path().join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("saved_model.pb"), graph).unwrap();
        path
    };
    let renamed = |from: &[u8], to: &[u8]| {
        assert_eq!(from.len(), to.len(), "lengths are written before names");
        let mut graph = graph.clone();
        let mut at = 0;
        while at + from.len() <= graph.len() {
            if graph[at..].starts_with(from) {
                graph[at..at + from.len()].copy_from_slice(to);
            }
            at += 1;
        }
        graph
    };
    for (path, kind, says) in [
        (fixture("reader"), ErrorKind::Unsupported, "ReadFile"),
        (with("empty", b""), ErrorKind::InvalidInput, "0 graphs"),
        (with("soup", b"\xff\xfe no model"), ErrorKind::InvalidInput, "no SavedModel"),
        (with("cut", &graph[..graph.len() / 2]), ErrorKind::InvalidInput, "no SavedModel"),
        (with("variables-gone", &graph), ErrorKind::InvalidInput, "does not run"),
        (with("unnamed", &renamed(b"serving_default", b"serving_nothing")), ErrorKind::InvalidInput, "serving_nothing"),
        (with("writes", &renamed(b"Softmax", b"PyFuncX")), ErrorKind::Unsupported, "PyFuncX"),
    ] {
        let error = pack(&place.store, &runtimes, &request(path.clone(), "m")).unwrap_err();
        assert_eq!(error.kind, kind, "{}: {error}", path.display());
        assert!(error.message.contains(says), "{}: {error}", path.display());
    }
    assert!(place.store.names().unwrap().is_empty());
}

#[test]
fn a_file_that_was_changed_is_found_before_the_runtime_sees_it() {
    let (runtimes, place) = (onnx(), place());
    let manifest = pack(&place.store, &runtimes, &request(fixture("affine"), "m")).unwrap().manifest;
    let hash = &manifest.files["saved_model/variables/variables.data-00000-of-00001"];
    let path = place.store.root().join("files").join(hash);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[7] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let loaded = place.store.with_saved_model(&manifest, |model| runtimes.saved_model(model, 1));
    assert_eq!(loaded.err().unwrap().kind, ErrorKind::Corrupt);
    let lying = Manifest { files: BTreeMap::new(), ..manifest };
    let loaded = place.store.with_saved_model(&lying, |model| runtimes.saved_model(model, 1));
    assert_eq!(loaded.err().unwrap().kind, ErrorKind::Corrupt);
}
