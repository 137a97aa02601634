//! Stores in Google's buckets and Azure's containers.

use crate::buckets::{Serving, packed};
use crate::harness::{Place, Running, eventually};
use crate::servers::google::Google;
use crate::servers::{self, ACCOUNT, ACCOUNT_KEY};

/// What is pushed, pushed again, served, pulled, removed and cleared away.
#[test]
fn a_store_in_either_cloud_answers_as_the_folder_it_came_from() {
    let place = Place::new();
    let want = packed(&place);
    let (google, azurite) = (Google::start("fleet", None), servers::azurite());
    let endpoint = azurite.map_or_else(String::new, |azurite| format!("{}/{ACCOUNT}", azurite.url()));
    let to_google = [("STORAGE_EMULATOR_HOST", google.url())];
    let to_azure = [
        ("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT.to_owned()),
        ("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY.to_owned()),
        ("AZURE_STORAGE_ENDPOINT", endpoint),
    ];
    let mut clouds = vec![("gs://fleet/one", &to_google[..])];
    if let Some(azurite) = azurite {
        azurite.make_container("fleet");
        clouds.push(("az://fleet/one", &to_azure));
    }
    for (url, variables) in clouds {
        let command = |line: &str| {
            let mut command = place.packhorse(line);
            command.envs(variables.iter().map(|(name, value)| (*name, value)));
            command
        };
        let ok = |line: &str| {
            let ran = Running::start(&mut command(line)).end();
            assert_eq!(ran.code, Some(0), "packhorse {line}: {}", ran.err);
            ran.lines().pop().unwrap_or_default()
        };
        let cloud = &url[..2];
        let pushed = ok(&format!("push store {url} one"));
        assert_eq!(pushed["models"], 1, "{url}: {pushed}");
        let pushed = ok(&format!("push store {url}"));
        assert_eq!((&pushed["models"], &pushed["same"]), (&1.into(), &1.into()), "{url}: {pushed}");
        let serving = Serving::start(command(&format!("serve --store {url} --cache cache-{cloud}")));
        assert_eq!(["one", "two"].map(|name| serving.answer(name)), want, "{url}");
        serving.stop();
        ok(&format!("pull {url} copy-{cloud}"));
        place.ok(&format!("verify --store copy-{cloud}"));
        ok(&format!("remove one --store {url}"));
        assert_eq!(ok(&format!("models --store {url} --json"))["name"], "two", "{url}");
        ok(&format!("gc --store {url} --grace 0"));
        ok(&format!("pull {url} rest-{cloud}"));
        place.ok(&format!("verify --store rest-{cloud}"));
    }
    assert!(google.holds().0.iter().all(|key| key.starts_with("one/") && !key.contains(".unfinished")));
}

/// The node's disk changes what was fetched: that is found while it is served, and fetched again.
#[test]
fn a_cache_that_was_changed_below_its_server_mends_itself() {
    let (place, google) = (Place::new(), Google::start("fleet", None));
    let want = packed(&place);
    let command = |line: &str| {
        let mut command = place.packhorse(line);
        command.env("STORAGE_EMULATOR_HOST", google.url());
        command
    };
    let pushed = Running::start(&mut command("push store gs://fleet/one")).end();
    assert_eq!(pushed.code, Some(0), "{}", pushed.err);
    let serve = || Serving::start(command("serve --store gs://fleet/one --cache cache"));
    let serving = serve();
    assert_eq!(serving.answer("one"), want[0]);
    serving.stop();
    let segments = place.files("cache/segments");
    let path = |name: &String| place.path("cache/segments").join(name);
    let whole: Vec<_> = segments.iter().map(|name| std::fs::read(path(name)).unwrap()).collect();
    for (name, bytes) in segments.iter().zip(&whole) {
        let mut changed = bytes.clone();
        changed[100] ^= 1;
        std::fs::write(place.path("changed"), changed).unwrap();
        std::fs::rename(place.path("changed"), path(name)).unwrap();
    }
    let serving = serve();
    // Whoever comes first may be answered with what is there, or come too late for that.
    assert!([200, 500].contains(&serving.ask("one").status));
    let found = || serving.metric("packhorse_segments_damaged_total", "") == segments.len() as u64;
    eventually("the damage is found", || found().then_some(()));
    eventually("it is served again", || (serving.ask("one").status == 200).then_some(()));
    assert_eq!(serving.answer("one"), want[0]);
    serving.stop();
    for (name, bytes) in segments.iter().zip(&whole) {
        assert!(std::fs::read(path(name)).unwrap() == *bytes, "{name}");
    }
}
