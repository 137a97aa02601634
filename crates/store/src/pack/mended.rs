//! Packing a model once more of which the store has lost something.

use engine::{Error, ErrorKind, Result, Runtimes};

use super::{Draft, Identity, Packed, Request, pack_file, unchanged};
use crate::manifest::{Form, ProgramRef, Weights};
use crate::{Manifest, Store};

impl Store {
    /// What is the matter with the first file that `manifest` names and that is missing, cut or changed, as far as that shows
    /// without reading segments: whether they hold what their names say is for [`verify`](crate::upkeep::verify).
    pub(super) fn lacks(&self, manifest: &Manifest) -> Option<Error> {
        let mut forms = manifest.forms().filter_map(|(program, weights)| self.lacks_of(program, weights));
        let of_files = || manifest.files.keys().find_map(|name| lost(self.file(manifest, name).map(drop)));
        forms.next().or_else(of_files)
    }

    fn lacks_of(&self, program: &ProgramRef, weights: &Weights) -> Option<Error> {
        lost(self.program(program).and_then(|_| self.tensors(weights)).map(drop))
    }
}

/// The error of a file that is not what it was; others may be over the next moment.
fn lost(outcome: Result<()>) -> Option<Error> {
    outcome.err().filter(|error| matches!(error.kind, ErrorKind::NotFound | ErrorKind::Corrupt))
}

/// Packs `request`, which is what `manifest` was made of, in its place. Forms for other CPUs stay where they are whole.
///
/// # Errors
/// As [`pack`](super::pack).
pub(super) fn mended(store: &Store, runtimes: &Runtimes, request: &Request, manifest: &Manifest) -> Result<Packed> {
    let Manifest { name, version, source, .. } = manifest.clone();
    let mut draft = Draft::import(runtimes, request, Identity { name, version, source })?;
    let stored_bytes = draft.put(store)?;
    let Draft { manifest: mut new, mut notes, .. } = draft;
    let is_made = |program: &ProgramRef| new.forms().any(|(made, _)| made.target == program.target);
    // Where there is but one form, another target's is an older program of the same.
    let per_cpu = new.per_cpu || manifest.per_cpu;
    let others: Vec<_> = manifest.forms().filter(|(program, _)| per_cpu && !is_made(program)).collect();
    let same_tensors = (&new.inputs, &new.outputs) == (&manifest.inputs, &manifest.outputs);
    let (kept, lost): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|(program, weights)| same_tensors && store.lacks_of(program, weights).is_none());
    notes.push(format!("version {version} was there, and of its files one was missing or damaged; it is whole again"));
    for (program, _) in lost {
        notes.push(format!("its form for {} is gone; pack it on such a CPU as well", program.target));
    }
    if !kept.is_empty() {
        new.max_batch_size = new.max_batch_size.min(manifest.max_batch_size);
    }
    new.per_cpu = per_cpu;
    new.others
        .extend(kept.into_iter().map(|(program, weights)| Form { program: program.clone(), weights: weights.clone() }));
    if !store.supersede(manifest, &new)? {
        // Another packer, compacting or gc was faster.
        return pack_file(store, runtimes, request);
    }
    Ok(Packed { changed: true, stored_bytes, notes, ..unchanged(new)? })
}
