//! Whether a store has what is to be packed.

use engine::Result;

use super::Request;
use crate::accuracy::Accuracy;
use crate::manifest::Source;
use crate::{Manifest, Store, hf};

pub(super) fn existing(store: &Store, name: &str) -> Result<Vec<Manifest>> {
    store.versions(name)?.into_iter().map(|version| store.manifest(name, version)).collect()
}

/// The version that already is of what `request` asks for, in whatever forms.
pub(super) fn same<'a>(
    store: &Store,
    existing: &'a [Manifest],
    request: &Request,
    source: &Source,
) -> Option<&'a Manifest> {
    existing.iter().rev().find(|manifest| {
        manifest.source == *source
            && request.version.is_none_or(|version| version == manifest.version)
            && (manifest.labels == request.labels || request.labels.is_empty() && source.format == hf::FORMAT)
            && (source.format == hf::FORMAT || manifest.task == request.task && hf::came_with(manifest, &request.files))
            && manifest.precision == request.precision
            && (request.precision.is_float() || measured(store, manifest).is_some_and(|of| of.is_enough_for(request)))
            && outside_is_there(store, manifest, request.copy)
    })
}

fn measured(store: &Store, manifest: &Manifest) -> Option<Accuracy> {
    Accuracy::of(store, manifest).ok().flatten()
}

/// Whether what `manifest` needs of files outside the store is there, of which a pack with `copy` needs none.
fn outside_is_there(store: &Store, manifest: &Manifest, copy: bool) -> bool {
    let segments = manifest.forms().flat_map(|(_, weights)| &weights.segments);
    let mut outside = segments.filter(|segment| segment.external.is_some());
    outside.all(|segment| !copy && store.segment(segment).is_ok())
}
