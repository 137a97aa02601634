//! Weights in eight bits: near the original, told how near, refused when too far, and each answer its own in any batch.

use engine::{DataType, Engine, ErrorKind, Load, Tensor};
use store::accuracy::{self, Accuracy};
use store::pack::{Packed, Request, pack};
use store::{Manifest, Precision};

use crate::hf::fixture;
use crate::{Place, asset, ids, onnx, place, plain, request, run};

const KINDS: [Precision; 2] = [Precision::Int8, Precision::Int8Weights];

fn bert(precision: Precision) -> Request {
    Request { precision, ..request(asset("bert_tiny_qa.onnx"), "m") }
}

fn far(got: &[Tensor], want: &[Tensor]) -> f32 {
    let pairs =
        || got.iter().zip(want).flat_map(|(got, want)| got.as_f32().unwrap().iter().zip(want.as_f32().unwrap()));
    let length = |squares: f32| squares.sqrt();
    length(pairs().map(|(got, want)| (got - want).powi(2)).sum()) / length(pairs().map(|(_, want)| want.powi(2)).sum())
}

fn measured(place: &Place, manifest: &Manifest) -> Accuracy {
    Accuracy::of(&place.store, manifest).unwrap().unwrap()
}

#[test]
fn a_quarter_of_the_bytes_answers_nearly_as_all_of_them() {
    let (onnx, place) = (onnx(), place());
    let float = pack(&place.store, &onnx, &bert(Precision::Float)).unwrap();
    assert_eq!(Accuracy::of(&place.store, &float.manifest).unwrap(), None);
    let want = plain(&onnx, &asset("bert_tiny_qa.onnx"), &ids(2, 40, 3));
    for (at, precision) in KINDS.into_iter().enumerate() {
        let packed = pack(&place.store, &onnx, &bert(precision)).unwrap();
        assert_eq!((packed.manifest.version, packed.manifest.precision), (2 + at as u64, precision), "another version");
        assert!(packed.weight_bytes * 10 < float.weight_bytes * 3, "{precision:?}: {}", packed.weight_bytes);
        let off = far(&run(&onnx, &place.store, &packed.manifest, &ids(2, 40, 3)), &want);
        assert!(off > 1e-6 && off < 0.02, "{precision:?}: off by {off}");
        let told = measured(&place, &packed.manifest);
        let outputs: Vec<_> = told.outputs.iter().map(|output| &output.name[..]).collect();
        assert_eq!(
            (&outputs[..], told.samples, told.inputs.as_str()),
            (&["start_logits", "end_logits"][..], 8, "made up")
        );
        assert!(told.outputs.iter().all(|output| output.cosine > 0.999 && output.relative_error < 0.02), "{told:?}");
        assert!(!pack(&place.store, &onnx, &bert(precision)).unwrap().changed, "{precision:?} again");
    }
}

#[test]
fn an_answer_is_its_own_in_any_batch() {
    let (onnx, place) = (onnx(), place());
    for precision in KINDS {
        let manifest = pack(&place.store, &onnx, &bert(precision)).unwrap().manifest;
        assert_eq!(manifest.max_batch_size, 32, "{precision:?}");
        let program = place.store.program(&manifest.program).unwrap();
        let session = onnx.session(&program, manifest.weights.len(), Load::AsIs).unwrap();
        let weights = onnx.bind(place.store.weights(&manifest).unwrap()).unwrap();
        let together = session.run(weights.as_ref(), &ids(3, 24, 5), &[0]).unwrap();
        for item in 0..3 {
            let one = |tensor: &Tensor| {
                let row = tensor.data().len() / 3;
                Tensor::new(DataType::I64, vec![1, 24], tensor.data().slice(item * row..(item + 1) * row)).unwrap()
            };
            let alone: Vec<_> = ids(3, 24, 5).iter().map(one).collect();
            let alone = session.run(weights.as_ref(), &alone, &[0]).unwrap();
            let (got, want) = (alone[0].as_f32().unwrap(), &together[0].as_f32().unwrap()[item * 24..][..24]);
            let off = got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0f32, f32::max);
            assert!(off < 1e-5, "{precision:?}: item {item} is off by {off}");
        }
    }
}

#[test]
fn what_is_too_far_off_is_mended_by_floats_or_refused_by_name() {
    let (onnx, place) = (onnx(), place());
    let with =
        |tolerance: f64| pack(&place.store, &onnx, &Request { tolerance: Some(tolerance), ..bert(Precision::Int8) });
    let all = with(0.1).unwrap();
    let worst = measured(&place, &all.manifest).worst().unwrap().relative_error;
    assert_eq!(measured(&place, &all.manifest).floats, [""; 0]);

    // What is there is what was asked for, as long as it is near enough.
    let again = [0.1, 0.5, worst * 1.01].map(|tolerance| with(tolerance).unwrap().changed);
    assert_eq!(again, [false; 3]);

    // Half of what all of it is off by is had for a few weights.
    let some = with(worst * 0.8).unwrap();
    assert_eq!((some.changed, some.manifest.version), (true, 2));
    let told = measured(&place, &some.manifest);
    assert!(!told.floats.is_empty() && told.worst().unwrap().relative_error <= worst * 0.8, "{told:?}");
    assert!(some.weight_bytes > all.weight_bytes);

    let refused = with(1e-9).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::FailedPrecondition);
    for says in ["start_logits", "weight '", "--tolerance", "int8-weights"] {
        assert!(refused.message.contains(says), "{refused}");
    }
    assert_eq!(place.store.versions("m").unwrap(), [1, 2], "nothing is stored");
}

#[test]
fn a_users_inputs_are_what_is_compared_on() {
    let (onnx, place) = (onnx(), place());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("inputs.jsonl");
    let line = r#"{"input_ids": [[5, 6, 7]], "attention_mask": [[1, 1, 1]], "token_type_ids": [[0, 0, 1]]}"#;
    let with = || pack(&place.store, &onnx, &Request { calibration: Some(file.clone()), ..bert(Precision::Int8) });
    std::fs::write(&file, line.replace("input_ids", "ids")).unwrap();
    let refused = with().unwrap_err();
    assert!(refused.message.contains("line 1") && refused.message.contains("'input_ids'"), "{refused}");
    std::fs::write(&file, format!("{line}\n{line}\n")).unwrap();
    let told = measured(&place, &with().unwrap().manifest);
    assert_eq!((told.samples, told.inputs), (2, file.display().to_string()));
    assert!(!with().unwrap().changed);
    let other = Request { calibration: Some(folder.path().join("none.jsonl")), ..bert(Precision::Int8) };
    let refused = pack(&place.store, &onnx, &other).unwrap_err();
    assert!(refused.message.contains("none.jsonl"), "{refused}");
}

#[test]
fn fine_tunes_and_folders_share_their_program_in_eight_bits_too() {
    let (onnx, place) = (onnx(), place());
    for (name, precision) in [("bert-qa", Precision::Int8), ("roberta-mlm", Precision::Int8Weights)] {
        let request = Request { precision, tolerance: Some(1.0), ..request(fixture(name), name) };
        // Matrices of the fixtures are too small to be worth it.
        let refused = pack(&place.store, &onnx, &request).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Unsupported, "{name}");
        assert!(refused.message.contains("no large matrix"), "{refused}");
    }
    let folder = crate::workspace().join(".cache/all-minilm-l6-v2");
    let of = |name: &str, precision| {
        let request = Request { precision, tolerance: Some(0.2), copy: true, ..request(folder.clone(), name) };
        pack(&place.store, &onnx, &request).unwrap()
    };
    let Packed { manifest, weight_bytes, .. } = of("minilm", Precision::Int8);
    let float = of("float", Precision::Float);
    assert!(weight_bytes * 10 < float.weight_bytes * 3, "{weight_bytes} of {}", float.weight_bytes);
    assert!(manifest.files.contains_key(accuracy::FILE) && manifest.files.contains_key("tokenizer.json"));
    let told = measured(&place, &manifest);
    assert!(told.outputs[0].cosine > 0.98, "{told:?}");
    assert_eq!((manifest.max_batch_size, &manifest.outputs), (32, &float.manifest.outputs));
}
