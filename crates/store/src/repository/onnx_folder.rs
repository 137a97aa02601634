//! A folder of `.onnx` files, each a model of its file's name, or one such file.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use engine::Result;

use super::listing::{Item, Listed, Listing, Source, Version, digest, items, stamp_of};
use super::settings::Settings;
use super::tfs::is_onnx;
use crate::name;

/// Every model at `place`, a folder or a file.
pub(super) fn list(place: &Path) -> Result<Listing> {
    let inside = files(place)?;
    // Which files hold weights of which model is written in the models, and those are not read here.
    let others = stamp_of(inside.iter().filter(|item| !is_onnx(&item.path)));
    let settings = Arc::new(Settings::default());
    let model = |item: &Item| {
        let stamp = digest([item.stamp.as_str(), &others]);
        let source = Source::file(item.path.clone(), stamp.clone());
        let versions = BTreeMap::from([(1, Version { source, stamp })]);
        let listed = Listed { versions, settings: Arc::clone(&settings), ..Listed::default() };
        Some((stem(item)?, listed))
    };
    Ok(inside.iter().filter_map(model).collect())
}

/// The model's name, where `item` is one.
fn stem(item: &Item) -> Option<String> {
    let stem = item.path.file_stem()?.to_str().filter(|_| is_onnx(&item.path))?;
    name::check(stem).ok().map(|()| stem.to_owned())
}

/// What lies in the folder, or beside and with the file.
fn files(place: &Path) -> Result<Vec<Item>> {
    if place.is_dir() {
        let mut inside = items(place)?;
        inside.retain(|item| !item.is_folder);
        return Ok(inside);
    }
    let folder = place.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut inside = items(folder)?;
    inside.retain(|item| !item.is_folder && (!is_onnx(&item.path) || item.path.file_name() == place.file_name()));
    Ok(inside)
}
