//! Hugging Face folders: each fixture answers as the library that made it did (scripts/make_hf_fixtures.py), whatever its
//! checkpoint's names, precision and number of files.

use std::path::{Path, PathBuf};

use engine::{DataType, ErrorKind, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView, serialize};
use serde_json::json;
use store::manifest::ProgramKind;
use store::pack::{Packed, Request, pack};
use store::task::Task;

use crate::{onnx, place, request, run, workspace};

const TOLERANCE: f32 = 1e-4;

pub(crate) fn fixture(name: &str) -> PathBuf {
    workspace().join("crates/store/tests/fixtures/hf").join(name)
}

/// The tensors of a reference whose names start with `side`, in the order of `names`.
fn reference(folder: &Path, side: &str, names: &[&str]) -> Vec<Tensor> {
    let bytes = std::fs::read(folder.join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.names().iter().filter(|name| name.starts_with(side)).count(), names.len(), "{}", folder.display());
    let tensor = |name: &&str| {
        let view = file.tensor(&format!("{side}.{name}")).unwrap();
        let dtype = if view.dtype() == Dtype::I64 { DataType::I64 } else { DataType::F32 };
        let words: Vec<u8> = view.data().to_vec();
        Tensor::new(dtype, view.shape().to_vec(), words.into()).unwrap()
    };
    names.iter().map(tensor).collect()
}

fn floats(tensor: &Tensor) -> Vec<f32> {
    tensor.data().chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().unwrap())).collect()
}

/// Packs `folder` and compares its answers with those of `reference_folder`.
pub(crate) fn check(folder: &Path, reference_folder: &Path) -> store::Manifest {
    let (onnx, place) = (onnx(), place());
    let what = folder.display();
    let manifest = pack(&place.store, &onnx, &request(folder.to_owned(), "m")).unwrap().manifest;
    assert_eq!(manifest.program.kind, ProgramKind::Lifted, "{what}");
    assert_eq!(manifest.max_batch_size, 32, "{what}: items are apart");
    fn names(ios: &[store::manifest::Io]) -> Vec<&str> {
        ios.iter().map(|io| &io.name[..]).collect()
    }
    let inputs = reference(reference_folder, "input", &names(&manifest.inputs));
    let outputs = names(&manifest.outputs);
    let want = reference(reference_folder, "output", &outputs);
    let got = run(&onnx, &place.store, &manifest, &inputs);
    for ((got, want), name) in got.iter().zip(&want).zip(&outputs) {
        assert_eq!(got.shape(), want.shape(), "{what}: {name}");
        let (got, want) = (floats(got), floats(want));
        let largest = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
        assert!(largest <= TOLERANCE, "{what}: {name} is off by {largest}");
        assert!(got.iter().all(|value| value.is_finite()), "{what}: {name}");
    }
    manifest
}

#[test]
fn every_family_and_head_answers_as_its_reference() {
    let mut cases = 0;
    for entry in std::fs::read_dir(fixture("")).unwrap() {
        let folder = entry.unwrap().path();
        let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
        if name == "minilm" {
            continue;
        }
        let manifest = check(&folder, &folder);
        let labels = matches!(manifest.task, Some(Task::TextClassification(_) | Task::TokenClassification(_)));
        assert_eq!(
            manifest.labels.values().map(String::as_str).collect::<Vec<_>>(),
            if labels { vec!["low", "middle", "high"] } else { vec![] },
            "{name}"
        );
        cases += 1;
    }
    assert_eq!(cases, 38, "fixtures that were made");
}

#[test]
fn the_configuration_says_the_task() {
    let text = |types: bool, tokens_max, pad| {
        json!({"ids": "input_ids", "mask": "attention_mask", "tokens_max": tokens_max, "pad": pad})
            .as_object()
            .cloned()
            .map(|mut text| {
                text.extend(types.then(|| ("types".to_owned(), json!("token_type_ids"))));
                text
            })
            .unwrap()
    };
    for (name, want) in [
        (
            "bert-qa",
            json!({"task": "question-answering", "text": text(true, 40, 0), "start": "start_logits", "end": "end_logits"}),
        ),
        (
            "bert-sequence",
            json!({"task": "text-classification", "text": text(true, 40, 0), "scores": "logits", "problem": "single-label"}),
        ),
        (
            "xlm-roberta-sequence",
            json!({"task": "text-classification", "text": text(false, 38, 1), "scores": "logits", "problem": "multi-label"}),
        ),
        ("mpnet-token", json!({"task": "token-classification", "text": text(false, 158, 1), "scores": "logits"})),
        (
            "electra-mlm",
            json!({"task": "fill-mask", "text": text(true, 40, 0), "scores": "logits", "mask_token": "[MASK]"}),
        ),
        (
            "bert-model-sentence-mean",
            json!({"task": "sentence-embedding", "text": text(true, 40, 0), "vectors": "sentence_embedding"}),
        ),
        ("bert-model", json!(null)),
        ("electra-discriminator", json!(null)),
    ] {
        let place = place();
        let packed = pack(&place.store, &onnx(), &request(fixture(name), name)).unwrap();
        assert_eq!(serde_json::to_value(&packed.manifest.task).unwrap(), want, "{name}");
        assert_eq!(place.store.manifest(name, 1).unwrap(), packed.manifest, "{name}");
    }
}

/// A tensor of a checkpoint: its name, type, shape and bytes.
pub(crate) type Row = (String, Dtype, Vec<usize>, Vec<u8>);

pub(crate) fn rows(folder: &Path) -> Vec<Row> {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter()
        .map(|(name, view)| (name.to_owned(), view.dtype(), view.shape().to_vec(), view.data().to_vec()))
        .collect()
}

fn write(path: &Path, rows: &[Row]) {
    let views =
        rows.iter().map(|(name, dtype, shape, data)| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    std::fs::write(path, serialize(views, None).unwrap()).unwrap();
}

/// A copy of a fixture's configuration with the checkpoint `rows`.
pub(crate) fn rewritten(name: &str, rows: &[Row]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(fixture(name).join("config.json"), folder.path().join("config.json")).unwrap();
    write(&folder.path().join("model.safetensors"), rows);
    folder
}

#[test]
fn a_checkpoint_is_read_whatever_its_names_and_files() {
    let name = "bert-qa";
    let renamed = |change: &dyn Fn(&str) -> String| {
        rows(&fixture(name))
            .into_iter()
            .map(|(name, dtype, shape, data)| (change(&name), dtype, shape, data))
            .collect::<Vec<_>>()
    };
    let program = check(&fixture(name), &fixture(name)).program;
    let old = renamed(&|name| {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    });
    let bare = renamed(&|name| name.trim_start_matches("bert.").to_owned());
    for rows in [&old, &bare] {
        assert_eq!(check(rewritten(name, rows).path(), &fixture(name)).program, program);
    }
    // Split in two files, with an index.
    let folder = rewritten(name, &old);
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let (one, other) = old.split_at(old.len() / 2);
    let mut map = serde_json::Map::new();
    for (file, rows) in [("a.safetensors", one), ("b.safetensors", other)] {
        write(&folder.path().join(file), rows);
        map.extend(rows.iter().map(|(name, ..)| (name.clone(), file.into())));
    }
    let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert_eq!(check(folder.path(), &fixture(name)).program, program);
    // A shard that is gone is named.
    std::fs::remove_file(folder.path().join("b.safetensors")).unwrap();
    let error = pack(&place().store, &onnx(), &request(folder.path().to_owned(), "m")).unwrap_err();
    assert!(error.kind == ErrorKind::NotFound && error.message.contains("b.safetensors"), "{error}");
}

/// The checkpoint `name` in half precision, and the same numbers in single precision.
fn halved(name: &str, dtype: Dtype) -> [Vec<Row>; 2] {
    let round = |word: &[u8]| {
        let value = f32::from_le_bytes(word.try_into().unwrap());
        match dtype {
            Dtype::F16 => (half::f16::from_f32(value).to_le_bytes(), half::f16::from_f32(value).to_f32()),
            _ => (half::bf16::from_f32(value).to_le_bytes(), half::bf16::from_f32(value).to_f32()),
        }
    };
    let mut narrow = rows(&fixture(name));
    let mut wide = narrow.clone();
    for ((_, kind, _, narrow), (.., wide)) in narrow.iter_mut().zip(&mut wide) {
        let rounded: Vec<_> = wide.chunks_exact(4).map(round).collect();
        *kind = dtype;
        *narrow = rounded.iter().flat_map(|(half, _)| *half).collect();
        *wide = rounded.iter().flat_map(|(_, single)| single.to_le_bytes()).collect();
    }
    [narrow, wide]
}

#[test]
fn half_precision_answers_to_the_bit_as_the_same_numbers_in_single_precision() {
    let onnx = onnx();
    // One of each family, and one whose decoder is the table of words.
    for (name, tables) in [
        ("bert-qa", 3),
        ("roberta-mlm", 3),
        ("xlm-roberta-sequence", 3),
        ("distilbert-model-sentence-max", 2),
        ("mpnet-token", 2),
        ("electra-mlm", 3),
    ] {
        for dtype in [Dtype::F16, Dtype::BF16] {
            let place = place();
            let [narrow, wide] = halved(name, dtype).map(|rows| {
                let folder = rewritten(name, &rows);
                for kept in ["modules.json", "1_Pooling/config.json"] {
                    if fixture(name).join(kept).exists() {
                        std::fs::create_dir_all(folder.path().join("1_Pooling")).unwrap();
                        std::fs::copy(fixture(name).join(kept), folder.path().join(kept)).unwrap();
                    }
                }
                let packed = pack(&place.store, &onnx, &request(folder.path().to_owned(), "m")).unwrap();
                let inputs: Vec<&str> = packed.manifest.inputs.iter().map(|io| &io.name[..]).collect();
                let inputs = reference(&fixture(name), "input", &inputs);
                let answers = run(&onnx, &place.store, &packed.manifest, &inputs);
                (packed, answers, folder)
            });
            assert_eq!(narrow.1, wide.1, "{name} {dtype:?}");
            let said = |packed: &Packed| packed.notes.iter().any(|note| note.contains("half precision"));
            assert!(said(&narrow.0) && !said(&wide.0), "{name}: {:?}", narrow.0.notes);
            // Tables are mapped as they lie; all else is stored in single precision.
            let outside = |packed: &Packed| {
                let segments = packed.manifest.weights.segments.iter().filter(|segment| segment.external.is_some());
                segments.map(|segment| segment.used_bytes).sum::<u64>()
            };
            assert!(outside(&narrow.0) > 0 && outside(&narrow.0) < outside(&wide.0) / 2, "{name}");
            assert_eq!(halves(&place.store.weights(&narrow.0.manifest)), tables, "{name}");
        }
    }
}

fn halves(weights: &engine::Result<Vec<Tensor>>) -> usize {
    let is_half = |tensor: &&Tensor| matches!(tensor.dtype(), DataType::F16 | DataType::Bf16);
    weights.as_ref().map_or(0, |weights| weights.iter().filter(is_half).count())
}

#[test]
fn fine_tunes_share_their_program_and_their_tokenizer() {
    let (onnx, place) = (onnx(), place());
    let pack = |folder: &Path, name: &str| pack(&place.store, &onnx, &request(folder.to_owned(), name)).unwrap();
    let mut tuned = rows(&fixture("bert-qa"));
    for (_, _, _, data) in &mut tuned {
        data.rotate_left(4);
    }
    let (base, tuned) = (rewritten("bert-qa", &rows(&fixture("bert-qa"))), rewritten("bert-qa", &tuned));
    for folder in [&base, &tuned] {
        std::fs::write(folder.path().join("tokenizer.json"), r#"{"version": "1.0"}"#).unwrap();
    }
    let (first, second) = (pack(base.path(), "base"), pack(tuned.path(), "tuned"));
    assert_eq!(first.manifest.program, second.manifest.program);
    assert_ne!(first.manifest.weights, second.manifest.weights);
    assert_eq!(first.manifest.files, second.manifest.files);
    assert_eq!(&place.store.file(&first.manifest, "tokenizer.json").unwrap()[..], br#"{"version": "1.0"}"#);
    assert_eq!(place.store.file(&first.manifest, "merges.txt").unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(std::fs::read_dir(place.store.root().join("files")).unwrap().count(), 1);
    assert!(!pack(base.path(), "base").changed, "the same folder again");
    // Another tokenizer is another version.
    std::fs::write(base.path().join("tokenizer.json"), "{}").unwrap();
    assert_eq!(pack(base.path(), "base").manifest.version, 2);
    let hash = &first.manifest.files["tokenizer.json"];
    std::fs::write(place.store.root().join("files").join(hash), "x").unwrap();
    assert_eq!(place.store.file(&first.manifest, "tokenizer.json").unwrap_err().kind, ErrorKind::Corrupt);
}

/// How many files outside the store hold weights of `packed`.
pub(crate) fn outside(packed: &Packed) -> usize {
    packed.manifest.weights.segments.iter().filter(|segment| segment.external.is_some()).count()
}

#[test]
fn single_precision_is_mapped_where_it_lies_unless_it_is_to_be_copied() {
    let (onnx, place) = (onnx(), place());
    let segments = || std::fs::read_dir(place.store.root().join("segments")).unwrap().count();
    let folder = rewritten("bert-qa", &rows(&fixture("bert-qa")));
    let file = folder.path().join("model.safetensors");
    let mapped = request(folder.path().to_owned(), "m");
    let copied = Request { copy: true, ..mapped.clone() };
    let inputs = reference(&fixture("bert-qa"), "input", &["input_ids", "attention_mask", "token_type_ids"]);
    let answers = |packed: &Packed| run(&onnx, &place.store, &packed.manifest, &inputs);

    let first = pack(&place.store, &onnx, &mapped).unwrap();
    assert_eq!((first.manifest.version, first.stored_bytes, outside(&first), segments()), (1, 0, 1, 0));
    assert!(first.notes.iter().any(|note| note.contains("--copy")), "{:?}", first.notes);
    let want = answers(&first);
    assert!(!pack(&place.store, &onnx, &mapped).unwrap().changed);

    let second = pack(&place.store, &onnx, &copied).unwrap();
    assert_eq!((second.manifest.version, outside(&second), segments()), (2, 0, 1));
    assert!(second.stored_bytes > 0 && !second.notes.iter().any(|note| note.contains("--copy")));
    assert!(!pack(&place.store, &onnx, &mapped).unwrap().changed, "what needs nothing outside is good for either");

    // The folder goes: the copy answers on, the other is refused by name.
    std::fs::remove_file(&file).unwrap();
    assert_eq!(answers(&second), want);
    assert!(place.store.weights(&first.manifest).unwrap_err().message.contains("model.safetensors"));
}

#[test]
fn a_folder_that_was_written_since_is_refused_and_packed_anew() {
    let (onnx, place) = (onnx(), place());
    let folder = rewritten("bert-qa", &rows(&fixture("bert-qa")));
    let file = folder.path().join("model.safetensors");
    let mapped = request(folder.path().to_owned(), "m");
    let first = pack(&place.store, &onnx, &mapped).unwrap();
    let pack_again = || pack(&place.store, &onnx, &mapped).unwrap();
    // Written again with what it had, it is what was packed.
    let bytes = std::fs::read(&file).unwrap();
    let earlier = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
    std::fs::write(&file, &bytes).unwrap();
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(earlier).unwrap();
    assert!(place.store.weights(&first.manifest).is_ok());
    assert_eq!((pack_again().manifest.version, pack_again().changed), (1, false));

    let (last, rest) = bytes.split_last().unwrap();
    std::fs::write(&file, [rest, &[last ^ 1]].concat()).unwrap();
    assert_eq!(place.store.weights(&first.manifest).unwrap_err().kind, ErrorKind::Corrupt);
    let again = pack_again();
    assert_eq!((again.manifest.version, again.changed), (2, true));
    assert!(place.store.weights(&again.manifest).is_ok());
}

#[test]
fn folders_that_cannot_be_packed_are_refused_with_the_way_out() {
    let (onnx, place) = (onnx(), place());
    let scratch = tempfile::tempdir().unwrap();
    let at = |name: &str| scratch.path().join(name);
    let config = std::fs::read(fixture("bert-qa").join("config.json")).unwrap();
    for folder in ["pickle", "none", "missing", "shards", "adapter", "pointer"] {
        std::fs::create_dir(at(folder)).unwrap();
        std::fs::write(at(folder).join("config.json"), &config).unwrap();
    }
    std::fs::write(at("pickle").join("pytorch_model.bin"), b"PK").unwrap();
    std::fs::write(at("shards").join("model-00001-of-00002.safetensors"), b"x").unwrap();
    std::fs::write(at("adapter").join("adapter_model.bin"), b"PK").unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 438000000\n";
    std::fs::write(at("pointer").join("model.safetensors"), pointer).unwrap();
    std::fs::write(at("pointer.onnx"), pointer).unwrap();
    let mut rows = rows(&fixture("bert-qa"));
    rows.retain(|(name, ..)| name != "qa_outputs.bias");
    write(&at("missing").join("model.safetensors"), &rows);
    for file in ["m.bin", "m.pkl", "m.ckpt", "m.safetensors"] {
        std::fs::write(at(file), b"x").unwrap();
    }
    for (name, kind, says) in [
        ("pickle", ErrorKind::Unsupported, "safe_serialization=True"),
        ("m.bin", ErrorKind::Unsupported, "safe_serialization=True"),
        ("m.pkl", ErrorKind::Unsupported, "safe_serialization=True"),
        ("m.ckpt", ErrorKind::Unsupported, "safe_serialization=True"),
        ("m.safetensors", ErrorKind::Unsupported, "config.json"),
        ("none", ErrorKind::NotFound, "model.safetensors"),
        ("shards", ErrorKind::NotFound, "model.safetensors.index.json, but model-00001-of-00002.safetensors"),
        ("adapter", ErrorKind::Unsupported, "merge"),
        ("pointer", ErrorKind::InvalidInput, "model.safetensors: only git's pointer"),
        ("pointer.onnx", ErrorKind::InvalidInput, "git lfs pull"),
        ("missing", ErrorKind::InvalidInput, "qa_outputs.bias"),
    ] {
        let error = pack(&place.store, &onnx, &request(at(name), "m")).unwrap_err();
        assert!(
            error.kind == kind && error.message.contains(says) && error.message.contains(name),
            "{name}: {error:?}"
        );
    }
    let text = json!({"ids": "input_ids", "tokens_max": 40, "pad": 0});
    let task = json!({"task": "fill-mask", "text": text, "scores": "logits", "mask_token": "[MASK]"});
    let task = Some(serde_json::from_value(task).unwrap());
    let asked = Request { task, ..request(fixture("bert-qa"), "m") };
    assert_eq!(pack(&place.store, &onnx, &asked).unwrap_err().kind, ErrorKind::InvalidInput);
    assert!(place.store.names().unwrap().is_empty());
}

#[test]
fn all_minilm_embeds_real_sentences_as_its_reference_does() {
    let folder = workspace().join(".cache/all-minilm-l6-v2");
    assert!(folder.join("model.safetensors").exists(), "'scripts/setup.sh test' fetches the model");
    let manifest = check(&folder, &fixture("minilm"));
    assert_eq!(manifest.files.len(), 3);
}
