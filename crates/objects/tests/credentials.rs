//! The chain of credentials, as a process with these variables and files sees it: each source in a process of its own.

use std::collections::BTreeMap;
use std::process::Command;

use objects::{Limits, Network, Variables};

use crate::servers::{self, KEY, SECRET};

/// What the child prints before what it found.
const MARK: &str = "found: ";

/// Not a test but what each of them runs in a process of its own, with variables that are read there.
#[test]
#[ignore = "run by the tests below"]
fn child() {
    let network = Network::start(Limits::default(), Variables::of_process()).unwrap();
    let account = network.aws().unwrap();
    let checked = network.block_on(account.check());
    let place = network.place("s3://credentials").and_then(|place| place.head("nothing").map(drop));
    println!(
        "{MARK}{} | {} | {:?}",
        account.description(),
        checked.map_or_else(|error| error.message, |()| String::new()),
        place
    );
}

/// What is found with `variables` alone and a home that holds `files`.
fn found(variables: &[(&str, &str)], files: &[(&str, &str)]) -> String {
    let home = tempfile::tempdir().unwrap();
    let files: BTreeMap<_, _> = files.iter().copied().collect();
    for (name, text) in files {
        let path = home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text.replace("HOME", home.path().to_str().unwrap())).unwrap();
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["credentials::child", "--exact", "--ignored", "--nocapture"]).env_clear();
    let home_text = home.path().to_str().unwrap();
    let variables = variables.iter().map(|(name, value)| (name, value.replace("HOME", home_text)));
    let endpoint = servers::ministack().url();
    command.env("HOME", home.path()).env("AWS_ENDPOINT_URL", endpoint).env("AWS_EC2_METADATA_DISABLED", "true");
    command.envs(variables);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find_map(|line| line.split_once(MARK).map(|(_, found)| found.to_owned()));
    line.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn each_source_is_found_and_named() {
    servers::ministack().make_bucket("credentials");
    let profile = format!("[other]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = {SECRET}\n");
    let role = "[profile role]\nrole_arn = arn:aws:iam::000000000000:role/reader\nsource_profile = other\n";
    let elsewhere = "[profile other]\nregion = eu-west-1\n";
    let process = "[profile process]\ncredential_process = cat HOME/given.json\n";
    let given = r#"{"Version": 1, "AccessKeyId": "AKIAPROCESS", "SecretAccessKey": "s"}"#;
    let instance = servers::ministack().url();
    let (pod, asked) = crate::web::serve(|_| {
        let keys =
            r#"{"AccessKeyId": "AKIAPOD", "SecretAccessKey": "s", "Token": "t", "Expiration": "2099-01-01T00:00:00Z"}"#;
        (200, String::new(), keys.as_bytes().to_vec())
    });
    let pod = format!("http://{pod}/v1/credentials");
    let check = |variables: &[(&str, &str)], files: &[(&str, &str)], says: &[&str]| {
        let line = found(variables, files);
        for word in says {
            assert!(line.contains(word), "{variables:?}: '{line}' does not say '{word}'");
        }
        assert!(!line.contains(SECRET), "{line}");
    };
    let keys = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET)];
    check(&keys, &[], &["of the environment (AWS_ACCESS_KEY_ID), key AKIAPACKHORSETESTKEY", "NotFound"]);
    let in_profile = |name: &str| format!("of the shared profile (AWS_PROFILE, ~/.aws), key {name}");
    let files = [(".aws/credentials", &*profile), (".aws/config", role)];
    check(&[("AWS_PROFILE", "other")], &files, &[&in_profile("AKIAPROFILE"), "NotFound"]);
    check(&[("AWS_PROFILE", "role")], &files, &[&in_profile("ASIA"), "NotFound"]);
    let files = [(".aws/credentials", &*profile), (".aws/config", elsewhere)];
    check(&[("AWS_PROFILE", "other")], &files, &["the bucket is in us-east-1; set AWS_REGION=us-east-1"]);
    let files = [(".aws/config", process), ("given.json", given)];
    check(&[("AWS_PROFILE", "process"), ("PATH", "/usr/bin:/bin")], &files, &[&in_profile("AKIAPROCESS"), "NotFound"]);
    let token = [("token", "eyJhbGciOiJIUzI1NiJ9.e30.x")];
    let identity = [
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "HOME/token"),
        ("AWS_ROLE_ARN", "arn:aws:iam::000000000000:role/reader"),
        ("AWS_ROLE_SESSION_NAME", "test"),
    ];
    check(
        &identity,
        &token,
        &["of the web identity (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN), key ASIA", "NotFound"],
    );
    let container =
        [("AWS_CONTAINER_CREDENTIALS_FULL_URI", &*pod), ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "HOME/token")];
    check(&container, &token, &["of the container or pod (AWS_CONTAINER_CREDENTIALS_*), key AKIAPOD", "NotFound"]);
    assert!(asked.lock().unwrap()[0].head.contains("authorization: eyjhbgcioijiuzi1nij9.e30.x"));
    let metadata = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*instance), ("AWS_EC2_METADATA_DISABLED", "false")];
    check(&metadata, &[], &["of the instance's metadata, key ", "NotFound"]);
}

#[test]
fn what_was_tried_is_told_when_there_are_none() {
    for (variables, says) in [
        (
            vec![],
            &[
                "there are no AWS credentials; set AWS_ACCESS_KEY_ID",
                "AWS_ACCESS_KEY_ID is not set",
                "AWS_SKIP_SIGNATURE",
            ][..],
        ),
        (vec![("AWS_PROFILE", "nowhere")], &["nowhere"]),
        (vec![("AWS_ACCESS_KEY_ID", KEY)], &["AWS_SECRET_ACCESS_KEY is not set"]),
    ] {
        let line = found(&variables, &[]);
        for word in says.iter().chain(&["no credentials |", "kind: Forbidden", "s3://credentials/nothing"]) {
            assert!(line.contains(word), "{variables:?}: '{line}' does not say '{word}'");
        }
    }
}
