//! What of a model is in memory: its program's sessions and its weights.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use engine::{Error, Load, Result, Session, Weights};
use store::Manifest;
use store::manifest::ProgramKind;

use super::Residency;
use crate::model::Model;

/// A program's sessions, one per lane.
pub(crate) struct Program {
    /// Indexed by lane. Only that lane locks its slot, so the lock is never waited for.
    sessions: Vec<Mutex<Box<dyn Session>>>,
}

impl Program {
    pub(crate) fn new(sessions: Vec<Mutex<Box<dyn Session>>>) -> Self {
        Self { sessions }
    }

    pub(crate) fn session(&self, lane: usize) -> MutexGuard<'_, Box<dyn Session>> {
        // A run that panicked leaves the runtime's session as it was: it is only ever called through a shared handle.
        self.sessions[lane].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Residency {
    /// The weights of `model`, mapped and bound; done at the first call.
    pub(crate) fn weights(&self, model: &Model) -> Result<Arc<dyn Weights>> {
        model.weights_or(|| {
            let (store, manifest) = (self.repository.store()?, model.manifest());
            let tensors = store.weights(manifest).or_else(|error| {
                // Compacting the store moves the weights of a model that stays what it is, and gc takes the old place.
                let moved = store.manifest(&manifest.name, manifest.version);
                let moved = moved.and_then(|moved| moved.on(&engine::cpu::target())).ok();
                let moved = moved.filter(|moved| moved.source == manifest.source && moved.weights != manifest.weights);
                moved.map_or(Err(error), |moved| store.weights(&moved))
            })?;
            self.engine.bind(tensors)
        })
    }

    /// Builds the sessions of `model`'s program, unless they are there. Takes milliseconds to seconds: the loader's.
    pub(crate) fn load(&self, model: &Model) -> Result<()> {
        if model.program().is_some() {
            return Ok(());
        }
        let hash = &model.manifest().program.hash;
        let known = self.programs().get(hash).and_then(Weak::upgrade);
        let program = match known {
            Some(program) => program,
            None => {
                let program = Arc::new(self.build(model.manifest())?);
                let mut programs = self.programs();
                programs.retain(|_, program| program.strong_count() > 0);
                programs.insert(hash.clone(), Arc::downgrade(&program));
                program
            }
        };
        model.set_program(program);
        Ok(())
    }

    fn build(&self, manifest: &Manifest) -> Result<Program> {
        let sessions = || {
            let store = self.repository.store()?;
            let load = match manifest.program.kind {
                ProgramKind::Lifted => Load::AsIs,
                ProgramKind::Whole => Load::Optimise,
                ProgramKind::SavedModel => {
                    return store.with_saved_model(manifest, |model| self.engine.saved_model(model, self.lanes));
                }
            };
            let bytes = store.program(&manifest.program)?;
            (0..self.lanes).map(|_| self.engine.session(&bytes, manifest.weights.len(), load)).collect()
        };
        let of = |error: Error| error.context(format!("model '{}' version {}", manifest.name, manifest.version));
        let sessions: Vec<_> = sessions().map_err(of)?;
        Ok(Program::new(sessions.into_iter().map(Mutex::new).collect()))
    }

    fn programs(&self) -> MutexGuard<'_, HashMap<String, Weak<Program>>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
