//! What is in memory, for people and metrics.

use store::remote::CacheCounts;

use super::Residency;
use super::budget::MemoryFigures;
use super::room::{mapped_bytes, models};
use crate::metrics::{CacheSource, MemorySource, ProgramMemory};
use crate::model::Model;

impl Residency {
    /// What of `model` is in memory of its own, in bytes: its part of the process's private memory and the weights that it
    /// has mapped, whether their pages are there or not. A program that it shares is not in it.
    pub(crate) fn bytes_of(&self, model: &Model) -> u64 {
        let ready = model.bound();
        ready.map_or(0, |ready| ready.private_bytes() + mapped_bytes(model.manifest()))
            + self.whole_bytes(model)
            + model.heat().hot().map_or(0, |hot| hot.private_bytes() + hot.mapped_bytes())
    }

    fn whole_bytes(&self, model: &Model) -> u64 {
        if !model.is_whole() {
            return 0;
        }
        model.program().map_or(0, |program| program.bytes())
    }
}

impl CacheSource for Residency {
    fn counts(&self) -> Option<CacheCounts> {
        self.repository.remote().map(store::Remote::counts)
    }
}

impl MemorySource for Residency {
    fn figures(&self) -> MemoryFigures {
        self.look();
        self.budget.figures()
    }

    fn models(&self, each: &mut dyn FnMut(&str, u64)) {
        for model in models(&self.catalog()) {
            if model.is_bound() || model.is_whole() {
                each(&model.manifest().name, self.bytes_of(model));
            }
        }
    }

    fn hot(&self) -> usize {
        models(&self.catalog()).filter(|model| model.heat().is_hot()).count()
    }

    fn programs(&self, each: &mut dyn FnMut(ProgramMemory<'_>)) {
        for slot in self.every_slot() {
            if let Some(program) = slot.program() {
                each(ProgramMemory { hash: slot.hash(), bytes: program.bytes() });
            }
        }
    }
}
