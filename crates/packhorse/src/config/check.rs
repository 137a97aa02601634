//! `packhorse serve --check`: what holds and why, for people and for programs.

use comfy_table::{Table, presets};
use serde_json::{Map, Value, json};

use super::Resolved;
use super::settings::TABLE;

impl Resolved {
    /// A row a setting, and one for each that a model has of its own: name, value, where it came from.
    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["SETTING", "VALUE", "FROM"]);
        for (name, value, source) in self.rows() {
            table.add_row([name, for_people(&value), source]);
        }
        table
    }

    /// `{"http": {"value": "127.0.0.1:8080", "source": "default"}, …}`; a setting that is off is null.
    pub(crate) fn json(&self) -> Value {
        let rows = self.rows().map(|(name, value, source)| (name, json!({ "value": value, "source": source })));
        Value::Object(rows.collect::<Map<_, _>>())
    }

    fn rows(&self) -> impl Iterator<Item = (String, Value, String)> {
        let values = self.settings.json().into_iter().zip(&self.sources);
        let settings =
            TABLE.iter().zip(values).map(|(setting, (value, source))| (setting.name(), value, source.to_string()));
        let models = self.models.rows.iter();
        settings.chain(models.map(|(name, value, source)| (name.clone(), value.clone(), source.to_string())))
    }
}

fn for_people(value: &Value) -> String {
    match value {
        Value::Null => "off".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "none".to_owned(),
        Value::Array(values) => values.iter().map(for_people).collect::<Vec<_>>().join(", "),
        // A fraction that is none was typed without one.
        Value::Number(number) => number.as_f64().map_or_else(|| number.to_string(), |number| number.to_string()),
        Value::Bool(_) | Value::Object(_) => value.to_string(),
    }
}
