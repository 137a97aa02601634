//! The runtime against what is none of it; `store` has the modules.

use super::*;

#[test]
fn a_missing_library_is_told_with_the_cure() {
    let error = Torch::load(Some(Path::new("/nowhere/libpackhorse_torch.so"))).err().unwrap();
    assert_eq!(error.kind, crate::ErrorKind::Unavailable);
    assert!(error.message.contains(LIBRARY_VARIABLE) && error.message.contains("setup.sh torch"), "{error}");
}
