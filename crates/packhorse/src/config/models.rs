//! The tables `[model.NAME]` of the file: how single models are served, key by key as the settings are. Only the file has
//! them; a key that is absent is left to the model's own files and to the server.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use store::{LatencyClass, Serving, name};
use toml::de::{DeTable, DeValue};

use super::file::{Place, nearest, texts};
use super::resolved::Source;
use super::value::{Count, Sizes, Value};

/// A key of a model's table.
pub(super) struct Key {
    /// The field of [`Serving`]; its name with `_` where what is typed has `-`.
    field: &'static str,
    /// What it does, from its doc comment; for the page of documentation.
    #[cfg(test)]
    pub(super) doc: &'static str,
    /// What may be typed.
    pub(super) allowed: fn() -> String,
    list: bool,
    /// Takes what was typed, and gives it back as it was understood.
    set: fn(&mut Serving, &[String]) -> Option<Json>,
}

impl Key {
    /// The name in the file.
    pub(super) fn name(&self) -> String {
        self.field.replace('_', "-")
    }
}

macro_rules! keys {
    ($($(#[doc = $doc:literal])+ $field:ident: $kind:ty, $as:expr;)+) => {
        /// Every key, in the order in which they are shown.
        pub(super) const KEYS: &[Key] = &[$(Key {
            field: stringify!($field),
            #[cfg(test)]
            doc: concat!($($doc),+),
            allowed: <$kind as Value>::allowed,
            list: <$kind as Value>::LIST,
            set: |serving, texts| {
                let value = <$kind as Value>::read_all(texts)?;
                let shown = value.json();
                serving.$field = $as(value);
                Some(shown)
            },
        }),+];
    };
}

keys! {
    /// The most items of a batch; 0 and 1 never batch. Never more than the model was seen to take when it was packed.
    max_batch_size: Count<0, 65_536>, |count: Count<_, _>| Some(u64::from(count.get()));
    /// Sizes at which a batch leaves at once; learnt when not given.
    preferred_batch_sizes: Sizes, Sizes::get;
    /// The longest that a request is held back for company; 0 is never. When not given, only bursts are waited for, and
    /// at most 5000.
    max_queue_delay_us: Count<0, 60_000_000>, |count: Count<_, _>| Some(u64::from(count.get()));
    /// Requests that may wait, in place of the server's `queue-capacity`.
    queue_capacity: Count<1, 1_048_576>, |count: Count<_, _>| Some(count.size());
    /// The longest wait, in place of the server's `queue-time-limit-s`.
    queue_time_limit_ms: Count<0, 86_400_000>, |count: Count<_, _>| Some(u64::from(count.get()));
    /// Where requests without a priority stand; 1 is first. In the middle when not given.
    default_priority: Count<1, 4_294_967_295>, |count: Count<_, _>| Some(count.get());
    /// How many priorities there are, a larger one counting as the last; 0: priorities are not used.
    priority_levels: Count<0, 4_294_967_295>, |count: Count<_, _>| Some(count.get());
    /// Which models go first when lanes are short: each class has the lanes four times as long as the next.
    latency_class: LatencyClass, Some;
    /// Whether the model is made ready at the start and stays in memory; false when not given.
    pin: bool, Some;
}

impl Value for bool {
    fn allowed() -> String {
        "true or false".to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn json(&self) -> Json {
        (*self).into()
    }
}

impl Value for LatencyClass {
    fn allowed() -> String {
        "one of interactive, standard, background".to_owned()
    }

    fn read(text: &str) -> Option<Self> {
        match text {
            "interactive" => Some(Self::Interactive),
            "standard" => Some(Self::Standard),
            "background" => Some(Self::Background),
            _ => None,
        }
    }

    fn json(&self) -> Json {
        json!(self)
    }
}

/// What the file says of single models.
#[derive(Debug, Default)]
pub(super) struct Models {
    pub(super) servings: BTreeMap<String, Serving>,
    /// `model.NAME.KEY`, the value and where it came from.
    pub(super) rows: Vec<(String, Json, Source)>,
}

impl Models {
    /// Reads the table `model` of a file.
    ///
    /// # Errors
    /// What is wrong and in which line: a name that no model has, no key of ours (and which one is nearest), a value that
    /// is not allowed.
    pub(super) fn read(table: &DeValue<'_>, place: &Place<'_>, line: usize) -> Result<Self, String> {
        let tables = table_of(table).ok_or_else(|| {
            format!("{}: 'model' is not a table of models; write [model.NAME] and its settings below", place.at(line))
        })?;
        let mut models = Self::default();
        for (model, table) in tables {
            let (model, line) = (model.get_ref().as_ref(), place.line_of(model.span().start));
            name::check(model).map_err(|error| format!("{}: {error}", place.at(line)))?;
            let keys = table_of(table.get_ref()).ok_or_else(|| {
                format!(
                    "{}: 'model.{model}' is not a table; write [model.{model}] and its settings below",
                    place.at(line)
                )
            })?;
            let serving = models.model(model, keys, place)?;
            if let (Some(default), Some(levels @ 1..)) = (serving.default_priority, serving.priority_levels)
                && default > levels
            {
                let what =
                    format!("model.{model}: default-priority is {default}, but there are {levels} priority-levels");
                return Err(format!("{}: {what}; lower the one or raise the other", place.at(line)));
            }
            models.servings.insert(model.to_owned(), serving);
        }
        Ok(models)
    }

    fn model(&mut self, model: &str, table: &DeTable<'_>, place: &Place<'_>) -> Result<Serving, String> {
        let mut serving = Serving::default();
        for (typed, value) in table {
            let (typed, line) = (typed.get_ref().as_ref(), place.line_of(typed.span().start));
            let key = KEYS.iter().find(|key| key.name() == typed).ok_or_else(|| {
                let nearest = nearest(typed, KEYS.iter().map(|key| (key.name(), key.name())));
                format!("{}: there is no setting '{typed}' of a model; the nearest is '{nearest}'", place.at(line))
            })?;
            let name = format!("model.{model}.{typed}");
            let texts = texts(key.list, value.get_ref()).ok_or_else(|| {
                format!("{}: '{name}' is not a plain value; it has to be {}", place.at(line), (key.allowed)())
            })?;
            let value = (key.set)(&mut serving, &texts).ok_or_else(|| {
                format!("{}: {name} is '{}'; it has to be {}", place.at(line), texts.join(", "), (key.allowed)())
            })?;
            self.rows.push((name, value, place.source(line)));
        }
        Ok(serving)
    }
}

fn table_of<'a, 'b>(value: &'a DeValue<'b>) -> Option<&'a DeTable<'b>> {
    match value {
        DeValue::Table(table) => Some(table),
        _ => None,
    }
}
