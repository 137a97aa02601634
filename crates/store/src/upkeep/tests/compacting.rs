//! Compacting: dead bytes go, every form moves, and models answer as before.

use super::*;

#[test]
fn dead_bytes_go_and_the_models_answer_as_before() {
    let place = Place::new();
    // The second lies in what the first brought, most of which is dead when the first is gone.
    let large = |seed| tensor(seed, 300 * KB);
    let (first, _) = place.pack("first", &[large(1), large(2), large(3), tensor(4, 100 * KB)]);
    place.pack("second", &[tensor(4, 100 * KB)]);
    place.pack("third", &[tensor(4, 100 * KB), large(9)]);
    remove(&place.store, "first", None).unwrap();
    let mapped = place.load("second");
    let bytes = fs::metadata(place.segment(&first, 0)).unwrap().len();
    let compacted = compact(&place.store, false, &|_, _| ()).unwrap();
    let want = Compacted { models: 2, changed_meanwhile: 0, stored_bytes: 100 * 1024, freed_bytes: bytes };
    assert_eq!(compacted, want);
    let went: Vec<_> = place.gc().files.iter().map(|file| file.bytes).collect();
    assert!(went.contains(&bytes) && !place.segment(&first, 0).exists());
    assert_eq!(place.load("second"), mapped);
    assert_eq!(place.load("third"), [tensor(4, 100 * KB), large(9)]);
    assert_eq!(place.damage(), []);
    assert_eq!(compact(&place.store, false, &|_, _| ()).unwrap(), Compacted::default());
}

#[test]
fn every_form_of_a_model_moves_with_it() {
    let place = Place::new();
    let forms = [vec![tensor(1, 200 * KB), tensor(9, 10)], vec![tensor(2, 100 * KB), tensor(9, 10)]];
    // Both forms lie in the segment of a model that goes, between tensors that are nobody's then.
    let doomed = [&forms[0][..], &forms[1], &[tensor(7, 300 * KB)]].concat();
    place.pack("doomed", &doomed);
    let [(first, _), (second, _)] =
        ["first", "second"].map(|name| place.pack(name, &forms[usize::from(name == "second")]));
    let other =
        Form { program: ProgramRef { target: "another".to_owned(), ..second.program }, weights: second.weights };
    let both = Manifest { others: vec![other], ..first };
    fs::write(place.store.manifest_path("first", 1), serde_json::to_vec(&both).unwrap()).unwrap();
    for name in ["doomed", "second"] {
        remove(&place.store, name, None).unwrap();
    }

    let compacted = compact(&place.store, false, &|_, _| ()).unwrap();
    assert_eq!((compacted.models, compacted.stored_bytes), (1, 300 * 1024 + 20));
    let collected = place.gc().files;
    assert!(collected.iter().any(|garbage| garbage.bytes > 600 * 1024), "{collected:?}");
    let moved = place.store.manifest("first", 1).unwrap();
    for (target, tensors) in [("here", &forms[0]), ("another", &forms[1])] {
        assert_eq!(place.store.weights(&moved.clone().on(target).unwrap()).unwrap(), *tensors, "{target}");
    }
}

/// The store as a build that wrote format 1 left it: one segment a model, its name the hash of the file.
pub(crate) fn pack_format_1(place: &Place, name: &str, tensors: &[Tensor]) {
    let mut file = Vec::new();
    let weights: Vec<_> = tensors
        .iter()
        .map(|tensor| {
            file.resize(file.len().next_multiple_of(4096), 0);
            let hash = blake3::hash(tensor.data()).to_hex().to_string();
            let offset = file.len();
            file.extend_from_slice(tensor.data());
            serde_json::json!({"segment": 0, "offset_bytes": offset, "datatype": "UINT8", "shape": tensor.shape(), "hash": hash})
        })
        .collect();
    let segment = blake3::hash(&file).to_hex().to_string();
    let program = place.store.put_program(b"graph", "portable").unwrap();
    fs::write(place.store.root().join(format!("segments/{segment}.seg")), file).unwrap();
    let manifest = serde_json::json!({
        "format": 1, "name": name, "version": 1,
        "source": {"format": "onnx", "hash": "", "bytes": 1},
        "program": {"hash": program, "kind": "lifted", "target": "portable"},
        "inputs": [], "outputs": [], "segments": [segment], "weights": weights,
    });
    fs::create_dir_all(place.store.root().join("models").join(name)).unwrap();
    fs::write(place.store.manifest_path(name, 1), manifest.to_string()).unwrap();
}

#[test]
fn format_1_is_read_checked_and_left_behind_by_compacting() {
    let place = Place::new();
    for head in 0..3 {
        pack_format_1(&place, &format!("m{head}"), &model(100 + head));
    }
    for folder in ["weights", "files"] {
        fs::remove_dir(place.store.root().join(folder)).unwrap();
    }
    let old = place.store.manifest("m1", 1).unwrap();
    assert_eq!((old.format, old.weights.len(), old.weights.bytes), (1, 4, 308 * 1024 + 100));
    assert_eq!(old.weights.segments[0].used_bytes, old.weights.bytes);
    assert_eq!(place.load("m1"), model(101));
    assert_eq!(place.damage(), []);
    flip(&place.segment(&old, 0), 5);
    assert_eq!(place.damage().len(), 1);
    flip(&place.segment(&old, 0), 5);

    let compacted = compact(&place.store, false, &|_, _| ()).unwrap();
    assert_eq!((compacted.models, compacted.stored_bytes), (3, (308 + 8 + 8) * 1024 + 100));
    assert_eq!(place.gc().files.len(), 3);
    for head in 0..3 {
        let name = format!("m{head}");
        assert_eq!(place.store.manifest(&name, 1).unwrap().format, FORMAT);
        assert_eq!(place.load(&name), model(100 + head));
    }
    assert_eq!(place.damage(), []);
}
