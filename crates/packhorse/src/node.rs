//! What serving and working both stand on: a repository, a runtime, residency, the scheduler and its lanes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::onnx::Onnx;
use engine::{Libraries, Runtimes, onnx, tensorflow, torch};
use objects::{Limits, Network, Variables};
use serve::{Control, LoadOptions, Metrics, QueueLimits, Residency, ResidencyOptions, Scheduler};
use store::remote::{self, CacheBytes};
use store::repository::{Layout, PackCache, VersionPolicy};
use store::{OwnFolder, Remote, Repository, Scratch, Serving};

use crate::exit::Exit;

/// Where packs are kept that are for this run alone, until [`tidy`] removes it. It is not the repository's: that is held
/// by threads that nobody waits for, and so may outlive `main`.
static FOR_THIS_RUN: Mutex<Option<OwnFolder>> = Mutex::new(None);

/// Removes what was for this run alone. What is left of it when that fails, or never happens, is in the folder for temporary
/// files, and the next run removes it.
pub(crate) fn tidy() {
    drop(FOR_THIS_RUN.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// A cache of packs for this run alone.
fn cache_for_this_run() -> Result<PackCache, Exit> {
    let failed = |error: engine::Error| {
        Exit::Failed(format!("no folder for this run's packs can be made: {}; give --pack-cache", error.message))
    };
    let folder = OwnFolder::make(&std::env::temp_dir(), "packhorse-run-").map_err(failed)?;
    let cache = PackCache::open(&folder.path().to_string_lossy())?;
    *FOR_THIS_RUN.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder);
    Ok(cache)
}

/// Loads ONNX Runtime from where the environment says, or from where the system keeps it, and knows where TensorFlow and
/// libtorch are.
pub(crate) fn runtimes() -> Result<Arc<Runtimes>, Exit> {
    let library = |variable| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let onnx = Onnx::load(library(onnx::LIBRARY_VARIABLE).as_deref());
    let onnx = onnx.map_err(|error| Exit::Configuration(error.message))?;
    let libraries =
        Libraries { tensorflow: library(tensorflow::LIBRARY_VARIABLE), torch: library(torch::LIBRARY_VARIABLE) };
    Ok(Arc::new(Runtimes::new(onnx.into(), libraries)))
}

/// What talking to buckets takes; in the background, its threads step back for whoever computes.
pub(crate) fn network(background: bool) -> Result<Arc<Network>, Exit> {
    let mut limits = Limits { background, ..Limits::default() };
    if background {
        // Requests wait, and what could not be had is tried again when somebody asks for it.
        limits.retry = Duration::from_secs(10);
    }
    Network::start(limits, Variables::of_process()).map_err(|error| Exit::configuration(&error))
}

/// The bucket that `store` names; `None` for a store in a folder.
pub(crate) fn elsewhere(store: &str) -> Result<Option<objects::Place>, Exit> {
    if !remote::is_remote(store) {
        return Ok(None);
    }
    network(false)?.place(store).map(Some).map_err(|error| Exit::configuration(&error))
}

/// Where models come from: the place, and what is kept of it on this machine.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) store: &'a str,
    /// Where packs are kept of what is no store of packs.
    pub(crate) pack_cache: Option<&'a str>,
    /// Where files are kept of a store in a bucket, and how much of the disk that may take.
    pub(crate) cache: Option<&'a str>,
    pub(crate) cache_bytes_max: CacheBytes,
}

impl<'a> Place<'a> {
    /// The place `store`, with what is kept of it where it usually is.
    pub(crate) fn of(store: &'a str, pack_cache: Option<&'a str>) -> Self {
        Self { store, pack_cache, cache: None, cache_bytes_max: CacheBytes::Auto }
    }
}

impl Place<'_> {
    /// The repository there, whose packs are made with `packer`.
    pub(crate) fn open(self, packer: Option<Arc<Runtimes>>) -> Result<Repository, Exit> {
        if remote::is_remote(self.store) {
            let network = network(true)?;
            let cache = self.cache.map(PathBuf::from).or_else(|| user_cache("packhorse-stores"));
            let cache = cache.ok_or_else(|| {
                let why = "there is no XDG_CACHE_HOME and no HOME to keep what is fetched of it in";
                Exit::Configuration(format!("{}: {why}; give a folder as --cache", self.store))
            })?;
            tracing::info!(store = self.store, cache = %cache.display(), "what is fetched is kept here");
            let opened = Remote::open(&network, self.store, &cache, self.cache_bytes_max);
            return Ok(opened.map_err(|error| Exit::configuration(&error))?.into());
        }
        let layout = Layout::of(self.store).map_err(|error| Exit::configuration(&error))?;
        if let Layout::Packs(store) = layout {
            return Ok(store.into());
        }
        Ok(Repository::new(layout, self.cache()?.at_most(self.cache_bytes_max), packer))
    }

    /// That the place can be one, as far as can be told without a runtime and without asking anybody else.
    pub(crate) fn check(self) -> Result<(), Exit> {
        if remote::is_remote(self.store) {
            return Ok(());
        }
        Layout::of(self.store).map(drop).map_err(|error| Exit::configuration(&error))
    }

    /// The cache of packs that was asked for, or the user's own; one for this run alone when there is no place for it.
    fn cache(self) -> Result<PackCache, Exit> {
        if let Some(place) = self.pack_cache {
            return PackCache::open(place).map_err(|error| Exit::configuration(&error));
        }
        let place = user_cache("packhorse");
        let why = match place.as_deref().and_then(Path::to_str).map(PackCache::open) {
            Some(Ok(cache)) => {
                tracing::info!(place = %cache.root().display(), "packs are kept here");
                return Ok(cache);
            }
            Some(Err(error)) => error.message,
            None => "there is no XDG_CACHE_HOME and no HOME".to_owned(),
        };
        let cache = cache_for_this_run()?;
        let place = cache.root().display();
        tracing::warn!(%why, %place, "packs are kept for this run only; give a folder that can be written as --pack-cache");
        Ok(cache)
    }
}

/// The folder called `name` among the user's caches, if there is a place for those.
pub(crate) fn user_cache(name: &str) -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || variable("HOME").map(|home| home.join(".cache"));
    let caches = variable("XDG_CACHE_HOME").filter(|place| place.is_absolute()).or_else(home);
    caches.map(|caches| caches.join(name))
}

/// Where what is laid out for hot models is mapped from: the folder that was asked for, or among the user's caches; `None`
/// where there is to be no such thing, or no place for it.
pub(crate) fn scratch(asked: Option<&str>) -> Result<Option<Scratch>, Exit> {
    match asked {
        Some("off") => Ok(None),
        Some(folder) => {
            let scratch = Scratch::at(folder.into());
            scratch.open().map_err(|error| Exit::Configuration(error.message))?;
            Ok(Some(scratch))
        }
        None => Ok(user_cache("packhorse-hot").map(Scratch::at)),
    }
}

/// Starts a scheduler over the repository at `place`, a lane on every core that this process may use.
pub(crate) fn start(place: Place<'_>, limits: QueueLimits, options: ResidencyOptions) -> Result<Arc<Scheduler>, Exit> {
    // What is typed wrong is told before a runtime is loaded.
    place.check()?;
    let runtimes = runtimes()?;
    let repository = place.open(Some(Arc::clone(&runtimes)))?;
    on_lanes(limits, |lanes| Residency::open_with(repository, runtimes, lanes, options))
}

/// As [`start`] for the frames of videos, on runtimes that are loaded already.
pub(crate) fn start_for_frames(
    repository: impl Into<Repository>,
    runtimes: Arc<Runtimes>,
) -> Result<Arc<Scheduler>, Exit> {
    on_lanes(QueueLimits::default(), |lanes| Residency::open_with(repository, runtimes, lanes, for_frames()))
}

/// How models look at the frames of videos: at each by itself, unless their repository says otherwise. What a run costs by
/// itself is nothing beside a frame's decoding, and every frame more in it takes as much memory again.
pub(crate) fn for_frames() -> ResidencyOptions {
    let defaults = Serving { max_batch_size: Some(1), ..Serving::default() };
    ResidencyOptions { defaults, ..ResidencyOptions::default() }
}

/// Starts a scheduler with a single lane for one model alone, of one version or the newest.
pub(crate) fn start_for_one(place: Place<'_>, model: &str, version: Option<u64>) -> Result<Arc<Scheduler>, Exit> {
    let runtimes = runtimes()?;
    let repository = place.open(Some(Arc::clone(&runtimes)))?;
    let residency = Arc::new(Residency::open(repository, runtimes, 1, Control::Explicit)?);
    let policy = version.map(|version| VersionPolicy::Specific([version].into()));
    let loaded = residency.load_named(model, &LoadOptions { policy, ..LoadOptions::default() });
    loaded.map_err(|error| Exit::configuration(&error))?;
    let cores = engine::cpu::lane_cores();
    Ok(Scheduler::start(residency, &cores[..1], QueueLimits::default(), Arc::new(Metrics::default()))?)
}

fn on_lanes(
    limits: QueueLimits,
    open: impl FnOnce(usize) -> engine::Result<Residency>,
) -> Result<Arc<Scheduler>, Exit> {
    let cores = engine::cpu::lane_cores();
    let residency = Arc::new(open(cores.len())?);
    // Pins that do not fit are a mistake in the settings.
    residency.ready_pinned().map_err(|error| Exit::configuration(&error))?;
    Ok(Scheduler::start(residency, &cores, limits, Arc::new(Metrics::default()))?)
}
