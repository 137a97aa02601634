//! Request parameters that mean something, and refusals of those that would change the answer and cannot be honoured.
//! Any other parameter is passed over, as Triton passes it to backends that may not know it.

use std::time::{Duration, Instant};

use engine::{Error, Result};

use crate::LoadOptions;

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

/// Whether a request's parameter of this name is Triton's own, and so no option of a task.
pub(crate) fn is_its_own(name: &str) -> bool {
    name.starts_with("triton_")
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

/// The value of a load's parameter.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Parameter<'a> {
    Text(&'a str),
    Truth(bool),
    Other,
}

/// How a load is to be made: `config`, a configuration as JSON, and `pin`, whether the model stays in memory.
///
/// # Errors
/// [`Unsupported`](engine::ErrorKind::Unsupported) for a load that brings files,
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a value of the wrong kind.
pub(crate) fn load_options<'a>(parameters: impl IntoIterator<Item = (&'a str, Parameter<'a>)>) -> Result<LoadOptions> {
    let mut options = LoadOptions::default();
    for (name, given) in parameters {
        if name.starts_with("file:") {
            return Err(Error::unsupported(format!(
                "parameter '{name}' is not served: clients write no models here; put the file into the repository instead"
            )));
        }
        match (name, given) {
            ("config", Parameter::Text(text)) => options.config = Some(text.to_owned()),
            ("config", _) => {
                return Err(Error::invalid("parameter 'config' is no text; give the configuration as JSON"));
            }
            ("pin", Parameter::Truth(pin)) => options.pin = Some(pin),
            ("pin", Parameter::Text("true")) => options.pin = Some(true),
            ("pin", Parameter::Text("false")) => options.pin = Some(false),
            ("pin", _) => return Err(Error::invalid("parameter 'pin' is neither true nor false")),
            _ => {}
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use engine::ErrorKind;

    use super::*;

    #[test]
    fn a_load_may_bring_a_configuration_and_no_files() {
        let text = Parameter::Text;
        for (parameters, want) in [
            (&[][..], Ok((None, None))),
            (&[("config", text("{}")), ("other", Parameter::Other)], Ok((Some("{}"), None))),
            (&[("pin", Parameter::Truth(true))], Ok((None, Some(true)))),
            (&[("pin", text("false"))], Ok((None, Some(false)))),
            (&[("pin", text("yes"))], Err(ErrorKind::InvalidInput)),
            (&[("config", Parameter::Truth(true))], Err(ErrorKind::InvalidInput)),
            (&[("config", text("{}")), ("file:1/model.onnx", text("AA"))], Err(ErrorKind::Unsupported)),
        ] {
            let got = load_options(parameters.iter().copied()).map_err(|error| error.kind);
            let want = want.map(|(config, pin)| (config.map(str::to_owned), pin));
            assert_eq!(got.map(|options| (options.config, options.pin)), want, "{parameters:?}");
        }
    }
}
