//! `config.properties`: lines of `key=value` that a shell reads. Nothing in it is run.

use engine::{Error, Result};

/// Keys and values in the order of the file; of a key that comes twice the last value.
#[derive(Debug, Default)]
pub(super) struct Properties(Vec<(String, String)>);

impl Properties {
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the line that is none of these.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let mut properties = Self::default();
        for (line, number) in text.lines().zip(1..) {
            let line = line.trim().trim_start_matches('\u{feff}');
            let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let pair = line.split_once('=').filter(|(key, _)| {
                !key.is_empty() && key.chars().all(|char| char.is_ascii_alphanumeric() || "_.-".contains(char))
            });
            let (key, value) =
                pair.ok_or_else(|| Error::invalid(format!("line {number} is not of the form KEY=VALUE")))?;
            let value = properties.expanded(value.trim());
            match properties.0.iter_mut().find(|(known, _)| known == key) {
                Some((_, old)) => *old = value,
                None => properties.0.push((key.to_owned(), value)),
            }
        }
        Ok(properties)
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// `value` without quotes and what a shell takes for a comment, and with the values of the keys before it that it names.
    /// What a shell would run stays as it is written.
    fn expanded(&self, value: &str) -> String {
        if let Some(literal) = value.strip_prefix('\'').and_then(|rest| rest.split_once('\'')) {
            return literal.0.to_owned();
        }
        let value = match value.strip_prefix('"').and_then(|rest| rest.split_once('"')) {
            Some((quoted, _)) => quoted,
            None => value.split_once(" #").map_or(value, |(value, _)| value).trim_end(),
        };
        let mut expanded = String::new();
        let mut rest = value;
        while let Some((before, after)) = rest.split_once("${") {
            expanded.push_str(before);
            let Some((name, behind)) = after.split_once('}') else {
                expanded.push_str("${");
                rest = after;
                continue;
            };
            match self.get(name) {
                Some(known) => expanded.push_str(known),
                None => expanded.extend(["${", name, "}"]),
            }
            rest = behind;
        }
        expanded.push_str(rest);
        expanded
    }
}
