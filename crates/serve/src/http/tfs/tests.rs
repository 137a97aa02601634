//! The paths in front of models that give back what they got.

use serde_json::Value;

use super::*;
use crate::Control;
use crate::fixture::served;

/// One exchange; the body is empty for a GET.
async fn exchange(scheduler: &Scheduler, method: &str, path: &str, body: &str) -> (u16, String) {
    exchange_with(scheduler, method, path, &[], body).await
}

async fn exchange_with(
    scheduler: &Scheduler,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String) {
    let request = http::Request::builder().method(method).uri(path);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let (head, ()) = request.body(()).unwrap().into_parts();
    let body = Bytes::copy_from_slice(body.as_bytes());
    assert!(claims(path), "{path}");
    let limits = HttpLimits::default();
    let response = try_answer(scheduler, &limits, &head, Instant::now(), body, Origin::default()).await.unwrap();
    let status = response.status().as_u16();
    (status, String::from_utf8(response.into_body().concat()).unwrap())
}

#[tokio::test]
async fn inference() {
    let served = served(Control::None);
    for (path, body, status, want) in [
        ("pixels:predict", r#"{"instances":[[1,2],[3,4]]}"#, 200, r#"{"predictions":[[1,2],[3,4]]}"#),
        ("pixels:predict", r#"{"instances":[{"x":[1]},{"x:0":[2]}]}"#, 200, r#"{"predictions":[[1],[2]]}"#),
        ("pixels/versions/2:predict", r#"{"inputs":{"x":[[1]]}}"#, 200, r#"{"outputs":[[1]]}"#),
        ("pixels/versions/3:predict", r#"{"inputs":[[1]]}"#, 404, "it has 2, 10"),
        ("pixels/labels/stable:predict", r#"{"inputs":[[1]]}"#, 404, "no labels are configured"),
        ("pixels:predict", r#"{"instances":[1]}"#, 400, "wants shape [-1, -1]"),
        ("pixels:predict", r#"{"instances":[[1],[2,3]]}"#, 400, "uneven"),
        ("pixels:predict", "{", 400, "no JSON"),
        ("pixels:explain", "{}", 501, "no explainer"),
        ("nobody:predict", "{}", 404, "'nobody' is not in the store"),
        (
            "two:predict",
            r#"{"instances":[{"a":[1,NaN],"b":3},{"a":[0.5,-Infinity],"b":4}]}"#,
            200,
            r#"{"predictions":[{"scores":[1.0,NaN],"value":3.0},{"scores":[0.5,-Infinity],"value":4.0}]}"#,
        ),
        ("two:predict", r#"{"instances":[{"a":[1,2]}]}"#, 400, "row 0: input 'b' is missing"),
        (
            "words:predict",
            r#"{"instances":["a",{"b64":"/w=="}]}"#,
            200,
            r#"{"predictions":[{"b64":"YQ=="},{"b64":"/w=="}]}"#,
        ),
        ("uneven:predict", r#"{"inputs":{"p":[1],"q":[1,2]}}"#, 200, r#"{"outputs":{"p":[1.0],"q":[1.0,2.0]}}"#),
        ("uneven:predict", r#"{"instances":[{"p":1,"q":2}]}"#, 200, r#"{"predictions":[{"p":1.0,"q":2.0}]}"#),
        (
            "two:classify",
            r#"{"context":{"b":7},"examples":[{"a":[0.25,0.75]},{"a":[1,0],"b":8}]}"#,
            200,
            r#"{"results":[[["0",0.25],["cat",0.75]],[["0",1.0],["cat",0.0]]]}"#,
        ),
        ("two:regress", r#"{"examples":[{"a":[0,1],"b":8}]}"#, 200, r#"{"results":[8.0]}"#),
        ("two:classify", r#"{"examples":[{"a":[0,1]}]}"#, 400, "example 0 has no feature 'b'"),
        ("pixels:classify", r#"{"examples":[{"x":[0,1]}]}"#, 400, "does not classify"),
        ("pixels:regress", r#"{"examples":[{"x":[0,1]}]}"#, 400, "does not regress"),
    ] {
        let (got, text) = exchange(&served.scheduler, "POST", &format!("/v1/models/{path}"), body).await;
        assert_eq!(got, status, "{path} {body}: {text}");
        if status == 200 {
            assert_eq!(text, want);
        } else {
            let text: Value = serde_json::from_str(&text).unwrap();
            let error = text["error"].as_str().unwrap();
            assert!(error.contains(want), "{path} {body}: '{error}' does not say '{want}'");
        }
    }
}

#[tokio::test]
async fn deadlines_in_the_head() {
    let served = served(Control::None);
    let call = (r#"{"instances":[[1]]}"#, r#"{"examples":[{"a":[0,1],"b":8}]}"#);
    for (path, body) in [("pixels:predict", call.0), ("two:classify", call.1), ("two:regress", call.1)] {
        for (header, status) in [
            (("grpc-timeout", "60S"), 200),
            (("grpc-timeout", "0m"), 504),
            (("grpc-timeout", "soon"), 400),
            (("x-envoy-expected-rq-timeout-ms", "60000"), 200),
            (("x-envoy-expected-rq-timeout-ms", "-1"), 400),
        ] {
            let path = format!("/v1/models/{path}");
            let (got, text) = exchange_with(&served.scheduler, "POST", &path, &[header], body).await;
            assert_eq!(got, status, "{path} {header:?}: {text}");
        }
    }
}

#[tokio::test]
async fn what_is_told() {
    let served = served(Control::None);
    let told = async |method, path, status| {
        let (got, text) = exchange(&served.scheduler, method, path, "").await;
        assert_eq!(got, status, "{path}: {text}");
        text
    };
    let json = async |path, status| serde_json::from_str::<Value>(&told("GET", path, status).await).unwrap();
    assert_eq!(told("GET", "/", 200).await, r#"{"Status":"Healthy"}"#);
    assert!(told("GET", "/monitoring/prometheus/metrics", 200).await.contains("packhorse"));
    assert_eq!(json("/v1/models", 200).await, json!({"models": ["pixels", "two", "uneven", "words"]}));
    let version = |version: &str| json!({"version": version, "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}});
    let status = json!({"name": "pixels", "ready": true, "model_version_status": [version("10"), version("2")]});
    assert_eq!(json("/v1/models/pixels", 200).await, status);
    assert_eq!(json("/V1/models/pixels/Versions/2", 200).await["model_version_status"], json!([version("2")]));
    assert!(json("/v1/models/pixels/versions/3", 404).await["error"].is_string());
    let metadata = json("/v1/models/pixels/metadata", 200).await;
    let spec = json!({"name": "pixels", "signature_name": "", "version": "10"});
    assert_eq!(metadata["model_spec"], spec);
    let shape = json!({"dim": [{"size": "-1", "name": ""}, {"size": "-1", "name": ""}], "unknown_rank": false});
    let input = &metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]["x"];
    assert_eq!(*input, json!({"dtype": "DT_UINT8", "tensor_shape": shape, "name": "x:0"}));
    for (method, path, status, key) in [
        ("GET", "/predictions/nobody", 404, "detail"),
        ("GET", "/predictions/pixels", 400, "detail"),
        ("POST", "/predictions/pixels", 400, "detail"),
        ("PUT", "/predictions/pixels", 405, "error"),
        ("POST", "/", 405, "error"),
        ("GET", "/v1/models/pixels:predict", 405, "error"),
        ("POST", "/v1/models/pixels", 405, "error"),
        ("GET", "/v1/models/pixels/else", 404, "error"),
    ] {
        let text = told(method, path, status).await;
        let text: Value = serde_json::from_str(&text).unwrap();
        assert!(text[key].is_string(), "{method} {path}: {text}");
    }
}

#[tokio::test]
async fn a_model_that_is_not_loaded_is_not_ready() {
    let served = served(Control::Explicit);
    let (status, text) = exchange(&served.scheduler, "GET", "/v1/models/two", "").await;
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &told["ready"]), (503, &json!(false)));
    assert_eq!(told["model_version_status"][0]["state"], json!("END"));
}
