//! The `.proto` files compiled in this process: one Rust file a package, and the descriptors for reflection.

use std::path::{Path, PathBuf};

use anyhow::Context;
use prost::Message;

use super::Files;

/// Everything that is generated from the `.proto` files in `folder`.
pub(super) fn generate(folder: &Path) -> anyhow::Result<Files> {
    let mut descriptors = compile(folder)?;
    let out = Scratch::new()?;
    tonic_prost_build::configure()
        .out_dir(&out.0)
        .build_transport(false)
        // A tensor stays a slice of the message it came in.
        .bytes(".")
        // Every attribute of a graph would be as large as a tensor's fields.
        .boxed("tensorflow.AttrValue.value.tensor")
        .compile_fds(descriptors.clone())
        .context("cannot generate Rust")?;

    let mut files = Files::new();
    for entry in std::fs::read_dir(&out.0)? {
        let entry = entry?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), std::fs::read(entry.path())?);
    }
    // Reflection answers with shapes; the comments would only make every server's binary larger.
    for file in &mut descriptors.file {
        file.source_code_info = None;
    }
    files.insert("descriptors.bin".to_owned(), descriptors.encode_to_vec());
    Ok(files)
}

fn compile(folder: &Path) -> anyhow::Result<tonic_prost_build::FileDescriptorSet> {
    let mut sources: Vec<PathBuf> = std::fs::read_dir(folder)
        .with_context(|| format!("cannot list {}", folder.display()))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    sources.retain(|path| path.extension().is_some_and(|extension| extension == "proto"));
    sources.sort();
    anyhow::ensure!(!sources.is_empty(), "{} holds no .proto file", folder.display());
    let mut compiler = protox::Compiler::new([folder])?;
    compiler.include_source_info(true).include_imports(true).open_files(&sources)?;
    Ok(compiler.file_descriptor_set())
}

/// A folder of this process alone, removed when dropped: the generator writes files and takes no other sink.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("xtask-codegen-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A folder left behind in the temporary directory harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
