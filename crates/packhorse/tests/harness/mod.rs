//! What the tests stand on: a place of their own, commands typed in it, and patience with a limit.

pub(crate) mod http;
mod running;
pub(crate) mod wire;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;
use store::Store;
use tempfile::TempDir;
use work::queue::{Options, TaskState};
use work::{SqliteQueue, TaskQueue};

pub(crate) use running::{Ran, Running};

/// The longest wait for anything. The demo is the longest of all; whatever takes more is taken to hang.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// The folders of a place in which nothing may be left over.
const LEFT_EMPTY: [&str; 2] = ["tmp", "home"];

/// Looks until there is something to see.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Every file of a store with the detector `nanodet`. Packed once, since that is what takes time.
static PACKED: LazyLock<Vec<(String, Vec<u8>)>> = LazyLock::new(|| {
    let place = Place::new();
    place.ok("pack assets/nanodet_g_coco80.onnx --store store --name nanodet --task object-detection --labels assets/coco80.txt --target native");
    let read = |name: String| {
        let bytes = std::fs::read(place.path("store").join(&name)).unwrap();
        (name, bytes)
    };
    place.files("store").into_iter().map(read).collect()
});

/// A folder to work in, as a user would: commands are typed there, and its names are relative to it. It holds the
/// project's `assets`, and folders for temporary files and for a user's home, which have to be empty in the end.
pub(crate) struct Place(TempDir);

impl Place {
    pub(crate) fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for folder in LEFT_EMPTY {
            std::fs::create_dir(place.path(folder)).unwrap();
        }
        std::os::unix::fs::symlink(workspace().join("assets"), place.path("assets")).unwrap();
        place
    }

    /// As [`new`](Self::new), with the detector `nanodet` packed into `store`.
    pub(crate) fn with_store() -> Self {
        let place = Self::new();
        Store::create(place.path("store").to_str().unwrap()).unwrap();
        for (name, bytes) in &*PACKED {
            let path = place.path("store").join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `packhorse` with the words of `line` as its arguments. Nothing of the caller's own settings reaches it.
    pub(crate) fn packhorse(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_packhorse"));
        for (variable, _) in std::env::vars_os() {
            // The others would keep the runtime from what it does on a user's machine, telemetry for one.
            let named =
                ["CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_DISABLE_TELEMETRY", "TF_CPP_MIN_LOG_LEVEL", "XDG_CACHE_HOME"];
            if variable.to_string_lossy().starts_with("PACKHORSE_") || named.iter().any(|name| variable == *name) {
                command.env_remove(variable);
            }
        }
        command.args(line.split_whitespace()).current_dir(self.0.path());
        command
            .env(engine::onnx::LIBRARY_VARIABLE, library())
            .env("TMPDIR", self.path("tmp"))
            .env("HOME", self.path("home"));
        command
    }

    /// Starts `packhorse`.
    pub(crate) fn start(&self, line: &str) -> Running {
        Running::start(&mut self.packhorse(line))
    }

    /// Runs `packhorse` to its end.
    pub(crate) fn run(&self, line: &str) -> Ran {
        self.start(line).end()
    }

    /// Runs `packhorse` to its end, which has to be a good one.
    #[track_caller]
    pub(crate) fn ok(&self, line: &str) -> Ran {
        let ran = self.run(line);
        assert_eq!(ran.code, Some(0), "packhorse {line}: {}", ran.err);
        ran
    }

    /// Runs ffmpeg with the words of `line`.
    pub(crate) fn ffmpeg(&self, line: &str) {
        let mut command = Command::new("ffmpeg");
        command.args(["-nostdin", "-v", "error", "-y"]).args(line.split_whitespace()).current_dir(self.0.path());
        assert!(command.status().unwrap().success(), "ffmpeg {line}");
    }

    /// The first `frames` frames of the bundled clip, as the video `name`.
    pub(crate) fn clip(&self, name: &str, frames: u32) {
        self.ffmpeg(&format!("-i assets/street.mp4 -frames:v {frames} -c:v libx264 -preset ultrafast {name}"));
    }

    /// Submits to `queue`, and gives the task's id.
    #[track_caller]
    pub(crate) fn submit(&self, line: &str) -> String {
        let ran = self.ok(&format!("submit --queue queue {line}"));
        let [line] = ran.lines().try_into().unwrap();
        assert_eq!(line["state"], "queued");
        line["id"].as_str().unwrap().to_owned()
    }

    /// What `queue` says about a task.
    #[track_caller]
    pub(crate) fn state(&self, id: &str) -> TaskState {
        SqliteQueue::open(&self.path("queue"), Options::default()).unwrap().state(id).unwrap()
    }

    /// Every file below `folder`, sorted, relative to it.
    pub(crate) fn files(&self, folder: &str) -> Vec<String> {
        let root = self.path(folder);
        let (mut files, mut folders) = (Vec::new(), vec![root.clone()]);
        while let Some(folder) = folders.pop() {
            // What a running process removes meanwhile is not there any more.
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path => files.push(path.strip_prefix(&root).unwrap().to_string_lossy().into_owned()),
                }
            }
        }
        files.sort_unstable();
        files
    }

    /// That the results of the tasks `ids`, of `frames` frames each, are whole, and that `out` holds nothing else.
    #[track_caller]
    pub(crate) fn check_results(&self, ids: &[&str], frames: usize) {
        let mut want: Vec<_> = ids
            .iter()
            .flat_map(|id| ["cost.json", "results.jsonl", "summary.json"].map(|name| format!("{id}/{name}")))
            .collect();
        want.sort_unstable();
        assert_eq!(self.files("out"), want);
        for id in ids {
            let lines = std::fs::read_to_string(self.path(&format!("out/{id}/results.jsonl"))).unwrap();
            let indices: Vec<_> = lines.lines().map(|line| json(line)["frame"].as_u64().unwrap()).collect();
            assert!(indices.iter().copied().eq(0..frames as u64), "{id}: {indices:?}");
            let summary = std::fs::read_to_string(self.path(&format!("out/{id}/summary.json"))).unwrap();
            assert_eq!(json(&summary)["frames"], frames as u64);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for folder in LEFT_EMPTY {
            let left = self.files(folder);
            assert!(std::thread::panicking() || left.is_empty(), "left over in {folder}: {left:?}");
        }
    }
}

#[track_caller]
pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// That `text` holds each of `words`.
#[track_caller]
pub(crate) fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "'{text}' does not say '{word}'");
    }
}

pub(crate) fn workspace() -> PathBuf {
    std::path::absolute(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")).unwrap()
}

/// The runtime that `make setup` fetched, or the one that the environment names.
fn library() -> PathBuf {
    let named = std::env::var_os(engine::onnx::LIBRARY_VARIABLE).map(PathBuf::from);
    let library = named.unwrap_or_else(|| workspace().join(".cache/onnxruntime/1.31.1/libonnxruntime.so"));
    assert!(library.is_file(), "{}: 'make setup' fetches the runtime", library.display());
    std::path::absolute(library).unwrap()
}
