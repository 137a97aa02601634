//! Shields against servers of our own that check every word, and the threads behind them.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use engine::ErrorKind;
use objects::{Limits, Network, Variables};
use serde_json::{Value, json};

use super::*;
use crate::servers::own::{Asked, Own, Said};
use crate::servers::{KEY, SECRET};

fn network(variables: Variables) -> Arc<Network> {
    Network::start(Limits::default(), variables).unwrap()
}

fn account(token: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("namespace", "videos"), ("token", token), ("ca.crt", "")] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn address(server: &Own, account: &Path) -> PodAddress {
    PodAddress { api: server.url(), name: "worker-0".to_owned(), account: account.to_owned() }
}

/// An API server with one pod, which takes nothing but what it should be asked.
fn api(token: &'static str) -> Own {
    let mut annotations = json!({"their": "own"});
    Own::start(move |asked: &Asked| -> Said {
        let problem = |status: u16, message: &str| (status, json!({"kind": "Status", "message": message}).to_string());
        if asked.header("authorization") != format!("Bearer {token}") {
            return problem(401, "Unauthorized");
        }
        if asked.path != "/api/v1/namespaces/videos/pods/worker-0?fieldManager=packhorse" {
            return problem(404, "pods not found");
        }
        if (&*asked.method, asked.header("content-type")) != ("PATCH", "application/merge-patch+json") {
            return problem(415, "the media type is not supported");
        }
        let patch: Value = serde_json::from_str(&asked.body).unwrap();
        for (name, value) in patch["metadata"]["annotations"].as_object().unwrap() {
            match value {
                Value::Null => drop(annotations.as_object_mut().unwrap().remove(name)),
                value => annotations[name] = value.clone(),
            }
        }
        (200, json!({"metadata": {"annotations": annotations}}).to_string())
    })
}

#[test]
fn a_pod_is_annotated_and_nothing_of_it_is_left() {
    let (server, account) = (api("first"), account("first\n"));
    let pod = Pod::new(&network(Variables::default()), address(&server, account.path())).unwrap();
    for on in [false, true, true, false] {
        pod.set(on).unwrap();
    }
    let patched: Vec<Value> = server
        .asked()
        .iter()
        .map(|asked| serde_json::from_str::<Value>(&asked.body).unwrap()["metadata"]["annotations"].take())
        .collect();
    let on = json!({
        "karpenter.sh/do-not-disrupt": "true",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "controller.kubernetes.io/pod-deletion-cost": "1000"
    });
    let off: Value = on.as_object().unwrap().keys().map(|name| (name.clone(), Value::Null)).collect();
    assert_eq!(patched, [off.clone(), on.clone(), on, off]);
}

#[test]
fn a_token_that_was_replaced_is_read_anew_and_refusals_say_what_to_do() {
    let (server, account) = (api("second"), account("first"));
    let network = network(Variables::default());
    let pod = Pod::new(&network, address(&server, account.path())).unwrap();
    let error = pod.set(true).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Forbidden);
    assert!(error.message.contains("Unauthorized") && error.message.contains("'patch' 'pods'"), "{error}");
    std::fs::write(account.path().join("token"), "second").unwrap();
    pod.set(true).unwrap();

    let elsewhere = PodAddress { name: "another".to_owned(), ..address(&server, account.path()) };
    let error = Pod::new(&network, elsewhere).unwrap().set(true).unwrap_err();
    assert!(error.kind == ErrorKind::NotFound && error.message.contains("POD_NAME"), "{error}");
    let crooked = PodAddress { name: "../secrets/a".to_owned(), ..address(&server, account.path()) };
    assert_eq!(Pod::new(&network, crooked).err().unwrap().kind, ErrorKind::InvalidInput);
    let nowhere = PodAddress { account: "/nowhere".into(), ..address(&server, account.path()) };
    let error = Pod::new(&network, nowhere).err().unwrap();
    assert!(error.kind == ErrorKind::FailedPrecondition && error.message.contains("/nowhere/namespace"), "{error}");
}

/// Metadata and service, both at `url`; the region is the metadata's to tell.
fn both_at(url: &str) -> Variables {
    Variables::from([
        ("AWS_ACCESS_KEY_ID", KEY),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_EC2_METADATA_SERVICE_ENDPOINT", url),
        ("AWS_ENDPOINT_URL_AUTO_SCALING", url),
    ])
}

#[test]
fn an_instance_finds_its_group_and_is_protected_in_it() {
    let server = Own::start(|asked: &Asked| match &*asked.path {
        "/latest/api/token" => (200, "token".to_owned()),
        "/latest/meta-data/instance-id" => (200, "i-1".to_owned()),
        "/latest/meta-data/tags/instance/aws:autoscaling:groupName" => (200, "workers".to_owned()),
        "/latest/meta-data/placement/region" => (200, "eu-north-1".to_owned()),
        "/" => (200, "<SetInstanceProtectionResponse/>".to_owned()),
        _ => (404, String::new()),
    });
    let group = Group::find(&network(both_at(&server.url())), &GroupNames::default()).unwrap();
    assert_eq!(group.name(), "instance i-1 of workers");
    group.set(true).unwrap();
    let asked = server.asked().pop().unwrap();
    for part in ["Action=SetInstanceProtection", "Name=workers", "member%2E1=i%2D1", "ProtectedFromScaleIn=true"] {
        assert!(asked.body.contains(part), "{part}: {}", asked.body);
    }
    // Whoever is told asks nobody: there is no metadata at this address.
    let (key, secret) = (("AWS_ACCESS_KEY_ID", KEY), ("AWS_SECRET_ACCESS_KEY", SECRET));
    let nowhere =
        [key, secret, ("AWS_REGION", "eu-north-1"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1")];
    let network = network(Variables::from(nowhere));
    let told = GroupNames { instance: Some("i-2".to_owned()), group: Some("workers".to_owned()) };
    assert_eq!(Group::find(&network, &told).unwrap().name(), "instance i-2 of workers");
    let error = Group::find(&network, &GroupNames { group: None, ..told }).err().unwrap();
    assert!(error.message.contains("--scaling-group"), "{error}");
}

#[test]
fn a_hook_is_completed_where_the_instance_is_taken_out_and_only_there() {
    let state = Arc::new(Mutex::new("InService"));
    let (told, mut early) = (Arc::clone(&state), true);
    let server = Own::start(move |asked: &Asked| match &*asked.path {
        "/latest/api/token" => (200, "token".to_owned()),
        "/latest/meta-data/autoscaling/target-lifecycle-state" => (200, (*told.lock().unwrap()).to_owned()),
        "/latest/meta-data/placement/region" => (200, "eu-north-1".to_owned()),
        "/" if std::mem::take(&mut early) => {
            let why = "<Code>ValidationError</Code><Message>No active Lifecycle Action found</Message>";
            (400, format!("<ErrorResponse><Error>{why}</Error></ErrorResponse>"))
        }
        "/" => (200, "<CompleteLifecycleActionResponse/>".to_owned()),
        _ => (404, String::new()),
    });
    let names = GroupNames { instance: Some("i-1".to_owned()), group: Some("workers".to_owned()) };
    let hook = Hook::find(&network(both_at(&server.url())), &names, "drained").unwrap();
    assert_eq!(hook.name(), "hook drained of workers for instance i-1");
    assert!(!hook.complete().unwrap());
    *state.lock().unwrap() = "Terminated";
    assert!(hook.complete().unwrap());
    let asked: Vec<Asked> = server.asked().into_iter().filter(|asked| asked.path == "/").collect();
    assert_eq!(asked.len(), 2, "what came too early was asked again");
    let parts =
        ["Action=CompleteLifecycleAction", "Name=workers", "HookName=drained", "InstanceId=i%2D1", "Result=CONTINUE"];
    assert!(parts.iter().all(|part| asked[1].body.contains(part)), "{}", asked[1].body);
}

/// Tells of every change, and fails as often as it is told.
struct Told(SyncSender<bool>, std::sync::atomic::AtomicU32);

impl Shield for Told {
    fn name(&self) -> String {
        "a shield that tells".to_owned()
    }

    fn set(&self, on: bool) -> Result<()> {
        use std::sync::atomic::Ordering::Relaxed;
        self.0.send(on).unwrap();
        match self.1.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) {
            Ok(_) => Err(Error::unavailable("not now")),
            Err(_) => Ok(()),
        }
    }
}

fn protection(fails: u32) -> (Protection, Receiver<bool>) {
    let (sender, told) = sync_channel(100);
    (Protection::start(vec![Box::new(Told(sender, fails.into()))]).unwrap(), told)
}

/// The next change; whatever takes this long does not come.
fn next(told: &Receiver<bool>) -> bool {
    told.recv_timeout(Duration::from_secs(60)).unwrap()
}

#[test]
fn a_shield_follows_who_is_busy_and_goes_with_its_owner() {
    const LONG: Duration = Duration::from_secs(3600);
    let (protection, told) = protection(0);
    assert!(!next(&told), "what an earlier process left is taken away");
    let busy = protection.busy(LONG);
    assert!(next(&told));
    let other = protection.busy(LONG);
    drop(busy);
    drop(other);
    assert!(!next(&told), "nobody is busy");
    // A lease that is over protects nobody, whoever still works at its task.
    let busy = protection.busy(LONG);
    assert!(next(&told));
    busy.renew(Duration::ZERO);
    assert!(!next(&told));
    busy.renew(LONG);
    assert!(next(&told));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _owned = (protection, busy);
        panic!("the worker's own");
    }));
    assert!(panicked.is_err());
    assert_eq!(told.iter().collect::<Vec<_>>(), [false], "the end waited for it");
}

#[test]
fn a_shield_that_fails_is_tried_again_at_the_end_too() {
    let (protection, told) = protection(1);
    assert!(!next(&told) && !next(&told));
    drop(protection);
    assert!(told.iter().next().is_none());
    let (protection, told) = self::protection(2);
    assert!(!next(&told));
    drop(protection);
    assert_eq!(told.iter().collect::<Vec<_>>(), [false, false]);
}
