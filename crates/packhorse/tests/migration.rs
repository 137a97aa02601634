//! From the packing system's configuration to a server that its clients ask as they did.

use std::path::Path;

use rustix::process::Signal;

use crate::harness::{Place, assert_says, http};

/// A folder with a configuration and, beside it, the model that it names: a tiny one for questions.
fn place(configuration: &str) -> Place {
    let place = Place::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../pipeline/tests/fixtures/text");
    std::fs::create_dir_all(place.path("old/squad")).unwrap();
    for folder in ["models/bert-qa", "tokenizers/wordpiece"] {
        for file in std::fs::read_dir(fixtures.join(folder)).unwrap() {
            let file = file.unwrap();
            std::fs::copy(file.path(), place.path("old/squad").join(file.file_name())).unwrap();
        }
    }
    std::fs::write(place.path("old/config.properties"), configuration).unwrap();
    place
}

const CONFIGURATION: &str = "# the packing system's\nhuggingface_model_name=acme/squad\n\
    huggingface_tokenizer_class=BertTokenizer\nhuggingface_model_class=BertForQuestionAnswering\nprocessor=cpu\n\
    sequence_length=128\nnum_models=3\nservice_port=8080\n";

#[test]
fn what_a_configuration_names_is_served_under_its_old_names() {
    let place = place(CONFIGURATION);
    let ran = place.ok("pack --from old/config.properties --store store");
    let lines = ran.lines();
    assert_eq!(lines[0]["keys"].as_array().unwrap().len(), 7);
    assert_eq!(lines[0]["keys"][4]["fate"], "not-needed");
    let names: Vec<_> = lines[1..].iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["model0", "model1", "model2"]);
    assert_says(&ran.err, &["sequence_length", "not needed", "serve --store store --http 0.0.0.0:8080"]);
    // One set of files, whatever the number of names.
    let files = place.files("store");
    assert_eq!(files.iter().filter(|file| file.starts_with("weights/")).count(), 1, "{files:?}");
    assert_eq!(files.iter().filter(|file| file.starts_with("programs/")).count(), 1, "{files:?}");
    let again = place.ok("pack --from old/config.properties --store store").lines();
    assert!(again[1..].iter().all(|line| line["changed"] == false && line["version"] == 1), "{again:?}");

    let mut server = place.start("serve --store store --http 127.0.0.1:0 --grpc 127.0.0.1:0 --admin 127.0.0.1:0");
    let addresses = server.first_line();
    let address = addresses["http"].as_str().unwrap();
    let ask = |model: &str| {
        let answer =
            http::get(address, &format!("/predictions/{model}?seq_0=Who%20carries%3F&seq_1=A%20horse%20does."));
        (answer.status, answer.json()["detail"].clone())
    };
    let first = ask("model0");
    assert!(first.0 == 200 && first.1.is_string(), "{first:?}");
    assert_eq!((ask("model1"), ask("model2")), (first.clone(), first));
    assert_eq!(ask("model3").0, 404);
    server.signal(Signal::INT);
    assert_eq!(server.end().code, Some(0));
}

#[test]
fn what_is_not_here_is_refused_and_leaves_nothing() {
    let place = place("huggingface_model_name=acme/elsewhere\n");
    let ran = place.run("pack --from old/config.properties --store store");
    assert_eq!((ran.code, &*ran.out), (Some(2), ""), "{}", ran.err);
    assert_says(ran.complaint(), &["old/config.properties", "acme/elsewhere", "hf download"]);
    assert!(!place.path("store").exists());
}
