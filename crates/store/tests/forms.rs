//! Forms: one model for several CPU targets in one store. This node's own and the portable one are packed and run here; a
//! form for another CPU is one of this node's with its name changed, which is all that a store knows of it.

use std::path::PathBuf;
use std::time::Duration;

use engine::{ErrorKind, Tensor};
use store::manifest::{Form, PORTABLE};
use store::pack::{Packed, Request, Targets, pack};
use store::{Manifest, Store, upkeep};

use crate::{Place, assert_close, asset, onnx, place, plain, request, run, workspace};

const OTHER: &str = "x86_64-another";

fn form(targets: Targets) -> Request {
    Request { targets, ..request(convnet(), "m") }
}

fn targets(manifest: &Manifest) -> Vec<&str> {
    manifest.forms().map(|(program, _)| &program.target[..]).collect()
}

/// scripts/make_convnet.py wrote it.
fn convnet() -> PathBuf {
    workspace().join("crates/store/tests/fixtures/convnet.onnx")
}

fn picture() -> Vec<Tensor> {
    let pixels = (0u32..3 * 16 * 16).map(|at| f32::from((at * 31 % 251) as u8) / 100.0 - 1.0);
    vec![Tensor::from_f32(vec![1, 3, 16, 16], pixels.collect()).unwrap()]
}

/// Makes the form for this node one for another, in the file of version 1, as if it had been packed there.
fn packed_elsewhere(store: &Store) -> Manifest {
    let here = engine::cpu::target();
    let mut manifest = store.manifest("m", 1).unwrap();
    let rename = |form: &mut store::manifest::ProgramRef| {
        if form.target == here {
            let path = |hash: &str| store.root().join(format!("programs/{hash}.onnx"));
            let bytes = std::fs::read(path(&form.hash)).unwrap();
            std::fs::remove_file(path(&form.hash)).unwrap();
            let mut hasher = blake3::Hasher::new();
            hasher.update(OTHER.as_bytes()).update(&[0]).update(&bytes);
            (form.hash, form.target) = (hasher.finalize().to_hex().to_string(), OTHER.to_owned());
            std::fs::write(path(&form.hash), bytes).unwrap();
        }
    };
    rename(&mut manifest.program);
    manifest.others.iter_mut().for_each(|Form { program, .. }| rename(program));
    write(store, &manifest);
    manifest
}

fn write(store: &Store, manifest: &Manifest) {
    let path: PathBuf = store.root().join("models/m/1.json");
    std::fs::write(path, serde_json::to_vec(manifest).unwrap()).unwrap();
}

#[test]
fn both_forms_answer_as_the_file_and_share_what_they_have_in_common() {
    let (onnx, place) = (onnx(), place());
    let here = engine::cpu::target();
    let person = Request { targets: Targets::Both, ..request(asset("person_ssdlite_odapi.onnx"), "p") };
    let Packed { manifest, stored_bytes, .. } = pack(&place.store, &onnx, &person).unwrap();
    let all: u64 = manifest.forms().map(|(_, weights)| weights.bytes).sum();
    assert!(stored_bytes < all, "what is laid out alike is stored once: {stored_bytes} of {all}");

    let Packed { manifest, changed, .. } = pack(&place.store, &onnx, &form(Targets::Both)).unwrap();
    assert!(changed);
    assert_eq!(targets(&manifest), [&here[..], PORTABLE]);

    let want = plain(&onnx, &convnet(), &picture());
    let portable = manifest.clone().on("aarch64-baseline").unwrap();
    assert_eq!(portable.program.target, PORTABLE);
    assert!(portable.falls_back() && !manifest.falls_back());
    assert_ne!(portable.program.hash, manifest.program.hash);
    for manifest in [&manifest, &portable] {
        let got = run(&onnx, &place.store, manifest, &picture());
        assert_close(&got, &want, &manifest.program.target);
    }
    assert!(!pack(&place.store, &onnx, &form(Targets::Both)).unwrap().changed);
}

#[test]
fn a_node_without_its_own_form_runs_the_portable_one_or_is_told_how_to_get_one() {
    let (onnx, place) = (onnx(), place());
    let here = engine::cpu::target();
    for (packed, forms) in [(Targets::Both, &[OTHER, PORTABLE][..]), (Targets::Native, &[OTHER])] {
        pack(&place.store, &onnx, &form(packed)).unwrap();
        let elsewhere = packed_elsewhere(&place.store);
        assert_eq!(targets(&elsewhere), forms);
        match place.store.manifest("m", 1).unwrap().on(&here) {
            Ok(manifest) => assert!(manifest.program.target == PORTABLE && manifest.falls_back(), "{packed:?}"),
            Err(error) => {
                assert_eq!((packed, error.kind), (Targets::Native, ErrorKind::Unsupported));
                for says in [OTHER, &here, "--target portable"] {
                    assert!(error.message.contains(says), "{error}");
                }
            }
        }
        upkeep::remove(&place.store, "m", None).unwrap();
    }
}

#[test]
fn packing_the_same_file_adds_what_is_missing_to_the_version_that_is_there() {
    let (onnx, place) = (onnx(), place());
    let here = engine::cpu::target();
    let mut before = (1, vec![here.clone()]);
    pack(&place.store, &onnx, &form(Targets::Native)).unwrap();
    packed_elsewhere(&place.store);
    for (targets_wanted, first, all) in [
        // As on another node: nothing runs there, and nothing portable is to be had.
        (Targets::Native, &here[..], &[OTHER, &here][..]),
        (Targets::Native, &here, &[OTHER, &here]),
        (Targets::Both, &here, &[OTHER, &here, PORTABLE]),
        (Targets::Portable, &here, &[OTHER, &here, PORTABLE]),
    ] {
        let packed = pack(&place.store, &onnx, &form(targets_wanted)).unwrap();
        let stored = place.store.manifest("m", 1).unwrap();
        let now = (packed.manifest.version, targets(&stored).into_iter().map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(targets(&stored), all, "{targets_wanted:?}");
        assert_eq!(packed.manifest.program.target, first, "{targets_wanted:?}");
        assert_eq!(packed.changed, now != before, "{targets_wanted:?}");
        assert_eq!(packed.notes.iter().any(|note| note.contains("version 1 was there")), packed.changed);
        before = now;
    }
    assert_eq!(place.store.versions("m").unwrap(), [1]);
    // A transformer is the same on every CPU: nothing is missing, whichever node asks.
    let text = request(asset("bert_tiny_qa.onnx"), "t");
    pack(&place.store, &onnx, &text).unwrap();
    for targets in [Targets::Native, Targets::Portable, Targets::Both] {
        assert!(!pack(&place.store, &onnx, &Request { targets, ..text.clone() }).unwrap().changed, "{targets:?}");
    }
}

#[test]
fn a_pack_of_format_2_is_read_gets_its_missing_form_and_is_left_behind_by_compacting() {
    let (onnx, place) = (onnx(), place());
    let manifest = pack(&place.store, &onnx, &form(Targets::Native)).unwrap().manifest;
    let mut old = serde_json::to_value(&manifest).unwrap();
    old["format"] = 2.into();
    assert!(old.as_object_mut().unwrap().remove("per_cpu").is_some());
    std::fs::write(place.store.root().join("models/m/1.json"), old.to_string()).unwrap();
    let read = place.store.manifest("m", 1).unwrap();
    assert_eq!((read.format, read.weights), (2, manifest.weights.clone()));
    upkeep::compact(&place.store, false, &|_, _| ()).unwrap();
    let moved = place.store.manifest("m", 1).unwrap();
    assert_eq!((moved.format, &moved.weights), (3, &manifest.weights));
    let packed = pack(&place.store, &onnx, &form(Targets::Both)).unwrap();
    assert_eq!((packed.changed, packed.manifest.version), (true, 1));
    assert_eq!(targets(&packed.manifest), [&engine::cpu::target()[..], PORTABLE]);
}

/// gc without any grace, when everything is a day old.
fn collect(place: &Place) {
    for file in crate::listing(&place.store).into_keys() {
        let past = std::time::SystemTime::now() - Duration::from_secs(86_400);
        std::fs::File::options().write(true).open(file).unwrap().set_modified(past).unwrap();
    }
    upkeep::collect(&place.store, Duration::ZERO, false).unwrap();
}

/// What the store's files are, by folder.
fn files(place: &Place) -> Vec<usize> {
    let count = |folder| std::fs::read_dir(place.store.root().join(folder)).unwrap().count();
    ["programs", "segments", "weights"].map(count).into()
}

#[test]
fn every_form_is_kept_verified_and_removed() {
    let (onnx, place) = (onnx(), place());
    let manifest = pack(&place.store, &onnx, &form(Targets::Both)).unwrap().manifest;
    assert_eq!(files(&place), [2, 2, 1]);
    collect(&place);
    assert_eq!(files(&place), [2, 2, 1], "gc keeps what any form needs");
    let damage = || upkeep::verify(&place.store, 2, &|_, _| ()).unwrap().damage;
    assert_eq!(damage(), []);

    // What only the second form needs is damaged, and mended.
    let program = place.store.root().join(format!("programs/{}.onnx", manifest.others[0].program.hash));
    let segments = &manifest.others[0].weights.segments;
    let own = segments.iter().find(|segment| !manifest.weights.segments.iter().any(|other| other.hash == segment.hash));
    let segment = place.store.root().join(format!("segments/{}.seg", own.unwrap().hash));
    for path in [&program, &segment] {
        let whole = std::fs::read(path).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() - 20] ^= 1;
        std::fs::write(path, flipped).unwrap();
        assert_eq!(damage().len(), 1, "{}", path.display());
        std::fs::write(path, whole).unwrap();
    }

    upkeep::remove(&place.store, "m", None).unwrap();
    collect(&place);
    assert_eq!(files(&place), [0, 0, 0]);
}
