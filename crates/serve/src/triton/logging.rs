//! Triton's logging extension: the switches of the log by its names.

use engine::{Error, Result};

use crate::LogSwitch;

/// The value of a setting of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogValue {
    /// A switch.
    Switch(bool),
    /// A level.
    Level(u32),
    /// A name.
    Name(String),
}

/// Times in the log are in this form, which is the name of one of Triton's two formats.
const FORMAT: &str = "ISO8601";

/// Makes `changes` to `log` and tells every setting as it is then. All changes are made, or none.
///
/// # Errors
/// [`InvalidInput`](engine::ErrorKind::InvalidInput) for a name or a value that is none,
/// [`Unsupported`](engine::ErrorKind::Unsupported) for what holds from the start to the end.
pub(crate) fn log_settings(
    log: &dyn LogSwitch,
    changes: impl IntoIterator<Item = (String, LogValue)>,
) -> Result<[(&'static str, LogValue); 6]> {
    let before = log.levels();
    let mut levels = before;
    for (name, value) in changes {
        match (name.as_str(), value) {
            ("log_error", LogValue::Switch(on)) => levels.error = on,
            ("log_warning", LogValue::Switch(on)) => levels.warning = on,
            ("log_info", LogValue::Switch(on)) => levels.info = on,
            ("log_verbose_level", LogValue::Level(level)) => levels.verbose = level,
            ("log_format", LogValue::Name(format)) if format == FORMAT => {}
            ("log_file", LogValue::Name(file)) if file.is_empty() => {}
            ("log_format" | "log_file", LogValue::Name(_)) => {
                return Err(Error::unsupported(format!(
                    "{name} cannot be changed; the log goes to standard error, as --log-format said at the start"
                )));
            }
            ("log_error" | "log_warning" | "log_info", _) => {
                return Err(Error::invalid(format!("{name} has to be true or false")));
            }
            ("log_verbose_level", _) => return Err(Error::invalid(format!("{name} has to be a whole number from 0"))),
            ("log_format" | "log_file", _) => return Err(Error::invalid(format!("{name} has to be a text"))),
            _ => {
                return Err(Error::invalid(format!(
                    "the log has no setting '{name}'; it has log_error, log_warning, log_info and log_verbose_level"
                )));
            }
        }
    }
    if levels != before {
        log.set(levels)?;
    }
    Ok([
        ("log_error", LogValue::Switch(levels.error)),
        ("log_file", LogValue::Name(String::new())),
        ("log_format", LogValue::Name(FORMAT.to_owned())),
        ("log_info", LogValue::Switch(levels.info)),
        ("log_verbose_level", LogValue::Level(levels.verbose)),
        ("log_warning", LogValue::Switch(levels.warning)),
    ])
}

#[cfg(test)]
mod tests {
    use engine::ErrorKind;

    use super::*;
    use crate::fixture::Log;

    #[test]
    fn all_changes_are_made_or_none() {
        let switch = |name: &str, on| (name.to_owned(), LogValue::Switch(on));
        let level = |name: &str, level| (name.to_owned(), LogValue::Level(level));
        let name = |name: &str, text: &str| (name.to_owned(), LogValue::Name(text.to_owned()));
        let log = Log::default();
        let told = log_settings(&log, [switch("log_warning", false), level("log_verbose_level", 2)]).unwrap();
        assert_eq!(told[4].1, LogValue::Level(2));
        assert_eq!(told[5].1, LogValue::Switch(false));
        let changed = log.levels();
        assert!(changed.error && !changed.warning && changed.verbose == 2);
        for (change, kind) in [
            (switch("log_verbose_level", true), ErrorKind::InvalidInput),
            (level("log_info", 1), ErrorKind::InvalidInput),
            (switch("log_file", true), ErrorKind::InvalidInput),
            (name("log_file", "/etc/passwd"), ErrorKind::Unsupported),
            (name("log_format", "default"), ErrorKind::Unsupported),
            (switch("log_all", true), ErrorKind::InvalidInput),
        ] {
            let shown = change.0.clone();
            let refused = log_settings(&log, [switch("log_error", false), change]).unwrap_err();
            assert_eq!(refused.kind, kind, "{shown}");
            assert!(refused.message.contains(&shown), "{refused}");
            assert_eq!(log.levels(), changed);
        }
        assert!(log_settings(&log, [name("log_file", ""), name("log_format", FORMAT)]).is_ok());
    }
}
