//! Models that are asked for most: they get a session of their own, answer the same by it, and leave nothing on the disk.

use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::http::{get, post};
use crate::harness::{Place, eventually};

const QUESTION: &str = r#"{"inputs":[
    {"name":"input_ids","datatype":"INT64","shape":[1,8],"data":[101,2054,2003,102,2009,2003,2023,102]},
    {"name":"attention_mask","datatype":"INT64","shape":[1,8],"data":[1,1,1,1,1,1,1,1]},
    {"name":"token_type_ids","datatype":"INT64","shape":[1,8],"data":[0,0,0,0,1,1,1,1]}]}"#;

fn metric(admin: &str, name: &str) -> f64 {
    let text = get(admin, "/metrics").body;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

fn entries(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

fn numbers(answer: &Value) -> Vec<f64> {
    let outputs = answer["outputs"].as_array().unwrap();
    outputs
        .iter()
        .flat_map(|output| output["data"].as_array().unwrap())
        .map(|number| number.as_f64().unwrap())
        .collect()
}

#[test]
fn what_is_asked_for_most_gets_a_session_of_its_own_and_answers_the_same() {
    let place = Place::new();
    place.ok("pack assets/bert_tiny_qa.onnx --store store --name bert");
    let free = "127.0.0.1:0";
    let line =
        format!("serve --store store --http {free} --grpc {free} --admin {free} --lame-duck-s 0 --hot-cache hot");
    let mut running = place.start(&line);
    let bound = running.first_line();
    let [http, admin] = ["http", "admin"].map(|name| bound[name].as_str().unwrap().to_owned());
    let hot = place.path("hot");
    assert_eq!(entries(&hot), 1, "its own folder is made at the start, where somebody named one");
    let ask = || {
        let answer = post(&http, "/v2/models/bert/infer", "", QUESTION.as_bytes()).answer();
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    };
    let before = numbers(&ask());
    assert_eq!(metric(&admin, "packhorse_models_hot"), 0.0);
    eventually("a model that is hot", || {
        (0..500).for_each(|_| drop(ask()));
        (metric(&admin, "packhorse_models_hot") > 0.0).then_some(())
    });
    let after = numbers(&ask());
    let largest = before.iter().fold(0.0f64, |most, number| most.max(number.abs()));
    let off = before.iter().zip(&after).map(|(one, other)| (one - other).abs()).fold(0.0, f64::max);
    assert!(before.len() == after.len() && off <= 1e-5 * largest, "off by {off} of {largest}");
    for (name, least) in
        [(r#"packhorse_promotions_total{outcome="hot"}"#, 1.0), (r#"packhorse_memory_bytes{kind="mapped"}"#, 16e6)]
    {
        assert!(metric(&admin, name) >= least, "{name}");
    }
    // What it runs on has no name.
    let ours = std::fs::read_dir(&hot).unwrap().next().unwrap().unwrap().path();
    assert_eq!(entries(&ours), 0);
    running.signal(Signal::TERM);
    let ran = running.end();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.err.contains("hot model=bert"), "{}", ran.err);
    assert_eq!(entries(&hot), 0);
}

#[test]
fn a_place_that_cannot_be_used_is_refused_at_the_start() {
    let place = Place::new();
    place.ok("pack assets/bert_tiny_qa.onnx --store store --name bert");
    let ran = place.run("serve --store store --hot-cache store/models/bert/1.json");
    assert!(ran.code == Some(2) && ran.err.contains("1.json: cannot be made"), "{:?}, {}", ran.code, ran.err);
}
