//! What `packhorse serve` is told, in two steps: [`Raw`] is what was typed, in flags, environment and file; [`Resolved`]
//! is every setting's value and where it came from.

mod value;
pub(crate) use value::{Label, LogFormat};

mod settings;
pub(crate) use settings::Settings;

mod flags;
pub(crate) use flags::Flags;
mod file;
pub(crate) use file::nearly;
mod models;
mod raw;
pub(crate) use raw::Raw;
mod resolved;
pub(crate) use resolved::Resolved;

mod check;
mod limits;
pub(crate) use limits::Limits;
pub(crate) mod logging;
pub(crate) use logging::Log;
mod repeats;

#[cfg(test)]
mod tests;
