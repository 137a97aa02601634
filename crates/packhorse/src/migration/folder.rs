//! Where the model lies that a configuration names: a folder, or the copy that the Hugging Face libraries keep.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use engine::{Error, Result};
use store::pack::is_checkpoint;

/// Where copies of models may lie on this machine.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Where the Hugging Face libraries keep what they fetched.
    pub(crate) caches: Vec<PathBuf>,
}

impl Places {
    /// Those that the Hugging Face libraries would use here.
    pub(crate) fn here() -> Self {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = |value: Option<OsString>| value.map(PathBuf::from);
        let caches = [
            variable("HF_HUB_CACHE"),
            variable("HF_HOME").map(|home| home.join("hub")),
            home(std::env::var_os("HOME")).map(|home| home.join(".cache/huggingface/hub")),
        ];
        Self { caches: caches.into_iter().flatten().collect() }
    }

    /// The folder of the model called `name`, which is beside the configuration, in the working directory, or a copy.
    ///
    /// # Errors
    /// [`NotFound`](engine::ErrorKind::NotFound) with the way to get it: nothing is fetched here.
    pub(super) fn find(&self, name: &str, beside: &Path) -> Result<PathBuf> {
        let last = name.rsplit('/').next().unwrap_or(name);
        let beside = [name, last].into_iter().flat_map(|name| [beside.join(name), PathBuf::from(name)]);
        let copies = self.caches.iter().filter_map(|cache| snapshot(cache, name));
        beside.chain(copies).find(|folder| is_checkpoint(folder)).ok_or_else(|| {
            Error::not_found(format!(
                "no folder of '{name}' is on this machine, beside the configuration or in the cache of the Hugging Face \
                 libraries, and nothing is fetched from elsewhere; fetch it once with 'hf download {name} --local-dir \
                 {last}' beside the configuration, and run this again; where only its traced file is left, pack that with \
                 --signature, --task and --tokenizer"
            ))
        })
    }
}

/// The copy of `name` in `cache` that its main branch stood at.
fn snapshot(cache: &Path, name: &str) -> Option<PathBuf> {
    let folder = cache.join(format!("models--{}", name.replace('/', "--")));
    let revision = std::fs::read_to_string(folder.join("refs/main")).ok()?;
    let snapshot = folder.join("snapshots").join(revision.trim());
    snapshot.is_dir().then_some(snapshot)
}

/// That the model in `folder` has the head of the class called `class`: the libraries would give it one of random weights.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it has another.
pub(super) fn check_class(folder: &Path, class: &str) -> Result<()> {
    let text = std::fs::read(folder.join("config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let Some(own) = config["architectures"][0].as_str() else { return Ok(()) };
    if head(own) == head(class) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "'huggingface_model_class' is {class}, and the model in {} is a {own}: its libraries would give it a head of random \
         weights; name a model that was trained as a {class}",
        folder.display()
    )))
}

/// What a class is for: `QuestionAnswering`, or nothing for an encoder alone.
fn head(class: &str) -> &str {
    class.split_once("For").map_or("", |(_, head)| head)
}

/// Whether the model in `folder` has a tokenizer that is read here.
pub(super) fn has_tokenizer(folder: &Path) -> bool {
    folder.join("tokenizer.json").is_file()
}
