//! The tensors of a folder's safetensors files, mapped, by the names that the encoder without a head has for them.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use engine::{DataType, Error, Result, Tensor};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::graph::Wanted;
use super::json::{self, Object};
use crate::place::Origin;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// What numbers are copied to multiples of.
const ALIGN: usize = 8;
/// More files than any published checkpoint has.
const FILES_MAX: usize = 1024;

/// The files that hold the weights of `folder`.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for an index that names no plain files.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let single = folder.join(SINGLE);
    if single.exists() {
        return Ok(vec![single]);
    }
    let path = folder.join(INDEX);
    let index = json::read(&path)?;
    let named = |value: &serde_json::Value| -> Result<BTreeSet<String>> {
        let map = Object::of(value)?.get("weight_map").and_then(serde_json::Value::as_object);
        let map = map.ok_or_else(|| Error::invalid("'weight_map' is missing"))?;
        let text = |file: &serde_json::Value| file.as_str().map(str::to_owned);
        map.values().map(|file| text(file).ok_or_else(|| Error::invalid("'weight_map' must hold texts"))).collect()
    };
    let names = named(&index).map_err(|error| error.context(path.display()))?;
    if names.is_empty() || names.len() > FILES_MAX {
        return Err(Error::invalid(format!("{}: it names {} files of weights", path.display(), names.len())));
    }
    names.iter().map(|name| crate::onnx::tensor::beside(folder, name)).collect()
}

/// Whether `folder` holds weights that this module reads.
pub(super) fn has_weights(folder: &Path) -> bool {
    [SINGLE, INDEX].iter().any(|name| folder.join(name).is_file())
}

#[derive(Debug)]
pub(super) struct Checkpoint {
    files: Vec<(PathBuf, Bytes)>,
    tensors: HashMap<String, Held>,
}

/// One tensor: where it lies.
#[derive(Debug)]
struct Held {
    file: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl Held {
    /// Whether its numbers, of the type `dtype`, do not start at a multiple of their size, as in files of writers that do
    /// not fill up the header.
    fn is_askew(&self, dtype: DataType) -> bool {
        !self.range.start.is_multiple_of(dtype.size_bytes().unwrap_or(1))
    }
}

impl Checkpoint {
    /// Maps the files of `folder` and reads their headers; `prefix` is what names may start with.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the file, when one is no safetensors file or when two
    /// tensors go by one name.
    pub(super) fn open(folder: &Path, prefix: &str) -> Result<Self> {
        let mut checkpoint = Self { files: Vec::new(), tensors: HashMap::new() };
        for path in files(folder)? {
            let bytes = engine::map::map_file(&path)?;
            checkpoint.add(&path, bytes, prefix).map_err(|error| error.context(path.display()))?;
        }
        Ok(checkpoint)
    }

    fn add(&mut self, path: &Path, bytes: Bytes, prefix: &str) -> Result<()> {
        let (metadata, start) = header(&bytes)?;
        let file = self.files.len();
        for (name, info) in metadata.tensors() {
            // The format's reader has checked that tensors lie one behind the other and that `header` holds their end,
            // so these sums stay within the file.
            let range = start + info.data_offsets.0..start + info.data_offsets.1;
            let held = Held { file, dtype: info.dtype, shape: info.shape.clone(), range };
            if self.tensors.insert(common_name(&name, prefix), held).is_some() {
                return Err(Error::invalid(format!(
                    "the tensor '{name}' is there twice, by this or by its older name"
                )));
            }
        }
        // Mapped weights are named in a manifest, whoever reads that and from wherever.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        self.files.push((path, bytes));
        Ok(())
    }

    /// The tensor that `wanted` describes and, when it can be used as it lies in its file, the place there.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is missing or of another shape than the configuration
    /// says, [`Unsupported`](engine::ErrorKind::Unsupported) when its numbers are of a kind that is not read.
    pub(super) fn tensor(&self, wanted: &Wanted) -> Result<(Tensor, Option<Origin>)> {
        let found = wanted.names.iter().find_map(|name| self.tensors.get_key_value(name.as_str()));
        let (name, held) = found.ok_or_else(|| {
            let names = wanted.names.join("' or '");
            Error::invalid(format!("the checkpoint holds no tensor '{names}', which config.json asks for"))
        })?;
        if held.shape != wanted.shape {
            return Err(Error::invalid(format!(
                "config.json asks for '{name}' of shape {:?}, but the checkpoint holds {:?}",
                wanted.shape, held.shape
            )));
        }
        let (path, bytes) = &self.files[held.file];
        let raw = bytes.slice(held.range.clone());
        let (data, origin) = match held.dtype {
            as_wanted if datatype(as_wanted) == Some(wanted.dtype) => match held.is_askew(wanted.dtype) {
                true => (engine::map::aligned(&raw, ALIGN), None),
                false => (raw, Some(Origin { path: path.clone(), offset_bytes: held.range.start as u64 })),
            },
            Dtype::F16 => (widened(&raw, |half| half::f16::from_le_bytes(half).to_f32()), None),
            Dtype::BF16 => (widened(&raw, |half| half::bf16::from_le_bytes(half).to_f32()), None),
            other => {
                return Err(Error::unsupported(format!(
                    "the tensor '{name}' is of type {other:?}; checkpoints of F32, F16 and BF16 can be packed"
                )));
            }
        };
        Ok((Tensor::new(wanted.dtype, wanted.declared.clone(), data)?, origin))
    }

    /// Whether what `wanted` describes is what the graph takes, and cannot be mapped all the same: it starts in the middle of
    /// a number's place.
    pub(super) fn is_askew(&self, wanted: &Wanted) -> bool {
        let found = wanted.names.iter().find_map(|name| self.tensors.get(name.as_str()));
        found.is_some_and(|held| datatype(held.dtype) == Some(wanted.dtype) && held.is_askew(wanted.dtype))
    }

    /// The precision that the tensor called `name` has here, single when there is no such tensor.
    pub(super) fn precision(&self, name: &str) -> DataType {
        self.tensors.get(name).and_then(|held| datatype(held.dtype)).unwrap_or(DataType::F32)
    }
}

/// The kinds of numbers that are read.
fn datatype(dtype: Dtype) -> Option<DataType> {
    match dtype {
        Dtype::F32 => Some(DataType::F32),
        Dtype::F16 => Some(DataType::F16),
        Dtype::BF16 => Some(DataType::Bf16),
        _ => None,
    }
}

fn widened(halves: &[u8], widen: impl Fn([u8; 2]) -> f32) -> Bytes {
    let (pairs, _) = halves.as_chunks::<2>();
    engine::map::bytes_from_f32(pairs.iter().map(|&pair| widen(pair)).collect())
}

/// The header of a safetensors file and where its tensors start. The file is exactly as long as they say.
pub(crate) fn header(bytes: &[u8]) -> Result<(Metadata, usize)> {
    let broken = |reason: &str| Error::invalid(format!("this is no safetensors file: {reason}"));
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or_else(|| broken("it is shorter than its length field"))?;
    let length = u64::from_le_bytes(*length);
    let text = usize::try_from(length)
        .ok()
        .and_then(|length| rest.get(..length))
        .ok_or_else(|| broken(&format!("it declares a header of {length} bytes, and {} follow", rest.len())))?;
    // The reader refuses tensors that overlap, leave gaps or are not as long as shape and type say.
    let metadata: Metadata = serde_json::from_slice(text).map_err(|error| broken(&error.to_string()))?;
    let (declared, there) = (metadata.data_len(), rest.len() - text.len());
    if declared != there {
        return Err(broken(&format!("its tensors take {declared} bytes, and {there} are there")));
    }
    Ok((metadata, bytes.len() - there))
}

/// `name` as the encoder without a head has it today: old checkpoints call a norm's scale and bias by Greek letters.
fn common_name(name: &str, prefix: &str) -> String {
    let name = name.strip_prefix(prefix).unwrap_or(name);
    if let Some(norm) = name.strip_suffix(".gamma") {
        return format!("{norm}.weight");
    }
    name.strip_suffix(".beta").map_or_else(|| name.to_owned(), |norm| format!("{norm}.bias"))
}
