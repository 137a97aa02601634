//! `codegen`: Rust out of the `.proto` files, without a protoc program.
//!
//! The generator is an optional feature of this package; a build without it calls cargo for one with it, so the command
//! is the same for everyone and `tidy` stays quick to build.

use std::path::Path;

#[cfg(feature = "codegen")]
mod generate;

/// What to do with the generated files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Replace them where they differ.
    Write,
    /// Report where they differ.
    Check,
}

/// The command that a stale file's message names.
#[cfg(feature = "codegen")]
const COMMAND: &str = "cargo run -p xtask -- codegen";

#[cfg(feature = "codegen")]
pub(crate) fn run(root: &Path, mode: Mode) -> anyhow::Result<()> {
    let fresh = generate::generate(&root.join("crates/proto/proto"))?;
    let folder = root.join("crates/proto/src/generated");
    match mode {
        Mode::Write => write(&folder, &fresh),
        Mode::Check => check(&folder, &fresh),
    }
}

#[cfg(not(feature = "codegen"))]
pub(crate) fn run(root: &Path, mode: Mode) -> anyhow::Result<()> {
    use anyhow::Context;

    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    command.args(["run", "--quiet", "-p", "xtask", "--features", "codegen", "--", "codegen"]).current_dir(root);
    if mode == Mode::Check {
        command.arg("--check");
    }
    eprintln!("xtask: building the generator (a minute or two the first time)");
    let status = command.status().context("cannot start cargo to build the generator")?;
    anyhow::ensure!(status.success(), "codegen failed");
    Ok(())
}

/// Generated files: name and content, sorted by name.
#[cfg(feature = "codegen")]
type Files = std::collections::BTreeMap<String, Vec<u8>>;

#[cfg(feature = "codegen")]
fn write(folder: &Path, fresh: &Files) -> anyhow::Result<()> {
    use anyhow::Context;

    std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for name in stale(folder, fresh)? {
        let path = folder.join(&name);
        match fresh.get(&name) {
            Some(content) => std::fs::write(&path, content),
            None => std::fs::remove_file(&path),
        }
        .with_context(|| format!("cannot replace {}", path.display()))?;
        eprintln!("xtask: {} replaced", path.display());
    }
    Ok(())
}

#[cfg(feature = "codegen")]
fn check(folder: &Path, fresh: &Files) -> anyhow::Result<()> {
    let stale = stale(folder, fresh)?;
    for name in &stale {
        eprintln!("{}:1: not what the .proto files say; run `{COMMAND}`", folder.join(name).display());
    }
    anyhow::ensure!(stale.is_empty(), "{} generated files are stale", stale.len());
    Ok(())
}

/// Names of files that are missing, differ, or that nothing generates.
#[cfg(feature = "codegen")]
fn stale(folder: &Path, fresh: &Files) -> anyhow::Result<Vec<String>> {
    let mut stale: Vec<String> = fresh
        .iter()
        .filter(|(name, content)| std::fs::read(folder.join(name)).ok().as_ref() != Some(content))
        .map(|(name, _)| name.clone())
        .collect();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !fresh.contains_key(&name) {
            stale.push(name);
        }
    }
    Ok(stale)
}

#[cfg(all(test, feature = "codegen"))]
mod tests {
    use super::*;

    #[test]
    fn a_missing_a_changed_and_a_leftover_file_are_stale_until_written() {
        let folder = tempfile::tempdir().unwrap();
        let fresh: Files = [("a.rs", "a"), ("b.rs", "b"), ("c.rs", "c")]
            .map(|(name, content)| (name.to_owned(), content.as_bytes().to_vec()))
            .into();
        std::fs::write(folder.path().join("b.rs"), "b").unwrap();
        std::fs::write(folder.path().join("c.rs"), "old").unwrap();
        std::fs::write(folder.path().join("d.rs"), "d").unwrap();

        assert_eq!(stale(folder.path(), &fresh).unwrap(), ["a.rs", "c.rs", "d.rs"]);
        assert!(check(folder.path(), &fresh).is_err());
        write(folder.path(), &fresh).unwrap();
        check(folder.path(), &fresh).unwrap();
        assert!(!folder.path().join("d.rs").exists());
    }
}
