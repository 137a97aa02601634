//! Packing real models: what is lifted is shared, what comes out answers as what went in, and a store is never half.

#![expect(clippy::unwrap_used, reason = "an unwrap in a test is an assertion, in its plumbing too")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use engine::onnx::Onnx;
use engine::{DataType, Engine, ErrorKind, Libraries, Load, Runtimes, Tensor, tensorflow, torch};
use store::manifest::ProgramKind;
use store::pack::{Packed, Request, pack};
use store::picture::Fit;
use store::task::{Detection, Head, Task};
use store::{Joined, Manifest, Store};

mod eight_bits;
mod forms;
mod hf;
mod hf_odd;
mod repositories;
mod saved_models;
mod torch_scripts;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn asset(name: &str) -> PathBuf {
    workspace().join("assets").join(name)
}

/// The runtimes that `make test` fetched, or those that the environment names.
fn onnx() -> Runtimes {
    let library = |variable, fetched| {
        std::env::var_os(variable).map_or_else(|| workspace().join(".cache").join(fetched), PathBuf::from)
    };
    let onnx = library(engine::onnx::LIBRARY_VARIABLE, "onnxruntime/1.31.1/libonnxruntime.so");
    let onnx = Onnx::load(Some(&onnx)).expect("'make setup' fetches the runtime");
    let tensorflow = library(tensorflow::LIBRARY_VARIABLE, "tensorflow/2.21.0/libtensorflow_cc.so.2");
    let torch = library(torch::LIBRARY_VARIABLE, "torch/1.13.1/libpackhorse_torch.so");
    Runtimes::new(onnx.into(), Libraries { tensorflow: Some(tensorflow), torch: Some(torch) })
}

struct Place {
    _folder: tempfile::TempDir,
    store: Store,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path().to_str().unwrap()).unwrap();
    Place { _folder: folder, store }
}

fn request(path: PathBuf, name: &str) -> Request {
    Request { path, name: Some(name.to_owned()), ..Request::default() }
}

/// Every file below the store with its bytes' hash: equal listings are equal stores.
fn listing(store: &Store) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![store.root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.clone(), blake3::hash(&std::fs::read(&path).unwrap()).to_hex().to_string());
            }
        }
    }
    found
}

fn run(onnx: &Runtimes, store: &Store, manifest: &Manifest, inputs: &[Tensor]) -> Vec<Tensor> {
    let load = if manifest.program.kind == ProgramKind::Lifted { Load::AsIs } else { Load::Optimise };
    let program = store.program(&manifest.program).unwrap();
    let session = onnx.session(&program, manifest.weights.len(), load).unwrap();
    let weights = onnx.bind(store.weights(manifest).unwrap()).unwrap();
    let all: Vec<usize> = (0..manifest.outputs.len()).collect();
    let answer = session.run(weights.as_ref(), inputs, &all).unwrap();
    // What can be hot answers the same.
    match store.joined(manifest, store.weights(manifest).unwrap()) {
        Ok(joined) => assert_near(&hot(onnx, &joined, manifest, inputs), &answer, &manifest.name),
        Err(error) => assert!(error.kind == ErrorKind::Unsupported, "{error}"),
    }
    answer
}

/// What a session of the model's own answers, whose files are gone.
fn hot(onnx: &Runtimes, joined: &Joined, manifest: &Manifest, inputs: &[Tensor]) -> Vec<Tensor> {
    let folder = tempfile::tempdir().unwrap();
    let hot = joined.session(onnx, folder.path()).unwrap();
    assert!(joined.weights.is_empty() || hot.mapped_bytes > 0);
    drop(folder);
    let all: Vec<usize> = (0..manifest.outputs.len()).collect();
    hot.session.run(onnx.bind(Vec::new()).unwrap().as_ref(), inputs, &all).unwrap()
}

/// That single precision is as near as sums in another order are, and everything else the same.
fn assert_near(got: &[Tensor], want: &[Tensor], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert_eq!((got.dtype(), got.shape()), (want.dtype(), want.shape()), "{what}");
        let (Some(got), Some(want)) = (got.as_f32(), want.as_f32()) else {
            assert_eq!(got, want, "{what}");
            continue;
        };
        let largest = want.iter().fold(0.0f32, |most, number| most.max(number.abs()));
        let off = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        assert!(off <= 1e-5 * largest, "{what}: hot, off by {off} of {largest}");
    }
}

fn plain(onnx: &Runtimes, path: &Path, inputs: &[Tensor]) -> Vec<Tensor> {
    let session = onnx.onnx().session_from_file(path).unwrap();
    let all: Vec<usize> = (0..session.signature().outputs.len()).collect();
    let none = onnx.bind(Vec::new()).unwrap();
    session.run(none.as_ref(), inputs, &all).unwrap()
}

fn ids(batch: usize, length: usize, seed: i64) -> Vec<Tensor> {
    let of = |value: &dyn Fn(i64) -> i64| {
        let values = (0..i64::try_from(batch * length).unwrap()).flat_map(|index| value(index).to_le_bytes());
        Tensor::new(DataType::I64, vec![batch, length], values.collect::<Vec<u8>>().into()).unwrap()
    };
    vec![of(&|index| (index * 37 + seed) % 1000), of(&|_| 1), of(&|index| index % 2)]
}

fn assert_close(got: &[Tensor], want: &[Tensor], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert_eq!(got.shape(), want.shape(), "{what}");
        let (got, want) = (got.as_f32().unwrap(), want.as_f32().unwrap());
        let largest = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        assert!(largest <= 1e-5, "{what}: off by {largest}");
    }
}

#[test]
fn a_packed_model_answers_as_the_file_does() {
    let (onnx, place) = (onnx(), place());
    let picture = |seed: usize| {
        let values = (0..3 * 416 * 416).map(|index| ((index * 31 + seed) % 255) as f32 / 64.0 - 2.0).collect();
        vec![Tensor::from_f32(vec![1, 3, 416, 416], values).unwrap()]
    };
    let frame = vec![Tensor::new(DataType::U8, vec![1, 90, 120, 3], vec![90; 90 * 120 * 3].into()).unwrap()];
    for (file, inputs) in [
        ("bert_tiny_qa.onnx", vec![ids(1, 8, 3), ids(3, 17, 5), ids(1, 128, 7)]),
        ("nanodet_g_coco80.onnx", vec![picture(0), picture(9)]),
        ("person_ssdlite_odapi.onnx", vec![frame]),
    ] {
        let packed = pack(&place.store, &onnx, &request(asset(file), "model")).unwrap();
        let manifest = &packed.manifest;
        assert_eq!(manifest.program.kind, ProgramKind::Lifted, "{file}: {:?}", manifest.program.why_whole);
        assert!(packed.weight_bytes > 10_000_000, "{file}: {} bytes lifted", packed.weight_bytes);
        let program = place.store.program(&manifest.program).unwrap();
        assert!(program.len() < 500_000, "{file}: the program still holds {} bytes", program.len());
        for inputs in inputs {
            let got = run(&onnx, &place.store, manifest, &inputs);
            assert_close(&got, &plain(&onnx, &asset(file), &inputs), file);
        }
    }
}

#[test]
fn packing_twice_changes_nothing_and_a_fine_tune_adds_only_its_weights() {
    let (onnx, place) = (onnx(), place());
    let file = asset("bert_tiny_qa.onnx");
    let first = pack(&place.store, &onnx, &request(file.clone(), "base")).unwrap();
    let before = listing(&place.store);
    let again = pack(&place.store, &onnx, &request(file.clone(), "base")).unwrap();
    assert!(first.changed && !again.changed);
    assert_eq!(first.manifest, again.manifest);
    assert_eq!(listing(&place.store), before);

    // Packed from nothing under another roof, the same file gives the same bytes.
    let other = self::place();
    pack(&other.store, &onnx, &request(file.clone(), "base")).unwrap();
    let names = |listing: BTreeMap<PathBuf, String>, root: &Path| {
        listing.into_iter().map(|(path, hash)| (path.strip_prefix(root).unwrap().to_owned(), hash)).collect::<Vec<_>>()
    };
    assert_eq!(names(listing(&other.store), other.store.root()), names(before.clone(), place.store.root()));

    // A fine-tune: the same graph, every weight a little different.
    let scratch = tempfile::tempdir().unwrap();
    let tuned_file = scratch.path().join("tuned.onnx");
    std::fs::write(&tuned_file, fine_tune(&std::fs::read(&file).unwrap())).unwrap();
    let tuned = pack(&place.store, &onnx, &request(tuned_file.clone(), "tuned")).unwrap();
    assert_eq!(tuned.manifest.program, first.manifest.program);
    let added: Vec<_> = listing(&place.store).into_keys().filter(|path| !before.contains_key(path)).collect();
    assert_eq!(added.len(), 3, "a segment, a table and a manifest: {added:?}");
    // Only the word vectors differ, so the other tensors are those of the base.
    assert!(tuned.stored_bytes < tuned.weight_bytes * 9 / 10, "{} of {}", tuned.stored_bytes, tuned.weight_bytes);
    assert_eq!(tuned.manifest.weights.segments.len(), 2);
    let verified = store::upkeep::verify(&place.store, 2, &|_, _| ()).unwrap();
    assert_eq!((verified.models, verified.damage.len()), (2, 0), "{verified:?}");
    let inputs = ids(2, 16, 1);
    let (base, own) = (plain(&onnx, &file, &inputs), plain(&onnx, &tuned_file, &inputs));
    assert_ne!(base, own, "the fine-tune must differ for this test to mean anything");
    assert_close(&run(&onnx, &place.store, &tuned.manifest, &inputs), &own, "tuned");
    assert_close(&run(&onnx, &place.store, &first.manifest, &inputs), &base, "base");
}

/// The model in `bytes` with one of the word vectors changed: found as the longest run of plausible weights, so that
/// the file's structure stays what it is.
fn fine_tune(bytes: &[u8]) -> Vec<u8> {
    let mut tuned = bytes.to_vec();
    // The embedding is by far the largest tensor, so the middle of the file lies inside it, whatever the alignment of
    // its numbers: setting whole runs of four equal bytes makes finite values of each.
    let middle = tuned.len() / 2;
    for byte in &mut tuned[200_000..middle] {
        *byte = 0x3c;
    }
    tuned
}

#[test]
fn versions_count_up_and_one_that_is_taken_is_refused() {
    let (onnx, place) = (onnx(), place());
    let pack = |file: &str, version: Option<u64>| {
        let request = Request { version, ..request(asset(file), "m") };
        pack(&place.store, &onnx, &request).map(|packed: Packed| packed.manifest.version)
    };
    assert_eq!(pack("bert_tiny_qa.onnx", None).unwrap(), 1);
    assert_eq!(pack("nanodet_g_coco80.onnx", None).unwrap(), 2);
    assert_eq!(pack("bert_tiny_qa.onnx", None).unwrap(), 1, "that is what version 1 holds");
    assert_eq!(pack("nanodet_g_coco80.onnx", Some(7)).unwrap(), 7);
    assert_eq!(pack("bert_tiny_qa.onnx", Some(2)).unwrap_err().kind, ErrorKind::AlreadyExists);
    assert_eq!(pack("bert_tiny_qa.onnx", Some(0)).unwrap_err().kind, ErrorKind::InvalidInput);
    assert_eq!(place.store.versions("m").unwrap(), [1, 2, 7]);
}

#[test]
fn tasks_are_kept_and_some_are_told_by_the_signature() {
    let (onnx, place) = (onnx(), place());
    let packed = |file: &str, task: Option<Task>| {
        let request = Request { task, ..request(asset(file), file) };
        pack(&place.store, &onnx, &request).unwrap()
    };
    let told = |file: &str| Detection::by_signature(&packed(file, None).manifest.signature().unwrap());
    let nanodet = told("nanodet_g_coco80.onnx").unwrap();
    let Head::Nanodet { levels, bins: 11, .. } = &nanodet.head else { panic!("no NanoDet: {nanodet:?}") };
    assert_eq!(nanodet.input.fit, Fit::Exact { width: 416, height: 416 });
    let strides: Vec<_> = levels.iter().map(|level| (level.stride, &level.scores[..], &level.boxes[..])).collect();
    assert_eq!(
        strides,
        [(8, "Identity:0", "Identity_3:0"), (16, "Identity_1:0", "Identity_4:0"), (32, "Identity_2:0", "Identity_5:0")]
    );
    let odapi = told("person_ssdlite_odapi.onnx").unwrap();
    assert!(matches!(odapi.head, Head::Odapi { .. }), "{odapi:?}");
    assert_eq!(told("bert_tiny_qa.onnx"), None);

    // Another task is another version; the same again is none.
    let again = |task| {
        (
            packed("nanodet_g_coco80.onnx", task).manifest.version,
            place.store.versions("nanodet_g_coco80.onnx").unwrap().len(),
        )
    };
    let task = Some(Task::ObjectDetection(nanodet));
    assert_eq!((again(task.clone()), again(task.clone()), again(None)), ((2, 2), (2, 2), (1, 2)));
    assert_eq!(place.store.manifest("nanodet_g_coco80.onnx", 2).unwrap().task, task);
}

/// A field of a protocol message that holds `bytes`, which must be fewer than 128.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// An ONNX file of one Relu over 32-bit floats, which says `shape` of its tensors: the bytes of a `TensorShapeProto`, or
/// nothing at all.
fn relu(shape: Option<&[u8]>) -> Vec<u8> {
    let shape = shape.map_or(Vec::new(), |shape| field(2, shape));
    let tensor = field(2, &field(1, &[&[1 << 3, 1], &shape[..]].concat()));
    let value = |name: &str| [field(1, name.as_bytes()), tensor.clone()].concat();
    let node = [field(1, b"x"), field(2, b"y"), field(4, b"Relu")].concat();
    let graph = [field(1, &node), field(2, b"g"), field(11, &value("x")), field(12, &value("y"))].concat();
    [&[1 << 3, 8][..], &field(7, &graph), &field(8, &[2 << 3, 17])].concat()
}

#[test]
fn a_tensor_of_unknown_rank_is_no_scalar() {
    let (onnx, place) = (onnx(), place());
    let path = place.store.root().join("relu.onnx");
    // A dimension that is there but not named varies.
    for (what, shape, want, any_rank) in [
        ("nothing", None, &[-1][..], true),
        ("no dimensions", Some(&[][..]), &[], false),
        ("one dimension", Some(&[1 << 3 | 2, 0]), &[-1], false),
    ] {
        std::fs::write(&path, relu(shape)).unwrap();
        let manifest = pack(&place.store, &onnx, &request(path.clone(), what)).unwrap().manifest;
        for io in manifest.inputs.iter().chain(&manifest.outputs) {
            assert_eq!((&io.shape[..], io.any_rank), (want, any_rank), "a shape of {what}: {}", io.name);
        }
        assert_eq!(manifest, place.store.manifest(what, 1).unwrap());
        let signature = manifest.signature().unwrap();
        for shape in [vec![], vec![2], vec![2, 3]] {
            let count = shape.iter().product();
            let tensor = Tensor::from_f32(shape.clone(), vec![-1.0; count]).unwrap();
            let fits = any_rank || shape.len() == want.len();
            assert_eq!(signature.inputs[0].check(&tensor).is_ok(), fits, "{shape:?} for a shape of {what}");
            if fits {
                let answer = run(&onnx, &place.store, &manifest, &[tensor]);
                assert_eq!(answer, [Tensor::from_f32(shape, vec![0.0; count]).unwrap()], "a shape of {what}");
            }
        }
    }
}

#[test]
fn files_that_are_no_models_are_refused_with_their_name() {
    let (onnx, place) = (onnx(), place());
    let scratch = tempfile::tempdir().unwrap();
    let whole = std::fs::read(asset("nanodet_g_coco80.onnx")).unwrap();
    let soup: Vec<u8> = (0..100_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for (name, bytes) in [
        ("empty.onnx", &b""[..]),
        ("text.onnx", b"this is no model"),
        ("cut.onnx", &whole[..whole.len() / 2]),
        ("soup.onnx", &soup),
    ] {
        let path = scratch.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = pack(&place.store, &onnx, &request(path, "m")).unwrap_err();
        assert!(error.message.contains(name), "{}", error.message);
        assert!(matches!(error.kind, ErrorKind::InvalidInput | ErrorKind::Unsupported), "{error:?}");
    }
    let missing = pack(&place.store, &onnx, &request(scratch.path().join("gone.onnx"), "m")).unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotFound);
    assert!(place.store.names().unwrap().is_empty());
}

#[test]
fn a_store_that_was_tampered_with_is_refused() {
    let (onnx, place) = (onnx(), place());
    let packed = pack(&place.store, &onnx, &request(asset("bert_tiny_qa.onnx"), "m")).unwrap();
    let root = place.store.root();
    let program = root.join("programs").join(format!("{}.onnx", packed.manifest.program.hash));
    let mut flipped = std::fs::read(&program).unwrap();
    flipped[100] ^= 1;
    std::fs::write(&program, &flipped).unwrap();
    assert_eq!(place.store.program(&packed.manifest.program).unwrap_err().kind, ErrorKind::Corrupt);
    std::fs::remove_file(&program).unwrap();
    assert_eq!(place.store.program(&packed.manifest.program).unwrap_err().kind, ErrorKind::NotFound);

    let name = &packed.manifest.weights.segments[0].hash;
    let segment = root.join("segments").join(format!("{name}.seg"));
    let whole = std::fs::metadata(&segment).unwrap().len();
    std::fs::File::options().write(true).open(&segment).unwrap().set_len(whole / 2).unwrap();
    assert_eq!(place.store.weights(&packed.manifest).unwrap_err().kind, ErrorKind::Corrupt);
    std::fs::remove_file(&segment).unwrap();
    assert_eq!(place.store.weights(&packed.manifest).unwrap_err().kind, ErrorKind::NotFound);

    let file = root.join("models/m/1.json");
    let text = std::fs::read_to_string(&file).unwrap();
    for (what, lie, kind) in [
        ("no JSON", "{".to_owned(), ErrorKind::Corrupt),
        ("another name", text.replace("\"name\":\"m\"", "\"name\":\"n\""), ErrorKind::Corrupt),
        ("a newer format", text.replace("\"format\":3", "\"format\":4"), ErrorKind::Unsupported),
        ("an unknown field", text.replace("\"format\":3", "\"format\":3,\"x\":1"), ErrorKind::Corrupt),
    ] {
        std::fs::write(&file, lie).unwrap();
        assert_eq!(place.store.manifest("m", 1).unwrap_err().kind, kind, "{what}");
    }
    std::fs::write(&file, text.replace(name, "../../../etc/passwd")).unwrap();
    let manifest = place.store.manifest("m", 1).unwrap();
    assert_eq!(place.store.weights(&manifest).unwrap_err().kind, ErrorKind::Corrupt, "a hash that is a path");
}
