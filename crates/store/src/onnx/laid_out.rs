//! What a runtime laid out for its kernels and wrote to a file, before it is mapped. Its kernels read vectors that have to
//! lie at multiples of [`ALIGN_BYTES`], and the writer puts things one behind the other: with ONNX Runtime 1.31.1 a first
//! run on what follows a list of odd length crashes. So all of it is looked at, and what lies elsewhere is moved.
//!
//! The form of an entry, from files that the runtime wrote: an initializer's `external_data` has `location`, `offset` and
//! `length`, and one `prepacked_N` for each kernel that laid it out, `KEY|OFFSET;LENGTH;FLAGS` with as many ranges behind
//! the key as it has buffers.

use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::Bytes;
use engine::map::map_file;
use engine::{Engine, Error, LaidOut, Result, Session};
use prost::Message;

use super::joined::Joined;
use super::tensor::location;
use super::wire::{Entry, Model};
use crate::atomic::io_error;

/// The widest vector of any CPU that runs this: 512 bits.
const ALIGN_BYTES: u64 = 64;
/// What is moved goes there.
const MOVED: &str = "aligned";

/// A session of one model's own.
pub struct Own {
    /// Runs on no weights.
    pub session: Box<dyn Session>,
    /// The bytes of the file that it has mapped.
    pub mapped_bytes: u64,
}

impl Joined {
    /// Has `engine` build a session of it in `folder`, which is empty. The session needs nothing there by name when it is
    /// built.
    ///
    /// # Errors
    /// [`Unsupported`](engine::ErrorKind::Unsupported) when the engine lays nothing out, or in a form that is not known here;
    /// and the file system's.
    pub fn session(&self, engine: &dyn Engine, folder: &Path) -> Result<Own> {
        let mut laid_out = engine.lay_out(&self.graph, &self.weights, folder)?;
        align(&mut laid_out, folder)?;
        let session = engine.hot_session(&laid_out)?;
        let mapped_bytes = std::fs::metadata(&laid_out.weights).map_or(0, |file| file.len());
        Ok(Own { session, mapped_bytes })
    }
}

/// Moves what is in the file of `laid_out` and lies where no vector may, to a file in `folder`.
fn align(laid_out: &mut LaidOut, folder: &Path) -> Result<()> {
    let path = &laid_out.graph;
    let bytes = std::fs::read(path).map_err(|source| io_error(path, "cannot be read", &source))?;
    let mut model = Model::decode(&bytes[..]).map_err(|_| unknown("the graph"))?;
    if each_range(&mut model, &mut |offset, _| Ok(*offset % ALIGN_BYTES))?.into_iter().all(|odd| odd == 0) {
        return Ok(());
    }
    let from = map_file(&laid_out.weights)?;
    let to = folder.join(MOVED);
    let io = |source: &std::io::Error| io_error(&to, "cannot be written", source);
    let file = std::fs::File::create(&to).map_err(|source| io(&source))?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut end = 0u64;
    each_range(&mut model, &mut |offset, length| {
        let range = part(&from, *offset, length).ok_or_else(|| unknown("a range past the end of its file"))?;
        *offset = end.next_multiple_of(ALIGN_BYTES);
        end = *offset + length;
        file.seek(SeekFrom::Start(*offset)).and_then(|_| file.write_all(&range)).map_err(|source| io(&source))
    })?;
    file.flush().map_err(|source| io(&source))?;
    let graph = model.graph.as_mut().ok_or_else(|| unknown("a model without a graph"))?;
    graph.each_tensor_mut(&mut |tensor| {
        let moved = tensor.external_data.iter_mut().find(|entry| entry.key.as_deref() == Some("location"));
        if let Some(entry) = moved {
            entry.value = Some(MOVED.to_owned());
        }
        Ok::<_, Error>(())
    })?;
    std::fs::write(path, model.encode_to_vec()).map_err(|source| io_error(path, "cannot be written", &source))?;
    // The disk may need the room.
    std::fs::remove_file(&laid_out.weights)
        .map_err(|source| io_error(&laid_out.weights, "cannot be removed", &source))?;
    laid_out.weights = to;
    Ok(())
}

fn part(file: &Bytes, offset: u64, length: u64) -> Option<Bytes> {
    let (start, length) = (usize::try_from(offset).ok()?, usize::try_from(length).ok()?);
    let end = start.checked_add(length).filter(|&end| end <= file.len())?;
    Some(file.slice(start..end))
}

/// Calls `visit` with where each range that `model` names in a file begins, to change that, and its length; what that
/// returns.
fn each_range<T>(model: &mut Model, visit: &mut dyn FnMut(&mut u64, u64) -> Result<T>) -> Result<Vec<T>> {
    let mut found = Vec::new();
    let graph = model.graph.as_mut().ok_or_else(|| unknown("a model without a graph"))?;
    graph.each_tensor_mut(&mut |tensor| {
        if location(tensor).is_none() {
            return Ok(());
        }
        let length = entry(&mut tensor.external_data, "length").and_then(|length| length.parse().ok());
        let length = length.ok_or_else(|| unknown("a tensor without a length"))?;
        // One that says no offset begins with its file.
        if entry(&mut tensor.external_data, "offset").is_none() {
            tensor.external_data.push(Entry { key: Some("offset".to_owned()), value: Some("0".to_owned()) });
        }
        for entry in &mut tensor.external_data {
            let (Some(key), Some(value)) = (entry.key.as_deref(), entry.value.as_mut()) else { continue };
            match key {
                "location" | "length" => {}
                "offset" => {
                    let mut offset = value.parse().map_err(|_| unknown(value))?;
                    found.push(visit(&mut offset, length)?);
                    *value = offset.to_string();
                }
                key if key.starts_with("prepacked_") => {
                    let mut buffer = |offset: &mut u64, length| visit(offset, length).map(|seen| found.push(seen));
                    *value = each_buffer(value, &mut buffer)?;
                }
                key => return Err(unknown(key)),
            }
        }
        Ok(())
    })?;
    Ok(found)
}

/// `value`, the text of a `prepacked` entry, with the offsets that `visit` makes of its own.
fn each_buffer(value: &str, visit: &mut dyn FnMut(&mut u64, u64) -> Result<()>) -> Result<String> {
    let mut parts = value.split('|');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for buffer in parts {
        let numbers = buffer
            .split(';')
            .map(str::parse)
            .collect::<std::result::Result<Vec<u64>, _>>()
            .map_err(|_| unknown(value))?;
        let &[mut offset, length, flags] = &numbers[..] else { return Err(unknown(value)) };
        visit(&mut offset, length)?;
        text = format!("{text}|{offset};{length};{flags}");
    }
    Ok(text)
}

fn entry<'a>(entries: &'a mut [Entry], key: &str) -> Option<&'a mut String> {
    entries.iter_mut().find(|entry| entry.key.as_deref() == Some(key))?.value.as_mut()
}

fn unknown(what: &str) -> Error {
    Error::unsupported(format!("what the runtime laid out is written in a form that is not known here: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_read_as_they_are_written_and_nothing_else_is() {
        let mut seen = Vec::new();
        let text = each_buffer("Gemm+17|100;64;0|164;7;1", &mut |offset, length| {
            seen.push((*offset, length));
            *offset += 28;
            Ok(())
        });
        assert_eq!((text.unwrap(), seen), ("Gemm+17|128;64;0|192;7;1".to_owned(), vec![(100, 64), (164, 7)]));
        for wrong in ["K|", "K|1", "K|1;2", "K|1;2;3;4", "K|1;-2;3", "K|one;2;3"] {
            assert!(each_buffer(wrong, &mut |_, _| Ok(())).is_err(), "{wrong}");
        }
    }
}
