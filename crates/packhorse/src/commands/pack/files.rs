//! Which files and folders are packed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use store::pack::{is_model_folder, name_of};

use super::Args;
use crate::exit::Exit;

/// Every file that was asked for. All that can be wrong with the asking is found before anything is packed.
pub(super) fn files(args: &Args) -> Result<Vec<PathBuf>, Exit> {
    let mut files = Vec::new();
    for path in &args.paths {
        if is_model_folder(path) {
            files.push(path.clone());
        } else if path.is_dir() {
            files.extend(files_in(path)?);
        } else if path.is_file() {
            files.push(path.clone());
        } else {
            return Err(Exit::Configuration(format!("{}: there is no such file", path.display())));
        }
    }
    if files.len() > 1 && args.name.is_some() {
        let many = files.len();
        return Err(Exit::Configuration(format!("--name is for one file, and there are {many}; leave it out")));
    }
    let mut known: HashMap<_, &Path> = HashMap::new();
    for file in &files {
        if let Some(other) = known.insert(name_of(file)?, file) {
            return Err(Exit::Configuration(format!(
                "{} and {} would be one model by name; pack them one by one, each with its --name",
                other.display(),
                file.display()
            )));
        }
    }
    Ok(files)
}

/// The ONNX files of a folder, by name; not those of folders inside it, but for the one of an exported Hugging Face model.
fn files_in(folder: &Path) -> Result<Vec<PathBuf>, Exit> {
    let unreadable =
        |source: std::io::Error| Exit::Configuration(format!("{}: cannot be read: {source}", folder.display()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path.extension().is_some_and(|ending| ending == "onnx") && path.is_file() {
            files.push(path);
        }
    }
    let exported = folder.join("onnx/model.onnx");
    if files.is_empty() && folder.join("config.json").is_file() && exported.is_file() {
        files.push(exported);
    }
    if files.is_empty() {
        return Err(Exit::Configuration(format!("{}: {}", folder.display(), nothing_in(folder))));
    }
    files.sort_unstable();
    Ok(files)
}

/// Why there is nothing to pack in `folder`, which holds no ONNX file and is no model's, and what to give instead.
fn nothing_in(folder: &Path) -> String {
    let mut inside: Vec<PathBuf> = std::fs::read_dir(folder)
        .map_or_else(|_| Vec::new(), |entries| entries.flatten().map(|entry| entry.path()).collect());
    inside.sort_unstable();
    if inside.iter().any(|path| path.extension().is_some_and(|ending| ending == "safetensors")) {
        return "there are weights, and no config.json that says of what; put the model's beside them".to_owned();
    }
    match inside.iter().find(|path| is_model_folder(path)) {
        Some(model) => {
            format!("it holds folders of models, such as {}; give those: {}/*", model.display(), folder.display())
        }
        None => "no file in this folder ends in .onnx".to_owned(),
    }
}
