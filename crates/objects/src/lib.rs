//! Objects where they are kept: S3, Google Cloud Storage, Azure, HTTP and folders behind one small face.
//!
//! A [`Network`] owns what talking to the outside takes: a few threads, connections, credentials. It opens a [`Place`], a
//! bucket or folder and a prefix in it, whose calls block the calling thread and end within limits of time. An object that
//! is read in ranges is pinned to what it was when it was looked at: one that is replaced meanwhile is an error, never a mix.
//!
//! Knows no model and no video.

mod address;
pub use address::Address;

mod object;
pub use object::{Object, Page, Tag, When};

mod network;
pub use network::{Limits, Network, Variables};

mod place;
pub use place::{Listing, Place};

mod fetch;
mod upload;
pub use upload::Upload;

mod cloud;
mod error;
pub use error::{cause, causes};

mod folder;
mod http;

mod caller;
pub use caller::Caller;

pub mod aws;

pub mod conformance;
