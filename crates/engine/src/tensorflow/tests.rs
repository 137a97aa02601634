//! The runtime against SavedModels of the tests, and against what is none.

use super::*;

#[test]
fn a_missing_library_is_told_with_the_cure() {
    let error = TensorFlow::load(Some(Path::new("/nowhere/libtensorflow_cc.so.2"))).err().unwrap();
    assert_eq!(error.kind, crate::ErrorKind::Unavailable);
    assert!(error.message.contains(LIBRARY_VARIABLE) && error.message.contains("tensorflow-cpu"), "{error}");
}
