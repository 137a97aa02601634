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
