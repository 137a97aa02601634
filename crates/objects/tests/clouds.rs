//! Google's buckets and Azure's containers: the suite of every place, and credentials that are not taken.

use engine::ErrorKind;
use objects::{Limits, Network, Place, When, conformance};

use crate::servers::google::Google;
use crate::servers::{self, ACCOUNT, ACCOUNT_KEY, Server, ask, ask_with};

fn place<const N: usize>(url: &str, variables: [(&str, &str); N]) -> Place {
    Network::start(Limits::default(), variables.into()).unwrap().place(url).unwrap()
}

fn google(server: &Google, variable: (&str, &str)) -> Place {
    place("gs://conformance/some/where", [("GOOGLE_BASE_URL", &server.url()), variable])
}

#[test]
fn google_does_what_every_place_does() {
    let server = Google::start("conformance", Some("let me in"));
    conformance::all(&google(&server, ("GOOGLE_BEARER_TOKEN", "let me in")));
    let (keys, uploads) = server.holds();
    let left: Vec<_> = keys.iter().filter(|key| key.contains(".unfinished")).collect();
    assert!(left.is_empty() && uploads == 0, "{left:?} {uploads}");
    let error = google(&server, ("GOOGLE_BEARER_TOKEN", "open")).head("k").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Forbidden, "{error}");
    assert!(error.message.contains("GOOGLE_BEARER_TOKEN") && !error.message.contains("open"), "{error}");
    // Without a token nothing is asked of the machine, whatever is done.
    let nobody = google(&Google::start("conformance", None), ("GOOGLE_SKIP_SIGNATURE", "true"));
    conformance::objects_are_written_read_and_removed(&nobody);
    conformance::uploads_appear_at_their_end(&nobody);
}

/// What fake-gcs-server has been given in another way is listed and read: it shares nothing with the other but the protocol.
#[test]
fn what_lies_in_a_server_of_others_is_read() {
    let server = Server::fake_gcs();
    let json = "Content-Type: application/json\r\n";
    let (status, body) = ask_with(server.address, "POST", "/storage/v1/b", json, r#"{"name": "other"}"#).unwrap();
    assert_eq!(status, 200, "{body}");
    let text = |number: usize| "0123456789".repeat(number * 1000);
    for number in 1..4 {
        let path = format!("/upload/storage/v1/b/other/o?uploadType=media&name=some/where/a%20b%2B{number}");
        assert_eq!(ask(server.address, "POST", &path, &text(number)).unwrap().0, 200);
    }
    let place = place("gs://other/some", [("STORAGE_EMULATOR_HOST", &server.address.to_string())]);
    let pages: Vec<_> = place.list("where/").map(Result::unwrap).collect();
    let objects: Vec<_> = pages.iter().flat_map(|page| &page.objects).collect();
    assert_eq!(objects.len(), 3, "{objects:?}");
    for (number, object) in (1..).zip(objects) {
        assert_eq!(object.key, format!("where/a b+{number}"));
        assert_eq!(place.head(&object.key).unwrap().tag.etag, object.tag.etag);
        assert_eq!(place.read(object, 0..object.bytes).unwrap(), text(number).as_bytes());
        assert_eq!(place.read(object, 995..1005).unwrap(), "5678901234".as_bytes());
        let known = place.head(&object.key).unwrap().tag;
        assert_eq!(place.get_unless(&object.key, 1 << 20, &known).unwrap(), None);
    }
    assert_eq!(place.list_folder("").next().unwrap().unwrap().folders, ["where"]);
    assert_eq!(place.head("where/none").unwrap_err().kind, ErrorKind::NotFound);
    place.delete("where/a b+2").unwrap();
    assert_eq!(place.list("where/").map(|page| page.unwrap().objects.len()).sum::<usize>(), 2);
    // It takes no writing, and says so.
    let error = place.put("where/new", "text".into(), &When::Always).unwrap_err();
    assert!(error.message.contains("gs://other/some/where/new"), "{error}");
}

fn azure(server: &Server, key: &str) -> Place {
    let endpoint = format!("{}/{ACCOUNT}", server.url());
    let account = [("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT), ("AZURE_STORAGE_ACCOUNT_KEY", key)];
    place("az://conformance/some where", [account[0], account[1], ("AZURE_STORAGE_ENDPOINT", &endpoint)])
}

#[test]
fn azure_does_what_every_place_does() {
    let Some(server) = servers::azurite() else { return };
    server.make_container("conformance");
    conformance::all(&azure(server, ACCOUNT_KEY));
    let wrong = "d3Jvbmc=";
    let error = azure(server, wrong).head("k").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Forbidden, "{error}");
    for says in ["az://conformance/some where/k", "AZURE_STORAGE_*", ACCOUNT] {
        assert!(error.message.contains(says), "{error}");
    }
    assert!(!error.message.contains(wrong), "{error}");
}
