//! Request parameters that mean something, and refusals of those that would change the answer and cannot be honoured.
//! Any other parameter is passed over, as Triton passes it to backends that may not know it.

use std::time::{Duration, Instant};

use engine::{Error, Result};

/// The moment at which a request that came at `now` with a `timeout` of `timeout_us` microseconds is worth nothing any
/// more; 0 is none.
pub(crate) fn timeout(timeout_us: Option<u64>, now: Instant) -> Option<Instant> {
    let timeout = Duration::from_micros(timeout_us.filter(|&timeout_us| timeout_us > 0)?);
    now.checked_add(timeout)
}

/// The scheduler's priority for a `priority` parameter: 1 is the highest, 0 or none the default.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) past 32 bits.
pub(crate) fn priority(priority: Option<u64>) -> Result<u32> {
    let priority = priority.unwrap_or_default();
    u32::try_from(priority).map_err(|_| Error::invalid(format!("priority {priority} is larger than {}", u32::MAX)))
}

/// Refuses a request that belongs to a sequence; `asked` names the parameter that says so.
///
/// # Errors
/// [`Unsupported`](engine::ErrorKind::Unsupported) when there is one.
pub(crate) fn refuse_sequence(asked: Option<&str>) -> Result<()> {
    match asked {
        None => Ok(()),
        Some(name) => Err(Error::unsupported(format!(
            "parameter '{name}' is not served; leave it out, every request stands alone"
        ))),
    }
}

/// Refuses a load that brings its own configuration or files; `names` are the call's parameters.
///
/// # Errors
/// [`Unsupported`](engine::ErrorKind::Unsupported), naming the parameter.
pub(crate) fn refuse_load_parameters<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    match names.into_iter().find(|name| *name == "config" || name.starts_with("file:")) {
        None => Ok(()),
        Some(name) => Err(Error::unsupported(format!(
            "parameter '{name}' is not served: a model is loaded as its store has it; put it into the store instead"
        ))),
    }
}
