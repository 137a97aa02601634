//! The metadata of an instance, and services that are asked by forms, against servers of our own.

use std::sync::Arc;
use std::time::Duration;

use engine::ErrorKind;
use objects::aws::{Instance, Query, Service};
use objects::{Limits, Network, Variables};

use crate::servers::own::Own;
use crate::servers::{KEY, SECRET};

fn network(variable: &str, url: &str) -> Arc<Network> {
    let keys = [("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET), (variable, url)];
    Network::start(Limits::default(), Variables::from(keys)).unwrap()
}

/// A metadata service whose tokens hold for three questions.
fn metadata() -> Own {
    let (mut tokens, mut left) = (0, 0);
    Own::start(move |asked| match (&*asked.method, &*asked.path) {
        ("PUT", "/latest/api/token") if asked.header("x-aws-ec2-metadata-token-ttl-seconds") == "21600" => {
            (tokens, left) = (tokens + 1, 3);
            (200, format!("token-{tokens}"))
        }
        ("GET", path) if left > 0 && asked.header("x-aws-ec2-metadata-token") == format!("token-{tokens}") => {
            left -= 1;
            match path {
                "/latest/meta-data/instance-id" => (200, "i-0123\n".to_owned()),
                "/latest/meta-data/broken" => (500, String::new()),
                _ => (404, "<html>not found</html>".to_owned()),
            }
        }
        ("GET", _) => (401, String::new()),
        _ => (400, String::new()),
    })
}

#[test]
fn metadata_is_asked_with_tokens_that_may_end_at_any_time() {
    let server = metadata();
    let network = network("AWS_EC2_METADATA_SERVICE_ENDPOINT", &server.url());
    let instance = Instance::new(&network).unwrap();
    for _ in 0..4 {
        assert_eq!(instance.get("meta-data/instance-id").unwrap().as_deref(), Some("i-0123"));
        assert_eq!(instance.get("meta-data/spot/instance-action").unwrap(), None);
    }
    let tokens = server.asked().iter().filter(|asked| asked.method == "PUT").count();
    assert_eq!(tokens, 3, "8 questions, 3 a token");
    let error = instance.get("meta-data/broken").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.message.contains("500") && error.message.contains(&server.url()), "{error}");
    assert_eq!(instance.get("meta-data/instance-id").unwrap().as_deref(), Some("i-0123"));
}

#[test]
fn metadata_that_is_not_there_or_refuses_is_an_error_and_no_panic() {
    let refusing = Own::start(|_| (401, String::new()));
    // A port that nobody has any more.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for url in [refusing.url(), format!("http://{dead}"), "no url at all".to_owned()] {
        let network = network("AWS_EC2_METADATA_SERVICE_ENDPOINT", &url);
        let error = Instance::new(&network).unwrap().get("meta-data/instance-id").unwrap_err();
        assert!(error.message.contains(&url), "{error}");
    }
}

#[test]
fn forms_are_signed_and_complaints_are_read() {
    let server = Own::start(|asked| match asked.body.contains("Name=busy") {
        true => {
            let error = "<Error><Code>Throttling</Code><Message>Rate exceeded</Message></Error>";
            (400, format!("<ErrorResponse>{error}</ErrorResponse>"))
        }
        false => (200, "<Response/>".to_owned()),
    });
    let network = network("AWS_ENDPOINT_URL_AUTO_SCALING", &server.url());
    let service = Service { id: "Auto Scaling", name: "autoscaling", version: "2011-01-01" };
    assert!(Query::new(&network, service, None).err().unwrap().message.contains("AWS_REGION"));
    let query = Query::new(&network, service, Some("eu-west-1")).unwrap();
    assert_eq!(query.ask("Do", &[("Name", "a b&c=é")], Duration::from_secs(30)).unwrap(), "<Response/>");
    let asked = server.asked().pop().unwrap();
    assert_eq!(asked.body, "Action=Do&Version=2011%2D01%2D01&Name=a%20b%26c%3D%C3%A9");
    let (signature, scope) = (asked.header("authorization"), "/eu-west-1/autoscaling/aws4_request");
    assert!(
        signature.starts_with(&format!("AWS4-HMAC-SHA256 Credential={KEY}/")) && signature.contains(scope),
        "{signature}"
    );
    let error = query.ask("Do", &[("Name", "busy")], Duration::from_secs(30)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Exhausted);
    assert!(error.message.contains("Rate exceeded"), "{error}");
}
