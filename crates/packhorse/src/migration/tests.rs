//! Configurations as the packing system's users have them, and what their keys come to.

use std::fs;
use std::path::Path;

use engine::ErrorKind;

use super::*;

/// Every key that the packing system knows.
const WHOLE: &str = r#"#!/bin/bash
# Model settings
huggingface_model_name=acme/squad
huggingface_tokenizer_class=BertTokenizer
huggingface_model_class=BertForQuestionAnswering

# Compiler settings
processor=inf1
pipeline_cores=1
sequence_length=128
batch_size=1
test=True

registry=123456789012.dkr.ecr.${region}.amazonaws.com/
region=us-west-2
runtime=kubernetes
num_models=3   # per server
quiet=True
postprocess="True"
service_port=8090
instance_type=inf1.xlarge
num_servers=2
namespace=mpi
app_name=${huggingface_model_name}-${processor}
request_frequency=0.01
num_requests=30
num_test_containers=1
test_instance_type=c5.xlarge
test_namespace=mpi
colour=blue
"#;

/// A folder with a configuration and the model `squad`, a `class`.
fn place(configuration: &str, class: &str) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("config.properties"), configuration).unwrap();
    model(&place.path().join("squad"), class);
    place
}

fn model(folder: &Path, class: &str) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), format!(r#"{{"architectures": ["{class}"]}}"#)).unwrap();
    fs::write(folder.join("model.safetensors"), "").unwrap();
}

fn read_in(place: &Path) -> Result<Migration> {
    read(&place.join("config.properties"), &Places { caches: vec![place.join("hub")] })
}

#[test]
fn every_key_is_told_what_becomes_of_it() {
    let place = place(WHOLE, "BertForQuestionAnswering");
    let Migration { folder, names, keys, flags } = read_in(place.path()).unwrap();
    assert_eq!(folder, place.path().join("squad"));
    assert_eq!(names, ["model0", "model1", "model2"]);
    assert_eq!(flags, "--http 0.0.0.0:8090 --log-level warn");
    let lines = WHOLE.lines().filter(|line| line.contains('=') && !line.starts_with('#')).count();
    assert_eq!(keys.len(), lines);
    let fate = |name: &str| keys.iter().find(|key| key.key == name).map(|key| key.fate);
    for (name, want) in [
        ("huggingface_model_name", Fate::Kept),
        // There is no tokenizer.json.
        ("huggingface_tokenizer_class", Fate::CannotBe),
        ("processor", Fate::CannotBe),
        ("sequence_length", Fate::NotNeeded),
        ("batch_size", Fate::Replaced),
        ("num_models", Fate::Kept),
        ("service_port", Fate::Replaced),
        ("test_namespace", Fate::Replaced),
        ("colour", Fate::Unknown),
    ] {
        assert_eq!(fate(name), Some(want), "{name}");
    }
    assert_eq!(keys.iter().filter(|key| key.fate == Fate::Unknown).count(), 1);
    assert!(keys.iter().all(|key| !key.says.is_empty()));
    let value = |name: &str| keys.iter().find(|key| key.key == name).map(|key| key.value.clone()).unwrap();
    assert_eq!(value("app_name"), "acme/squad-inf1");
    // What comes later in the file is not known yet, as in a shell.
    assert_eq!(value("registry"), "123456789012.dkr.ecr.${region}.amazonaws.com/");
    assert_eq!((value("postprocess"), value("num_models")), ("True".to_owned(), "3".to_owned()));
}

#[test]
fn what_is_kept_by_the_libraries_is_found() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("config.properties"), "huggingface_model_name=acme/qa\nnum_models=1\n").unwrap();
    let kept = place.path().join("hub/models--acme--qa");
    model(&kept.join("snapshots/abc"), "BertForQuestionAnswering");
    let missing = read_in(place.path()).unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotFound);
    assert!(missing.message.contains("hf download acme/qa --local-dir qa"), "{missing}");
    fs::create_dir_all(kept.join("refs")).unwrap();
    fs::write(kept.join("refs/main"), "abc\n").unwrap();
    assert_eq!(read_in(place.path()).unwrap().folder, kept.join("snapshots/abc"));
}

#[test]
fn what_cannot_be_packed_is_refused_by_key() {
    let named = "huggingface_model_name=squad\n";
    for (configuration, says) in [
        (String::new(), "'huggingface_model_name' is missing"),
        ("huggingface_model_name=\n".to_owned(), "'huggingface_model_name' is missing"),
        (format!("{named}num_models=many"), "'num_models' is 'many'"),
        (format!("{named}num_models=0"), "'num_models' is '0'"),
        (format!("{named}service_port=99999"), "'service_port' is '99999'"),
        (format!("{named}processor=abacus"), "'processor' is 'abacus'"),
        (format!("{named}echo hello"), "line 2"),
        (format!("{named}huggingface_model_class=BertForQuestionAnswering"), "a BertForMaskedLM"),
    ] {
        let place = place(&configuration, "BertForMaskedLM");
        let error = read_in(place.path()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidInput, "{configuration}");
        assert!(error.message.contains(says), "{configuration}: {error}");
    }
}

#[test]
fn nothing_of_a_configuration_is_run() {
    let place = place("huggingface_model_name=squad\nregion=$(touch run)\nnote='${region} # kept'\n", "BertModel");
    let keys = read_in(place.path()).unwrap().keys;
    assert_eq!((&*keys[1].value, &*keys[2].value), ("$(touch run)", "${region} # kept"));
    assert!(!place.path().join("run").exists());
}
