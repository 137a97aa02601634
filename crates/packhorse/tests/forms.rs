//! A store that was packed on nodes with another CPU: what runs here in its portable form is served and named, what cannot
//! run here is refused with the reason, and packing the same file here mends both.

use rustix::process::Signal;

use crate::harness::http::{get, post};
use crate::harness::{Place, assert_says, workspace};

const ELSEWHERE: &str = "x86_64-another";

/// Renames the targets of this node in the manifest of `model`, as if it had been packed elsewhere.
fn packed_elsewhere(place: &Place, model: &str) {
    let path = place.path(&format!("store/models/{model}/1.json"));
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let target = manifest.pointer_mut("/program/target").unwrap();
    assert_eq!(*target, engine::cpu::target(), "packing puts the form for this node first");
    *target = ELSEWHERE.into();
    std::fs::write(path, manifest.to_string()).unwrap();
}

fn infer(http: &str, model: &str) -> (u16, String) {
    let data = vec!["0.5"; 3 * 16 * 16].join(",");
    let body = format!(r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,3,16,16],"data":[{data}]}}]}}"#);
    let answer = post(http, &format!("/v2/models/{model}/infer"), "", body.as_bytes()).answer();
    (answer.status, answer.body)
}

#[test]
fn a_node_of_another_kind_serves_what_it_can_and_says_what_it_lacks() {
    let place = Place::new();
    std::fs::copy(workspace().join("crates/store/tests/fixtures/convnet.onnx"), place.path("m.onnx")).unwrap();
    for (model, target) in [("both", "both"), ("alone", "native"), ("any", "portable")] {
        let packed = place.ok(&format!("pack m.onnx --store store --name {model} --target {target}")).lines();
        let here = if target == "portable" { "portable".to_owned() } else { engine::cpu::target() };
        assert_eq!(packed[0]["target"], here, "{target}");
    }
    packed_elsewhere(&place, "both");
    packed_elsewhere(&place, "alone");

    let listed = place.ok("models --store store");
    assert_says(&listed.err, &["slower here, in the portable form: 1 model;", "not to be run here", ELSEWHERE]);
    let lines = place.ok("models --store store --json").lines();
    let told = |model: &str| lines.iter().find(|line| line["name"] == model).unwrap();
    assert_eq!((&told("both")["target"], &told("both")["falls_back"]), (&"portable".into(), &true.into()));
    assert_eq!(told("both")["targets"], serde_json::json!(["portable", ELSEWHERE]));
    assert_eq!((&told("alone")["target"], &told("any")["falls_back"]), (&serde_json::Value::Null, &false.into()));

    let free = "127.0.0.1:0";
    let line = format!("serve --store store --http {free} --grpc {free} --admin {free} --lame-duck-s 0");
    let mut running = place.start(&line);
    let bound = running.first_line();
    let [http, admin] = ["http", "admin"].map(|name| bound[name].as_str().unwrap());
    let ((both, answer), (any, same)) = (infer(http, "both"), infer(http, "any"));
    assert_eq!((both, any), (200, 200), "{answer}");
    assert_eq!(answer.replace("both", "any"), same, "the same form of the same file");
    let (status, refusal) = infer(http, "alone");
    assert!(status >= 400, "{refusal}");
    assert_says(&refusal, &[ELSEWHERE, &engine::cpu::target(), "pack the same file again here"]);
    assert_says(&get(admin, "/metrics").body, &["packhorse_models_portable 1\n"]);
    running.signal(Signal::TERM);
    let ran = running.end();
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert_says(&ran.err, &["portable form, which is slower", "both version 1", ELSEWHERE]);

    for model in ["both", "alone"] {
        let packed = place.ok(&format!("pack m.onnx --store store --name {model} --target native")).lines();
        assert_eq!((&packed[0]["version"], &packed[0]["changed"]), (&1.into(), &true.into()), "{model}");
        assert_eq!(packed[0]["target"], engine::cpu::target(), "{model}");
    }
    let listed = place.ok("models --store store");
    assert!(!listed.err.contains("here"), "{}", listed.err);
}

#[test]
fn mending_keeps_the_forms_that_are_whole_and_tells_of_those_that_are_not() {
    let place = Place::new();
    std::fs::copy(workspace().join("crates/store/tests/fixtures/convnet.onnx"), place.path("m.onnx")).unwrap();
    let pack = |target: &str| place.ok(&format!("pack m.onnx --store store --target {target}")).lines().remove(0);
    let lose = |form: &str| {
        let manifest = std::fs::read(place.path("store/models/m/1.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let hash = manifest.pointer(form).unwrap().as_str().unwrap();
        std::fs::remove_file(place.path(&format!("store/programs/{hash}.onnx"))).unwrap();
    };
    let both = serde_json::json!([engine::cpu::target(), "portable"]);
    assert_eq!(pack("both")["targets"], both);
    lose("/program/hash");
    let mended = pack("native");
    assert_eq!((&mended["version"], &mended["changed"], &mended["targets"]), (&1.into(), &true.into(), &both));
    place.ok("verify --store store");
    lose("/others/0/program/hash");
    let mended = pack("native");
    assert_eq!((&mended["version"], &mended["targets"]), (&1.into(), &serde_json::json!([engine::cpu::target()])));
    assert_says(&mended["notes"].to_string(), &["it is whole again", "its form for portable is gone"]);
    place.ok("verify --store store");
    assert_eq!(pack("both")["targets"], both);
}
