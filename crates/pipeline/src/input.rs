//! What a person gives: one item, and how it is to be answered.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use bytes::Bytes;
use engine::{Error, Result};

/// One item that a person wants an answer to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A text.
    Text(String),
    /// Two texts: a question and its context, or what is compared.
    Pair(String, String),
    /// A text as token ids, those included that mark its beginning and end.
    Tokens(Vec<u32>),
    /// A picture, as the bytes of its file.
    Picture(Bytes),
}

impl Input {
    /// What it is, for a person.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "one text",
            Self::Pair(..) => "two texts",
            Self::Tokens(_) => "token ids",
            Self::Picture(_) => "a picture",
        }
    }
}

/// The value of an option.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// Yes or no.
    Flag(bool),
    /// Any number.
    Number(f64),
    /// A word; one that reads as a number or a flag is as good as that.
    Text(String),
    /// Several words.
    Texts(Vec<String>),
    /// Said to be nothing: what is meant when it is left out, but for the few options where that is a value of its own.
    Nothing,
}

/// How an item is to be answered, by the name of the option. Each task knows some, and refuses the others by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options(BTreeMap<String, Setting>);

impl FromIterator<(String, Setting)> for Options {
    fn from_iter<I: IntoIterator<Item = (String, Setting)>>(settings: I) -> Self {
        Self(settings.into_iter().collect())
    }
}

impl Options {
    /// These, and of `others` those that are none of them.
    pub fn beside(mut self, others: Self) -> Self {
        for (name, setting) in others.0 {
            self.0.entry(name).or_insert(setting);
        }
        self
    }

    /// A view that remembers which options were read.
    pub(crate) fn reader(&self) -> Reader<'_> {
        Reader { options: self, known: RefCell::default() }
    }
}

/// Options that are being read.
pub(crate) struct Reader<'a> {
    options: &'a Options,
    /// Every name that was asked for.
    known: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Reader<'a> {
    fn get(&self, name: &'static str) -> Option<&'a Setting> {
        self.known.borrow_mut().insert(name);
        self.options.0.get(name).filter(|setting| **setting != Setting::Nothing)
    }

    /// Whether it is said to be nothing.
    pub(crate) fn is_nothing(&self, name: &'static str) -> bool {
        self.known.borrow_mut().insert(name);
        self.options.0.get(name) == Some(&Setting::Nothing)
    }

    /// A whole number.
    pub(crate) fn whole(&self, name: &'static str, allowed: RangeInclusive<usize>) -> Result<Option<usize>> {
        let Some(setting) = self.get(name) else { return Ok(None) };
        let number = match setting {
            // A number that is no whole one, or larger, does not come back the same.
            Setting::Number(number) => Some(*number as usize).filter(|&whole| whole as f64 == *number),
            Setting::Text(text) => text.parse().ok(),
            Setting::Flag(_) | Setting::Texts(_) | Setting::Nothing => None,
        };
        let (low, high) = (allowed.start(), allowed.end());
        let wanted = || Error::invalid(format!("option '{name}' must be a whole number from {low} to {high}"));
        number.filter(|number| allowed.contains(number)).map(Some).ok_or_else(wanted)
    }

    /// A number.
    pub(crate) fn number(&self, name: &'static str, allowed: RangeInclusive<f64>) -> Result<Option<f64>> {
        let Some(setting) = self.get(name) else { return Ok(None) };
        let number = match setting {
            Setting::Number(number) => Some(*number),
            Setting::Text(text) => text.parse().ok(),
            Setting::Flag(_) | Setting::Texts(_) | Setting::Nothing => None,
        };
        let (low, high) = (allowed.start(), allowed.end());
        let wanted = || Error::invalid(format!("option '{name}' must be a number from {low} to {high}"));
        number.filter(|number| allowed.contains(number)).map(Some).ok_or_else(wanted)
    }

    /// Yes or no; no when it is not there.
    pub(crate) fn flag(&self, name: &'static str) -> Result<Option<bool>> {
        let Some(setting) = self.get(name) else { return Ok(None) };
        match setting {
            Setting::Flag(flag) => Ok(Some(*flag)),
            Setting::Text(text) if text == "true" => Ok(Some(true)),
            Setting::Text(text) if text == "false" => Ok(Some(false)),
            Setting::Number(_) | Setting::Text(_) | Setting::Texts(_) | Setting::Nothing => {
                Err(Error::invalid(format!("option '{name}' must be true or false")))
            }
        }
    }

    /// One of `words`, by what it stands for.
    pub(crate) fn choice<T: Copy>(&self, name: &'static str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(setting) = self.get(name) else { return Ok(None) };
        let found = match setting {
            Setting::Text(text) => words.iter().find(|(word, _)| word == text),
            Setting::Flag(_) | Setting::Number(_) | Setting::Texts(_) | Setting::Nothing => None,
        };
        found.map(|(_, value)| Some(*value)).ok_or_else(|| {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            Error::invalid(format!("option '{name}' must be one of {}", known.join(", ")))
        })
    }

    /// Words; a single one counts as a list of itself.
    pub(crate) fn texts(&self, name: &'static str) -> Result<Option<Vec<String>>> {
        match self.get(name) {
            None => Ok(None),
            Some(Setting::Texts(texts)) => Ok(Some(texts.clone())),
            Some(Setting::Text(text)) => Ok(Some(vec![text.clone()])),
            Some(Setting::Flag(_) | Setting::Number(_) | Setting::Nothing) => {
                Err(Error::invalid(format!("option '{name}' must be a list of texts")))
            }
        }
    }

    /// Checks that every option was asked for.
    ///
    /// # Errors
    /// [`InvalidInput`](engine::ErrorKind::InvalidInput), naming the first that means nothing to `task`.
    pub(crate) fn finish(self, task: &str) -> Result<()> {
        let known = self.known.into_inner();
        let is_unknown =
            |(name, setting): &(&String, &Setting)| !known.contains(name.as_str()) && **setting != Setting::Nothing;
        let Some((unknown, _)) = self.options.0.iter().find(is_unknown) else { return Ok(()) };
        let known: Vec<&str> = known.into_iter().collect();
        let there = if known.is_empty() { "it has none".to_owned() } else { format!("it has {}", known.join(", ")) };
        // A name is the client's; its beginning says enough.
        let shown: String = unknown.chars().take(40).collect();
        Err(Error::invalid(format!("{task} has no option '{shown}'; {there}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(settings: &[(&str, Setting)]) -> Options {
        settings.iter().map(|(name, setting)| ((*name).to_owned(), setting.clone())).collect()
    }

    #[test]
    fn options_are_read_by_name_and_what_is_wrong_is_named() {
        let text = |text: &str| Setting::Text(text.to_owned());
        for (setting, whole) in [
            (Setting::Number(3.0), Ok(Some(3))),
            (text("3"), Ok(Some(3))),
            (Setting::Number(3.5), Err(())),
            (Setting::Number(-1.0), Err(())),
            (Setting::Number(11.0), Err(())),
            (Setting::Number(f64::NAN), Err(())),
            (text("three"), Err(())),
            (Setting::Flag(true), Err(())),
        ] {
            let options = of(&[("top_k", setting.clone())]);
            let got = options.reader().whole("top_k", 1..=10).map_err(|error| assert!(error.message.contains("top_k")));
            assert_eq!(got, whole, "{setting:?}");
            let number = options.reader().number("top_k", 0.0..=5.0).ok().flatten();
            let want = match &setting {
                Setting::Number(number) => Some(*number).filter(|number| (0.0..=5.0).contains(number)),
                Setting::Text(text) => text.parse().ok(),
                Setting::Flag(_) | Setting::Texts(_) | Setting::Nothing => None,
            };
            assert_eq!(number, want, "{setting:?}");
        }
        let options = of(&[("flag", text("true")), ("kind", text("b")), ("words", text("one"))]);
        let reader = options.reader();
        assert_eq!(reader.flag("flag"), Ok(Some(true)));
        assert_eq!(reader.choice("kind", &[("a", 1), ("b", 2)]), Ok(Some(2)));
        assert_eq!(reader.texts("words"), Ok(Some(vec!["one".to_owned()])));
        assert_eq!(reader.whole("absent", 0..=1), Ok(None));
        assert_eq!(reader.finish("a task"), Ok(()));
        for (refused, says) in [
            (options.reader().choice("kind", &[("c", 3)]).map(drop), "one of c"),
            (of(&[("flag", Setting::Number(1.0))]).reader().flag("flag").map(drop), "true or false"),
            (of(&[("words", Setting::Flag(true))]).reader().texts("words").map(drop), "list of texts"),
            (options.reader().finish("a task"), "a task has no option 'flag'; it has none"),
        ] {
            let error = refused.unwrap_err();
            assert!(error.message.contains(says), "{error}");
        }
    }
}
