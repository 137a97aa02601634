//! Weights that are mapped where they lie, and a user who cuts their file while they are served: it costs that model, until
//! the file is back, and nobody else.

use std::fs::{File, FileTimes};

use rustix::process::Signal;

use crate::harness::http::{Answer, post};
use crate::harness::{Place, assert_says, eventually, workspace};

const QUESTION: &str = r#"{"inputs":[
    {"name":"input_ids","datatype":"INT64","shape":[1,4],"data":[2,3,4,5]},
    {"name":"attention_mask","datatype":"INT64","shape":[1,4],"data":[1,1,1,1]},
    {"name":"token_type_ids","datatype":"INT64","shape":[1,4],"data":[0,0,1,1]}]}"#;

#[test]
fn a_file_of_weights_that_is_cut_costs_its_model_and_nobody_else() {
    let place = Place::new();
    std::fs::create_dir(place.path("folder")).unwrap();
    for entry in std::fs::read_dir(workspace().join("crates/store/tests/fixtures/hf/bert-qa")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), place.path("folder").join(entry.file_name())).unwrap();
    }
    place.ok("pack folder --store store --name mapped");
    place.ok("pack assets/bert_tiny_qa.onnx --store store --name other");
    let free = "127.0.0.1:0";
    let line = format!("serve --store store --http {free} --grpc {free} --admin {free} --lame-duck-s 0");
    let mut running = place.start(&line);
    let http = running.first_line()["http"].as_str().unwrap().to_owned();
    let ask =
        |model: &str| -> Answer { post(&http, &format!("/v2/models/{model}/infer"), "", QUESTION.as_bytes()).answer() };
    let before = ask("mapped");
    assert_eq!((before.status, ask("other").status), (200, 200), "{}", before.body);

    let path = place.path("folder/model.safetensors");
    let (bytes, written) = (std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap().modified().unwrap());
    File::options().write(true).open(&path).unwrap().set_len(4096).unwrap();
    let cut = ask("mapped");
    assert_eq!(cut.status, 500, "{}", cut.body);
    assert_says(&ask("mapped").body, &["model.safetensors", "pack the model again"]);
    assert_eq!(ask("other").status, 200);

    std::fs::write(&path, &bytes).unwrap();
    File::options().write(true).open(&path).unwrap().set_times(FileTimes::new().set_modified(written)).unwrap();
    let after = eventually("the model again", || Some(ask("mapped")).filter(|answer| answer.status == 200));
    assert_eq!(after.body, before.body);
    running.signal(Signal::TERM);
    let ran = running.end();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}
