//! The small JSON files of a folder: read with a limit, asked by name, refused with the name.

use std::path::Path;

use engine::{Error, Result};
use serde_json::{Map, Value};

use crate::atomic::io_error;

/// No configuration is larger; a file that is will not be read into memory.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The largest size that a configuration may declare. Every one is compared with the tensors' own before it allocates.
const SIZE_MAX: u64 = 1 << 31;

/// Reads the JSON file at `path`.
///
/// # Errors
/// [`NotFound`](engine::ErrorKind::NotFound), or [`InvalidInput`](engine::ErrorKind::InvalidInput) when it is no JSON.
pub(super) fn read(path: &Path) -> Result<Value> {
    let unreadable = |source: std::io::Error| io_error(path, "cannot be read", &source);
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > FILE_BYTES_MAX {
        return Err(Error::invalid(format!("{}: {size} bytes are too many for a configuration", path.display())));
    }
    let text = std::fs::read(path).map_err(unreadable)?;
    serde_json::from_slice(&text).map_err(|error| Error::invalid(format!("{}: {error}", path.display())))
}

/// An object of a file, asked for its fields by name. `null` counts as absent, as the libraries that write it do.
pub(super) struct Object<'a> {
    fields: &'a Map<String, Value>,
}

impl<'a> Object<'a> {
    pub(super) fn of(value: &'a Value) -> Result<Self> {
        value.as_object().map(|fields| Self { fields }).ok_or_else(|| Error::invalid("it is no JSON object"))
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>> {
        let of = |value: &'a Value| value.as_str().ok_or_else(|| wrong(name, "a text", value));
        self.get(name).map(of).transpose()
    }

    /// A flag, false when absent.
    pub(super) fn flag(&self, name: &str) -> Result<bool> {
        let of = |value: &Value| value.as_bool().ok_or_else(|| wrong(name, "true or false", value));
        self.get(name).map_or(Ok(false), of)
    }

    /// A size of at least one.
    pub(super) fn size(&self, name: &str) -> Result<usize> {
        self.get(name).ok_or_else(|| Error::invalid(format!("'{name}' is missing"))).and_then(|value| size(name, value))
    }

    pub(super) fn size_or(&self, name: &str, default: usize) -> Result<usize> {
        self.get(name).map_or(Ok(default), |value| size(name, value))
    }

    /// A whole number of at least zero.
    pub(super) fn index_or(&self, name: &str, default: i64) -> Result<i64> {
        let of = |value: &Value| {
            value.as_i64().filter(|&index| index >= 0).ok_or_else(|| wrong(name, "a whole number, not negative", value))
        };
        self.get(name).map_or(Ok(default), of)
    }

    pub(super) fn number_or(&self, name: &str, default: f64) -> Result<f64> {
        let of = |value: &Value| value.as_f64().ok_or_else(|| wrong(name, "a number", value));
        self.get(name).map_or(Ok(default), of)
    }
}

fn size(name: &str, value: &Value) -> Result<usize> {
    value
        .as_u64()
        .filter(|size| (1..=SIZE_MAX).contains(size))
        .and_then(|size| usize::try_from(size).ok())
        .ok_or_else(|| wrong(name, "a size of 1 or more", value))
}

fn wrong(name: &str, want: &str, value: &Value) -> Error {
    // A value can be a whole document; its beginning says enough.
    let shown: String = value.to_string().chars().take(60).collect();
    Error::invalid(format!("'{name}' must be {want}, but is {shown}"))
}
