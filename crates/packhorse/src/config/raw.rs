//! What was typed, and nothing about what it means. The only step that looks at the outside, through what it is given.

use std::collections::BTreeMap;

use super::Flags;

/// What was typed, in every place where a setting may be.
#[derive(Debug, Default)]
pub(crate) struct Raw {
    pub(super) flags: Flags,
    /// Variable and text, by the setting's field. A variable that is empty counts as not given.
    pub(super) environment: BTreeMap<&'static str, (String, String)>,
    /// The file's path and its text.
    pub(super) file: Option<(String, String)>,
}

impl Raw {
    /// Takes down `flags`, what `variable` gives for a name, and `file`, the configuration file's path and text.
    pub(crate) fn gather(
        flags: Flags,
        variable: impl Fn(&str) -> Option<String>,
        file: Option<(String, String)>,
    ) -> Self {
        let given = |name: String| variable(&name).filter(|text| !text.is_empty()).map(|text| (name, text));
        let environment = super::settings::TABLE
            .iter()
            .filter_map(|setting| Some((setting.field, setting.variables().find_map(given)?)))
            .collect();
        Self { flags, environment, file }
    }
}
