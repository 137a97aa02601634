//! What is known of an object without reading it, and under which condition one is written.

use std::time::SystemTime;

/// Which content an object has: equal tags of one key are equal bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// HTTP's entity tag, quotes included; a folder's is made of the file's identity, size and time of change.
    pub etag: Option<String>,
    /// The version or generation, where the place counts them.
    pub version: Option<String>,
}

/// An object as it was when it was looked at. Whoever reads it by this reads these bytes or an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Relative to its place.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// Which content it has.
    pub tag: Tag,
    /// When it was last written, by the clock of whoever keeps it.
    pub modified: Option<SystemTime>,
}

/// Under which condition an object is written or finished. What does not hold is an error and changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// In place of whatever is there.
    Always,
    /// Only if there is no such object: [`AlreadyExists`](engine::ErrorKind::AlreadyExists) otherwise.
    Absent,
    /// Only if the object is still this one: [`FailedPrecondition`](engine::ErrorKind::FailedPrecondition) otherwise.
    Same(Tag),
}

/// A part of a listing: what one request told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Within a folder by ascending key, as bytes compare; between folders services differ.
    pub objects: Vec<Object>,
    /// In a listing by folders, the names of those below the prefix, without slashes.
    pub folders: Vec<String>,
}
