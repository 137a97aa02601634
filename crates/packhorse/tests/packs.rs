//! Packing and listing, as programs see them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde_json::Value;

use crate::harness::{Place, assert_says, workspace};

const NANODET: &str = "pack assets/nanodet_g_coco80.onnx --store store --name detector --task object-detection --labels assets/coco80.txt --target native";
const PERSON: &str = "pack assets/person_ssdlite_odapi.onnx --store store --name detector --task object-detection --labels assets/person.txt --target native";

/// Every file of the store, and when it was written.
fn written(place: &Place) -> BTreeMap<String, SystemTime> {
    let modified = |file: &String| std::fs::metadata(place.path(&format!("store/{file}"))).unwrap().modified().unwrap();
    place.files("store").into_iter().map(|file| (file.clone(), modified(&file))).collect()
}

/// Name and version of each model that is listed.
fn listed(place: &Place) -> Vec<(String, u64)> {
    let lines = place.ok("models --store store --json").lines();
    lines.iter().map(|line| (line["name"].as_str().unwrap().to_owned(), line["version"].as_u64().unwrap())).collect()
}

#[test]
fn packing_again_changes_nothing_and_another_file_is_the_next_version() {
    let place = Place::new();
    let first = place.ok(NANODET).lines();
    assert_eq!((&first[0]["version"], &first[0]["changed"]), (&1.into(), &true.into()));
    let before = written(&place);
    let again = place.ok(NANODET);
    assert_eq!(again.lines()[0]["changed"], false);
    assert_says(&again.err, &["nothing was written"]);
    assert_eq!(written(&place), before);

    let second = place.ok(PERSON).lines();
    assert_eq!((&second[0]["version"], &second[0]["changed"]), (&2.into(), &true.into()));
    assert_eq!(listed(&place), [("detector".to_owned(), 1), ("detector".to_owned(), 2)]);
    let lines = place.ok("models --store store --json").lines();
    for (line, head) in lines.iter().zip(["nanodet", "odapi"]) {
        assert_eq!(line["task"]["head"], head);
        assert!(line["weight_bytes"].as_u64().unwrap() > 10_000_000 && !line["inputs"].as_array().unwrap().is_empty());
    }
    let table = place.ok("models --store store");
    assert_says(&table.err, &["detector", "nanodet", "odapi"]);
    assert_eq!(table.out, "");

    let before = written(&place);
    let taken = place.run(&format!("{PERSON} --version 1"));
    assert_eq!((taken.code, &*taken.out), (Some(1), ""), "{}", taken.err);
    assert_says(taken.complaint(), &["'detector' version 1", "another --version"]);
    assert_eq!(written(&place), before);
}

#[test]
fn packers_at_once_make_one_model() {
    let place = Place::new();
    let running = [(); 4].map(|()| place.start(NANODET));
    for running in running {
        let ran = running.end();
        match ran.code {
            Some(0) => assert_eq!(ran.lines()[0]["version"], 1),
            // Another packer was faster.
            _ => assert_says(ran.complaint(), &["'detector' version 1 is there"]),
        }
    }
    assert_eq!(listed(&place), [("detector".to_owned(), 1)]);
    let files = place.files("store");
    let folders: Vec<_> = files.iter().map(|file| file.split('/').next().unwrap()).collect();
    assert_eq!(folders, [".lock", "models", "programs", "segments", "weights"], "{files:?}");
    assert_eq!(place.ok(NANODET).lines()[0]["changed"], false);
}

#[test]
fn what_is_no_model_leaves_nothing() {
    let place = Place::new();
    let whole = std::fs::read(place.path("assets/person_ssdlite_odapi.onnx")).unwrap();
    std::fs::write(place.path("half.onnx"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(place.path("empty.onnx"), "").unwrap();
    for file in ["half.onnx", "empty.onnx", "assets/coco80.txt", "assets/street.mp4"] {
        let ran = place.run(&format!("pack {file} --store store"));
        assert_eq!((ran.code, &*ran.out), (Some(1), ""), "{file}: {}", ran.err);
        assert_says(ran.complaint(), &[file]);
        assert_eq!(place.files("store"), [""; 0], "{file}");
    }
}

#[test]
fn many_files_are_packed_in_one_go_and_a_bad_one_stops_none() {
    let place = Place::new();
    for folder in ["models", "models/inner", "more"] {
        std::fs::create_dir(place.path(folder)).unwrap();
    }
    for file in ["models/b.onnx", "models/c.onnx", "models/inner/no.onnx", "more/b.onnx"] {
        std::os::unix::fs::symlink(place.path("assets/bert_tiny_qa.onnx"), place.path(file)).unwrap();
    }
    std::fs::write(place.path("models/a.onnx"), "no model").unwrap();
    std::fs::write(place.path("models/notes.txt"), "no model, and no one says so").unwrap();

    let ran = place.run("pack models assets/nanodet_g_coco80.onnx --store store");
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let names: Vec<_> = ran.lines().iter().map(|line| line["name"].as_str().unwrap().to_owned()).collect();
    assert_eq!(names, ["b", "c", "nanodet_g_coco80"]);
    assert_says(&ran.err, &["models/a.onnx: this is no ONNX model", "1 of 4 files could not be packed"]);
    assert_eq!(listed(&place).len(), 3);
    let programs: Vec<_> = ran.lines().iter().map(|line| line["program"].clone()).collect();
    assert_eq!(programs[0], programs[1], "equal graphs share their program");

    let before = written(&place);
    for (line, says) in [
        ("pack models --store store --name one", &["--name is for one file", "there are 3"][..]),
        ("pack models/b.onnx more/b.onnx --store store", &["models/b.onnx", "more/b.onnx", "--name"]),
        ("pack models none.onnx --store store", &["none.onnx", "no such file"]),
        ("pack store/models --store store", &["store/models", ".onnx"]),
    ] {
        let ran = place.run(line);
        assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{line}: {}", ran.err);
        assert_says(ran.complaint(), says);
    }
    assert_eq!(written(&place), before);
}

#[test]
fn a_tokenizer_that_cannot_be_read_is_told_when_it_is_packed() {
    let place = Place::new();
    std::fs::create_dir(place.path("qa")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        let fixture = workspace().join("crates/store/tests/fixtures/hf/bert-qa").join(file);
        std::fs::copy(fixture, place.path(&format!("qa/{file}"))).unwrap();
    }
    std::fs::write(place.path("qa/tokenizer.json"), "{").unwrap();
    let ran = place.ok("pack qa --store store");
    for told in [&ran.err, &ran.lines()[0]["notes"].to_string()] {
        assert_says(told, &["it takes tensors, and no texts", "tokenizer.json cannot be read"]);
    }
}

#[test]
fn a_folder_with_an_exported_model_says_what_it_is_called_and_for() {
    let place = Place::new();
    let tokenizer = workspace().join("crates/pipeline/tests/fixtures/text/tokenizers/wordpiece/tokenizer.json");
    let pictures = r#"{"size": {"width": 416, "height": 416}, "image_mean": 0.45, "image_std": 0.225}"#;
    for (folder, architecture, model, lies, file, content) in [
        ("squad", "BertForQuestionAnswering", "bert_tiny_qa", "model.onnx", "tokenizer.json", ""),
        ("squad.2", "BertForQuestionAnswering", "bert_tiny_qa", "onnx/model.onnx", "tokenizer.json", ""),
        ("street", "NanoForObjectDetection", "nanodet_g_coco80", "model.onnx", "preprocessor_config.json", pictures),
        ("wrong", "NanoForObjectDetection", "bert_tiny_qa", "model.onnx", "preprocessor_config.json", pictures),
    ] {
        let at = |name: &str| place.path(&format!("{folder}/{name}"));
        std::fs::create_dir_all(at("onnx")).unwrap();
        std::os::unix::fs::symlink(place.path(&format!("assets/{model}.onnx")), at(lies)).unwrap();
        let config =
            format!(r#"{{"architectures": ["{architecture}"], "max_position_embeddings": 512, "pad_token_id": 0}}"#);
        std::fs::write(at("config.json"), config).unwrap();
        match content {
            "" => drop(std::fs::copy(&tokenizer, at(file)).unwrap()),
            _ => std::fs::write(at(file), content).unwrap(),
        }
    }
    let ran = place.ok("pack squad squad.2 street wrong --store store");
    let told: Vec<_> = ran.lines().iter().map(|line| (line["name"].clone(), line["task"]["task"].clone())).collect();
    let (answering, detecting, nothing): (Value, Value, _) =
        ("question-answering".into(), "object-detection".into(), Value::Null);
    assert_eq!(
        told,
        [("squad", &answering), ("squad.2", &answering), ("street", &detecting), ("wrong", &nothing)]
            .map(|(name, task): (_, &Value)| (name.into(), task.clone()))
    );
    assert_says(&ran.err, &["it takes tensors alone", "pictures go into one input", "--task"]);
}
