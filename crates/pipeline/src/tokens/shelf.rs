//! The tokenizers that are in memory, each once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use engine::{Error, Result};
use store::{Manifest, Store};

use super::{Adjustments, Tokenizer};

const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";

/// The tokenizers that are in memory, by content: a thousand fine-tunes of one architecture have one. One that no model
/// uses any more is gone.
#[derive(Default)]
pub struct Tokenizers(Mutex<HashMap<Key, Weak<Tokenizer>>>);

/// What a tokenizer is made from.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    /// BLAKE3 of `tokenizer.json`.
    hash: String,
    adjustments: Adjustments,
}

impl Tokenizers {
    /// The tokenizer of the model that `manifest` describes.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when the model came without one or with one that cannot be read,
    /// [`Corrupt`](engine::ErrorKind::Corrupt) when its file is damaged.
    pub(crate) fn of(&self, store: &Store, manifest: &Manifest) -> Result<Arc<Tokenizer>> {
        let hash = manifest.files.get(TOKENIZER).cloned().ok_or_else(|| {
            Error::invalid("it was packed without a tokenizer.json, so it takes token ids only; pack it again with one")
        })?;
        let adjustments = match manifest.files.contains_key(CONFIG) {
            false => Adjustments::default(),
            true => Adjustments::of(&store.file(manifest, CONFIG)?)?,
        };
        let key = Key { hash, adjustments };
        // Held while it is read, so that a thousand models that come at once read it once.
        let mut shelf = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tokenizer) = shelf.get(&key).and_then(Weak::upgrade) {
            return Ok(tokenizer);
        }
        let tokenizer = Arc::new(Tokenizer::new(&store.file(manifest, TOKENIZER)?, &key.adjustments)?);
        shelf.retain(|_, tokenizer| tokenizer.strong_count() > 0);
        shelf.insert(key, Arc::downgrade(&tokenizer));
        Ok(tokenizer)
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use engine::Runtimes;
    use engine::onnx::Onnx;
    use store::pack::{Request, pack};

    use super::*;

    #[test]
    fn models_with_one_tokenizer_share_it_and_the_last_takes_it_along() {
        let place = tempfile::tempdir().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text");
        let library = std::env::var_os(engine::onnx::LIBRARY_VARIABLE).map(PathBuf::from);
        let runtimes = Runtimes::new(Arc::new(Onnx::load(library.as_deref()).unwrap()), engine::Libraries::default());
        let store = Store::create(place.path().join("store").to_str().unwrap()).unwrap();
        for (name, ending) in [("one", ""), ("other", ""), ("third", "\n")] {
            let folder = place.path().join(name);
            std::fs::create_dir(&folder).unwrap();
            for from in ["models/bert-sequence", "tokenizers/wordpiece"] {
                for entry in std::fs::read_dir(fixtures.join(from)).unwrap().flatten() {
                    std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
                }
            }
            let tokenizer = folder.join(TOKENIZER);
            std::fs::write(&tokenizer, std::fs::read_to_string(&tokenizer).unwrap() + ending).unwrap();
            pack(&store, &runtimes, &Request { path: folder, ..Request::default() }).unwrap();
        }
        let shelf = Tokenizers::default();
        let of = |name: &str| shelf.of(&store, &store.manifest(name, 1).unwrap()).unwrap();
        let (one, other, third) = (of("one"), of("other"), of("third"));
        assert!(Arc::ptr_eq(&one, &other) && !Arc::ptr_eq(&one, &third));
        let held = |shelf: &Tokenizers| shelf.0.lock().unwrap().values().filter(|held| held.strong_count() > 0).count();
        assert_eq!(held(&shelf), 2);
        drop((one, third));
        assert!(held(&shelf) == 1 && Arc::ptr_eq(&other, &of("one")));
        drop(other);
        assert_eq!(held(&shelf), 0);
    }
}
