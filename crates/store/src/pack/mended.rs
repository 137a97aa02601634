//! Models of which the store has lost something: they are found out, packed once more, and may go.

use engine::{ErrorKind, Result, Runtimes};

use crate::manifest::{Form, ProgramRef, Weights};
use crate::pack::{Draft, Identity, Packed, Request, pack_file, unchanged};
use crate::{Manifest, Store};

impl Store {
    /// That everything `manifest` names is there and what it says, as far as that shows without reading segments: whether
    /// they hold what their names say is for [`verify`](crate::upkeep::verify).
    ///
    /// # Errors
    /// Of the first file that is missing, cut or changed.
    pub(crate) fn check(&self, manifest: &Manifest) -> Result<()> {
        manifest.forms().try_for_each(|(program, weights)| self.check_form(program, weights))?;
        manifest.files.keys().try_for_each(|name| self.file(manifest, name).map(drop))
    }

    /// As [`touch`](Self::touch), of what is going: files that are missing, or that it does not name, have nothing to lose.
    pub(crate) fn spare(&self, manifest: &Manifest) -> Result<()> {
        match self.touch(manifest) {
            Err(error) if error.kind != ErrorKind::Corrupt => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn check_form(&self, program: &ProgramRef, weights: &Weights) -> Result<()> {
        self.program(program)?;
        self.tensors(weights).map(drop)
    }
}

/// Packs `request`, which is what `manifest` was made of, in its place. Forms for other CPUs stay where they are whole.
///
/// # Errors
/// As [`pack`](crate::pack::pack).
pub(crate) fn mended(store: &Store, runtimes: &Runtimes, request: &Request, manifest: &Manifest) -> Result<Packed> {
    let Manifest { name, version, source, .. } = manifest.clone();
    let mut draft = Draft::import(runtimes, request, Identity { name, version, source })?;
    let stored_bytes = draft.put(store)?;
    let Draft { manifest: mut new, mut notes, .. } = draft;
    let is_made = |program: &ProgramRef| new.forms().any(|(made, _)| made.target == program.target);
    let others = manifest.forms().filter(|(program, weights)| {
        // Where there is but one form, another target's is an older program of the same.
        new.per_cpu && !is_made(program) && store.check_form(program, weights).is_ok()
    });
    let kept: Vec<Form> =
        others.map(|(program, weights)| Form { program: program.clone(), weights: weights.clone() }).collect();
    new.others.extend(kept);
    if !store.supersede(manifest, &new)? {
        // Another packer, compacting or gc was faster.
        return pack_file(store, runtimes, request);
    }
    notes.push(format!("version {version} was there, and of its files one was missing or damaged; it is whole again"));
    Ok(Packed { changed: true, stored_bytes, notes, ..unchanged(new)? })
}
