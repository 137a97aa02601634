//! What is bundled is what was reviewed: every asset is listed with its hash, and the hashes hold.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::Finding;

/// Checks `files`, those under `root/assets`, against `assets/SHA256SUMS` by the system's own `sha256sum`.
pub(super) fn check(root: &Path, files: &[PathBuf]) -> anyhow::Result<Vec<Finding>> {
    let list = Path::new("assets/SHA256SUMS");
    let Ok(text) = std::fs::read_to_string(root.join(list)) else {
        return Ok(vec![Finding::new(list, 1, "cannot be read: every asset is listed with its hash")]);
    };
    let mut findings = unlisted(list, &text, files);
    let output = Command::new("sha256sum")
        .args(["--check", "--quiet", "--strict", "SHA256SUMS"])
        .current_dir(root.join("assets"))
        .env("LC_ALL", "C")
        .output()
        .context("cannot start sha256sum; install it with `apt-get install coreutils`")?;
    if !output.status.success() {
        findings.extend(broken(list, &text, &String::from_utf8_lossy(&output.stdout)));
        if findings.is_empty() {
            let message = String::from_utf8_lossy(&output.stderr);
            findings.push(Finding::new(list, 1, format!("sha256sum refuses it: {}", message.trim())));
        }
    }
    Ok(findings)
}

/// Assets that the list does not name. Pages about the assets are not assets.
fn unlisted(list: &Path, text: &str, files: &[PathBuf]) -> Vec<Finding> {
    let listed: Vec<&str> = text.lines().filter_map(listed_name).collect();
    let is_page = |path: &Path| path == list || path.extension().is_some_and(|extension| extension == "md");
    files
        .iter()
        .filter(|path| !is_page(path))
        .filter(|path| {
            !path.strip_prefix("assets").is_ok_and(|name| listed.iter().any(|&listed| Path::new(listed) == name))
        })
        .map(|path| Finding::new(path, 1, "not in assets/SHA256SUMS: an asset without a hash can change unseen"))
        .collect()
}

/// One finding for each `name: FAILED` that sha256sum printed, at the line that lists the name.
fn broken(list: &Path, text: &str, output: &str) -> Vec<Finding> {
    let failed = output.lines().filter_map(|line| line.split_once(": FAILED").map(|(name, _)| name));
    let finding = |name: &str| {
        let line = text.lines().position(|line| listed_name(line) == Some(name)).map_or(1, |index| index + 1);
        Finding::new(
            list,
            line,
            format!("{name} is missing or not what was listed: restore it, or list it again after review"),
        )
    };
    failed.map(finding).collect()
}

/// The file name in a line of the list: it follows the hash and two characters that tell text from binary.
fn listed_name(line: &str) -> Option<&str> {
    let (_, name) = line.split_once(' ')?;
    name.get(1..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_to_differ_from_the_list_is_found() {
        // The SHA-256 of "a\n".
        let hash = "87428fc522803d31065e7bce3cf03fe475096631e5e07bbd7a0fde60c4cf25c7";
        let good = || format!("{hash}  a.bin\n");
        for (list, files, want) in [
            (Some(good()), &[("a.bin", "a\n")][..], &[][..]),
            (Some(good()), &[("a.bin", "a\n"), ("README.md", "")], &[]),
            (Some(good()), &[("a.bin", "b\n")], &[("assets/SHA256SUMS", 1)]),
            (Some(format!("{}{hash}  c/d.bin\n", good())), &[("a.bin", "a\n")], &[("assets/SHA256SUMS", 2)]),
            (Some(good()), &[("a.bin", "a\n"), ("b.bin", "a\n")], &[("assets/b.bin", 1)]),
            (Some("nonsense\n".to_owned()), &[], &[("assets/SHA256SUMS", 1)]),
            (None, &[], &[("assets/SHA256SUMS", 1)]),
        ] {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir(root.path().join("assets")).unwrap();
            if let Some(list) = &list {
                std::fs::write(root.path().join("assets/SHA256SUMS"), list).unwrap();
            }
            let paths: Vec<PathBuf> = files.iter().map(|(name, _)| Path::new("assets").join(name)).collect();
            for (path, (_, content)) in paths.iter().zip(files) {
                std::fs::write(root.path().join(path), content).unwrap();
            }
            let found = check(root.path(), &paths).unwrap();
            let seen: Vec<_> = found.iter().map(|finding| (finding.path.to_str().unwrap(), finding.line)).collect();
            assert_eq!(seen, want, "{list:?} {files:?}: {found:?}");
        }
    }
}
