//! The configuration as a whole, through maps and texts instead of a real environment; and its page of documentation.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use clap::{Args as _, FromArgMatches as _};

use super::models::KEYS;
use super::settings::TABLE;
use super::{Flags, Raw, Resolved};

/// Resolves a command line, `NAME=value` lines of an environment, and a file.
fn resolve(flags: &str, environment: &str, file: &str) -> Result<Resolved, String> {
    let command = Flags::augment_args(clap::Command::new("serve").no_binary_name(true));
    let matches = command.try_get_matches_from(flags.split_whitespace()).map_err(|error| error.to_string())?;
    let flags = Flags::from_arg_matches(&matches).map_err(|error| error.to_string())?;
    let variables: BTreeMap<_, _> = environment.lines().filter_map(|line| line.split_once('=')).collect();
    let variable = |name: &str| variables.get(name).map(|&text| text.to_owned());
    let file = (!file.is_empty()).then(|| ("serve.toml".to_owned(), file.to_owned()));
    Resolved::new(&Raw::gather(flags, variable, file))
}

#[test]
fn a_flag_comes_before_the_environment_that_before_the_file_that_before_the_default() {
    let check = |flags: &str, environment: &str, file: &str, name: &str, value: serde_json::Value, source: &str| {
        let flags = if flags.contains("--store") { flags.to_owned() } else { format!("--store s {flags}") };
        let told = resolve(&flags, environment, file).unwrap().json()[name].clone();
        assert_eq!(told, serde_json::json!({ "value": value, "source": source }), "{flags} {environment} {file}");
    };
    let (variable, file) = ("PACKHORSE_QUEUE_CAPACITY=3", "# bounds\nqueue-capacity = 4");
    check("", "", "", "queue-capacity", 256.into(), "default");
    check("", "", file, "queue-capacity", 4.into(), "file serve.toml, line 2");
    check("", variable, file, "queue-capacity", 3.into(), "environment PACKHORSE_QUEUE_CAPACITY");
    check("--queue-capacity 2", variable, file, "queue-capacity", 2.into(), "flag --queue-capacity");
    check("", "PACKHORSE_QUEUE_CAPACITY=", file, "queue-capacity", 4.into(), "file serve.toml, line 2");
    check("--store a", "PACKHORSE_STORE=b", "store = 'c'", "store", "a".into(), "flag --store");
    // The older name means the same everywhere.
    check("--grace 1.5", "PACKHORSE_GRACE_S=2", "", "grace-s", 1.5.into(), "flag --grace-s");
    check("", "PACKHORSE_GRACE=2", "grace = 3", "grace-s", 2.0.into(), "environment PACKHORSE_GRACE");
    check("", "PACKHORSE_GRACE=2\nPACKHORSE_GRACE_S=1", "", "grace-s", 1.0.into(), "environment PACKHORSE_GRACE_S");
    check("", "", "grace = 3", "grace-s", 3.0.into(), "file serve.toml, line 1");
    // Lists, and what may be left out.
    let names = serde_json::json!(["a", "b"]);
    let explicit = "--control explicit";
    check(&format!("{explicit} --load a --load b"), "", "load = ['c']", "load", names.clone(), "flag --load");
    check(explicit, "PACKHORSE_LOAD=a, b", "", "load", names.clone(), "environment PACKHORSE_LOAD");
    check(explicit, "", "load = ['a', \"b\"]", "load", names, "file serve.toml, line 1");
    check(explicit, "", "load = 'a'", "load", serde_json::json!(["a"]), "file serve.toml, line 1");
    check("", "", "", "load", serde_json::json!([]), "default");
    check("", "", "", "shared-memory", serde_json::Value::Null, "default");
    check("", "", "", "manage", serde_json::Value::Null, "default");
    check("", "", "bodies-bytes-max = 2000000", "bodies-bytes-max", 2_000_000.into(), "file serve.toml, line 1");
    check("", "", "", "memory-budget-bytes", "auto".into(), "default");
    check("", "", "shared-memory = 'ph_'", "shared-memory", "ph_".into(), "file serve.toml, line 1");
    check("--http 127.0.0.1:0 --grpc 127.0.0.1:0", "", "", "grpc", "127.0.0.1:0".into(), "flag --grpc");
}

#[test]
fn what_is_wrong_is_named_with_its_place_and_what_is_allowed() {
    let check = |flags: &str, environment: &str, file: &str, says: &[&str]| {
        let said = resolve(flags, environment, file).unwrap_err();
        for part in says {
            assert!(said.contains(part), "{said:?} does not say {part:?}");
        }
    };
    let store = "--store s";
    check("", "", "", &["store is not set", "--store", "PACKHORSE_STORE", "--config"]);
    check(store, "", "\nhtpt = '0.0.0.0:80'", &["serve.toml, line 2", "'htpt'", "'http'"]);
    check(store, "", "[limits]\nqueue-capacity = 1", &["line 1", "'limits'"]);
    check(store, "", "queue-capacity = ", &["serve.toml, line 1", "no TOML"]);
    check(store, "", "a = 1\n\nb = [", &["serve.toml, line 3", "no TOML"]);
    check(store, "", "queue-capacity = 1\nqueue-capacity = 2", &["line 2", "no TOML"]);
    check(store, "", "grace = 1\ngrace-s = 2", &["'grace-s'", "set in line", "remove one"]);
    check(store, "", "queue-capacity = 0", &["queue-capacity is '0'", "serve.toml, line 1", "from 1 to"]);
    check(store, "", "queue-capacity = 1.5", &["queue-capacity is '1.5'", "a whole number"]);
    check(store, "", "queue-capacity = [1]", &["line 1", "'queue-capacity'", "not a plain value", "a whole number"]);
    check(store, "", "http = { port = 1 }", &["line 1", "'http'", "not a plain value", "0.0.0.0:8080"]);
    check(store, "PACKHORSE_GRACE_S=soon", "", &["grace-s is 'soon'", "environment PACKHORSE_GRACE_S", "0 to 86400"]);
    check(store, "PACKHORSE_GRACE_S=nan", "", &["grace-s is 'nan'", "0 to 86400"]);
    check("--store s --http localhost", "", "", &["http is 'localhost'", "flag --http", "an IP address and a port"]);
    check("--store s --control maybe", "", "", &["control is 'maybe'", "none, poll, explicit"]);
    check("--store s --log-format xml", "", "", &["log-format is 'xml'", "text, json"]);
    check("--store s --json-depth-max 129", "", "", &["json-depth-max is '129'", "1 to 128"]);
    check("--store s --shared-memory a/b", "", "", &["shared-memory is 'a/b'", "letters, digits"]);
    check("--store s --load a", "", "", &["load is set", "flag --load", "control", "'explicit'"]);
    check("--store s --http 127.0.0.1:9 --admin 127.0.0.1:9", "", "", &["http and admin", "127.0.0.1:9"]);
    check("--store s --grpc 127.0.0.1:9 --manage 127.0.0.1:9", "", "", &["grpc and manage", "127.0.0.1:9"]);
    check("--store s --bodies-bytes-max 1", "", "", &["bodies-bytes-max is '1'", "`auto`, or a whole number"]);
    let both = "--store s --memory-budget-bytes 2000000 --bodies-bytes-max 2000000";
    check(
        both,
        "",
        "",
        &["bodies-bytes-max is 2000000 (flag --bodies-bytes-max)", "memory-budget-bytes", "lower the one"],
    );
    check("--stroe s", "", "", &["--stroe", "--store"]);
    let wrong = |lines: &str, says: &[&str]| check(store, "", &format!("\n[model.ranker]\n{lines}"), says);
    wrong("queue-capcity = 3", &["serve.toml, line 3", "no setting 'queue-capcity' of a model", "'queue-capacity'"]);
    wrong("max-queue-delay = 3", &["line 3", "the nearest is 'max-queue-delay-us'"]);
    wrong("queue-capacity = 0", &["line 3", "model.ranker.queue-capacity is '0'", "from 1 to"]);
    wrong("queue-capacity = [1]", &["line 3", "'model.ranker.queue-capacity' is not a plain value"]);
    wrong("preferred-batch-sizes = [8, 4]", &["line 3", "'8, 4'", "ascending"]);
    wrong("pin = 'perhaps'", &["line 3", "'perhaps'", "true or false"]);
    wrong("latency-class = 'fast'", &["line 3", "'fast'", "one of interactive, standard, background"]);
    wrong("priority-levels = 2\ndefault-priority = 3", &["line 2", "default-priority is 3", "2 priority-levels"]);
    check(store, "", "[model.'a/b']", &["line 1", "a/b"]);
    check(store, "", "model = 1", &["line 1", "'model' is not a table", "[model.NAME]"]);
    check(store, "", "model.ranker = 1", &["line 1", "'model.ranker' is not a table"]);
    check(store, "", "[models.ranker]", &["line 1", "'models'", "'model'"]);
}

#[test]
fn the_table_for_people_has_a_row_for_each_setting() {
    let environment = "PACKHORSE_QUEUE_CAPACITY=3";
    let table = resolve("--store s --control explicit --load a --load b", environment, "").unwrap().table().to_string();
    let rows: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), TABLE.len() + 1, "{table}");
    for row in [
        &["store", "s", "flag", "--store"][..],
        &["queue-capacity", "3", "environment", "PACKHORSE_QUEUE_CAPACITY"],
        &["grace-s", "30", "default"],
        &["load", "a,", "b", "flag", "--load"],
        &["shared-memory", "off", "default"],
    ] {
        assert!(rows.iter().any(|found| found == row), "no row {row:?} in\n{table}");
    }
}

#[test]
fn a_model_has_settings_of_its_own() {
    let file = "queue-capacity = 9\n[model.ranker]\nmax-batch-size = 16\npreferred-batch-sizes = [4, 8]\n\
                max-queue-delay-us = 0\nqueue-capacity = 7\nqueue-time-limit-ms = 1500\ndefault-priority = 2\n\
                priority-levels = 3\nlatency-class = 'interactive'\npin = true\n[model.\"a.b\"]\nlatency-class = 'background'";
    let resolved = resolve("--store s", "", file).unwrap();
    let ranker = store::Serving {
        max_batch_size: Some(16),
        preferred_batch_sizes: vec![4, 8],
        max_queue_delay_us: Some(0),
        queue_capacity: Some(7),
        queue_time_limit_ms: Some(1500),
        default_priority: Some(2),
        priority_levels: Some(3),
        latency_class: Some(store::LatencyClass::Interactive),
        pin: Some(true),
    };
    let background = Some(store::LatencyClass::Background);
    let other = store::Serving { latency_class: background, ..store::Serving::default() };
    let servings = BTreeMap::from([("ranker".to_owned(), ranker), ("a.b".to_owned(), other)]);
    assert_eq!(*resolved.servings(), servings);
    let told = resolved.json();
    for (name, value, line) in [
        ("queue-capacity", serde_json::json!(9), 1),
        ("model.ranker.preferred-batch-sizes", serde_json::json!([4, 8]), 4),
        ("model.ranker.queue-capacity", serde_json::json!(7), 6),
        ("model.ranker.latency-class", serde_json::json!("interactive"), 10),
        ("model.ranker.pin", serde_json::json!(true), 11),
        ("model.a.b.latency-class", serde_json::json!("background"), 13),
    ] {
        let source = format!("file serve.toml, line {line}");
        assert_eq!(told[name], serde_json::json!({ "value": value, "source": source }), "{name}");
    }
    let table = resolved.table().to_string();
    assert_eq!(table.lines().count(), TABLE.len() + 1 + KEYS.len() + 1, "{table}");
}

#[test]
fn the_keys_of_a_model_are_the_fields_of_its_settings() {
    let fields = serde_json::to_value(store::Serving::default()).unwrap();
    let (mut fields, mut keys): (Vec<_>, Vec<_>) =
        (fields.as_object().unwrap().keys().cloned().collect(), KEYS.iter().map(|key| key.name()).collect());
    fields.sort();
    keys.sort();
    assert_eq!(keys, fields);
}

#[test]
fn the_defaults_are_those_of_the_library() {
    let settings = resolve("--store s", "", "").unwrap().settings;
    let (limits, queue) = (settings.limits().unwrap(), serve::QueueLimits::default());
    // On a small machine there is not room for as large a body.
    let least = |bytes: usize| bytes.min(limits.http.bodies.limit_bytes());
    let mut http = serve::http::HttpLimits::default();
    http.body_bytes = least(http.body_bytes);
    assert_eq!(format!("{:?}", limits.http), format!("{http:?}"));
    let mut grpc = serve::grpc::GrpcLimits::default();
    grpc.message_bytes_max = least(grpc.message_bytes_max);
    assert_eq!(format!("{:?}", limits.grpc), format!("{grpc:?}"));
    assert_eq!(format!("{:?}", settings.queue_limits()), format!("{queue:?}"));
    assert_eq!(settings.control, serve::Control::default());
}

/// The rows between the marks of docs/configuration.md. `UPDATE=1 cargo test -p packhorse page` writes them.
#[test]
fn the_page_of_settings_is_that_of_the_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let want = [("settings", rows_of_settings()), ("model settings", rows_of_models())].iter().fold(
        page.clone(),
        |page, (what, rows)| {
            let (begin, end) = (format!("<!-- {what}: generated -->\n"), format!("<!-- end of {what} -->\n"));
            let (before, rest) = page.split_once(&begin).unwrap();
            let (_, after) = rest.split_once(&end).unwrap();
            format!("{before}{begin}{rows}{end}{after}")
        },
    );
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, want).unwrap();
        return;
    }
    assert_eq!(page, want, "docs/configuration.md is stale: run UPDATE=1 cargo test -p packhorse page");
}

fn rows_of_settings() -> String {
    let mut rows = "| setting | default | may be | what it does |\n|---|---|---|---|\n".to_owned();
    for setting in TABLE {
        let alias = setting.alias.map_or_else(String::new, |alias| format!(" (also `{alias}`)"));
        let default = match (setting.default, setting.list) {
            ("", _) if setting.field == "store" => "must be given".to_owned(),
            ("", true) => "none".to_owned(),
            ("", false) => "off".to_owned(),
            (default, _) => format!("`{default}`"),
        };
        let (name, allowed, doc) = (setting.name(), (setting.allowed)(), setting.doc());
        writeln!(rows, "| `{name}`{alias} | {default} | {allowed} | {doc} |").unwrap();
    }
    rows
}

fn rows_of_models() -> String {
    let mut rows = "| key | may be | what it does |\n|---|---|---|\n".to_owned();
    for key in KEYS {
        writeln!(rows, "| `{}` | {} | {} |", key.name(), (key.allowed)(), key.doc.trim()).unwrap();
    }
    rows
}
