//! The readers of what strangers wrote, each by itself and without the files and the runtimes around it, for whoever tries to
//! break them: whatever they are given, they read it or refuse it, in time and memory that its size pays for.

use bytes::Bytes;
use prost::Message;

use crate::onnx::{lift, sparse, wire};
use crate::repository::{config, text};
use crate::{Manifest, hf, remote, saved_model, segment, table, torch_script};

/// A reader, given all of a file.
pub type Reader = fn(&[u8]);

/// Every reader, with the name of what it reads.
pub const READERS: [(&str, Reader); 10] = [
    ("manifest", manifest),
    ("config-pbtxt", configuration),
    ("segment", segments),
    ("weights-table", weights),
    ("catalogue", catalogue),
    ("safetensors", safetensors),
    ("onnx", onnx),
    ("saved-model", saved_model),
    ("torch-script", torch_script),
    ("torch-pickle", torch_pickle),
];

fn manifest(bytes: &[u8]) {
    let Ok(manifest) = Manifest::parse(bytes) else { return };
    let _ = (manifest.signature(), manifest.content(), manifest.falls_back(), manifest.forms().count());
    let _ = manifest.on("x86_64-avx2");
}

/// Of a model and of a server, as text and as JSON.
fn configuration(bytes: &[u8]) {
    let Ok(words) = str::from_utf8(bytes) else { return };
    let _ = (config::read("m", words), text::server_config(words), config::read_json("m", words));
}

fn segments(bytes: &[u8]) {
    // A segment goes by the hash of its table, which is of no use to whoever wants the table read.
    let table = segment::trailer_bytes(bytes).and_then(|length| usize::try_from(length).ok());
    let table = table.and_then(|length| bytes.get(bytes.len().checked_sub(length)?..)).unwrap_or(bytes);
    let name = blake3::hash(table).to_hex();
    let sound = segment::is_sound(bytes, &name);
    if let Ok(Some(pieces)) = segment::contents(bytes, &name) {
        let within = |piece: &segment::Piece| segment::slice(bytes, piece.offset_bytes, piece.len_bytes).is_some();
        assert!(!sound || pieces.iter().all(within), "a piece of a sound segment lies outside of it");
    }
}

fn weights(bytes: &[u8]) {
    let Ok(weights) = table::decode(bytes) else { return };
    let segment = Bytes::copy_from_slice(bytes);
    for weight in &weights {
        let _ = (weight.range(), segment::tensor(&segment, weight));
    }
    assert_eq!(table::encode(&weights).ok().as_deref(), Some(bytes), "another table has the same weights");
}

fn catalogue(bytes: &[u8]) {
    if let Ok(root) = remote::catalog::Root::parse(bytes) {
        let _ = root.shard_of("m");
    }
    let mut entries = remote::catalog::Entries::new();
    let _ = remote::catalog::decode(bytes, &mut entries);
    for entry in &entries {
        let _ = remote::known::parse(entry.0, entry.1);
    }
}

fn safetensors(bytes: &[u8]) {
    let Ok((metadata, start)) = hf::checkpoint::header(bytes) else { return };
    for (name, info) in metadata.tensors() {
        let (from, to) = info.data_offsets;
        assert!(bytes.get(start + from..start + to).is_some(), "'{name}' lies outside of the file");
    }
}

/// What is done to a graph before a runtime sees it.
fn onnx(bytes: &[u8]) {
    let Ok(mut model) = wire::Model::decode(bytes) else { return };
    if let Some(graph) = &mut model.graph {
        // Nothing is beside it.
        let _ = sparse::densify(graph, std::path::Path::new("/nowhere"));
    }
    if let Ok(lifted) = lift::lift(model) {
        let _ = lifted.program.encoded_len();
    }
}

fn saved_model(bytes: &[u8]) {
    let _ = saved_model::describe(&[(saved_model::FILE.to_owned(), Bytes::copy_from_slice(bytes))]);
}

/// What is looked through of an archive before a runtime sees it.
fn torch_script(bytes: &[u8]) {
    let _ = torch_script::check(bytes);
}

/// By itself, as few changes of an archive leave it an archive.
fn torch_pickle(bytes: &[u8]) {
    let _ = torch_script::pickle::check(bytes, &|file| Some(file.len()));
}
