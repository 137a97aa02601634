//! The REST APIs as OpenAPI documents, one for what listener serves which calls. The calls are in `calls.rs`, the forms of
//! bodies in `forms.json`; tests hold both against the router and a fuzzer against a running server.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use super::body;
use super::{Parts, calls};
use calls::{CALLS, Call, Takes};

/// Which listener is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Listener {
    /// That of the APIs; the one for management takes the same calls, and allows more of them.
    Inference,
    /// That of probes and metrics.
    Admin,
}

/// Bodies that several calls share, by name.
const FORMS: &str = include_str!("forms.json");

/// What every API answers when it does not answer.
const WHY: [(u16, &str); 14] = [
    (400, "The request is not what it must be; the message names what, and the fix."),
    (403, "This listener does not change the server."),
    (404, "There is no such model, version or path."),
    (408, "The body did not come."),
    (409, "Something else holds the name."),
    (413, "The body is too large."),
    (415, "The body's coding is not served."),
    (429, "Too many wait, or there is no memory at present; Retry-After says when to come back."),
    (499, "The client has gone."),
    (500, "The server's own fault; its log says more."),
    (501, "This is not served here; the message says what is."),
    (503, "Not at present: it starts, drains or fetches the model; Retry-After says when to come back."),
    (504, "The request's deadline passed."),
    (405, "The path does not take the method; Allow says which it takes."),
];

/// The document of what `listener` serves.
pub(crate) fn document(listener: Listener) -> Response<Parts> {
    static INFERENCE: LazyLock<Bytes> = LazyLock::new(|| text(Listener::Inference));
    static ADMIN: LazyLock<Bytes> = LazyLock::new(|| text(Listener::Admin));
    let text = match listener {
        Listener::Inference => &INFERENCE,
        Listener::Admin => &ADMIN,
    };
    body::response(StatusCode::OK, "application/json", Bytes::clone(text))
}

fn text(listener: Listener) -> Bytes {
    told(listener).to_string().into()
}

fn told(listener: Listener) -> Value {
    let (title, description) = match listener {
        Listener::Inference => (
            "Packhorse",
            "Models by the protocols that clients already speak. HEAD is answered wherever GET is, but under \
             /predictions. A traceparent joins a trace; grpc-timeout is a deadline.",
        ),
        Listener::Admin => ("Packhorse, probes and metrics", "What answers while everything else is busy."),
    };
    let mut paths = Map::new();
    for call in CALLS.iter().filter(|call| call.listeners.contains(&listener)) {
        for path in call.paths {
            let entry = paths.entry(*path).or_insert_with(|| json!({}));
            entry[call.method] = operation(call, path);
        }
    }
    // The file is part of the program, and the tests read it.
    let forms: Value = serde_json::from_str(FORMS).unwrap_or_default();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": title,
            "description": description,
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "paths": paths,
        "components": { "schemas": forms },
    })
}

fn operation(call: &Call, path: &str) -> Value {
    let mut parameters: Vec<Value> = names(path).map(in_path).collect();
    parameters.extend(call.query.iter().map(
        |(name, says)| json!({ "name": name, "in": "query", "description": says, "schema": { "type": "string" } }),
    ));
    let answer = |kinds: &[(&str, &str)]| {
        let of = |(kind, form): &(&str, &str)| ((*kind).to_owned(), json!({ "schema": form_of(form) }));
        kinds.iter().map(of).collect::<Map<_, _>>()
    };
    let mut responses = Map::new();
    responses.insert("200".to_owned(), json!({ "description": "As asked.", "content": answer(call.answers) }));
    for (status, why) in WHY.iter().filter(|(status, _)| *status == 405 || call.refusals().contains(status)) {
        // A probe says no in the form in which it says yes.
        let form = call.negative.filter(|(negative, _)| negative == status).map_or(call.refusal, |(_, form)| form);
        let content = answer(&[("application/json", form)]);
        responses.insert(status.to_string(), json!({ "description": why, "content": content }));
    }
    let id: String = path.chars().filter(|char| !"{}".contains(*char)).collect();
    let mut told = json!({
        "operationId": format!("{} {id}", call.method),
        "summary": call.says,
        "tags": [call.tag],
        "parameters": parameters,
        "responses": responses,
    });
    if let Takes::Body { required, kinds } = &call.takes {
        told["requestBody"] = json!({ "required": required, "content": answer(kinds) });
    }
    told
}

/// A form by its name in [`FORMS`], anything, or text.
fn form_of(name: &str) -> Value {
    match name {
        "anything" => json!({}),
        "text" => json!({ "type": "string" }),
        "bytes" => json!({ "type": "string", "format": "binary" }),
        name => json!({ "$ref": format!("#/components/schemas/{name}") }),
    }
}

/// The names in braces of a path.
fn names(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name)
}

fn in_path(name: &str) -> Value {
    let schema = match name {
        "version" => json!({ "type": "integer", "minimum": 1, "maximum": 4_294_967_295u32 }),
        _ => json!({ "type": "string", "minLength": 1 }),
    };
    json!({ "name": name, "in": "path", "required": true, "schema": schema })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use http::Method;

    use super::*;
    use crate::http::tfs;
    use crate::http::{Route, route};

    /// Which variant `route` is. A new one does not compile before it has a number here, and is looked for in the document.
    fn kind(route: &Route) -> usize {
        match route {
            Route::Live => 0,
            Route::Ready => 1,
            Route::Ping => 2,
            Route::Server => 3,
            Route::Models => 4,
            Route::Model(_) => 5,
            Route::ModelReady(_) => 6,
            Route::Infer(_) => 7,
            Route::Embeddings => 8,
            Route::Config(_) => 9,
            Route::Statistics(_) => 10,
            Route::RepositoryIndex => 11,
            Route::RepositoryChange(..) => 12,
            Route::LogSettings => 13,
            Route::LogChange => 14,
            Route::MemoryStatus(_) => 15,
            Route::MemoryRegister(_) => 16,
            Route::MemoryUnregister(_) => 17,
            Route::Document => 18,
        }
    }
    const KINDS: usize = 19;

    /// `path` with every parameter filled in.
    fn filled(path: &str) -> String {
        path.replace("{version}", "7").replace(['{', '}'], "")
    }

    #[test]
    fn every_route_is_in_the_document_and_nothing_else() {
        let document = told(Listener::Inference);
        let (mut kinds, mut others) = (BTreeSet::new(), BTreeSet::new());
        for (path, operations) in document["paths"].as_object().unwrap() {
            let path = filled(path);
            for method in [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::PATCH] {
                let told = operations.get(method.as_str().to_lowercase()).is_some();
                let served = match route(&method, &path) {
                    Ok(route) => {
                        kinds.insert(kind(&route));
                        true
                    }
                    Err(_) => tfs::kind(&method, &path).inspect(|&kind| _ = others.insert(kind)).is_some(),
                };
                assert_eq!(told, served, "{method} {path}");
            }
        }
        assert_eq!(kinds, (0..KINDS).collect());
        assert_eq!(others, (0..tfs::KINDS).collect());
    }

    #[test]
    fn the_document_is_whole() {
        for listener in [Listener::Inference, Listener::Admin] {
            let document = told(listener);
            let forms = document["components"]["schemas"].as_object().unwrap();
            assert!(!forms.is_empty());
            let text = document.to_string();
            for used in text.split("#/components/schemas/").skip(1) {
                let name = used.split('"').next().unwrap();
                assert!(forms.contains_key(name), "there is no form {name}");
            }
            let ids: Vec<_> = text.split("operationId").skip(1).map(|rest| rest.split('"').nth(2)).collect();
            assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len());
        }
    }
}
