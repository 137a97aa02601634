//! Text in, answers out: from the terminal and from the server, the same.

use std::process::Stdio;

use rustix::process::Signal;

use crate::harness::{Place, assert_says, http};

/// The real sentence-embedding model that the set-up fetches, as `minilm`.
fn place() -> Place {
    let place = Place::new();
    let folder = std::path::absolute(concat!(env!("CARGO_MANIFEST_DIR"), "/../../.cache/all-minilm-l6-v2")).unwrap();
    assert!(folder.join("tokenizer.json").is_file(), "'scripts/setup.sh test' fetches the model");
    std::os::unix::fs::symlink(folder, place.path("all-minilm-l6-v2")).unwrap();
    place.ok("pack all-minilm-l6-v2 --store store --name minilm");
    place.ok("pack assets/bert_tiny_qa.onnx --store store --name tensors");
    place
}

#[test]
fn a_text_gets_the_same_answer_from_the_terminal_and_from_the_server() {
    let place = place();
    let typed = place.ok("predict minilm --store store --text Hello --json").lines();
    let vector = typed[0].as_array().unwrap();
    assert_eq!(vector.len(), 384);
    let mut command = place.packhorse("predict minilm --store store --text -");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"Hello").unwrap();
    let piped = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert_eq!(piped.split_whitespace().count(), 384);

    let mut server = place.start("serve --store store --http 127.0.0.1:0 --grpc 127.0.0.1:0 --admin 127.0.0.1:0");
    let addresses = server.first_line();
    let address = addresses["http"].as_str().unwrap();
    for (path, body) in [
        ("/predictions/minilm", r#"{"text": "Hello"}"#),
        ("/predictions/minilm", r#"{"inputs": "Hello", "parameters": {"truncate": false}}"#),
        ("/predictions/minilm", r#""Hello""#),
    ] {
        let answer = http::post(address, path, "content-type: application/json\r\n", body.as_bytes()).answer();
        assert_eq!((answer.status, &answer.json()["detail"]), (200, &typed[0]), "{body}: {}", answer.body);
    }
    let part = "--b\r\ncontent-disposition: form-data; name=\"text\"\r\n\r\nHello\r\n--b--\r\n";
    for (kind, body) in [
        ("text/plain", "Hello"),
        ("application/x-www-form-urlencoded", "text=%48ello&truncate=false"),
        ("application/x-www-form-urlencoded", r#"{"text": "Hello", "truncate": false}"#),
        ("multipart/form-data; boundary=b", part),
    ] {
        let head = format!("content-type: {kind}\r\n");
        let answer = http::post(address, "/predictions/minilm?truncate=false", &head, body.as_bytes()).answer();
        assert_eq!((answer.status, &answer.json()["detail"]), (200, &typed[0]), "{kind}: {}", answer.body);
    }
    assert_eq!(http::get(address, "/predictions/minilm?seq_0=Hello").json()["detail"], typed[0]);
    let several =
        http::post(address, "/predictions/minilm", "", br#"{"inputs": ["Hello", {"text": "Hello"}]}"#).answer();
    assert_eq!(several.json()["detail"], serde_json::json!([typed[0], typed[0]]));

    assert_same_by_every_api(address, &typed[0]);
    assert_refused(address);
    server.signal(Signal::INT);
    assert_eq!(server.end().code, Some(0));
}

/// That what is refused is refused by name.
fn assert_refused(address: &str) {
    let long = format!(r#"{{"text": "{}"}}"#, "a ".repeat(6 << 20));
    for (path, body, status, says) in [
        ("/predictions/minilm", "{}", 400, "'text' (and 'text_pair') is missing"),
        ("/predictions/minilm", r#"{"text": ""}"#, 400, "the text is empty"),
        ("/predictions/minilm", r#"{"text": "Hello", "top_k": 3}"#, 400, "no option 'top_k'"),
        ("/predictions/minilm", r#"{"inputs": ["Hello", 3]}"#, 400, "input 1: an input is a number"),
        ("/predictions/minilm", "{", 400, "the body is no JSON"),
        ("/predictions/minilm?top_k=3", r#"{"text": "Hello"}"#, 400, "no option 'top_k'"),
        ("/predictions/minilm?truncate=%ff", r#"{"text": "Hello"}"#, 400, "'%ff' is no UTF-8 text"),
        ("/predictions/minilm", &long, 400, "bytes"),
        ("/predictions/tensors", r#"{"text": "Hello"}"#, 400, "declares no task"),
        ("/predictions/nobody", r#"{"text": "Hello"}"#, 404, "nobody"),
    ] {
        let answer = http::post(address, path, "", body.as_bytes()).answer();
        assert_eq!(answer.status, status, "{}", answer.body);
        assert_says(answer.json()["detail"].as_str().unwrap(), &[says]);
    }
    for (body, status, says) in [
        (r#"{"model": "nobody", "input": "a"}"#, 404, "nobody"),
        (r#"{"model": "tensors", "input": "a"}"#, 400, "declares no task"),
        (r#"{"model": "minilm"}"#, 400, "input"),
        (r#"{"model": "minilm", "input": []}"#, 400, "0 inputs"),
        (r#"{"model": "minilm", "input": {"b64": "YWJj"}}"#, 400, "must be a text"),
        (r#"{"model": "minilm", "input": [99999999]}"#, 400, "token"),
    ] {
        let answer = http::post(address, "/v1/embeddings", "", body.as_bytes()).answer();
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
        assert_says(answer.json()["error"]["message"].as_str().unwrap(), &[says]);
    }
    let picture = br#"{"instances": [{"b64": "YWJj"}]}"#;
    let picture = http::post(address, "/v1/models/minilm:predict", "", picture).answer();
    assert_eq!(picture.status, 400);
    assert_says(picture.json()["error"].as_str().unwrap(), &["row 0", "takes text"]);
    let invalid = http::post(address, "/predictions/minilm", "", b"\"\xff\"").answer();
    assert_eq!(invalid.status, 400);
}

/// That 'Hello' is answered with `vector` however it is asked.
fn assert_same_by_every_api(address: &str, vector: &serde_json::Value) {
    let many = serde_json::json!([vector, vector]);
    for (path, body, key, want) in [
        ("/v1/models/minilm:predict", r#"{"instances": ["Hello", {"text": "Hello"}]}"#, "predictions", &many),
        ("/v1/models/minilm:predict", r#"{"inputs": {"text": ["Hello", "Hello"]}}"#, "outputs", &many),
    ] {
        let answer = http::post(address, path, "", body.as_bytes()).answer();
        assert_eq!((answer.status, &answer.json()[key]), (200, want), "{body}: {}", answer.body);
    }
    let body = br#"{"inputs": [{"name": "text", "datatype": "BYTES", "shape": [2], "data": ["Hello", "Hello"]}]}"#;
    let tensors = http::post(address, "/v2/models/minilm/infer", "", body).answer().json();
    assert_eq!(tensors["outputs"][0]["name"], "answers", "{tensors}");
    for told in tensors["outputs"][0]["data"].as_array().unwrap() {
        assert_eq!(serde_json::from_str::<serde_json::Value>(told.as_str().unwrap()).unwrap(), *vector);
    }
    let body = br#"{"model": "minilm", "input": ["Hello", "Hello"]}"#;
    let embedded = http::post(address, "/v1/embeddings", "", body).answer().json();
    assert_eq!(embedded["data"][1]["embedding"], *vector, "{embedded}");
    assert_eq!(embedded["usage"]["prompt_tokens"], 6);
}

#[test]
fn vectors_are_shortened_where_their_model_says_that_they_may_be() {
    let place = place();
    std::fs::create_dir(place.path("short")).unwrap();
    for entry in std::fs::read_dir(place.path("all-minilm-l6-v2")).unwrap() {
        let entry = entry.unwrap();
        std::os::unix::fs::symlink(entry.path(), place.path("short").join(entry.file_name())).unwrap();
    }
    let path = place.path("short/config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["is_matryoshka"] = true.into();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, config.to_string()).unwrap();
    place.ok("pack short --store store");
    let vector = |line: &str| -> Vec<f64> {
        let told = place.ok(&format!("predict short --store store --text Hello --json {line}")).lines().remove(0);
        serde_json::from_value(told).unwrap()
    };
    let (whole, short) = (vector(""), vector("--option dimensions=8"));
    let length = whole[..8].iter().map(|value| value * value).sum::<f64>().sqrt();
    assert_eq!((whole.len(), short.len()), (384, 8));
    assert!(whole.iter().zip(&short).all(|(whole, short)| (whole / length - short).abs() < 1e-5));
    assert_eq!(vector("--option dimensions=384"), whole);
    let ran = place.run("predict short --store store --text Hello --option dimensions=385");
    assert_eq!(ran.code, Some(1));
    assert_says(ran.complaint(), &["'dimensions' is 385", "384"]);
}

#[test]
fn what_cannot_be_asked_is_told() {
    let place = place();
    for (line, code, says) in [
        ("predict minilm --store store", 2, "give --text"),
        ("predict nobody --store store --text a", 2, "nobody"),
        ("predict tensors --store store --text a", 1, "declares no task"),
        ("predict minilm --store store --image minilm", 2, "cannot be read"),
        ("predict minilm --store store --text a --option dimensions=3", 1, "'dimensions'"),
        ("predict minilm --store store --text a --version 9", 2, "none of the versions"),
    ] {
        let ran = place.run(line);
        assert_eq!((ran.code, &*ran.out), (Some(code), ""), "{line}: {}", ran.err);
        assert_says(ran.complaint(), &[says]);
    }
}
