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

/// The configuration that a load brings, as JSON; `parameters` are the call's, with the text of each that is one.
///
/// # Errors
/// [`Unsupported`](engine::ErrorKind::Unsupported) for a load that brings files,
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a configuration that is no text.
pub(crate) fn load_config<'a>(
    parameters: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
) -> Result<Option<String>> {
    let mut config = None;
    for (name, text) in parameters {
        if name.starts_with("file:") {
            return Err(Error::unsupported(format!(
                "parameter '{name}' is not served: clients write no models here; put the file into the repository instead"
            )));
        }
        if name == "config" {
            let text =
                text.ok_or_else(|| Error::invalid("parameter 'config' is no text; give the configuration as JSON"))?;
            config = Some(text.to_owned());
        }
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    use engine::ErrorKind;

    use super::*;

    #[test]
    fn a_load_may_bring_a_configuration_and_no_files() {
        for (parameters, want) in [
            (&[][..], Ok(None)),
            (&[("config", Some("{}")), ("other", None)], Ok(Some("{}"))),
            (&[("config", None)], Err(ErrorKind::InvalidInput)),
            (&[("config", Some("{}")), ("file:1/model.onnx", Some("AA"))], Err(ErrorKind::Unsupported)),
        ] {
            let got = load_config(parameters.iter().copied()).map_err(|error| error.kind);
            assert_eq!(got, want.map(|config| config.map(str::to_owned)), "{parameters:?}");
        }
    }
}
