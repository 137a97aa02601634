//! The settings in a TOML file: which keys it sets, to what, and in which line.

use toml::de::{DeTable, DeValue};

use super::models::Models;
use super::resolved::Source;
use super::settings::{Setting, TABLE, named};

/// The table with a table for each model.
const MODELS: &str = "model";

/// A setting that the file has.
pub(super) struct Entry {
    pub(super) setting: &'static Setting,
    pub(super) texts: Vec<String>,
    pub(super) line: usize,
}

/// What a file says.
#[derive(Default)]
pub(super) struct Contents {
    pub(super) entries: Vec<Entry>,
    pub(super) models: Models,
}

/// A file, to say where in it something is.
pub(super) struct Place<'a> {
    path: &'a str,
    text: &'a str,
}

impl Place<'_> {
    /// The line, from 1, of the byte at `offset`.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
    }

    /// `line` of this file, for people.
    pub(super) fn at(&self, line: usize) -> String {
        format!("{}, line {line}", self.path)
    }

    /// `line` of this file, as where a value came from.
    pub(super) fn source(&self, line: usize) -> Source {
        Source::File { path: self.path.to_owned(), line }
    }
}

/// What `text` says, which came from the file called `path`.
///
/// # Errors
/// What is wrong and in which line: no TOML, no setting of ours (and which one is nearest), no plain value.
pub(super) fn contents(path: &str, text: &str) -> Result<Contents, String> {
    let place = Place { path, text };
    let table = DeTable::parse(text).map_err(|error| {
        let line = place.line_of(error.span().map_or(0, |span| span.start));
        format!("{}: this is no TOML: {}", place.at(line), error.message())
    })?;
    let mut contents = Contents::default();
    for (key, value) in table.get_ref() {
        let (key, line) = (key.get_ref().as_ref(), place.line_of(key.span().start));
        if key == MODELS {
            contents.models = Models::read(value.get_ref(), &place, line)?;
            continue;
        }
        let setting = named(key).ok_or_else(|| {
            let at = place.at(line);
            format!("{at}: there is no setting '{key}'; the nearest is '{}'", nearest(key, names()))
        })?;
        let name = setting.name();
        if let Some(other) = contents.entries.iter().find(|entry| entry.setting.field == setting.field) {
            return Err(format!("{}: '{name}' is set in line {} already; remove one", place.at(line), other.line));
        }
        let texts = texts(setting.list, value.get_ref()).ok_or_else(|| {
            format!("{}: '{name}' is not a plain value; it has to be {}", place.at(line), (setting.allowed)())
        })?;
        contents.entries.push(Entry { setting, texts, line });
    }
    Ok(contents)
}

/// The texts of a value, as they would have been typed in a flag.
pub(super) fn texts(list: bool, value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::String(text) => Some(vec![text.to_string()]),
        // The rules of the setting are for digits as people type them.
        DeValue::Integer(number) if number.radix() == 10 => Some(vec![number.as_str().to_owned()]),
        DeValue::Float(number) => Some(vec![number.as_str().to_owned()]),
        DeValue::Boolean(truth) => Some(vec![truth.to_string()]),
        DeValue::Array(values) if list => {
            let each = values.iter().map(|value| match value.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
                _ => None,
            });
            each.collect()
        }
        _ => None,
    }
}

/// What somebody may have meant who set the variable `name`, if it is none of a setting's and nearly one.
pub(crate) fn nearly(name: &str) -> Option<String> {
    let typed = name.strip_prefix("PACKHORSE_")?;
    let far = TABLE.iter().flat_map(Setting::variables).map(|variable| {
        let known = variable.strip_prefix("PACKHORSE_").unwrap_or_default();
        (distance(known, typed), variable)
    });
    let (far, variable) = far.min()?;
    // Others are other programs' or other commands'; a cluster sets some for a service of this name.
    (1..=(typed.len() / 4).max(1)).contains(&far).then_some(variable)
}

/// Every key that a file may have, as it is typed and as it is taught.
fn names() -> impl Iterator<Item = (String, String)> {
    let settings = TABLE.iter().flat_map(|setting| {
        // An alias is worth finding and not worth teaching.
        let found = std::iter::once(setting.name()).chain(setting.alias.map(str::to_owned));
        found.map(move |name| (name, setting.name()))
    });
    settings.chain(std::iter::once((MODELS.to_owned(), MODELS.to_owned())))
}

/// Of `names`, each as it is typed and as it is taught, the one that takes the fewest changes to become `typed`.
pub(super) fn nearest(typed: &str, names: impl Iterator<Item = (String, String)>) -> String {
    let far = names.map(|(name, taught)| (distance(&name, typed), taught));
    far.min_by_key(|&(distance, _)| distance).map_or_else(String::new, |(_, taught)| taught)
}

/// How many characters have to be put in, left out or replaced to make one text of the other (Levenshtein's distance).
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, here) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for (column, &there) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(here != there);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found() {
        for (typed, want) in [
            ("htp", "http"),
            ("models", "model"),
            ("queue_capacity", "queue-capacity"),
            ("queue-capcity", "queue-capacity"),
            ("body-max-bytes", "body-bytes-max"),
            ("GRACE-S", "grace-s"),
            ("grase", "grace-s"),
            ("log.level", "log-level"),
            ("shared-memory-prefix", "shared-memory"),
        ] {
            assert_eq!(nearest(typed, names()), want, "{typed}");
        }
    }

    #[test]
    fn a_variable_that_is_nearly_a_settings_is_told_from_all_others() {
        for (typed, want) in [
            ("PACKHORSE_QUEU_CAPACITY", Some("PACKHORSE_QUEUE_CAPACITY")),
            ("PACKHORSE_GRACE_SECONDS", None),
            ("PACKHORSE_MEMORY_BUDGET_BYTE", Some("PACKHORSE_MEMORY_BUDGET_BYTES")),
            ("PACKHORSE_HTP", Some("PACKHORSE_HTTP")),
            ("PACKHORSE_HTTP", None),
            ("PACKHORSE_GRACE", None),
            ("PACKHORSE_CONFIG", None),
            ("PACKHORSE_LOG", None),
            ("PACKHORSE_QUEUE", None),
            ("PACKHORSE_SPOOL", None),
            ("PACKHORSE_ONNXRUNTIME", None),
            ("PACKHORSE_FFMPEG", None),
            ("PACKHORSE_PORT", None),
            ("PACKHORSE_SERVICE_HOST", None),
            ("PACKHORSE_PORT_8080_TCP_ADDR", None),
            ("PATH", None),
        ] {
            assert_eq!(nearly(typed).as_deref(), want, "{typed}");
        }
    }

    #[test]
    fn distances() {
        for (one, other, want) in
            [("", "", 0), ("abc", "abc", 0), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2)]
        {
            assert_eq!((distance(one, other), distance(other, one)), (want, want), "{one} {other}");
        }
    }
}
