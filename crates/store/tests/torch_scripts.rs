//! TorchScript: what comes out answers as libtorch's own Python did (scripts/make_torch_fixtures.py), and what no artefact
//! may do is refused.
//!
//! The runtime is set up for x86-64 alone, so the tests are there alone.

#![cfg(target_arch = "x86_64")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine::{DataType, Engine, ErrorKind, Runtimes, Tensor};
use serde::Deserialize;
use store::manifest::{Io, ProgramKind};
use store::pack::{Packed, Request, pack};
use store::torch_script::Declared;
use store::{Manifest, Store};

use crate::{listing, onnx, place, request};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/torch_script").join(name)
}

/// A tensor in reference.json: numbers as the hexadecimal of their bytes.
#[derive(Deserialize)]
struct Told {
    dtype: String,
    shape: Vec<usize>,
    content: String,
}

#[derive(Deserialize)]
struct Ask {
    inputs: BTreeMap<String, Told>,
    outputs: BTreeMap<String, Told>,
}

impl Told {
    fn dtype(&self) -> DataType {
        match self.dtype.as_str() {
            "bfloat16" => DataType::Bf16,
            float if float.starts_with("float") => DataType::from_name(&float.replace("float", "FP")).unwrap(),
            other => DataType::from_name(&other.to_uppercase()).unwrap(),
        }
    }

    fn tensor(&self) -> Tensor {
        let hex = &self.content;
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let data: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
        Tensor::new(self.dtype(), self.shape.clone(), data.into()).unwrap()
    }
}

fn io(name: &str, datatype: &str, shape: &[i64]) -> Io {
    Io { name: name.to_owned(), datatype: datatype.to_owned(), shape: shape.to_vec(), any_rank: false }
}

fn floats(name: &str, columns: i64) -> Declared {
    Declared { inputs: vec![io(name, "FP32", &[-1, columns])], outputs: Vec::new() }
}

/// What is said of the inputs of `ask`: their datatypes, and shapes of which `vary` first dimensions vary.
fn said(ask: &Ask, vary: usize) -> Declared {
    let input = |(name, told): (&String, &Told)| {
        let dims = told.shape.iter().enumerate();
        let shape: Vec<i64> =
            dims.map(|(axis, &dim)| if axis < vary { -1 } else { i64::try_from(dim).unwrap() }).collect();
        io(name, told.dtype().name(), &shape)
    };
    Declared { inputs: ask.inputs.iter().map(input).collect(), outputs: Vec::new() }
}

fn packed(runtimes: &Runtimes, store: &Store, file: &str, signature: Declared) -> engine::Result<Packed> {
    pack(store, runtimes, &Request { signature, ..request(fixture(file), file.split('.').next().unwrap()) })
}

fn run(runtimes: &Runtimes, store: &Store, manifest: &Manifest, inputs: &[Tensor]) -> engine::Result<Vec<Tensor>> {
    let sessions = store.with_torch_script(manifest, |model| runtimes.torch_script(model, 2)).unwrap();
    let none = runtimes.bind(store.weights(manifest).unwrap()).unwrap();
    let all: Vec<usize> = (0..manifest.outputs.len()).collect();
    let kept: Vec<Tensor> = inputs.to_vec();
    let first = sessions[0].run(none.as_ref(), inputs, &all)?;
    assert_eq!(first, sessions[1].run(none.as_ref(), inputs, &all)?, "two lanes answer differently");
    assert_eq!(inputs, kept, "a run wrote into what it was given");
    Ok(first)
}

fn reference() -> BTreeMap<String, Vec<Ask>> {
    serde_json::from_str(&std::fs::read_to_string(fixture("reference.json")).unwrap()).unwrap()
}

#[test]
fn a_module_answers_as_libtorch_does() {
    let (runtimes, place, reference) = (onnx(), place(), reference());
    for (name, vary, batches, outputs) in [
        ("mlp", 1, 32, &[("OUTPUT__0", &[-1, 3][..])][..]),
        ("loop", 1, 0, &[("OUTPUT__0", &[-1, 3])]),
        ("loop_scaled", 1, 0, &[("OUTPUT__0", &[-1, 3])]),
        ("reader", 2, 32, &[("OUTPUT__0", &[-1, -1]), ("OUTPUT__1", &[-1, -1])]),
        ("named", 1, 32, &[("sum", &[-1]), ("argmax", &[-1]), ("positive", &[-1, 4])]),
        ("fields", 1, 32, &[("high", &[-1, 4]), ("low", &[-1, 2])]),
        ("listed", 1, 32, &[("OUTPUT__0", &[-1, 4]), ("OUTPUT__1", &[-1, 4])]),
        ("types", 1, 32, &[("OUTPUT__0", &[-1, 2]), ("OUTPUT__7", &[-1, 2])]),
        ("mixing", 1, 0, &[("OUTPUT__0", &[-1, 2])]),
        ("forked", 1, 32, &[("OUTPUT__0", &[-1, 4])]),
        ("quantised", 1, 0, &[("OUTPUT__0", &[-1, 4])]),
    ] {
        let asks = &reference[name];
        let pack = || packed(&runtimes, &place.store, &format!("{name}.pt"), said(&asks[0], vary)).unwrap();
        let manifest = pack().manifest;
        assert_eq!(manifest.program.kind, ProgramKind::TorchScript, "{name}");
        assert_eq!(manifest.max_batch_size, batches, "{name}");
        for (output, shape) in outputs {
            let found = manifest.outputs.iter().find(|io| io.name == *output).unwrap();
            assert_eq!(found.shape, *shape, "{name}: {output}");
        }
        for ask in asks {
            let inputs: Vec<_> = manifest.inputs.iter().map(|io| ask.inputs[&io.name].tensor()).collect();
            assert_eq!((inputs.len(), manifest.outputs.len()), (ask.inputs.len(), ask.outputs.len()), "{name}");
            let got = run(&runtimes, &place.store, &manifest, &inputs).unwrap();
            for (io, got) in manifest.outputs.iter().zip(got) {
                assert_eq!(got, ask.outputs[&io.name].tensor(), "{name}: {}", io.name);
            }
        }
        let before = listing(&place.store);
        assert!(!pack().changed, "{name}");
        assert_eq!(listing(&place.store), before, "packing {name} again wrote something");
    }
}

#[test]
fn a_signature_names_tensors_by_argument_key_or_place() {
    let (runtimes, place) = (onnx(), place());
    let both = |ids: &str, mask: &str| vec![io(ids, "INT64", &[-1, -1]), io(mask, "INT64", &[-1, -1])];
    let of = |inputs: Vec<Io>, outputs: Vec<Io>| Declared { inputs, outputs };
    for (file, signature, want) in [
        ("reader.pt", of(both("INPUT__0", "INPUT__1"), vec![io("end__1", "FP32", &[-1, -1])]), Ok("end__1 [-1, -1]")),
        ("reader.pt", of(both("attention_mask", "input_ids"), vec![]), Ok("OUTPUT__0 [-1, -1], OUTPUT__1 [-1, -1]")),
        (
            "reader.pt",
            of(both("input_ids", "mask"), vec![]),
            Err("input 'mask', and forward takes 'input_ids', 'attention_mask'"),
        ),
        ("reader.pt", of(both("input_ids", "INPUT__0"), vec![]), Err("'input_ids' is given twice")),
        (
            "reader.pt",
            of(both("input_ids", "x")[..1].to_vec(), vec![]),
            Err("here of 'attention_mask'; say it in a file"),
        ),
        ("reader.pt", Declared::default(), Err("here of 'input_ids', 'attention_mask'")),
        ("loop.pt", of(vec![io("x", "FP32", &[-1, 3]), io("rounds", "INT64", &[])], vec![]), Err("of the type int")),
        ("untyped.pt", floats("x", 3), Err("takes 'rate', which is of the type int")),
        ("named.pt", of(floats("x", 4).inputs, vec![io("argmax", "", &[])]), Ok("argmax [-1]")),
        (
            "named.pt",
            of(floats("x", 4).inputs, vec![io("mean", "", &[])]),
            Err("output 'mean', and forward returns 'sum'"),
        ),
        (
            "named.pt",
            of(floats("x", 4).inputs, vec![io("argmax", "INT32", &[-1])]),
            Err("is INT32, and forward returns INT64"),
        ),
        ("named.pt", of(floats("x", 4).inputs, vec![io("sum", "FP32", &[-1, 1])]), Err("has the shape [-1, 1]")),
        ("mlp.pt", of(floats("x", 4).inputs, vec![io("scores", "FP32", &[-1, 3])]), Ok("scores [-1, 3]")),
        ("mlp.pt", floats("x", 5), Err("refused them all: mat1 and mat2 shapes")),
        ("mlp.pt", of(vec![io("x", "FP8", &[-1, 4])], vec![]), Err("'FP8', which is none of BOOL")),
    ] {
        match (packed(&runtimes, &place.store, file, signature), want) {
            (Ok(packed), Ok(want)) => {
                let outputs = packed.manifest.outputs.iter().map(|io| format!("{} {:?}", io.name, io.shape));
                assert_eq!(outputs.collect::<Vec<_>>().join(", "), want, "{file}");
            }
            (Err(error), Err(says)) => assert!(error.message.contains(says), "{file}: {error}"),
            (got, want) => panic!("{file}: {got:?}, not {want:?}"),
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        Declared::read(&folder.path().join(name))
    };
    let toml = "inputs = [{ name = 'x', datatype = 'FP32', shape = [-1, 4] }]";
    let pbtxt =
        "name: 'm' platform: 'pytorch_libtorch' max_batch_size: 4 input { name: 'x' data_type: TYPE_FP32 dims: 4 }";
    assert_eq!(read("m.toml", toml).unwrap(), floats("x", 4));
    assert_eq!(read("config.pbtxt", pbtxt).unwrap(), floats("x", 4));
    assert!(read("odd.toml", "input = 1").unwrap_err().message.contains("odd.toml"));
}

#[test]
fn a_run_that_fails_is_told_and_the_next_succeeds() {
    let (runtimes, place) = (onnx(), place());
    let varies = Declared { inputs: vec![io("x", "FP32", &[-1, -1])], outputs: Vec::new() };
    let refused = packed(&runtimes, &place.store, "mlp.pt", varies).unwrap_err();
    assert!(refused.message.contains("mat1 and mat2 shapes cannot be multiplied"), "{refused}");
    let manifest = packed(&runtimes, &place.store, "mlp.pt", floats("x", 4)).unwrap().manifest;
    let sessions = place.store.with_torch_script(&manifest, |model| runtimes.torch_script(model, 1)).unwrap();
    let none = runtimes.bind(Vec::new()).unwrap();
    let row = |columns: usize| Tensor::from_f32(vec![1, columns], vec![0.5; columns]).unwrap();
    let error = sessions[0].run(none.as_ref(), &[row(3)], &[0]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidInput, "{error}");
    assert!(error.message.contains("mat1 and mat2") && !error.message.contains('\n'), "{error}");
    let bytes = Tensor::new(DataType::U64, vec![1, 4], vec![0; 32].into()).unwrap();
    assert_eq!(sessions[0].run(none.as_ref(), &[bytes], &[0]).unwrap_err().kind, ErrorKind::Unsupported);
    assert_eq!(sessions[0].run(none.as_ref(), &[row(4)], &[0]).unwrap()[0].shape(), [1, 3]);
    // Nothing in it, and bytes that begin anywhere.
    let empty = Tensor::from_f32(vec![0, 4], vec![]).unwrap();
    assert_eq!(sessions[0].run(none.as_ref(), &[empty], &[0]).unwrap()[0].shape(), [0, 3]);
    let shifted = bytes::Bytes::from([&[0][..], row(4).data()].concat()).slice(1..);
    let shifted = Tensor::new(DataType::F32, vec![1, 4], shifted).unwrap();
    let answers = [row(4), shifted].map(|input| sessions[0].run(none.as_ref(), &[input], &[0]).unwrap());
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn what_is_no_module_or_reaches_outside_is_refused_with_the_reason() {
    let (runtimes, place) = (onnx(), place());
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(fixture("mlp.pt")).unwrap();
    let with = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let replaced = |from: &[u8], to: &[u8]| {
        assert_eq!(from.len(), to.len(), "lengths are written elsewhere");
        let mut bytes = whole.clone();
        let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to);
        bytes
    };
    // libtorch finds a file in whatever letters its name is written.
    let mut capitals = std::fs::read(fixture("awakening.pt")).unwrap();
    for at in 0..capitals.len() {
        if capitals[at..].starts_with(b"/code/") {
            capitals[at..at + 6].make_ascii_uppercase();
        }
    }
    // The first weight: 32 floats, in eight rows of four.
    let numel = replaced(b"X\x03\x00\x00\x00cpuq\x0bK ", b"X\x03\x00\x00\x00cpuq\x0bK\xff");
    let marker = Path::new("/tmp/packhorse-was-here");
    for (path, kind, says) in [
        (fixture("state_dict.pth"), ErrorKind::InvalidInput, "torch.jit.save"),
        (fixture("legacy.pth"), ErrorKind::InvalidInput, "torch.jit.save"),
        (fixture("counter.pt"), ErrorKind::Unsupported, "keeps 'seen' from one request to the next"),
        (fixture("writer.pt"), ErrorKind::Unsupported, "names 'save'"),
        (fixture("awakening.pt"), ErrorKind::Unsupported, "names 'from_file'"),
        (with("capitals.pt", &capitals), ErrorKind::Unsupported, "names 'from_file'"),
        (with("empty.pt", b""), ErrorKind::InvalidInput, "no TorchScript archive"),
        (with("soup.pt", b"PK\x03\x04 no module"), ErrorKind::InvalidInput, "no TorchScript archive"),
        (with("cut.pt", &whole[..whole.len() / 2]), ErrorKind::InvalidInput, "was it cut off"),
        (with("longer.pt", &[&whole[..], b"x"].concat()), ErrorKind::InvalidInput, "no TorchScript archive"),
        (with("large.pt", &numel), ErrorKind::InvalidInput, "255 elements of 4 bytes"),
    ] {
        let request = Request { signature: floats("x", 4), ..request(path.clone(), "m") };
        let error = pack(&place.store, &runtimes, &request).unwrap_err();
        assert_eq!(error.kind, kind, "{}: {error}", path.display());
        assert!(error.message.contains(says), "{}: {error}", path.display());
    }
    assert!(!marker.exists(), "a model wrote a file");
    assert!(place.store.names().unwrap().is_empty());
}

#[test]
fn a_file_that_was_changed_is_found_before_the_runtime_sees_it() {
    let (runtimes, place) = (onnx(), place());
    let manifest = packed(&runtimes, &place.store, "mlp.pt", floats("x", 4)).unwrap().manifest;
    let path = place.store.root().join("files").join(&manifest.files["torch_script/model.pt"]);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[700] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let loaded = place.store.with_torch_script(&manifest, |model| runtimes.torch_script(model, 1));
    assert_eq!(loaded.err().unwrap().kind, ErrorKind::Corrupt);
    let lying = Manifest { files: BTreeMap::new(), ..manifest };
    let loaded = place.store.with_torch_script(&lying, |model| runtimes.torch_script(model, 1));
    assert_eq!(loaded.err().unwrap().kind, ErrorKind::Corrupt);
}
