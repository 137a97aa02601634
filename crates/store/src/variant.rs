//! A fine-tune of which only some weights are given, because the others are those of a model that is packed: its trunk is
//! neither read nor hashed again.

use std::collections::BTreeMap;

use engine::{Error, Result, Tensor};

use crate::atomic::Written;
use crate::manifest::{Manifest, SegmentRef, Source, Weights};
use crate::segment::Layout;
use crate::{Store, name};

/// What a variant's source is called in its manifest.
const FORMAT: &str = "variant";

/// Packs a model called `name`, version 1, that is the model of `base` but for the weights in `own`, by their position in the
/// program. What is written is those weights, a table and a manifest.
///
/// Nothing is run: the program is that of `base`, which ran when it was packed, and the weights are of the same shapes.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a name that is none, a position that the program does not have and
/// a tensor of another datatype or shape; [`AlreadyExists`](engine::ErrorKind::AlreadyExists) for a name that is taken;
/// [`Unavailable`](engine::ErrorKind::Unavailable) when gc took what `base` needs.
pub fn variant(store: &Store, base: &Manifest, name: &str, own: &BTreeMap<usize, Tensor>) -> Result<Manifest> {
    name::check(name)?;
    let weights = with_own(store, &base.weights, own)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(base.source.hash.as_bytes());
    for (position, tensor) in own {
        hasher.update(&(*position as u64).to_le_bytes()).update(tensor.data());
    }
    let own_bytes = own.values().map(|tensor| tensor.data().len() as u64).sum();
    let source = Source { format: FORMAT.to_owned(), hash: hasher.finalize().to_hex().to_string(), bytes: own_bytes };
    // Other forms hold the same weights in other layouts, which nobody made of these.
    let manifest = Manifest { name: name.to_owned(), version: 1, source, weights, others: Vec::new(), ..base.clone() };
    match store.commit(&manifest)? {
        Some(Written::New) => Ok(manifest),
        Some(Written::Existed) => Err(Error::new(
            engine::ErrorKind::AlreadyExists,
            format!("model '{name}' is there already; choose another name"),
        )),
        None => Err(Error::unavailable(format!("gc took what model '{}' needs; pack it again", base.name))),
    }
}

/// `base` with the weights in `own` instead of its own, which are stored in a segment of theirs.
fn with_own(store: &Store, base: &Weights, own: &BTreeMap<usize, Tensor>) -> Result<Weights> {
    let mut table = store.table(base)?;
    let mut segments = base.segments.clone();
    let segment = u32::try_from(segments.len()).map_err(|_| Error::internal("too many segments"))?;
    let mut layout = Layout::default();
    for (&position, tensor) in own {
        let count = table.len();
        let place = table.get_mut(position).ok_or_else(|| {
            Error::invalid(format!("the program has {count} weights, and none at position {position}"))
        })?;
        if (place.dtype, &*place.shape) != (tensor.dtype(), tensor.shape()) {
            let (is, wanted) = (tensor.shape(), &place.shape);
            let what = format!("weight {position} is {} {wanted:?}, not {} {is:?}", place.dtype, tensor.dtype());
            return Err(Error::invalid(what));
        }
        let left = segments.get_mut(place.segment as usize);
        if let Some(left) = left.filter(|left| left.external.is_none()) {
            left.used_bytes = left.used_bytes.saturating_sub(tensor.data().len() as u64);
        }
        place.segment = segment;
        place.offset_bytes = layout.add(blake3::hash(tensor.data()), tensor.data())?;
    }
    if !layout.is_empty() {
        let hash = store.put_segment(&layout)?;
        let used_bytes = layout.stored_bytes();
        segments.push(SegmentRef { hash, bytes: layout.file_bytes(), used_bytes, external: None });
    }
    Ok(Weights { table: store.put_table(&table)?, segments, ..base.clone() })
}

#[cfg(test)]
mod tests {
    use engine::ErrorKind;

    use super::*;
    use crate::upkeep::tests::Place;

    #[test]
    fn a_variant_has_its_own_weights_and_the_trunk_of_its_base() {
        let place = Place::new();
        let tensor = |shape: Vec<usize>, value: f32| {
            let count = shape.iter().product();
            Tensor::from_f32(shape, vec![value; count]).unwrap()
        };
        let trunk = [tensor(vec![64, 512], 0.25), tensor(vec![512], 0.5), tensor(vec![2, 512], 0.75)];
        let (base, _) = place.pack("base", &trunk);
        let own = |value: f32| BTreeMap::from([(2, tensor(vec![2, 512], value))]);
        for value in [1.0, 2.0] {
            let name = format!("tune{value}");
            let made = variant(&place.store, &base, &name, &own(value)).unwrap();
            let read = place.store.manifest(&name, 1).unwrap();
            assert_eq!(read, made);
            let weights = place.store.weights(&read).unwrap();
            let wanted = [trunk[0].data(), trunk[1].data(), own(value)[&2].data()].map(|data| data.to_vec());
            assert!(weights.iter().map(|weight| weight.data().to_vec()).eq(wanted), "{name}");
            assert_eq!((&read.program, read.weights.segments.len()), (&base.program, 2));
            let used =
                |manifest: &Manifest| manifest.weights.segments.iter().map(|segment| segment.used_bytes).sum::<u64>();
            assert_eq!(used(&read), used(&base));
        }
        assert_eq!(place.store.weights(&base).unwrap()[2].data(), trunk[2].data(), "the base is as it was");
        for (what, name, own, want) in [
            ("taken", "tune1", own(3.0), ErrorKind::AlreadyExists),
            ("no name", "a/b", own(3.0), ErrorKind::InvalidInput),
            ("no such weight", "new", BTreeMap::from([(3, trunk[2].clone())]), ErrorKind::InvalidInput),
            ("another shape", "new", BTreeMap::from([(2, trunk[1].clone())]), ErrorKind::InvalidInput),
        ] {
            assert_eq!(variant(&place.store, &base, name, &own).unwrap_err().kind, want, "{what}");
        }
        assert!(place.store.manifest("new", 1).is_err(), "what was refused is not there");
    }
}
