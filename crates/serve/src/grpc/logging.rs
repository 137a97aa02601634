//! Triton's logging extension as messages.

use engine::{Error, Result};
use proto::inference::log_settings_request::setting_value::ParameterChoice as Asked;
use proto::inference::log_settings_response::SettingValue;
use proto::inference::log_settings_response::setting_value::ParameterChoice as Told;
use proto::inference::{LogSettingsRequest, LogSettingsResponse};

use crate::Management;
use crate::triton::{self, LogValue};

/// Every setting of the log, after those in `request` were changed.
///
/// # Errors
/// [`Forbidden`](engine::ErrorKind::Forbidden) for a listener without the right, and what the change itself refuses.
pub(super) fn log_settings(
    management: Option<&Management>,
    request: LogSettingsRequest,
) -> Result<LogSettingsResponse> {
    let log = Management::log(management)?;
    let value = |(name, value): (String, proto::inference::log_settings_request::SettingValue)| {
        let value = match value.parameter_choice {
            Some(Asked::BoolParam(on)) => LogValue::Switch(on),
            Some(Asked::Uint32Param(level)) => LogValue::Level(level),
            Some(Asked::StringParam(text)) => LogValue::Name(text),
            None => return Err(Error::invalid(format!("{name} has no value"))),
        };
        Ok((name, value))
    };
    let changes = request.settings.into_iter().map(value).collect::<Result<Vec<_>>>()?;
    let told = triton::log_settings(log, changes)?.map(|(name, value)| {
        let choice = match value {
            LogValue::Switch(on) => Told::BoolParam(on),
            LogValue::Level(level) => Told::Uint32Param(level),
            LogValue::Name(text) => Told::StringParam(text),
        };
        (name.to_owned(), SettingValue { parameter_choice: Some(choice) })
    });
    Ok(LogSettingsResponse { settings: told.into() })
}
