//! The settings in a TOML file: which keys it sets, to what, and in which line.

use toml::de::{DeTable, DeValue};

use super::settings::{Setting, TABLE, named};

/// A setting that the file has.
pub(super) struct Entry {
    pub(super) setting: &'static Setting,
    pub(super) texts: Vec<String>,
    pub(super) line: usize,
}

/// The entries of `text`, which came from the file called `path`.
///
/// # Errors
/// What is wrong and in which line: no TOML, no setting of ours (and which one is nearest), no plain value.
pub(super) fn entries(path: &str, text: &str) -> Result<Vec<Entry>, String> {
    let line_of = |offset: usize| text.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1;
    let table = DeTable::parse(text).map_err(|error| {
        let line = line_of(error.span().map_or(0, |span| span.start));
        format!("{path}, line {line}: this is no TOML: {}", error.message())
    })?;
    let mut entries: Vec<Entry> = Vec::new();
    for (key, value) in table.get_ref() {
        let (key, line) = (key.get_ref().as_ref(), line_of(key.span().start));
        let setting = named(key).ok_or_else(|| {
            format!("{path}, line {line}: there is no setting '{key}'; the nearest is '{}'", nearest(key))
        })?;
        let name = setting.name();
        if let Some(other) = entries.iter().find(|entry| entry.setting.field == setting.field) {
            return Err(format!("{path}, line {line}: '{name}' is set in line {} already; remove one", other.line));
        }
        let texts = texts(setting, value.get_ref()).ok_or_else(|| {
            format!("{path}, line {line}: '{name}' is not a plain value; it has to be {}", (setting.allowed)())
        })?;
        entries.push(Entry { setting, texts, line });
    }
    Ok(entries)
}

/// The texts of a value, as they would have been typed in a flag.
fn texts(setting: &Setting, value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::String(text) => Some(vec![text.to_string()]),
        // The rules of the setting are for digits as people type them.
        DeValue::Integer(number) if number.radix() == 10 => Some(vec![number.as_str().to_owned()]),
        DeValue::Float(number) => Some(vec![number.as_str().to_owned()]),
        DeValue::Boolean(truth) => Some(vec![truth.to_string()]),
        DeValue::Array(values) if setting.list => {
            let each = values.iter().map(|value| match value.get_ref() {
                DeValue::String(text) => Some(text.to_string()),
                _ => None,
            });
            each.collect()
        }
        _ => None,
    }
}

/// The name in the table that takes the fewest changes to become `typed`.
fn nearest(typed: &str) -> String {
    let names = TABLE.iter().flat_map(|setting| {
        // An alias is worth finding and not worth teaching.
        let found = std::iter::once(setting.name()).chain(setting.alias.map(str::to_owned));
        found.map(move |name| (distance(&name, typed), setting))
    });
    names.min_by_key(|&(distance, _)| distance).map_or_else(String::new, |(_, setting)| setting.name())
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
            ("queue_capacity", "queue-capacity"),
            ("queue-capcity", "queue-capacity"),
            ("body-max-bytes", "body-bytes-max"),
            ("GRACE-S", "grace-s"),
            ("grase", "grace-s"),
            ("log.level", "log-level"),
            ("shared-memory-prefix", "shared-memory"),
        ] {
            assert_eq!(nearest(typed), want, "{typed}");
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
