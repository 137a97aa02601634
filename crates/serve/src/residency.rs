//! Residency: which models there are, and what of them is in memory.
//!
//! A *cold* model is a manifest. It is made *ready* by mapping its segments and pointing at its weights, which a lane
//! does itself in well under a millisecond; what takes long, a session per program and lane, is built once per
//! program by the loader, a thread of its own. A repository that is no store of packs has files to be packed first: that
//! is done once a file, on threads of a low priority, and its models are served one by one as they are packed. What a
//! model of a store elsewhere is made of is fetched first, on threads of its own ([`files`]).
//!
//! Everything that is kept in memory counts against one [`Budget`]. When that is short, what is worth least goes:
//! [`value`] decides, [`room`] finds out and acts, the [`keeper`] sees to it that room is made before it is needed.

mod change;
pub use change::LoadOptions;
use change::Waiting;
mod polling;

mod budget;
pub use budget::{Budget, MemoryFigures, MemoryKind};
mod popularity;
pub(crate) use popularity::Traffic;
mod value;

mod files;
pub(crate) use files::{AtHand, Files};
mod program;
pub(crate) use program::{Program, Slot};
mod ready;
pub(crate) use ready::Ready;
mod trunk;
pub(crate) use trunk::Trunk;
#[cfg(test)]
pub(crate) use trunk::share;

mod hot;
pub(crate) use hot::{Heat, promote};
mod inspector;
pub(crate) use inspector::inspect;
mod keeper;
pub(crate) use keeper::keep;
mod pins;
mod report;
mod room;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use engine::memory::{self, Usage};
use engine::{Engine, Error, ErrorKind, Result};
use store::repository::Pruned;
use store::{Repository, Scratch, Serving};

use crate::catalog::{self, Catalog, Control, IndexEntry};
use crate::metrics::{Metrics, ModelCounts, ModelSource};
use crate::model::Model;
use inspector::Unseen;
use keeper::Bell;

/// The models of one repository and what of them is in memory.
pub struct Residency {
    repository: Repository,
    engine: Arc<dyn Engine>,
    lanes: usize,
    control: Control,
    /// What the server's operator says of how models are served, by name.
    overrides: BTreeMap<String, Serving>,
    /// What holds where neither he nor the repository says anything.
    defaults: Serving,
    /// Replaced as a whole, and read without a lock: who changes it has a low priority, and a request that waited for a
    /// lock of his would wait until he has a core again.
    catalog: ArcSwap<Catalog>,
    /// Held by whoever changes the catalogue, so that changes follow one another.
    changing: Mutex<()>,
    /// Versions to be packed before they are served; filled at the start, taken from by [`settle_next`](Self::settle_next).
    waiting: Mutex<VecDeque<Waiting>>,
    /// How many of them are neither served nor refused.
    unsettled: AtomicUsize,
    /// By model, names of versions that came from elsewhere than the repository, and are there instead of its own.
    labels: RwLock<BTreeMap<String, BTreeMap<String, u64>>>,
    /// The last model's id.
    ids: AtomicU64,
    /// By program hash, so that models of one architecture share its place in memory; gone with the last of them.
    slots: Mutex<HashMap<String, Weak<Slot>>>,
    /// What all of it may take.
    budget: Arc<Budget>,
    scales: Scales,
    /// Where what is laid out for hot models is mapped from; `None` where none ever is.
    hot: Option<Scratch>,
    /// Whether some model is pinned, as far as that was ever asked for.
    pins: AtomicBool,
    /// What the models that are pinned take, weights and all.
    pinned_bytes: AtomicU64,
    /// Held by whoever makes room.
    relieving: Mutex<()>,
    /// Set when the server stops: what takes long then ends early.
    leaving: AtomicBool,
    /// Wakes the keeper.
    bell: Bell,
    /// Whose weights the inspector has not come to.
    unseen: Unseen,
    /// Where loads and unloads are counted; set once, by the scheduler.
    metrics: OnceLock<Arc<Metrics>>,
}

/// How memory and time are measured.
#[derive(Clone, Copy)]
struct Scales {
    /// What the process takes.
    usage: fn() -> Usage,
    /// What of the heap is in use, in bytes.
    heap_bytes: fn() -> u64,
    /// How long ago something was.
    since: fn(Instant) -> Duration,
}

impl Default for Scales {
    fn default() -> Self {
        Self { usage: memory::usage, heap_bytes: memory::heap_bytes, since: |then| then.elapsed() }
    }
}

/// How models are kept, beside what their repository says.
#[derive(Debug, Default)]
pub struct ResidencyOptions {
    /// Who decides which models are served.
    pub control: Control,
    /// What the server's operator says of how models are served, by name; it wins field by field.
    pub overrides: BTreeMap<String, Serving>,
    /// What holds where neither he nor the repository says anything.
    pub defaults: Serving,
    /// What models may take of the memory, with everything else; a budget of the default size when there is none.
    pub budget: Option<Arc<Budget>>,
    /// Where what is laid out for models that are asked for most is mapped from; without, all run on what they share.
    pub hot: Option<Scratch>,
}

impl ModelSource for Residency {
    fn visit(&self, each: &mut dyn FnMut(u64, &str, ModelCounts)) {
        for model in self.models() {
            each(model.id(), &model.manifest().name, (&model.statistics()).into());
        }
    }

    fn fallbacks(&self) -> usize {
        self.models().iter().filter(|model| model.manifest().falls_back()).count()
    }
}

impl Residency {
    /// Looks at `repository`. A model that cannot be served is logged, and the others are. What has yet to be packed is
    /// known and not served until [`settle_next`](Self::settle_next) has come to it. Under [`Control::Explicit`] nothing is
    /// served until it is loaded.
    ///
    /// # Errors
    /// When the repository itself cannot be read.
    pub fn open(
        repository: impl Into<Repository>,
        engine: Arc<dyn Engine>,
        lanes: usize,
        control: Control,
    ) -> Result<Self> {
        Self::open_with(repository, engine, lanes, ResidencyOptions { control, ..ResidencyOptions::default() })
    }

    /// As [`open`](Self::open), as `options` say.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(
        repository: impl Into<Repository>,
        engine: Arc<dyn Engine>,
        lanes: usize,
        options: ResidencyOptions,
    ) -> Result<Self> {
        let ResidencyOptions { control, overrides, defaults, budget, hot } = options;
        let residency = Self {
            repository: repository.into(),
            engine,
            lanes,
            control,
            overrides,
            defaults,
            catalog: ArcSwap::default(),
            changing: Mutex::default(),
            waiting: Mutex::default(),
            unsettled: AtomicUsize::new(0),
            labels: RwLock::default(),
            ids: AtomicU64::new(0),
            slots: Mutex::default(),
            budget: budget.unwrap_or_else(|| Budget::new(Budget::default_bytes())),
            scales: Scales::default(),
            hot,
            pins: AtomicBool::new(false),
            pinned_bytes: AtomicU64::new(0),
            relieving: Mutex::default(),
            leaving: AtomicBool::new(false),
            bell: Bell::default(),
            unseen: Unseen::default(),
            metrics: OnceLock::new(),
        };
        residency.first_look()?;
        let catalog = residency.catalog();
        for name in residency.overrides.keys().filter(|name| !catalog.contains_key(*name)) {
            tracing::warn!(model = %name, "there are settings of this model, and it is not in the store");
        }
        Ok(residency)
    }

    /// Looks what the process has in memory.
    fn look(&self) {
        self.budget.look((self.scales.usage)());
    }

    /// Has loads and unloads counted in `metrics` from now on.
    pub(crate) fn count_in(&self, metrics: &Arc<Metrics>) {
        // A second scheduler over the same models would count into the first one's.
        let _ = self.metrics.set(Arc::clone(metrics));
    }

    /// What everything together may take of the memory.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// What runs the models, for people.
    pub fn engine_description(&self) -> String {
        self.engine.description()
    }

    /// Who decides which models are served.
    pub fn control(&self) -> Control {
        self.control
    }

    /// Whether every version that was there at the start is served or refused.
    pub fn is_settled(&self) -> bool {
        self.unsettled.load(Ordering::Acquire) == 0
    }

    /// How often [`upkeep`](Self::upkeep) is due, where it ever is.
    pub(crate) fn upkeep_every(&self) -> Option<Duration> {
        self.repository.upkeep_every()
    }

    /// Looks after the cache of packs.
    ///
    /// # Errors
    /// As [`Repository::upkeep`].
    pub(crate) fn upkeep(&self) -> Result<Pruned> {
        let served: Vec<_> = self.models().iter().map(|model| Arc::clone(model.manifest())).collect();
        self.repository.upkeep(&served)
    }

    /// Every version of every model that is served, by name and then version.
    pub fn models(&self) -> Vec<Arc<Model>> {
        self.catalog().values().flat_map(|known| known.served().map(|(_, model)| Arc::clone(model))).collect()
    }

    /// Every version of every model that is known, served or not, and every model that is refused as a whole.
    pub fn index(&self) -> Vec<IndexEntry> {
        self.catalog().iter().flat_map(|(name, known)| catalog::index(name, known)).collect()
    }

    /// The same of the model called `name` alone.
    pub fn index_of(&self, name: &str) -> Vec<IndexEntry> {
        self.catalog().get(name).map(|known| catalog::index(name, known)).unwrap_or_default()
    }

    /// `version` of the model called `name`, or the newest that is served.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), naming what is there, or why a version that is known is not served.
    pub fn model(&self, name: &str, version: Option<u64>) -> Result<Arc<Model>> {
        let catalog = self.catalog();
        let known = catalog.get(name).ok_or_else(|| {
            Error::not_found(format!("model '{name}' is not in the store; 'packhorse models' lists those that are"))
        })?;
        known.model(name, version)
    }

    /// The versions of the model called `name` that are served, ascending; empty when there is none.
    pub fn versions(&self, name: &str) -> Vec<u64> {
        let catalog = self.catalog();
        catalog.get(name).map_or_else(Vec::new, |known| known.served().map(|(version, _)| version).collect())
    }

    /// The version of the model called `name` that goes by `label`; whether it is served is for
    /// [`model`](Self::model) to say.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), naming the labels that there are.
    pub fn labelled(&self, name: &str, label: &str) -> Result<u64> {
        let labels = self.labels(name);
        labels.get(label).copied().ok_or_else(|| {
            let known: Vec<_> = labels.keys().map(|label| format!("'{label}'")).collect();
            let known = match known.as_slice() {
                [] => "no labels are configured".to_owned(),
                known => format!("it has {}", known.join(", ")),
            };
            Error::not_found(format!("model '{name}' has no version label '{label}': {known}; give a version"))
        })
    }

    /// The names of versions of the model called `name`: those that [`label`](Self::label) gave, else the repository's own.
    pub fn labels(&self, name: &str) -> BTreeMap<String, u64> {
        let given = self.labels.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        given.unwrap_or_else(|| self.catalog().get(name).map_or_else(BTreeMap::new, |known| known.labels.clone()))
    }

    /// Makes `labels` the names of versions of the model called `name`. A name that is new may go to a version that is not
    /// served yet.
    ///
    /// # Errors
    /// [`FailedPrecondition`](ErrorKind::FailedPrecondition) when a name that is in use would go to a version that is not
    /// served; then none is changed.
    pub fn label(&self, name: &str, labels: BTreeMap<String, u64>) -> Result<()> {
        let (served, known) = (self.versions(name), self.labels(name));
        let wrong = |(label, version): &(&String, &u64)| {
            !served.contains(version) && known.get(*label).is_some_and(|known| known != *version)
        };
        if let Some((label, version)) = labels.iter().find(wrong) {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                format!("label '{label}' cannot go to version {version} of model '{name}', which is not served"),
            ));
        }
        self.labels.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), labels);
        Ok(())
    }

    /// Whether a model is called `name`, served or not.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.catalog().contains_key(name)
    }

    /// Whether a request for this model would be taken. A cold model is ready in this sense: its first request makes
    /// it so.
    pub fn is_ready(&self, name: &str, version: Option<u64>) -> bool {
        self.model(name, version).is_ok_and(|model| !model.failed())
    }

    fn count(&self, what: impl FnOnce(&Metrics)) {
        if let Some(metrics) = self.metrics.get() {
            what(metrics);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Catalog)) {
        let mut catalog = (*self.catalog()).clone();
        change(&mut catalog);
        self.publish(catalog);
    }

    fn publish(&self, catalog: Catalog) {
        self.count_pins(&catalog);
        self.catalog.store(Arc::new(catalog));
    }

    fn catalog(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
