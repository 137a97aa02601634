//! Paths to what they ask for. Pure, and the only place that knows these URLs.
//!
//! A path is decoded, and its words have no case; names of models keep theirs.

use percent_encoding::percent_decode_str;

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// `/`, the packing system's health.
    Root,
    /// `/monitoring/prometheus/metrics`
    Metrics,
    /// `/predictions/{model}`, the packing system's inference.
    Predictions(String),
    /// `/v1/models`
    Models,
    /// `/v1/models/{model}...`
    Model(Target, Call),
    /// Within these paths, but none of them; the reason.
    Malformed(String),
}

/// A model, as a path names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) name: String,
    pub(super) version: Option<u64>,
    /// Instead of a version.
    pub(super) label: Option<String>,
}

/// What is asked of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Status,
    Metadata,
    Predict,
    Classify,
    Regress,
    Explain,
}

/// What `path` asks for; `None` for a path of another protocol.
pub(super) fn path(path: &str) -> Option<Path> {
    let decoded = percent_decode_str(path.strip_prefix('/')?).decode_utf8().ok()?;
    let segments: Vec<&str> = decoded.split('/').collect();
    let is = |segment: &str, word: &str| segment.eq_ignore_ascii_case(word);
    match segments.as_slice() {
        [""] => Some(Path::Root),
        [first, second, third] if is(first, "monitoring") && is(second, "prometheus") && is(third, "metrics") => {
            Some(Path::Metrics)
        }
        [first, rest @ ..] if is(first, "predictions") => Some(match rest {
            [model] if !model.is_empty() => Path::Predictions((*model).to_owned()),
            _ => Path::Malformed("the path is /predictions/{model}".to_owned()),
        }),
        [first, second] if is(first, "v1") && is(second, "models") => Some(Path::Models),
        [first, second, rest @ ..] if is(first, "v1") && is(second, "models") => Some(of_model(rest)),
        _ => None,
    }
}

/// The path below `/v1/models/`.
fn of_model(segments: &[&str]) -> Path {
    let malformed = |why: &str| {
        Path::Malformed(format!(
            "{why}; the paths are /v1/models/{{model}}[/versions/{{number}} or /labels/{{label}}], then nothing, \
             /metadata, :predict, :classify, :regress or :explain"
        ))
    };
    let Some((last, before)) = segments.split_last() else {
        return malformed("the path names no model");
    };
    let (last, call) = match last.rsplit_once(':') {
        Some((last, verb)) => match verb.to_ascii_lowercase().as_str() {
            "predict" => (last, Call::Predict),
            "classify" => (last, Call::Classify),
            "regress" => (last, Call::Regress),
            "explain" => (last, Call::Explain),
            _ => return malformed(&format!("there is no call ':{verb}'")),
        },
        None => (*last, Call::Status),
    };
    let mut segments = before.to_vec();
    segments.push(last);
    let metadata = call == Call::Status && segments.len() > 1 && segments.len().is_multiple_of(2);
    let call = match segments.last() {
        Some(last) if metadata && last.eq_ignore_ascii_case("metadata") => {
            segments.pop();
            Call::Metadata
        }
        _ => call,
    };
    let target = |name: &str, version, label| Path::Model(Target { name: name.to_owned(), version, label }, call);
    match segments.as_slice() {
        ["", ..] => malformed("the path names no model"),
        [name] => target(name, None, None),
        [name, which, value] if which.eq_ignore_ascii_case("versions") => match number(value) {
            Some(version) => target(name, Some(version), None),
            None => malformed(&format!("'{value}' is no version number")),
        },
        [name, which, label] if which.eq_ignore_ascii_case("labels") && !label.is_empty() => {
            target(name, None, Some((*label).to_owned()))
        }
        [_, first, _, second, _] if is_choice(first) && is_choice(second) => {
            malformed("a version and a label exclude each other")
        }
        _ => malformed("no such path"),
    }
}

fn is_choice(segment: &str) -> bool {
    segment.eq_ignore_ascii_case("versions") || segment.eq_ignore_ascii_case("labels")
}

/// `[0-9]+`, and nothing else that a number's parser may take.
fn number(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn model(name: &str, version: Option<u64>, label: Option<&str>, call: Call) -> Option<Path> {
        Some(Path::Model(Target { name: name.to_owned(), version, label: label.map(str::to_owned) }, call))
    }

    #[test]
    fn paths_have_no_case_and_are_decoded() {
        for (text, want) in [
            ("/", Some(Path::Root)),
            ("/v1/models", Some(Path::Models)),
            ("/V1/Models/m", model("m", None, None, Call::Status)),
            ("/v1/models/M:Predict", model("M", None, None, Call::Predict)),
            ("/v1/models/m%3apredict", model("m", None, None, Call::Predict)),
            ("/v1/models/m/versions/12:classify", model("m", Some(12), None, Call::Classify)),
            ("/v1/models/m/VERSIONS/12", model("m", Some(12), None, Call::Status)),
            ("/v1/models/m/labels/stable:regress", model("m", None, Some("stable"), Call::Regress)),
            ("/v1/models/m/labels/a%20b/metadata", model("m", None, Some("a b"), Call::Metadata)),
            ("/v1/models/m/metadata", model("m", None, None, Call::Metadata)),
            ("/v1/models/metadata", model("metadata", None, None, Call::Status)),
            ("/v1/models/m/labels/metadata", model("m", None, Some("metadata"), Call::Status)),
            ("/v1/models/m:explain", model("m", None, None, Call::Explain)),
            ("/predictions/model0", Some(Path::Predictions("model0".to_owned()))),
            ("/Monitoring/Prometheus/Metrics", Some(Path::Metrics)),
            ("/v2/models/m", None),
            ("/v1", None),
            ("/metrics", None),
            ("//", None),
            ("", None),
            ("/%ff", None),
        ] {
            assert_eq!(path(text), want, "{text}");
        }
    }

    #[test]
    fn what_is_malformed_says_why() {
        for (text, says) in [
            ("/v1/models/", "names no model"),
            ("/v1/models/:predict", "names no model"),
            ("/v1/models/m:guess", "no call ':guess'"),
            ("/v1/models/m/versions/x", "'x' is no version number"),
            ("/v1/models/m/versions/-1:predict", "'-1' is no version number"),
            ("/v1/models/m/versions/99999999999999999999", "is no version number"),
            ("/v1/models/m/versions/1/labels/a:predict", "exclude each other"),
            ("/v1/models/m/labels/", "no such path"),
            ("/v1/models/m/else", "no such path"),
            ("/predictions", "/predictions/{model}"),
            ("/predictions/a/b", "/predictions/{model}"),
        ] {
            match path(text) {
                Some(Path::Malformed(why)) => assert!(why.contains(says), "{text}: '{why}' does not say '{says}'"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_path_is_too_strange(text in "(/v1/models)?[/:%a-z0-9.]{0,24}") {
            let _ = path(&text);
        }
    }
}
