//! Method and path to a [`Route`]. Pure, and the only place that knows a URL.

use std::borrow::Cow;

use http::{Method, StatusCode};
use percent_encoding::percent_decode_str;

use super::error::Refusal;
use super::triton::Change;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// What the REST APIs are, for programs.
    Document,
    /// Whether the process answers at all.
    Live,
    /// Whether it takes work.
    Ready,
    /// The same, for clients of servers that have but one probe.
    Ping,
    /// The server's metadata.
    Server,
    /// The names of all models.
    Models,
    /// A model's metadata.
    Model(Target),
    /// Whether a model takes work.
    ModelReady(Target),
    /// Inference.
    Infer(Target),
    /// Vectors of texts, in the words of OpenAI's API.
    Embeddings,
    /// How a model is run.
    Config(Target),
    /// What one model has done, or all.
    Statistics(Option<Target>),
    /// Every model that is known.
    RepositoryIndex,
    /// Loading or unloading the model of this name.
    RepositoryChange(String, Change),
    /// What is logged.
    LogSettings,
    /// Changing what is logged.
    LogChange,
    /// The regions of shared memory, or one.
    MemoryStatus(Option<String>),
    /// Naming a region.
    MemoryRegister(String),
    /// Taking a region's name away, or all names.
    MemoryUnregister(Option<String>),
}

/// A model, as a path names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Percent-decoded, so it may hold any character, a slash included.
    pub(crate) name: String,
    /// A version, or the newest.
    pub(crate) version: Option<u64>,
}

/// The route of `method` on `path`.
///
/// # Errors
/// 404 for a path that is none of ours, 405 with `Allow` for a method that its path does not take.
pub(crate) fn route(method: &Method, path: &str) -> Result<Route, Refusal> {
    let mut route = of_path(path).ok_or_else(|| no_route(path))?;
    // The one path that takes both.
    if route == Route::LogSettings && *method == Method::POST {
        route = Route::LogChange;
    }
    let (allowed, allow): (&[Method], _) = match route {
        Route::Infer(_)
        | Route::Embeddings
        | Route::RepositoryIndex
        | Route::RepositoryChange(..)
        | Route::LogChange
        | Route::MemoryRegister(_)
        | Route::MemoryUnregister(_) => (&[Method::POST], "POST"),
        Route::Document
        | Route::Live
        | Route::Ready
        | Route::Ping
        | Route::Server
        | Route::Models
        | Route::Model(_)
        | Route::ModelReady(_)
        | Route::Config(_)
        | Route::Statistics(_)
        | Route::MemoryStatus(_) => (&[Method::GET, Method::HEAD], "GET, HEAD"),
        Route::LogSettings => (&[Method::GET, Method::HEAD], "GET, HEAD, POST"),
    };
    if allowed.contains(method) {
        return Ok(route);
    }
    Err(Refusal::wrong_method(method, path, allow))
}

fn of_path(path: &str) -> Option<Route> {
    // Decoded after the split: an encoded slash belongs to a name and does not end it.
    let decoded = |segment| percent_decode_str(segment).decode_utf8().ok();
    let segments: Vec<Cow<'_, str>> = path.strip_prefix('/')?.split('/').map(decoded).collect::<Option<_>>()?;
    let segments: Vec<&str> = segments.iter().map(Cow::as_ref).collect();
    Some(match segments.as_slice() {
        ["openapi.json"] => Route::Document,
        ["v2", "health", "live"] | ["livez" | "healthz"] | ["-", "healthz"] => Route::Live,
        ["v2", "health", "ready"] | ["readyz"] => Route::Ready,
        ["ping" | "health"] => Route::Ping,
        ["v1", "embeddings"] => Route::Embeddings,
        ["v2", "logging"] => Route::LogSettings,
        ["v2"] => Route::Server,
        ["v2", "models"] => Route::Models,
        ["v2", "models", "stats"] => Route::Statistics(None),
        // There is one repository, whatever a client calls it.
        ["v2", "repository", "index"] | ["v2", "repository", _, "index"] => Route::RepositoryIndex,
        ["v2", "repository", "models", name, call] => of_repository(name, call)?,
        ["v2", "repository", _, "models", name, call] => of_repository(name, call)?,
        ["v2", "systemsharedmemory", call @ ..] => of_memory(call)?,
        ["v2", "models", name, "versions", version, call @ ..] => of_model(name, Some(number(version)?), call)?,
        ["v2", "models", name, call @ ..] => of_model(name, None, call)?,
        _ => return None,
    })
}

fn of_model(name: &str, version: Option<u64>, call: &[&str]) -> Option<Route> {
    let target = Target { name: name.to_owned(), version };
    match call {
        [] => Some(Route::Model(target)),
        ["ready"] => Some(Route::ModelReady(target)),
        ["infer"] => Some(Route::Infer(target)),
        ["config"] => Some(Route::Config(target)),
        ["stats"] => Some(Route::Statistics(Some(target))),
        _ => None,
    }
}

fn of_repository(name: &str, call: &str) -> Option<Route> {
    let change = match call {
        "load" => Change::Load,
        "unload" => Change::Unload,
        _ => return None,
    };
    Some(Route::RepositoryChange(name.to_owned(), change))
}

fn of_memory(call: &[&str]) -> Option<Route> {
    match *call {
        ["status"] => Some(Route::MemoryStatus(None)),
        ["unregister"] => Some(Route::MemoryUnregister(None)),
        ["region", name, "status"] => Some(Route::MemoryStatus(Some(name.to_owned()))),
        ["region", name, "register"] => Some(Route::MemoryRegister(name.to_owned())),
        ["region", name, "unregister"] => Some(Route::MemoryUnregister(Some(name.to_owned()))),
        _ => None,
    }
}

/// Why `path` is none of ours; of what clients of other servers know, with what to do instead.
fn no_route(path: &str) -> Refusal {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let instead = match segments.as_slice() {
        ["v2", "cudasharedmemory", ..] => {
            "there are no accelerators here; use system shared memory, or send tensors in the request"
        }
        ["v2", "trace", "setting"] | ["v2", "models", _, "trace", "setting"] => {
            "traces are not kept here; a request's traceparent is answered with traceresponse, and is in the log"
        }
        ["v2", "models", .., "generate" | "generate_stream"] => {
            "no texts are generated here; ask for what the model gives with infer"
        }
        ["v2", "models", _, "versions", version, ..] if number(version).is_none() => {
            let message = format!("no such path '{path}': a version is a whole number; leave it out for the newest");
            return Refusal::new(StatusCode::NOT_FOUND, message);
        }
        _ => return Refusal::no_such_path(path),
    };
    Refusal::new(StatusCode::NOT_IMPLEMENTED, format!("'{path}' is not served: {instead}"))
}

/// `[0-9]+`, and nothing else that a number's parser may take.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &Method, path: &str, want: Result<Route, (StatusCode, Option<&str>)>) {
        let got = route(method, path).map_err(|refusal| {
            let response = refusal.into_response();
            let allow = response.headers().get("allow").map(|value| value.to_str().unwrap().to_owned());
            (response.status(), allow)
        });
        let want = want.map_err(|(status, allow)| (status, allow.map(str::to_owned)));
        assert_eq!(got, want, "{method} {path}");
    }

    #[test]
    fn method_and_path_to_route() {
        let target = |name: &str, version| Target { name: name.to_owned(), version };
        let (get, post, head) = (&Method::GET, &Method::POST, &Method::HEAD);
        for (method, path, want) in [
            (get, "/v2/health/live", Route::Live),
            (get, "/ping", Route::Ping),
            (get, "/openapi.json", Route::Document),
            (get, "/health", Route::Ping),
            (get, "/healthz", Route::Live),
            (get, "/v2/logging", Route::LogSettings),
            (post, "/v2/logging", Route::LogChange),
            (head, "/livez", Route::Live),
            (get, "/v2/health/ready", Route::Ready),
            (get, "/readyz", Route::Ready),
            (get, "/v2", Route::Server),
            (get, "/v2/models", Route::Models),
            (get, "/v2/models/bert", Route::Model(target("bert", None))),
            (get, "/v2/models/bert/ready", Route::ModelReady(target("bert", None))),
            (post, "/v1/embeddings", Route::Embeddings),
            (post, "/v2/models/bert/infer", Route::Infer(target("bert", None))),
            (get, "/v2/models/bert/versions/3", Route::Model(target("bert", Some(3)))),
            (get, "/v2/models/bert/versions/3/ready", Route::ModelReady(target("bert", Some(3)))),
            (post, "/v2/models/bert/versions/007/infer", Route::Infer(target("bert", Some(7)))),
            (post, "/v2/models/a%2Fb%20c%C3%A9/infer", Route::Infer(target("a/b cé", None))),
            (get, "/v2/models/%2e%2e", Route::Model(target("..", None))),
            (get, "/v2/models/versions", Route::Model(target("versions", None))),
            (get, "/v2/models/ready/ready", Route::ModelReady(target("ready", None))),
            (get, "/-/healthz", Route::Live),
            (get, "/v2/models/bert/config", Route::Config(target("bert", None))),
            (get, "/v2/models/bert/versions/3/config", Route::Config(target("bert", Some(3)))),
            (get, "/v2/models/stats", Route::Statistics(None)),
            (get, "/v2/models/bert/stats", Route::Statistics(Some(target("bert", None)))),
            (get, "/v2/models/bert/versions/3/stats", Route::Statistics(Some(target("bert", Some(3))))),
            (post, "/v2/repository/index", Route::RepositoryIndex),
            (post, "/v2/repository/any/index", Route::RepositoryIndex),
            (post, "/v2/repository/models/a%2Fb/load", Route::RepositoryChange("a/b".to_owned(), Change::Load)),
            (post, "/v2/repository/any/models/m/unload", Route::RepositoryChange("m".to_owned(), Change::Unload)),
            (get, "/v2/systemsharedmemory/status", Route::MemoryStatus(None)),
            (get, "/v2/systemsharedmemory/region/r/status", Route::MemoryStatus(Some("r".to_owned()))),
            (post, "/v2/systemsharedmemory/region/r/register", Route::MemoryRegister("r".to_owned())),
            (post, "/v2/systemsharedmemory/unregister", Route::MemoryUnregister(None)),
            (post, "/v2/systemsharedmemory/region/r/unregister", Route::MemoryUnregister(Some("r".to_owned()))),
        ] {
            check(method, path, Ok(want));
        }
    }

    #[test]
    fn what_is_no_route() {
        let none = Err((StatusCode::NOT_FOUND, None));
        for path in [
            "",
            "*",
            "/",
            "/v2/",
            "/v3",
            "/v2/nothing",
            "/v2/models/bert/",
            "/v2/models/bert/inferior",
            "/v2/models/bert/infer/more",
            "/v2/models/bert/versions/",
            "/v2/models/bert/versions/one",
            "/v2/models/bert/versions/+1",
            "/v2/models/bert/versions/-1",
            "/v2/models/bert/versions/18446744073709551616/infer",
            "/v2/models/%ff",
            "/v2/repository",
            "/v2/repository/models/m",
            "/v2/repository/models/m/reload",
            "/v2/systemsharedmemory",
            "/v2/systemsharedmemory/region/r",
        ] {
            check(&Method::GET, path, none.clone());
        }
        let elsewhere = Err((StatusCode::NOT_IMPLEMENTED, None));
        for path in [
            "/v2/cudasharedmemory/status",
            "/v2/cudasharedmemory/region/r/register",
            "/v2/trace/setting",
            "/v2/models/bert/trace/setting",
            "/v2/models/bert/generate",
            "/v2/models/bert/versions/1/generate_stream",
        ] {
            check(&Method::GET, path, elsewhere.clone());
        }
        let status = StatusCode::METHOD_NOT_ALLOWED;
        for (method, path, allow) in [
            (Method::GET, "/v2/models/bert/infer", "POST"),
            (Method::HEAD, "/v2/models/bert/infer", "POST"),
            (Method::POST, "/v2/models/bert", "GET, HEAD"),
            (Method::DELETE, "/v2/health/live", "GET, HEAD"),
            (Method::OPTIONS, "/v2", "GET, HEAD"),
            (Method::GET, "/v2/repository/index", "POST"),
            (Method::POST, "/v2/models/stats", "GET, HEAD"),
            (Method::PUT, "/v2/logging", "GET, HEAD, POST"),
        ] {
            check(&method, path, Err((status, Some(allow))));
        }
    }
}
