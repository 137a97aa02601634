//! What was typed as videos: files, folders, objects and prefixes of buckets, as the inputs of tasks.

use std::path::{Path, PathBuf};

use engine::ErrorKind;
use work::Task;

use crate::exit::Exit;
use crate::places::{Outside, file};

/// What files of videos are called; in folders and under prefixes, others are passed over.
const ENDINGS: [&str; 21] = [
    "3gp", "asf", "avi", "flv", "h264", "h265", "m2ts", "m4v", "mjpeg", "mjpg", "mkv", "mov", "mp4", "mpeg", "mpg",
    "mts", "mxf", "ogv", "ts", "webm", "wmv",
];

/// The inputs that `typed` names, in its order; what lies in a folder or under a prefix by name.
pub(super) fn gather(typed: &[PathBuf], outside: &Outside) -> Result<Vec<String>, Exit> {
    let mut inputs = Vec::new();
    for typed in typed {
        let before = inputs.len();
        match typed.to_str().filter(|text| file(text).is_none()) {
            Some(url) => at(url, outside, &mut inputs)?,
            None => here(typed, &mut inputs)?,
        }
        if inputs.len() == before {
            let endings = ENDINGS.join(", ");
            return Err(Exit::Configuration(format!(
                "{}: there is no video in it; videos are told by their endings: {endings}",
                typed.display()
            )));
        }
    }
    Ok(inputs)
}

/// The video at `url`, or those that begin with it.
fn at(url: &str, outside: &Outside, inputs: &mut Vec<String>) -> Result<(), Exit> {
    let configuration = |error: engine::Error| Exit::configuration(&error);
    // A web server lists nothing, and may refuse to be asked with another method than the one that was signed.
    if url.starts_with("http://") || url.starts_with("https://") {
        inputs.push(url.to_owned());
        return Ok(());
    }
    let network = outside.network()?;
    if let Ok((place, key)) = network.object(url) {
        match place.head(&key) {
            Ok(_) => {
                inputs.push(url.to_owned());
                return Ok(());
            }
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(configuration(error)),
        }
    }
    let (place, prefix) = match url.ends_with('/') {
        true => (network.place(url).map_err(configuration)?, String::new()),
        false => match network.object(url) {
            Ok(found) => found,
            Err(_) => (network.place(url).map_err(configuration)?, String::new()),
        },
    };
    let mut found = Vec::new();
    for page in place.list(&prefix) {
        let objects = page.map_err(configuration)?.objects;
        found.extend(objects.into_iter().filter(|object| is_video(Path::new(&object.key))).map(|o| place.url(&o.key)));
    }
    if found.is_empty() && is_video(Path::new(&prefix)) {
        return Err(Exit::Configuration(format!("{url}: there is no such object, nor any video that begins with it")));
    }
    found.sort_unstable();
    inputs.append(&mut found);
    Ok(())
}

/// The file at `path`, or those in the folder.
fn here(path: &Path, inputs: &mut Vec<String>) -> Result<(), Exit> {
    let path = match path.to_str().and_then(file) {
        Some(path) => path,
        None => path.to_owned(),
    };
    if path.is_file() {
        inputs.push(absolute(&path)?);
        return Ok(());
    }
    if !path.is_dir() {
        return Err(Exit::Configuration(format!("{}: there is no such file", path.display())));
    }
    let (mut folders, mut found) = (vec![path], Vec::new());
    while let Some(folder) = folders.pop() {
        let unreadable =
            |e: std::io::Error| Exit::Configuration(format!("{}: it cannot be read: {e}", folder.display()));
        for entry in std::fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            // A link to a folder is not followed, so that none is walked for ever.
            match entry.file_type().map_err(unreadable)? {
                kind if kind.is_dir() => folders.push(entry.path()),
                _ if is_video(&entry.path()) && entry.path().is_file() => found.push(absolute(&entry.path())?),
                _ => {}
            }
        }
    }
    found.sort_unstable();
    inputs.append(&mut found);
    Ok(())
}

/// As a task names it: the one place that knows the rules says so.
fn absolute(path: &Path) -> Result<String, Exit> {
    Task::new(path, "any").map(|task| task.input).map_err(|error| Exit::configuration(&error))
}

fn is_video(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    ending.is_some_and(|ending| ENDINGS.contains(&&*ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_walked_for_videos() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.mp4", "a/c.MKV", "a/notes.txt", "a/.hidden.mp4", ".cache/d.mp4", "e/readme.md", "odd"] {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let gathered = |names: &[&str]| {
            let typed: Vec<PathBuf> = names.iter().map(|name| folder.path().join(name)).collect();
            let root = format!("{}/", folder.path().display());
            let inputs = gather(&typed, &Outside::default());
            inputs.map(|inputs| inputs.iter().map(|input| input.replace(&root, "")).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(gathered(&[""]).unwrap(), "a/c.MKV b.mp4");
        // What is named is taken, whatever it is called.
        assert_eq!(gathered(&["odd", "a"]).unwrap(), "odd a/c.MKV");
        for (name, says) in [("e", "there is no video in it"), ("f", "no such file")] {
            let Err(Exit::Configuration(error)) = gathered(&[name]) else { panic!("{name}") };
            assert!(error.contains(says), "{error}");
        }
    }
}
