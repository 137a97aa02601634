//! Where a model's versions stand, in TensorFlow Serving's words.

use engine::{Error, Result};

use crate::{ModelState, Residency};

/// The states of a version's life that a server here can tell apart, with TensorFlow Serving's names and numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionState {
    Loading,
    Available,
    End,
}

impl VersionState {
    /// As JSON has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            VersionState::Loading => "LOADING",
            VersionState::Available => "AVAILABLE",
            VersionState::End => "END",
        }
    }

    /// As the message has it.
    pub(crate) fn number(self) -> i32 {
        match self {
            VersionState::Loading => 20,
            VersionState::Available => 30,
            VersionState::End => 50,
        }
    }
}

/// One version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VersionStatus {
    pub(crate) version: u64,
    pub(crate) state: VersionState,
    /// Why it is not served; empty when it is.
    pub(crate) reason: String,
}

/// The versions of `model` that are known, newest first as TensorFlow Serving lists them; only `version` when given.
///
/// # Errors
/// [`NotFound`](engine::ErrorKind::NotFound) when there is none.
pub(crate) fn statuses(residency: &Residency, model: &str, version: Option<u64>) -> Result<Vec<VersionStatus>> {
    let (mut found, mut why) = (Vec::new(), String::new());
    for entry in residency.index_of(model) {
        match entry.version {
            Some(known) if version.is_none_or(|wanted| wanted == known) => {
                found.push(VersionStatus { version: known, state: state(entry.state), reason: entry.reason });
            }
            Some(_) => {}
            // It is refused as a whole.
            None => why = format!(": {}", entry.reason),
        }
    }
    found.sort_by_key(|status| std::cmp::Reverse(status.version));
    if found.is_empty() {
        let which = version.map(|version| format!(" {version}")).unwrap_or_default();
        return Err(Error::not_found(format!("could not find any version{which} of model '{model}'{why}")));
    }
    Ok(found)
}

fn state(state: ModelState) -> VersionState {
    match state {
        ModelState::Ready => VersionState::Available,
        ModelState::Loading => VersionState::Loading,
        ModelState::Unavailable => VersionState::End,
    }
}

#[cfg(test)]
mod tests {
    use proto::tensorflow::serving::model_version_status::State;

    use super::*;

    #[test]
    fn the_states_are_those_of_the_message() {
        for state in [VersionState::Loading, VersionState::Available, VersionState::End] {
            assert_eq!(State::try_from(state.number()).unwrap().as_str_name(), state.name());
        }
    }
}
