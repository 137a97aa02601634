//! Changes of the catalogue: the first look, what has to be packed, loads and unloads by request.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use engine::{Error, ErrorKind, Result};
use store::Manifest;
use store::repository::{Listed, Settings, Version, VersionPolicy};

use super::Residency;
use crate::catalog::{Catalog, Control, Entry, Known, State, unloaded};
use crate::metrics::Metrics;
use crate::model::Model;

/// A version that is packed before it is served.
pub(super) struct Waiting {
    name: String,
    version: u64,
    found: Version,
    settings: Arc<Settings>,
}

/// How a model is loaded by request.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// A model configuration as JSON, which comes before the repository's own.
    pub config: Option<String>,
    /// Which versions are loaded, before what the repository or the configuration says.
    pub policy: Option<VersionPolicy>,
    /// Whether versions that are served, and did not change, stay as they are.
    pub keep: bool,
    /// Whether the model stays in memory whatever else needs it; `None` leaves that to the settings.
    pub pin: Option<bool>,
}

impl Residency {
    pub(super) fn first_look(&self) -> Result<()> {
        let mut catalog = Catalog::new();
        let mut waiting = self.waiting();
        let listing = self.repository.list()?;
        let mut manifests = match self.control {
            Control::Explicit => BTreeMap::new(),
            Control::None | Control::Poll => self.repository.all_at_hand(&listing),
        };
        for (name, listed) in listing {
            let mut known = known(&name, &listed);
            log_refusal(&name, &known, None);
            for version in listed.wanted().into_iter().filter(|_| listed.refusal.is_none()) {
                let found = &listed.versions[&version];
                let state = match self.control {
                    Control::Explicit => State::Unserved(unloaded(&name)),
                    Control::None | Control::Poll => match manifests.remove(&(name.clone(), version)).flatten() {
                        Some(manifest) => self.state(&name, version, manifest, &listed.settings),
                        None => {
                            let (name, found) = (name.clone(), found.clone());
                            waiting.push_back(Waiting { name, version, found, settings: Arc::clone(&listed.settings) });
                            State::Packing
                        }
                    },
                };
                known.versions.insert(version, Entry { stamp: found.stamp.clone(), state });
            }
            catalog.insert(name, known);
        }
        log_fallbacks(catalog.values().flat_map(Known::served).map(|(_, model)| model.manifest()));
        self.unsettled.store(waiting.len(), Ordering::Release);
        self.publish(catalog);
        Ok(())
    }

    /// How many versions have yet to be packed before they are served.
    pub fn unsettled(&self) -> usize {
        self.unsettled.load(Ordering::Acquire)
    }

    /// Packs one version that waits for it and serves it or says why not; false when none waits any more. Takes as long as
    /// the file is large.
    pub fn settle_next(&self) -> bool {
        let Some(Waiting { name, version, found, settings }) = self.waiting().pop_front() else { return false };
        let started = Instant::now();
        let state = self.packed(&name, version, &found, &settings);
        let state = if state.is_pinned() { self.warm(state) } else { state };
        let _changing = self.changing();
        self.change(|catalog| {
            let entry = catalog.get_mut(&name).and_then(|known| known.versions.get_mut(&version));
            // The file may have changed since; then a look at the repository has found something else.
            if let Some(entry) = entry.filter(|entry| entry.stamp == found.stamp) {
                if let State::Served(_) = state {
                    let (ms, left) = (started.elapsed().as_millis(), self.unsettled().saturating_sub(1));
                    tracing::info!(model = %name, version, ms, left, "packed");
                }
                entry.state = state;
            }
        });
        self.unsettled.fetch_sub(1, Ordering::AcqRel);
        true
    }

    /// Loads the versions of the model called `name` that are wanted, as a client asks under [`Control::Explicit`]; one
    /// that is served already is read again, unless `options` say otherwise. Blocks until the newest is warm. When that
    /// fails, what was served stays.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) under another control, [`NotFound`](ErrorKind::NotFound) for a name that the
    /// repository does not have, and whatever keeps the newest version from being loaded.
    pub fn load_named(&self, name: &str, options: &LoadOptions) -> Result<()> {
        self.explicit()?;
        self.load_from_repository(name, options)
    }

    /// Looks whether a model called `name` came into the repository since the last look, and serves it if so. Every other
    /// model stays what it is.
    ///
    /// # Errors
    /// As [`load_named`](Self::load_named), under any control.
    pub fn look_for(&self, name: &str) -> Result<()> {
        self.load_from_repository(name, &LoadOptions { keep: true, ..LoadOptions::default() })
    }

    fn load_from_repository(&self, name: &str, options: &LoadOptions) -> Result<()> {
        let _changing = self.changing();
        let mut listed = self
            .repository
            .model(name, options.config.as_deref())?
            .ok_or_else(|| Error::not_found(format!("model '{name}' is not in the store; put it there first")))?;
        if let Some(policy) = &options.policy {
            listed.policy = policy.clone();
        }
        if let Some(pin) = options.pin {
            let mut settings = (*listed.settings).clone();
            settings.serving.pin = Some(pin);
            listed.settings = Arc::new(settings);
        }
        if let Some(refusal) = &listed.refusal {
            return Err(refusal.clone());
        }
        let before = self.catalog().get(name).cloned().unwrap_or_default();
        let mut after = known(name, &listed);
        for version in listed.wanted() {
            let found = &listed.versions[&version];
            let same = before.versions.get(&version).filter(|old| options.keep && old.stamp == found.stamp);
            let entry = match same.filter(|old| old.served().is_some()) {
                Some(served) => served.clone(),
                None => {
                    let state = self.warm(self.packed(name, version, found, &listed.settings));
                    Entry { stamp: found.stamp.clone(), state }
                }
            };
            after.versions.insert(version, entry);
        }
        let outcome = match after.versions.values().next_back().map(|newest| &newest.state) {
            Some(State::Unserved(error)) => Err(error.clone()),
            Some(State::Served(_) | State::Packing) => Ok(()),
            None => Err(after.refusal.clone().unwrap_or_else(|| {
                Error::not_found(format!("none of the versions that are wanted of model '{name}' is there"))
            })),
        };
        if outcome.is_ok() || before.served().next().is_none() {
            self.change(|catalog| drop(catalog.insert(name.to_owned(), after)));
        }
        outcome
    }

    /// Stops serving the model called `name`; requests that it holds are finished.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) under another control, [`NotFound`](ErrorKind::NotFound) for a name that is
    /// not known.
    pub fn unload_named(&self, name: &str) -> Result<()> {
        self.explicit()?;
        let _changing = self.changing();
        if !self.catalog().contains_key(name) {
            return Err(Error::not_found(format!("model '{name}' is not in the store")));
        }
        self.change(|catalog| {
            for entry in catalog.get_mut(name).into_iter().flat_map(|known| known.versions.values_mut()) {
                if let State::Served(_) = std::mem::replace(&mut entry.state, State::Unserved(unloaded(name))) {
                    self.count(Metrics::model_unloaded);
                }
            }
        });
        Ok(())
    }

    /// The state of `version` of `name`, cold; packs its file first when that was not done before.
    pub(super) fn packed(&self, name: &str, version: u64, found: &Version, settings: &Arc<Settings>) -> State {
        let manifest = self.repository.at_hand(name, version, found).unwrap_or_else(|| {
            // On a thread of its own: a priority that was lowered cannot be raised again.
            std::thread::scope(|scope| {
                let packing = scope.spawn(|| {
                    engine::cpu::step_back();
                    self.repository.manifest(name, version, found)
                });
                packing.join().unwrap_or_else(|_| Err(Error::internal("packing it panicked")))
            })
        });
        let state = self.state(name, version, manifest, settings);
        if let State::Served(model) = &state {
            log_fallbacks([model.manifest()]);
        }
        state
    }

    fn state(&self, name: &str, version: u64, manifest: Result<Manifest>, settings: &Arc<Settings>) -> State {
        let model = || {
            let mut manifest = manifest?.on(&engine::cpu::target())?;
            if !settings.ignored.is_empty() {
                let ignored = settings.ignored.join(", ");
                tracing::info!(model = %name, version, %ignored, "parts of its configuration change nothing here");
            }
            settings.apply(&mut manifest)?;
            let id = self.ids.fetch_add(1, Ordering::Relaxed) + 1;
            let slot = self.slot(&manifest);
            let model =
                Model::unloaded(id, manifest, self.overridden(name, settings))?.in_slot(slot).with_files(self.files());
            self.fits_alone(model.manifest(), 0, model.pinned())?;
            self.pins.fetch_or(model.pinned(), Ordering::Relaxed);
            Ok(model)
        };
        match model() {
            Ok(model) => State::Served(Arc::new(model)),
            Err(error) => {
                tracing::warn!(model = %name, version, %error, "not served");
                State::Unserved(refused(error))
            }
        }
    }

    /// `settings`, where the server's operator says nothing else of the model called `name`, and the defaults where they say
    /// nothing.
    fn overridden(&self, name: &str, settings: &Arc<Settings>) -> Arc<Settings> {
        let wanted = self.overrides.get(name).cloned().unwrap_or_default();
        let serving = wanted.or(&settings.serving).or(&self.defaults);
        if serving == settings.serving {
            return Arc::clone(settings);
        }
        Arc::new(Settings { serving, ..(**settings).clone() })
    }

    /// `state` with its program and weights in place, so that its first request waits for nothing.
    pub(super) fn warm(&self, state: State) -> State {
        let State::Served(model) = &state else {
            self.count(|metrics| metrics.model_loaded(false));
            return state;
        };
        let warmed = self.prepare(model);
        self.count(|metrics| metrics.model_loaded(warmed.is_ok()));
        match warmed {
            Ok(_) => state,
            Err(error) => {
                tracing::warn!(model = %model.manifest().name, %error, "not served");
                State::Unserved(error)
            }
        }
    }

    fn explicit(&self) -> Result<()> {
        if self.control == Control::Explicit {
            return Ok(());
        }
        Err(Error::unsupported("models are loaded by request only when the server is started with --control explicit"))
    }

    fn waiting(&self) -> MutexGuard<'_, std::collections::VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The model called `name` without its versions.
pub(super) fn known(name: &str, listed: &Listed) -> Known {
    let unmet = || listed.unmet().map(|error| error.context(format!("model '{name}'")));
    let refusal = listed.refusal.clone().or_else(unmet).map(refused);
    Known { versions: BTreeMap::new(), labels: listed.labels.clone(), refusal }
}

/// Says why a model is not served, unless that was said `before`.
pub(super) fn log_refusal(name: &str, known: &Known, before: Option<&Error>) {
    if let Some(error) = known.refusal.as_ref().filter(|&error| Some(error) != before) {
        tracing::warn!(model = %name, %error, "not served");
    }
}

/// Says which of the models run in their portable form though there is a quicker one for other CPUs: one line, however
/// many they are.
fn log_fallbacks<'a>(manifests: impl IntoIterator<Item = &'a Arc<Manifest>>) {
    const NAMED_MAX: usize = 3;
    let named = |manifest: &Manifest| format!("{} version {}", manifest.name, manifest.version);
    let slower: Vec<_> = manifests.into_iter().filter(|manifest| manifest.falls_back()).collect();
    if !slower.is_empty() {
        let (node, versions) = (engine::cpu::target(), slower.len());
        let first = slower.iter().take(NAMED_MAX).map(|manifest| named(manifest)).collect::<Vec<_>>().join(", ");
        tracing::warn!(
            %node, versions, %first,
            "run in their portable form, which is slower, as they were packed for other CPUs; 'packhorse pack' of the same \
             files here adds the form for this one"
        );
    }
}

/// A model that is wrong is no wrong request.
fn refused(error: Error) -> Error {
    match error.kind {
        ErrorKind::InvalidInput => Error { kind: ErrorKind::Unavailable, ..error },
        _ => error,
    }
}
