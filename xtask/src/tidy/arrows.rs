//! Which crate may import which: the layers of ARCHITECTURE.md, read from the manifests.

use std::path::Path;

use super::Finding;

/// One crate, the crates of ours it may import, and the reason for the border.
struct Layer {
    name: &'static str,
    may_import: &'static [&'static str],
    reason: &'static str,
}

const LAYERS: [Layer; 11] = [
    Layer {
        name: "engine",
        may_import: &[],
        reason: "engine is a leaf: a runtime must be usable without our files and servers",
    },
    Layer { name: "proto", may_import: &[], reason: "proto is a leaf: wire messages know no domain type" },
    Layer {
        name: "objects",
        may_import: &["engine"],
        reason: "objects takes nothing but the list of errors: a bucket knows no model and no video",
    },
    Layer {
        name: "store",
        may_import: &["engine", "objects", "proto"],
        reason: "store knows no server: a pack is made and read without one; of the wire it takes the words of configurations",
    },
    Layer {
        name: "pipeline",
        may_import: &["engine", "store"],
        reason: "pipeline knows what tensors mean and not where they come from: server and worker both stand on it",
    },
    Layer {
        name: "remote",
        may_import: &["engine", "proto"],
        reason: "remote asks other servers: it knows neither our own nor the worker that asks",
    },
    Layer { name: "serve", may_import: &["engine", "pipeline", "proto", "store"], reason: PEERS },
    Layer { name: "work", may_import: &["engine", "objects", "pipeline", "proto", "store"], reason: PEERS },
    Layer { name: "bench", may_import: &["engine", "proto", "store"], reason: PEERS },
    Layer {
        name: "packhorse",
        may_import: &["bench", "engine", "objects", "pipeline", "proto", "remote", "serve", "store", "work"],
        reason: "only the binary joins the libraries",
    },
    Layer { name: "xtask", may_import: &[], reason: "the chores must build when a library does not" },
];

const PEERS: &str = "serve, work and bench never import each other, so that each runs alone and the binary joins them";

/// Names that say nothing about what is inside, so that everything ends up there.
const SHAPELESS: [&str; 6] = ["common", "core", "util", "utils", "helpers", "shared"];

/// The rules for one manifest. Dependencies for tests and build scripts count too: a border that tests cross is none.
pub(super) fn manifest(path: &Path, text: &str) -> Vec<Finding> {
    let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let mut findings = Vec::new();
    if SHAPELESS.contains(&&*folder) {
        findings.push(Finding::new(
            path,
            1,
            format!("a crate named '{folder}': a name that fits anything collects everything"),
        ));
    }
    let Some(layer) = LAYERS.iter().find(|layer| layer.name == folder) else {
        let message =
            format!("crate '{folder}' has no entry in xtask/src/tidy/arrows.rs: every crate says what it may import");
        findings.push(Finding::new(path, 1, message));
        return findings;
    };
    for (line, import) in imports(text) {
        let ours = LAYERS.iter().any(|layer| layer.name == import);
        if ours && !layer.may_import.contains(&import) {
            findings.push(Finding::new(path, line, format!("{folder} imports {import}: {}", layer.reason)));
        }
    }
    findings
}

/// The line and name of every dependency in a manifest's text.
fn imports(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_table = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_end_matches(']');
            // `[dependencies]` opens a table of them; `[dependencies.name]` is one.
            let (table, name) = match header.rsplit_once("dependencies.") {
                Some((_, name)) => (false, Some(name)),
                None => (header.ends_with("dependencies"), None),
            };
            in_table = table;
            found.extend(name.map(|name| (index + 1, name.trim_matches('"'))));
            continue;
        }
        if let Some((_, renamed)) = line.split_once("package = \"") {
            found.extend(renamed.split_once('"').map(|(name, _)| (index + 1, name)));
        } else if in_table && !line.starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default().trim_matches('"');
            found.extend((!name.is_empty()).then_some((index + 1, name)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_follow_the_layers() {
        for (folder, text, want) in [
            ("serve", "[dependencies]\nengine.workspace = true\nwork.workspace = true\n", &[3][..]),
            ("serve", "[dev-dependencies]\nbench = { path = \"../bench\" }\n", &[2]),
            ("serve", "[dependencies.work]\npath = \"../work\"\n", &[1]),
            ("serve", "[target.'cfg(unix)'.dependencies]\n\"work\" = \"1\"\n", &[2]),
            ("serve", "[dependencies]\nother = { package = \"work\", path = \"../work\" }\n", &[2]),
            ("serve", "[dependencies]\n# work is for the binary\nworkflow = \"1\"\n", &[]),
            ("serve", "[package]\nname = \"serve\"\nwork = 1\n", &[]),
            ("store", "[dependencies]\nengine.workspace = true\nserve.workspace = true\n", &[3]),
            ("engine", "[build-dependencies]\nstore.workspace = true\n", &[2]),
            ("packhorse", "[dependencies]\nserve.workspace = true\nwork.workspace = true\n", &[]),
            ("common", "[package]\n", &[1, 1]),
            ("newcomer", "[package]\n", &[1]),
        ] {
            let found = manifest(&Path::new("crates").join(folder).join("Cargo.toml"), text);
            let lines: Vec<usize> = found.iter().map(|finding| finding.line).collect();
            assert_eq!(lines, want, "{folder}: {text}: {found:?}");
        }
    }
}
