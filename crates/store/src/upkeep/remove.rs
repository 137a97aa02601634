//! Removing models: a manifest goes, at once; gc takes what nothing needs any more, when its time has come.

use engine::{Error, Result};

use crate::Store;
use crate::atomic::io_error;
use crate::lock::Hold;

/// Removes `version` of `model`, or all of its versions, and gives those that went. Servers that have it loaded go on
/// until they look again.
///
/// # Errors
/// [`NotFound`](engine::ErrorKind::NotFound) when there is no such model or version.
pub fn remove(store: &Store, model: &str, version: Option<u64>) -> Result<Vec<u64>> {
    let _held = store.lock(Hold::Alone)?;
    let known = store.versions(model)?;
    let going: Vec<u64> =
        known.iter().copied().filter(|known| version.is_none_or(|version| version == *known)).collect();
    if going.is_empty() {
        let which = version.map_or_else(String::new, |version| format!(" version {version}"));
        return Err(Error::not_found(format!(
            "model '{model}'{which} is not in the store; 'packhorse models' lists those that are"
        )));
    }
    let folder = store.root().join("models").join(model);
    for &version in &going {
        // From now on its files have a grace period to live; those of one that cannot be read are left to their age.
        if let Ok(manifest) = store.manifest(model, version) {
            store.spare(&manifest)?;
        }
        let path = store.manifest_path(model, version);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(io_error(&path, "cannot be removed", &source));
            }
            _ => {}
        }
    }
    let synced = std::fs::File::open(&folder).and_then(|folder| folder.sync_all());
    synced.map_err(|source| io_error(&folder, "cannot be written", &source))?;
    // The folder may hold other versions, or the part of a packer that was killed.
    if going == known {
        let _ = std::fs::remove_dir(&folder);
    }
    Ok(going)
}

#[cfg(test)]
mod tests {
    use engine::ErrorKind;

    use super::*;

    #[test]
    fn what_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::create(folder.path().to_str().unwrap()).unwrap();
        for (model, version, says) in [("m", None, "model 'm' is not"), ("m", Some(3), "model 'm' version 3")] {
            let error = remove(&store, model, version).unwrap_err();
            assert_eq!(error.kind, ErrorKind::NotFound);
            assert!(error.message.contains(says), "{}", error.message);
        }
        assert_eq!(remove(&store, "../m", None).unwrap_err().kind, ErrorKind::InvalidInput);
    }
}
