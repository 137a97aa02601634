//! The folder as a place.

use engine::ErrorKind;
use objects::{Limits, Network, Variables, When, conformance};

#[test]
fn a_folder_does_what_every_place_does() {
    let folder = tempfile::tempdir().unwrap();
    let network = Network::start(Limits::default(), Variables::default()).unwrap();
    let place = network.place(folder.path().join("a/b").to_str().unwrap()).unwrap();
    conformance::all(&place);
    let url = format!("file://{}", folder.path().join("c").display());
    conformance::conditions_hold(&network.place(&url).unwrap());
}

#[test]
fn a_file_that_is_written_to_in_place_is_no_object() {
    let folder = tempfile::tempdir().unwrap();
    let network = Network::start(Limits::default(), Variables::default()).unwrap();
    let place = network.place(folder.path().to_str().unwrap()).unwrap();
    place.put("f", conformance::bytes(1, 10 << 20), &When::Absent).unwrap();
    let object = place.head("f").unwrap();
    let mut taken = 0;
    let all = 0..object.bytes;
    let error = place.fetch(&object, vec![all], 1, &mut |_, bytes| {
        taken += bytes.len();
        std::fs::write(folder.path().join("f"), conformance::bytes(2, 10 << 20)).unwrap();
        Ok(())
    });
    assert_eq!(error.unwrap_err().kind, ErrorKind::FailedPrecondition);
    assert!(taken < 10 << 20);
}

#[test]
fn a_folder_that_may_not_be_written_is_named_with_the_fix() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), b"").unwrap();
    let network = Network::start(Limits::default(), Variables::default()).unwrap();
    let place = network.place(folder.path().join("file").to_str().unwrap()).unwrap();
    let error = place.put("k", b"x"[..].into(), &When::Always).unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidInput, "{error}");
    assert!(error.message.contains("file"), "{error}");
}
