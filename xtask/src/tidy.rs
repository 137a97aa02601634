//! `tidy`: the conventions that the compiler and clippy do not check, each with the reason it is there.
//!
//! A rule is a function from a file's text to findings; [`run`] only walks the tree and prints.

mod arrows;
mod assets;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::source;

/// Lines outside unit tests; past this a file holds two thoughts.
const FILE_LINES_MAX: usize = 400;

/// One breach: where it is, what it is and why the rule exists.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    /// Relative to the repository.
    pub(crate) path: PathBuf,
    /// From 1.
    pub(crate) line: usize,
    /// The breach, then the reason after a colon.
    pub(crate) message: String,
}

impl Finding {
    fn new(path: &Path, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.message)
    }
}

/// Checks the repository at `root`; prints each finding and fails if there is any.
pub(crate) fn run(root: &Path) -> anyhow::Result<()> {
    let mut files = files_under(root, "crates")?;
    files.extend(files_under(root, "xtask")?);
    let read = |path: &PathBuf| {
        std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {}", path.display()))
    };
    let is_rust = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "rs") && !is_generated(path);
    let sources: Vec<(&PathBuf, String)> =
        files.iter().filter(is_rust).map(|path| Ok((path, read(path)?))).collect::<anyhow::Result<_>>()?;
    let tests: Vec<PathBuf> = sources.iter().flat_map(|(path, text)| test_files(path, text)).collect();

    let mut findings = Vec::new();
    for (path, text) in &sources {
        let is_test = tests.iter().any(|test| path.with_extension("").starts_with(test));
        findings.extend(rust_file(path, text, is_test));
    }
    for path in files.iter().filter(|path| path.ends_with("Cargo.toml")) {
        findings.extend(arrows::manifest(path, &read(path)?));
    }
    let decisions = files_under(root, "docs/decisions")?;
    for path in &decisions {
        let text =
            std::fs::read_to_string(root.join(path)).with_context(|| format!("cannot read {}", path.display()))?;
        findings.extend(decision(path, &text));
    }
    findings.extend(assets::check(root, &files_under(root, "assets")?)?);

    findings.sort();
    for finding in &findings {
        eprintln!("{finding}");
    }
    anyhow::ensure!(findings.is_empty(), "{} conventions broken", findings.len());
    eprintln!("xtask: tidy: {} files in order", files.len() + decisions.len());
    Ok(())
}

/// Files below `root/folder`, relative to `root`, without build outputs and hidden entries; none if it does not exist.
fn files_under(root: &Path, folder: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(folder) = folders.pop() {
        let path = root.join(&folder);
        if !path.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            if name == "target" || name.to_string_lossy().starts_with('.') {
                continue;
            }
            let below = folder.join(&name);
            if entry.file_type()?.is_dir() {
                folders.push(below);
            } else {
                found.push(below);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_generated(path: &Path) -> bool {
    path.starts_with("crates/proto/src/generated")
}

/// The modules that the file at `path` declares for tests alone: their paths without an ending, so that each stands for
/// the file and for the folder below it.
fn test_files(path: &Path, text: &str) -> Vec<PathBuf> {
    let is_root = ["mod.rs", "lib.rs", "main.rs"].iter().any(|name| path.ends_with(name));
    let folder = if is_root { path.with_file_name("") } else { path.with_extension("") };
    source::test_modules(text).into_iter().map(|module| folder.join(module)).collect()
}

/// The rules for one Rust file; one that is compiled for tests alone may be long.
fn rust_file(path: &Path, text: &str, is_test: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !text.starts_with("//!") {
        findings.push(Finding::new(path, 1, "does not open with `//!`: a reader learns first what a file is for"));
    }
    let lines = source::lines_outside_tests(text);
    if lines > FILE_LINES_MAX && !is_test {
        let message = format!(
            "{lines} lines outside unit tests, more than {FILE_LINES_MAX}: a longer file holds two thoughts, split it"
        );
        findings.push(Finding::new(path, 1, message));
    }
    let code = source::without_prose(text);
    let mut forbid = |word: &str, reason: &str| {
        for line in source::lines_with_word(&code, word) {
            findings.push(Finding::new(path, line, format!("`{word}`: {reason}")));
        }
    };
    for word in ["todo!", "unimplemented!"] {
        forbid(word, "a promise that panics; return an error that says what is missing");
    }
    forbid("dbg!", "left over from debugging; use tracing where an event is worth a line");
    if !path.starts_with("crates/engine") {
        forbid("unsafe", "every unsafe block is in crates/engine, where each carries its argument");
    }
    findings
}

/// The rules for one page of docs/decisions.
fn decision(path: &Path, text: &str) -> Option<Finding> {
    let titled =
        text.lines().next().and_then(|line| line.strip_prefix("# ")).is_some_and(|title| !title.trim().is_empty());
    (!titled)
        .then(|| Finding::new(path, 1, "does not open with a `# ` title: the list of decisions is read by its titles"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(path: &str, text: &str, want: &[(usize, &str)]) {
        let found = rust_file(Path::new(path), text, false);
        let seen: Vec<_> = found.iter().map(|finding| (finding.line, finding.message.as_str())).collect();
        assert_eq!(seen.len(), want.len(), "{path}: {seen:?}");
        for ((line, message), (want_line, want_start)) in seen.iter().zip(want) {
            assert!(line == want_line && message.starts_with(want_start), "{path}: {seen:?}");
        }
    }

    #[test]
    fn rust_files() {
        let long = format!("//! doc\n{}", "fn f() {}\n".repeat(FILE_LINES_MAX));
        let tested = format!("//! doc\n#[cfg(test)]\nmod tests {{\n{}}}\n", "    fn f() {}\n".repeat(FILE_LINES_MAX));
        for (path, text, want) in [
            ("crates/work/src/a.rs", "//! doc\nfn f() {}\n", &[][..]),
            ("crates/work/src/a.rs", "fn f() {}\n", &[(1, "does not open")]),
            ("crates/work/src/a.rs", "//! doc\n// unsafe todo!\nlet x = \"dbg!()\";\n", &[]),
            ("crates/work/src/a.rs", "//! doc\nunsafe { f() }\n", &[(2, "`unsafe`")]),
            ("crates/engine/src/a.rs", "//! doc\nunsafe { f() }\n", &[]),
            ("crates/work/src/a.rs", "//! doc\n\ntodo!()\n", &[(3, "`todo!`")]),
            ("crates/work/src/a.rs", "//! doc\nunimplemented!(\"x\")\n", &[(2, "`unimplemented!`")]),
            ("crates/work/src/a.rs", "//! doc\nlet a = dbg!(b);\n", &[(2, "`dbg!`")]),
            ("crates/work/src/a.rs", &long, &[(1, "401 lines")]),
            ("crates/work/src/a.rs", &tested, &[]),
        ] {
            check(path, text, want);
        }
    }

    #[test]
    fn files_for_tests_alone_may_be_long() {
        let declares = "#[cfg(test)]\nmod tests;\n";
        for (path, want) in [
            ("crates/work/src/lib.rs", "crates/work/src/tests"),
            ("crates/work/src/queue/mod.rs", "crates/work/src/queue/tests"),
            ("crates/work/src/worker.rs", "crates/work/src/worker/tests"),
        ] {
            assert_eq!(test_files(Path::new(path), declares), [Path::new(want)]);
        }
        let long = format!("//! doc\n{}", "fn f() {}\n".repeat(FILE_LINES_MAX));
        assert_eq!(rust_file(Path::new("crates/work/src/tests.rs"), &long, true), []);
    }

    #[test]
    fn decisions_have_a_title() {
        for (text, in_order) in
            [("# Why\n", true), ("Why\n", false), ("# \n", false), ("", false), ("\n# Why\n", false)]
        {
            assert_eq!(decision(Path::new("docs/decisions/001-why.md"), text).is_none(), in_order, "{text:?}");
        }
    }
}
